"""The pixels of PSF stars, where the stars lie in them, and what a model leaves of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from workers.imaging.psf import PsfModel, shift_gradients, shift_stamps
from workers.imaging.psf_kernel import interpolation_matrices
from workers.imaging.squares import cut_squares

__all__ = [
    "PsfStars",
    "Residuals",
    "core_chi2",
    "cut_stars",
    "least_chi2",
    "located",
    "moved_back",
    "residuals",
    "stamp_radius",
]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

PIXEL_CLIP = 5.0
"""Sigma: neighbours and cosmic rays leave the fit."""
MAX_SHIFT = 2.0
"""Pixels from where a star was detected."""
INNER = 2.2
"""FWHM: half the side of the square that positions are fitted in."""
CORE = 1.5
"""FWHM: radius inside which chi2 is counted."""


@dataclass(frozen=True)
class PsfStars:
    """m stars: data, variance and good (1 or 0) are float64 (m, n, n) with unusable pixels zero."""

    row: NDArray[np.int64]
    """Among the stars given."""
    data: _Float
    variance: _Float
    good: _Float
    column: NDArray[np.int64]
    """Of the middle pixel."""
    line: NDArray[np.int64]
    x: _Float
    """Of the star, 0-based pixels."""
    y: _Float

    def __len__(self) -> int:
        """Number of stars."""
        return len(self.row)

    def chosen(self, keep: NDArray[np.integer] | _Bool) -> PsfStars:
        """Return the stars to keep."""
        return PsfStars(**{item.name: getattr(self, item.name)[keep] for item in fields(self)})


@dataclass(frozen=True)
class Residuals:
    """The stars' pixels less the model, in units of each one's flux."""

    residual: _Float
    """(m, n, n); zero where a pixel is not used."""
    sigma: _Float
    """Expected, (m, n, n); infinite where a pixel is not usable."""
    good: _Float
    flux: _Float
    snr: _Float
    """Of the flux."""


def cut_stars(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    x: _Float,
    y: _Float,
    size: int,
) -> PsfStars:
    """Cut `size` x `size` pixels (odd) round each position; arguments as `fit_psf`."""
    cut = cut_squares(image, variance, usable, x, y, size // 2)
    row, good = np.arange(len(x)), cut.good.astype(float)
    return PsfStars(row, cut.data, cut.variance, good, cut.x, cut.y, x.astype(float), y.astype(float))


def stamp_radius(size: int) -> _Float:
    """Return each pixel's distance from the stamp's centre, (size, size)."""
    axis = np.arange(size) - size // 2
    return np.hypot(axis[:, None], axis[None, :])


def located(stars: PsfStars, model: PsfModel, iterations: int) -> PsfStars:
    """Return the stars at the positions that fit best, less those that have none or run away.

    Gauss-Newton on flux and position in the PSF's inner part, all pixels with the same weight (as in
    `workers.imaging.photometry`).
    """
    x, y = stars.x.copy(), stars.y.copy()
    flux = np.zeros(len(stars))
    fine, data, good = _inner(stars, model)
    active = np.arange(len(stars))
    for _ in range(iterations):
        shift = x[active] - stars.column[active], y[active] - stars.line[active]
        planes = shift_gradients(fine[active], *shift, oversampling=model.oversampling)
        design = np.stack([plane * good[active] for plane in planes], axis=1).reshape(len(active), 3, -1)
        normal = _bordered(np.matmul(design, design.transpose(0, 2, 1)))
        right = np.matmul(design, data[active].reshape(len(active), -1, 1))
        solution = np.linalg.solve(normal, right)[:, :, 0]
        flux[active] = solution[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip(np.nan_to_num(solution[:, 1:] / solution[:, :1]), -0.5, 0.5)
        x[active], y[active] = x[active] + step[:, 0], y[active] + step[:, 1]
        near = np.hypot(x - stars.column, y - stars.line)[active] < MAX_SHIFT
        active = active[near & (np.abs(step).max(axis=1) > 1e-4)]
        if len(active) == 0:
            break
    kept = (np.hypot(x - stars.column, y - stars.line) < MAX_SHIFT) & (flux > 0.0)
    return replace(stars, x=x, y=y).chosen(kept)


def _inner(stars: PsfStars, model: PsfModel) -> tuple[_Float, _Float, _Float]:
    """Return the middle of the PSFs, as the coefficients sample them, and of the stars' data and good pixels."""
    middle, scale = stars.data.shape[1] // 2, model.oversampling
    half = min(middle, int(np.ceil(INNER * model.fwhm(0.5 * model.width, 0.5 * model.height))))
    part = slice(middle - half, middle + half + 1)
    fine = slice(scale * (middle - half), scale * (middle + half) + 1)
    return (
        np.ascontiguousarray(model.fine_stamps(stars.x, stars.y)[:, fine, fine]),
        np.ascontiguousarray(stars.data[:, part, part]),
        np.ascontiguousarray(stars.good[:, part, part]),
    )


