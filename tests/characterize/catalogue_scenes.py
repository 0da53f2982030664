"""A calibrated exposure of stars, pairs and discs, with mask and truth, for the tests of the full mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.characterize.conftest import info, moffat
from workers.imaging.exposure import Exposure, PhotoCalib
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs

SIZE, FWHM, SCALE, SKY, PITCH = 640, 3.6, 30.0, 425.0, 40


@dataclass(frozen=True)
class Scene:
    """An exposure in nJy and its truth."""

    exposure: Exposure
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    """nJy, inside the PSF's stamp."""
    kind: NDArray[np.str_]
    """``star``, ``pair`` (7 pixels apart, two rows), ``disc`` (exponential, half-light radius 3.5 pixels)."""


def disc_stamp(dx: float, dy: float, radius: float, size: int) -> NDArray[np.float64]:
    """Return an exponential disc of unit flux seen with the PSF."""
    star = moffat(np.array([dx]), np.array([dy]), np.array([FWHM]), 3.5, size)[0]
    wave = np.hypot(np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None, :])
    disc = (1.0 + np.square(2 * np.pi * radius / 1.678 * wave)) ** -1.5
    return np.fft.irfft2(np.fft.rfft2(star, (2 * size, 2 * size)) * disc, (2 * size, 2 * size))[:size, :size]


def catalogue_scene(seed: int, faintest: float = 1500.0, brightest: float = 2e5) -> Scene:
    """Draw one; fluxes in electrons are log-uniform; a defect lies on the first star, the third is saturated."""
    rng = np.random.default_rng(seed)
    side = SIZE // PITCH
    places = np.arange(side) * PITCH + PITCH // 2
    x, y = np.tile(places, side).astype(float), np.repeat(places, side).astype(float)
    x, y = x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, y.size)
    kind = rng.choice(["star", "pair", "disc"], x.size, p=[0.7, 0.2, 0.1])
    kind[:3] = "star"
    angle = rng.uniform(0, 2 * np.pi, x.size)
    second = kind == "pair"
    x, y = np.r_[x, (x + 7 * np.cos(angle))[second]], np.r_[y, (y + 7 * np.sin(angle))[second]]
    kind = np.r_[kind, kind[second]]
    flux = np.exp(rng.uniform(np.log(faintest), np.log(brightest), x.size))
    flux[kind == "disc"] = np.maximum(flux[kind == "disc"], 30_000.0)
    flux[kind == "pair"] = np.clip(flux[kind == "pair"], 10_000.0, 50_000.0)
    flux[2] = 2e6
    light, half = np.zeros((SIZE + 100, SIZE + 100)), 20
    for px, py, f, k in zip(x, y, flux, kind, strict=True):
        i, j = round(py), round(px)
        if k == "disc":
            stamp = disc_stamp(px - j, py - i, 3.5, 2 * half + 1)
        else:
            stamp = moffat(np.array([px - j]), np.array([py - i]), np.array([FWHM]), 3.5, 2 * half + 1)[0]
        light[i + 50 - half : i + 51 + half, j + 50 - half : j + 51 + half] += f * stamp
    light = light[50:-50, 50:-50]
    variance = light + SKY
    image = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
    mask = np.zeros(light.shape, np.int32)
    mask[round(y[0]) + 5, round(x[0])] = MaskPlane.BAD
    mask[light > 5e4] |= MaskPlane.SATURATED
    mask[light > 80.0] |= MaskPlane.DETECTED
    psf = moffat(np.zeros(1), np.zeros(1), np.array([FWHM]), 3.5, 25)
    held = float(psf.sum())
    exposure = Exposure(
        info(visit=2023022500007),
        (image * SCALE).astype(np.float32),
        mask,
        (variance * SCALE**2).astype(np.float32),
        unit="nJy",
        wcs=SkyWcs.tangent(359.99, -30.0, (SIZE / 2, SIZE / 2), 0.2, 33.0, -1),
        psf=PsfModel((psf / held).astype(np.float32), 0, SIZE, SIZE),
        photo=PhotoCalib(SCALE, 0.002, 40),
        provenance={"bias": "bias-1", "reference": "refcat-2"},
    )
    return Scene(exposure, x, y, flux * SCALE * np.where(kind == "disc", 1.0, held), kind)
