"""A small sky of Gaussian stars, seen by dithered and rotated calibrated exposures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel
from workers.imaging.wcs import SkyWcs
from workers.survey.config import TemplatesConfig

RA, DEC, SIDE, SIGMA = 150.1, 2.2, 280, 5.0
CONFIG = TemplatesConfig(begin=60000.0, end=60365.0, pixel_scale=1.0, cell_size=128, min_epochs=3)
SURVEY = f"""name = "field"
[templates]
begin = {CONFIG.begin}
end = {CONFIG.end}
pixel_scale = {CONFIG.pixel_scale}
cell_size = {CONFIG.cell_size}
"""
"""survey.toml with that window and grid."""


@dataclass(frozen=True)
class Sky:
    """Stars (degrees, nJy) and a way to see them."""

    ra: np.ndarray
    dec: np.ndarray
    flux: np.ndarray
    extra: dict = field(default_factory=dict)

    def expose(self, visit, mjd, *, fwhm=3.0, rotation=0.0, dither=(0.0, 0.0), detector=0, sigma=SIGMA, noise=True):
        """Return one calibrated exposure; `extra[visit]` is added to its pixels."""
        wcs = SkyWcs.tangent(
            RA + dither[0] / 3600, DEC + dither[1] / 3600, (SIDE / 2.0, SIDE / 2.0), 1.0, rotation=rotation
        )
        x, y = wcs.sky_to_pixel(self.ra, self.dec)
        image = gaussians(SIDE, x, y, self.flux, fwhm)
        variance = np.full(image.shape, sigma**2) + np.maximum(image, 0) / 50.0
        rng = np.random.default_rng(visit)
        image = image + self.extra.get(visit, 0.0) + (rng.normal(0, np.sqrt(variance)) if noise else 0.0)
        sha = hashlib.sha256(f"{visit} {detector}".encode()).hexdigest()
        return Exposure(
            info=ExposureInfo(
                "cam", visit, detector, "r", mjd, 30.0, RA, DEC, 20230101, "science", sha, f"{visit}.fits"
            ),
            image=image.astype(np.float32),
            mask=np.zeros(image.shape, np.int32),
            variance=variance.astype(np.float32),
            unit="nJy",
            wcs=wcs,
            psf=PsfModel.gaussian(fwhm, size=25, width=SIDE, height=SIDE),
            photo=PhotoCalib(2.0, 0.002, 100),
            metrics={"seeingFwhm": fwhm, "backgroundRms": sigma},
        )


def gaussians(side, x, y, fluxes, fwhm):
    """Gaussian stars sampled at pixel centres, each in a box of 12 sigma."""
    sigma = fwhm / FWHM_PER_SIGMA
    image = np.zeros((side, side))
    reach = int(6 * sigma) + 1
    for x0, y0, flux in zip(x, y, fluxes, strict=True):
        xs = np.arange(max(round(x0) - reach, 0), min(round(x0) + reach + 1, side))
        ys = np.arange(max(round(y0) - reach, 0), min(round(y0) + reach + 1, side))
        profile = np.exp(-0.5 * ((ys[:, None] - y0) ** 2 + (xs[None, :] - x0) ** 2) / sigma**2)
        image[ys[:, None], xs[None, :]] += flux * profile / (2 * np.pi * sigma**2)
    return image


def nights(count):
    """Visit, time, seeing, rotation and dither of `count` epochs in the window."""
    rng = np.random.default_rng(99)
    return [
        {
            "visit": 1000 + k,
            "mjd": 60010.0 + 20 * k,
            "fwhm": float(rng.uniform(2.6, 3.8)),
            "rotation": float(rng.uniform(-5, 5)) + 90.0 * (k % 2),
            "dither": tuple(rng.uniform(-12, 12, 2)),
        }
        for k in range(count)
    ]
