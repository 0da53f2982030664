"""Calibrated exposures of one star field under unlike skies, for the benchmarks of templates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib
from workers.imaging.fits import write_exposure
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel
from workers.imaging.wcs import SkyWcs

SCALE = 0.2
GAIN = 50.0
"""nJy of a star over its variance in nJy²."""


@dataclass(frozen=True)
class Visit:
    """One epoch: FWHM in pixels, sky noise in nJy, turn in degrees, dither in arcsec."""

    number: int
    mjd: float
    fwhm: float
    sigma: float
    turn: float
    dither: tuple[float, float]


def visits(count: int, seed: int = 5) -> list[Visit]:
    """Return epochs with FWHM of 0.6 to 1.1 arcsec and a sky whose noise differs by a factor of two."""
    rng = np.random.default_rng(seed)
    return [
        Visit(
            1000 + k,
            60010.0 + 25 * k,
            float(rng.uniform(3.0, 5.5)),
            5.0 * float(2.0 ** rng.uniform(-0.5, 0.5)),
            float(rng.uniform(-3, 3)) + 180.0 * (k % 2),
            (float(rng.uniform(-4, 4)), float(rng.uniform(-4, 4))),
        )
        for k in range(count)
    ]


def star_field(side: int, per_cell: float, brightest: float, seed: int) -> np.ndarray:
    """Return stars, rows (east, north, flux) in arcsec from the middle and nJy, over a square of `side` pixels."""
    rng = np.random.default_rng(seed)
    count = int(per_cell * (side / 256.0) ** 2)
    places = rng.uniform(-0.5, 0.5, (2, count)) * side * SCALE
    return np.stack([*places, 10 ** rng.uniform(2.0, np.log10(brightest), count)], axis=-1)


def rendered(shape: tuple[int, int], x: np.ndarray, y: np.ndarray, flux: np.ndarray, fwhm: float) -> np.ndarray:
    """Return Gaussian stars, float64, each in a box of 6 sigma to each side."""
    sigma = fwhm / FWHM_PER_SIGMA
    reach = int(6 * sigma) + 1
    image = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach))
    axis = np.arange(-reach, reach + 1)
    for x0, y0, one in zip(x, y, flux, strict=True):
        column, row = round(float(x0)), round(float(y0))
        if not (0 <= column < shape[1] and 0 <= row < shape[0]):
            continue
        along = np.exp(-0.5 * ((axis + column - x0) / sigma) ** 2)
        across = np.exp(-0.5 * ((axis + row - y0) / sigma) ** 2)
        box = slice(row, row + 2 * reach + 1), slice(column, column + 2 * reach + 1)
        image[box] += one / (2 * np.pi * sigma**2) * across[:, None] * along[None, :]
    return image[reach:-reach, reach:-reach]


def sky_places(stars: np.ndarray, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (ra, dec), degrees, of the stars in a field."""
    return ra + stars[:, 0] / 3600 / np.cos(np.radians(dec)), dec + stars[:, 1] / 3600


def expose(visit: Visit, stars: np.ndarray, side: int, centre: tuple[float, float], seed: int = 0) -> Exposure:
    """Return one calibrated exposure of the field at `centre` (degrees)."""
    ra, dec = centre
    wcs = SkyWcs.tangent(
        ra + visit.dither[0] / 3600, dec + visit.dither[1] / 3600, (side / 2.0, side / 2.0), SCALE, rotation=visit.turn
    )
    x, y = wcs.sky_to_pixel(*sky_places(stars, ra, dec))
    image = rendered((side, side), x, y, stars[:, 2], visit.fwhm)
    variance = visit.sigma**2 + np.maximum(image, 0.0) / GAIN
    mask = np.where(image > 3.0 * visit.sigma, int(MaskPlane.DETECTED), 0).astype(np.int32)
    rng = np.random.default_rng([visit.number, seed])
    mask[:, rng.integers(0, side, max(side // 500, 1))] |= int(MaskPlane.BAD)
    noise = rng.standard_normal(image.shape, np.float32) * np.sqrt(variance)
    raw = hashlib.sha256(f"{visit.number} {seed} {centre}".encode()).hexdigest()
    info = ExposureInfo("cam", visit.number, 0, "r", visit.mjd, 30.0, ra, dec, 20230101, "science", raw, "x.fits")
    return Exposure(
        info=info,
        image=(image + noise).astype(np.float32),
        mask=mask,
        variance=variance.astype(np.float32),
        unit="nJy",
        wcs=wcs,
        psf=PsfModel.gaussian(visit.fwhm, size=31, width=side, height=side),
        photo=PhotoCalib(1.0, 0.002, 100),
        metrics={"seeingFwhm": visit.fwhm, "backgroundRms": visit.sigma},
    )


def moved(exposure: Exposure, visit: Visit, centre: tuple[float, float]) -> Exposure:
    """Return the same pixels at another place of the sky."""
    side = exposure.shape[0]
    wcs = SkyWcs.tangent(
        centre[0] + visit.dither[0] / 3600,
        centre[1] + visit.dither[1] / 3600,
        (side / 2.0, side / 2.0),
        SCALE,
        rotation=visit.turn,
    )
    return exposure.replaced(wcs=wcs)


def write_field(folder: Path, exposures: list[Exposure]) -> None:
    """Write the calibrated exposures of a field."""
    for exposure in exposures:
        write_exposure(folder / f"{exposure.info.visit}.fits", exposure)
