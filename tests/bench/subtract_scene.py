"""The simulated pair of the subtraction bench: stars, galaxies, transients in electrons, with truth.

Everything static is rendered once per set of parameters and kept under the temporary directory.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

from tests.bench.subtract_light import PSF_SIZE, Moffat, Shift, bleed, moved, paint, paint_galaxy
from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib
from workers.imaging.wcs import SkyWcs

__all__ = ["NJY", "PSF_SIZE", "Moffat", "Pair", "make_noise", "make_pair"]

_Float = NDArray[np.float64]
_Plane = NDArray[np.float32]
_Rows = NDArray[Any]

NJY = 20.0
"""nJy per electron."""
SKY, READ_NOISE, FLUX_SCALE = 500.0, 5.0, 0.92
FULL_WELL = 50_000.0, 105_000.0
"""Electrons where science image and template saturate: both for stars of about 1.6e6 electrons."""
_FAINTEST, _BRIGHTEST = 220.0, 2e7
_VERSION = 1

STAR_DTYPE = np.dtype(
    [("x", "f8"), ("y", "f8"), ("science", "f8"), ("template", "f8"), ("variable", "?"), ("saturated", "?")]
)
"""Position in the science image, total electrons in either image, and whether it saturates in one of them."""
GALAXY_DTYPE = np.dtype([(name, "f8") for name in ("x", "y", "flux", "n", "re", "q", "angle")])
TRANSIENT_DTYPE = np.dtype(
    [("x", "f8"), ("y", "f8"), ("flux", "f8"), ("electrons", "f8"), ("snr", "f8"), ("hosted", "?")]
)
"""`flux`: nJy within PSF_SIZE; `snr`: of an optimal difference with the noise at that place without the transient."""


@dataclass(frozen=True)
class Pair:
    science: Exposure
    template: Exposure
    """On the science image's pixels."""
    stars: _Rows
    galaxies: _Rows
    transients: _Rows
    optics: Moffat
    """The true PSF of the science image."""
    template_optics: Moffat
    depth: float
    """Variance of the science image over that of the template, in equal light."""


def make_pair(
    seed: int,
    size: int = 4096,
    stars: int = 10_000,
    galaxies: int = 2000,
    transients: int = 200,
    *,
    depth: float = 9.0,
    science_fwhm: float = 4.4,
    template_fwhm: float = 3.2,
    shift: tuple[float, float] = (0.3, -0.2),
    variable: float = 0.015,
    spacing: float | None = None,
    registration: float = 0.0,
) -> Pair:
    """Return the pair: `depth` times less variance in the template, whose objects are moved by `shift` (pixels).

    Numbers of objects are those of the whole image. With `spacing` (pixels) the stars stand on a grid, 2e4 to 3e5
    electrons each, instead of at random with N(> F) ~ F^-0.6. `registration` (pixels) is the amplitude of a further
    shift that waves over the field with a period of 1500 pixels.
    """
    optics = Moffat(science_fwhm, 3.0, 0.10, 0.03, size), Moffat(template_fwhm, 3.3, 0.03, 0.01, size)
    rng = [np.random.default_rng([seed, stream]) for stream in range(5)]
    if spacing is None:
        table = _stars(rng[0], size, stars, variable)
    else:
        table = _grid_of_stars(rng[0], size, spacing)
    galaxy = _galaxies(rng[1], size, galaxies)
    key = (_VERSION, seed, size, stars, galaxies, science_fwhm, template_fwhm, shift, variable, spacing, registration)
    light = _cached(key, table, galaxy, optics, (*shift, registration))
    scale = _scale(size)
    table["science"] *= FLUX_SCALE
    full = [plane * gain + SKY > well for plane, gain, well in zip(light, (scale, 1.0), FULL_WELL, strict=True)]
    table["saturated"] = _touched(table, full[0] | full[1])
    light[0] *= scale
    found = _transients(rng[2], table, galaxy, light, optics, transients, depth)
    paint(light[0], found["x"], found["y"], found["electrons"], optics[0])
    masks = [bleed(plane, well - SKY) for plane, well in zip(light, FULL_WELL, strict=True)]
    exposures = [
        _exposure(rng[3 + k], light[k], masks[k], (1.0, depth)[k], optics[k], (FULL_WELL[k], _left_sky(size, k)))
        for k in (0, 1)
    ]
    return Pair(exposures[0], exposures[1], table, galaxy, found, *optics, depth)


