"""Light of the subtraction bench's scene: Moffat stars, Sersic galaxies, charge that runs along columns.

PSFs are Moffat functions sampled at pixel centres (the pixel is in the PSF), so truth is exact at any sub-pixel place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.special import gammaincinv

from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel

__all__ = ["PSF_SIZE", "Moffat", "Shift", "bleed", "moved", "paint", "paint_galaxy"]

_Float = NDArray[np.float64]
_Plane = NDArray[np.float32]
Shift = tuple[float, float, float]
"""dx, dy and the amplitude of the wave, pixels."""

PSF_SIZE = 41
"""Pixels; fluxes of transients mean what lies in this square."""
_EDGE_LIGHT = 0.005
"""Electrons per pixel at which the wing of a star ends."""


@dataclass(frozen=True)
class Moffat:
    """A Moffat PSF whose FWHM (pixels) and ellipticity change over the field."""

    fwhm: float
    beta: float
    varying: float
    """Change of the FWHM from end to end, relative."""
    ellipticity: float
    size: int
    """Of the image, pixels."""

    def parameters(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return (alpha, xx, xy, yy), with r² = xx dx² + 2 xy dx dy + yy dy² of unit determinant, shape (m, 4)."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        u, v = 2 * x / self.size - 1, 2 * y / self.size - 1
        alpha = self.fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        alpha = alpha * (1 + 0.5 * self.varying * (0.6 * u - 0.3 * v + 0.2 * (u * u - v * v)))
        e1, e2 = self.ellipticity * u, 0.6 * self.ellipticity * v
        root = np.sqrt(1 - e1**2 - e2**2)
        return np.stack([alpha, (1 - e1) / root, -e2 / root, (1 + e1) / root], axis=-1)

    def stamp(
        self, x: float, y: float, size: int = PSF_SIZE, dx: float = 0.0, dy: float = 0.0, step: float = 1.0
    ) -> _Float:
        """Return the PSF of unit total flux at (x, y) in `size`² samples `step` pixels apart, moved by (dx, dy)."""
        alpha, xx, xy, yy = self.parameters(x, y)[0]
        axis = (np.arange(size) - size // 2) * step
        b, a = np.meshgrid(axis - dy, axis - dx, indexing="ij")
        r2 = (xx * a * a + 2 * xy * a * b + yy * b * b) / alpha**2
        return np.asarray((1 + r2) ** -self.beta * ((self.beta - 1) / (np.pi * alpha**2)))

    def model(self) -> PsfModel:
        """Return the PsfModel fitted to true stamps on a grid, degree 2."""
        x, y = (g.ravel() for g in np.meshgrid(*[np.linspace(0, self.size - 1, 7)] * 2))
        stamps = np.array([self.stamp(a, b) for a, b in zip(x, y, strict=True)])
        stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return PsfModel.fit(stamps, x, y, degree=2, width=self.size, height=self.size)


def paint(plane: _Plane, x: _Float, y: _Float, flux: _Float, optics: Moffat) -> None:
    """Add point sources of total `flux`."""
    _add_moffats(plane, x, y, flux, optics.parameters(x, y), optics.beta)


@numba.njit(cache=True, nogil=True)
def _add_moffats(plane: Any, x: Any, y: Any, flux: Any, shape: Any, beta: float) -> None:  # pragma: no cover
    """Add each out to the radius at which it has _EDGE_LIGHT per pixel."""
    for i in range(len(x)):
        alpha, xx, xy, yy = shape[i, 0], shape[i, 1], shape[i, 2], shape[i, 3]
        peak = flux[i] * (beta - 1) / (np.pi * alpha * alpha)
        if peak <= _EDGE_LIGHT:
            continue
        radius = min(1.05 * alpha * (peak / _EDGE_LIGHT) ** (0.5 / beta) + 1.0, 250.0)
        for row in range(max(int(y[i] - radius), 0), min(int(y[i] + radius) + 2, plane.shape[0])):
            b = row - y[i]
            for column in range(max(int(x[i] - radius), 0), min(int(x[i] + radius) + 2, plane.shape[1])):
                a = column - x[i]
                r2 = xx * a * a + 2 * xy * a * b + yy * b * b
                if r2 < radius * radius:
                    plane[row, column] += peak * (1 + r2 / (alpha * alpha)) ** -beta


def moved(x: Any, y: Any, shift: Shift) -> tuple[Any, Any]:
    """Return where objects at (x, y) of the science image are in the template."""
    dx, dy, wave = shift
    turn = 2 * np.pi / 1500.0
    return x + dx + wave * np.sin(turn * y), y + dy + wave * np.cos(turn * (x + 0.5 * y))


def paint_galaxy(light: list[_Plane], row: Any, optics: tuple[Moffat, Moffat], shift: Shift) -> None:
    """Add one galaxy to both images: one band-limited model at half-pixel steps, moved in Fourier space."""
    half = 32 if row["re"] * np.sqrt(row["n"]) < 4 else 64 if row["re"] * np.sqrt(row["n"]) < 10 else 96
    size = 4 * half
    model = fft.rfft2(_sersic(row["n"], row["re"], row["q"], row["angle"], size) * row["flux"])
    fy, fx = fft.fftfreq(size, 0.5)[:, None], fft.rfftfreq(size, 0.5)[None, :]
    places = (row["x"], row["y"]), moved(row["x"], row["y"], shift)
    for plane, psf, (x, y) in zip(light, optics, places, strict=True):
        ix, iy = round(x), round(y)
        response = fft.rfft2(fft.ifftshift(psf.stamp(x, y, size, step=0.5))) * 0.25
        phase = np.exp(-2j * np.pi * (fx * (x - ix) + fy * (y - iy)))
        image = 4 * fft.irfft2(model * response * phase, (size, size))[::2, ::2]
        y0, x0 = iy - half, ix - half
        part = slice(max(y0, 0), min(y0 + 2 * half, len(plane))), slice(max(x0, 0), min(x0 + 2 * half, len(plane)))
        plane[part] += image[part[0].start - y0 : part[0].stop - y0, part[1].start - x0 : part[1].stop - x0]


def _sersic(n: float, re: float, q: float, angle: float, size: int) -> _Float:
    """Return a Sersic profile of unit sum in `size`² half-pixel cells, its middle on cell size // 2; ends smoothly."""
    fine = 9
    b = gammaincinv(2 * n, 0.5)
    axis = (np.arange(size) - size // 2) * 0.5
    image = np.exp(-b * (_elliptic(axis, q, angle) / re) ** (1 / n))
    core = 6  # cells on either side of the middle that are averaged, for the cusp
    sub = (np.arange((2 * core + 1) * fine) - (2 * core + 1) * fine // 2) * 0.5 / fine
    cells = np.exp(-b * (_elliptic(sub, q, angle) / re) ** (1 / n))
    middle = slice(size // 2 - core, size // 2 + core + 1)
    image[middle, middle] = cells.reshape(2 * core + 1, fine, 2 * core + 1, fine).mean(axis=(1, 3))
    outer = np.hypot(axis[None, :], axis[:, None]) / (size / 4)
    image *= 0.5 + 0.5 * np.cos(np.pi * np.clip((outer - 0.5) / 0.35, 0, 1))
    return np.asarray(image / image.sum())


def _elliptic(axis: _Float, q: float, angle: float) -> _Float:
    """Return the elliptic radius over the square that `axis` spans."""
    x, y = axis[None, :], axis[:, None]
    major, minor = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.asarray(np.hypot(major * np.sqrt(q), minor / np.sqrt(q)))


def bleed(light: _Plane, well: float) -> NDArray[np.int32]:
    """Cut `light` off at the full well, let what is above it run along the columns; return the mask."""
    mask = np.zeros(light.shape, np.int32)
    if light.max() > well:
        _spill(light, mask, well, int(MaskPlane.SATURATED), int(MaskPlane.BLEED))
    return mask


@numba.njit(cache=True, nogil=True)
def _spill(light: Any, mask: Any, well: float, full: int, run: int) -> None:  # pragma: no cover
    """Fill pixels above and below each run of full pixels until its charge is used up."""
    height, width = light.shape
    for x in range(width):
        y = 0
        while y < height:
            if light[y, x] <= well:
                y += 1
                continue
            start, excess = y, 0.0
            while y < height and light[y, x] > well:
                excess += light[y, x] - well
                light[y, x] = well
                mask[y, x] |= full
                y += 1
            low, high = start - 1, y
            while excess > 0 and (low >= 0 or high < height):
                for side in range(2):
                    place = low if side == 0 else high
                    if 0 <= place < height and excess > 0:
                        excess -= max(well - light[place, x], 0.0)
                        light[place, x] = well
                        mask[place, x] |= run
                low -= 1
                high += 1
            y = max(y, high)