def _bordered(normal: _Float) -> _Float:
    """Return normal matrices (m, 3, 3) that can be inverted even where a star has no pixels."""
    return np.asarray(normal + (1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-30) * np.eye(3))


def residuals(stars: PsfStars, model: PsfModel, error: float, *, clip: bool) -> Residuals:
    """Fit each star's flux with the model and return what is left.

    `error` of the model, relative to the PSF's value at a pixel: how well the star can be expected to follow it. With
    `clip` pixels beyond 5 sigma are left out.
    """
    shift = stars.x - stars.column, stars.y - stars.line
    stamps = shift_stamps(model.fine_stamps(stars.x, stars.y), *shift, model.oversampling)
    good = stars.good
    flux, residual, sigma = _flux_and_residual(stars, stamps, good, error)
    if clip:
        good = good * (np.abs(residual) < PIXEL_CLIP * sigma)
        flux, residual, sigma = _flux_and_residual(stars, stamps, good, error)
    squared = np.square(stamps)
    noise = np.sqrt((squared * stars.variance).sum(axis=(1, 2))) / squared.sum(axis=(1, 2))
    return Residuals(residual * good, sigma, good, flux, flux / np.maximum(noise, 1e-30))


def _flux_and_residual(stars: PsfStars, stamps: _Float, good: _Float, error: float) -> tuple[_Float, _Float, _Float]:
    """Return flux (m,), and residual and its expected sigma (m, n, n) in units of the flux."""
    model = stamps * good
    flux = (model * stars.data).sum(axis=(1, 2)) / np.square(model).sum(axis=(1, 2))
    flux = np.maximum(flux, 1e-3 * np.abs(flux).max())
    residual = stars.data / flux[:, None, None] - stamps
    sigma = np.sqrt(stars.variance / np.square(flux)[:, None, None] + np.square(error * stamps))
    return flux, residual, np.where(stars.good > 0, sigma, np.inf)


def moved_back(left: Residuals, stars: PsfStars, oversampling: int) -> _Float:
    """Return the residuals interpolated on the PSF's own grid, with its centre in the middle: float64 (m, k, k)."""
    dx, dy = stars.x - stars.column, stars.y - stars.line
    if oversampling == 1:
        return shift_stamps(left.residual, -dx, -dy)
    size = left.residual.shape[1]
    rows, columns = (_between(shift, size, oversampling) for shift in (dy, dx))
    return np.asarray(rows @ left.residual @ columns.transpose(0, 2, 1))


def _between(shift: _Float, size: int, oversampling: int) -> _Float:
    """Return (m, oversampling (size - 1) + 1, size) matrices that interpolate pixels on the finer grid at `shift`."""
    matrices = np.empty((len(shift), oversampling * (size - 1) + 1, size))
    for phase in range(oversampling):
        # grid point s i + phase lies phase / s behind pixel i
        part = interpolation_matrices(-shift - phase / oversampling, size, 1)
        matrices[:, phase::oversampling] = part if phase == 0 else part[:, :-1]
    return matrices


def core_chi2(left: Residuals, fwhm: float) -> _Float:
    """Return chi2 per degree of freedom within the core, (m,): flux and position are taken from the pixels."""
    core = (stamp_radius(left.residual.shape[1]) <= CORE * fwhm) * left.good
    pull = np.where(core > 0, left.residual / left.sigma, 0.0)
    return np.asarray(np.square(pull).sum(axis=(1, 2)) / np.maximum(core.sum(axis=(1, 2)) - 3.0, 1.0))


def least_chi2(stars: PsfStars, model: PsfModel, left: Residuals, fwhm: float) -> _Float:
    """Return `core_chi2` at the flux and the position that make it least, so that it is 1 on average, (m,).

    The fits weigh all pixels alike, which leaves more than that of a star brighter than the sky.
    """
    core = stamp_radius(left.residual.shape[1]) <= CORE * fwhm
    shift = stars.x - stars.column, stars.y - stars.line
    planes = shift_gradients(model.fine_stamps(stars.x, stars.y), *shift, oversampling=model.oversampling)
    good = left.good[:, core]
    inverse = np.where(good > 0, 1.0 / left.sigma[:, core], 0.0)
    design = np.stack([plane[:, core] * inverse for plane in planes], axis=1)
    pull = left.residual[:, core] * inverse
    normal = _bordered(np.matmul(design, design.transpose(0, 2, 1)))
    right = np.matmul(design, pull[:, :, None])
    gain = (right * np.linalg.solve(normal, right)).sum(axis=(1, 2))
    return np.asarray((np.square(pull).sum(axis=1) - gain) / np.maximum(good.sum(axis=1) - 3.0, 1.0))