def make_noise(seed: int, size: int = 4096, spacing: float = 256.0, **changes: Any) -> Pair:
    """Return a pair of nothing but sky and kernel stars far apart."""
    return make_pair(seed, size, 0, 0, 0, spacing=spacing, variable=0.0, **changes)


def _stars(rng: np.random.Generator, size: int, count: int, variable: float) -> _Rows:
    """Return stars with N(> F) ~ F^-0.6, `science` yet without the flux scale."""
    rows = np.zeros(count, STAR_DTYPE)
    rows["x"], rows["y"] = rng.uniform(0, size, (2, count))
    rows["template"] = np.minimum(_FAINTEST * rng.random(count) ** (-1 / 0.6), _BRIGHTEST)
    rows["variable"] = rng.random(count) < variable
    change = rng.choice([-1.0, 1.0], count) * rng.uniform(0.1, 1.0, count)
    rows["science"] = rows["template"] * np.where(rows["variable"], 1 + change, 1.0)
    return rows


def _grid_of_stars(rng: np.random.Generator, size: int, spacing: float) -> _Rows:
    """Return constant stars of 2e4 to 3e5 electrons on a grid, at random places in a pixel."""
    axis = np.arange(spacing / 2, size, spacing)
    x, y = (g.ravel() for g in np.meshgrid(axis, axis))
    rows = np.zeros(len(x), STAR_DTYPE)
    rows["x"], rows["y"] = x + rng.uniform(-0.5, 0.5, len(x)), y + rng.uniform(-0.5, 0.5, len(x))
    rows["template"] = rows["science"] = np.exp(rng.uniform(*np.log([2e4, 3e5]), len(x)))
    return rows


def _galaxies(rng: np.random.Generator, size: int, count: int) -> _Rows:
    """Return Sersic galaxies of 2e3 to 2e5 electrons."""
    rows = np.zeros(count, GALAXY_DTYPE)
    rows["x"], rows["y"] = rng.uniform(0, size, (2, count))
    rows["flux"] = np.minimum(2e3 / rng.uniform(0, 1, count), 2e5)
    rows["n"], rows["re"] = rng.uniform(1, 4, count), np.exp(rng.uniform(0, np.log(8), count))
    rows["q"], rows["angle"] = rng.uniform(0.3, 1, count), rng.uniform(0, np.pi, count)
    return rows


def _field(size: int) -> tuple[_Plane, _Plane]:
    axis = (2 * np.arange(size) / size - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def _scale(size: int) -> _Plane:
    """Return science over template flux: 0.92 with a gradient of 1 to 2 %."""
    u, v = _field(size)
    return np.asarray(FLUX_SCALE * (1 + 0.0075 * u - 0.004 * v), np.float32)


def _left_sky(size: int, image: int) -> _Plane:
    """Return the sky that is left in the science image (0) or template (1), electrons."""
    u, v = _field(size)
    if image:
        return np.zeros((1, 1), np.float32)
    return np.asarray(3 * u * u - 2 * u * v + 1.5 * v - 1, np.float32)


def _cached(
    key: tuple[Any, ...], stars: _Rows, galaxies: _Rows, optics: tuple[Moffat, Moffat], shift: Shift
) -> list[_Plane]:
    """Return the noiseless static light of both images on the template's flux scale, electrons."""
    folder = Path(tempfile.gettempdir()) / "subtract-bench"
    path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.npz"
    if path.exists():
        with np.load(path) as kept:
            return [kept["science"], kept["template"]]
    light = [np.zeros((optics[0].size,) * 2, np.float32) for _ in range(2)]
    paint(light[0], stars["x"], stars["y"], stars["science"], optics[0])
    paint(light[1], *moved(stars["x"], stars["y"], shift), stars["template"], optics[1])
    for row in galaxies:
        paint_galaxy(light, row, optics, shift)
    folder.mkdir(exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, science=light[0], template=light[1])
    part.replace(path)
    return light


def _touched(stars: _Rows, full: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which stars have a full pixel at their middle."""
    size = len(full)
    x, y = (np.clip(np.round(stars[name]).astype(int), 1, size - 2) for name in ("x", "y"))
    near = [full[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.any(near, axis=0) if len(stars) else np.zeros(0, bool)


def _transients(
    rng: np.random.Generator,
    stars: _Rows,
    galaxies: _Rows,
    light: list[_Plane],
    optics: tuple[Moffat, Moffat],
    count: int,
    depth: float,
) -> _Rows:
    """Return transients of S/N 4 to 90, log-uniform, half of them within the effective radius of a galaxy."""
    rows = np.zeros(count, TRANSIENT_DTYPE)
    if count == 0:
        return rows
    size, hosted = len(light[0]), count // 2 if len(galaxies) else 0
    field = rng.uniform(0, size, (40 * count, 2))
    host = galaxies[rng.permutation(len(galaxies))]
    r, turn = host["re"] * np.sqrt(rng.random(len(host))), rng.uniform(0, 2 * np.pi, len(host))
    on_hosts = np.column_stack([host["x"] + r * np.cos(turn), host["y"] + r * np.sin(turn)])
    trees = cKDTree(_places(stars)), cKDTree(_places(stars[stars["saturated"]]).reshape(-1, 2))
    taken: list[_Float] = []
    for places, wanted in ((on_hosts, hosted), (field, count)):
        free = np.all((places > 40) & (places < size - 40), axis=1)
        free &= (trees[0].query(places)[0] > 6) & (trees[1].query(places)[0] > 60)
        for place in places[free]:
            if len(taken) >= wanted:
                break
            if not taken or np.hypot(*(np.array(taken) - place).T).min() > 30:
                taken.append(place)
    rows = rows[: len(taken)]
    rows["x"], rows["y"] = np.array(taken).T
    rows["hosted"] = np.arange(len(rows)) < hosted
    rows["snr"] = rng.permutation(
        np.exp(np.log(4) + np.log(90 / 4) * (np.arange(len(rows)) + rng.random()) / len(rows))
    )
    for row in rows:
        noise = _difference_noise(light, row["x"], row["y"], optics, depth)
        row["electrons"] = row["snr"] * noise
        row["flux"] = row["electrons"] * optics[0].stamp(row["x"], row["y"]).sum() * NJY
    return rows


def _places(rows: _Rows) -> _Float:
    return np.column_stack([rows["x"], rows["y"]])


def _difference_noise(light: list[_Plane], x: float, y: float, optics: tuple[Moffat, Moffat], depth: float) -> float:
    """Return the error of a flux from the best difference that white noise allows (Zackay et al. 2016), electrons."""
    ix, iy, half = round(x), round(y), 20
    part = slice(iy - half, iy + half + 1), slice(ix - half, ix + half + 1)
    levels = []
    for plane, psf in zip(light, optics, strict=True):
        weight = np.square(psf.stamp(x, y))
        levels.append(float((weight * plane[part]).sum() / weight.sum()) + SKY + READ_NOISE**2)
    ours, theirs = (np.abs(fft.fft2(psf.stamp(x, y, 65))) ** 2 for psf in optics)
    noise = levels[0] * theirs + levels[1] / depth * FLUX_SCALE**2 * ours
    return float(1 / np.sqrt(np.mean(ours * theirs / noise)))


def _exposure(
    rng: np.random.Generator,
    light: _Plane,
    mask: NDArray[np.int32],
    depth: float,
    optics: Moffat,
    levels: tuple[float, _Plane],
) -> Exposure:
    """Return the exposure with Poisson and read noise, `depth` times less variance, sky taken off; true variance."""
    size, (well, left) = len(light), levels
    image, variance = np.empty_like(light), np.empty_like(light)
    for top in range(0, size, 256):
        rows = slice(top, top + 256)
        expected = light[rows].astype(float) + SKY + (left[rows] if len(left) > 1 else 0.0)
        seen = rng.poisson(expected * depth) / depth
        seen += rng.standard_normal(seen.shape, np.float32) * np.float32(READ_NOISE / np.sqrt(depth))
        image[rows] = np.where(mask[rows] != 0, well, seen) - SKY
        variance[rows] = (expected + READ_NOISE**2) / depth
    return Exposure(
        info=ExposureInfo("sim", 4711, 3, "r", 60500.25, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits"),
        image=image * np.float32(NJY),
        mask=mask,
        variance=variance * np.float32(NJY**2),
        unit="nJy",
        wcs=SkyWcs.tangent(150.0, -30.0, (size / 2, size / 2), 0.25, rotation=20.0),
        psf=optics.model(),
        photo=PhotoCalib(NJY, 0.0, 0),
    )
