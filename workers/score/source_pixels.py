"""The pixels round each source, made comparable: positive, in units of their noise, distances in units of the PSF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.masks import MaskPlane
from workers.imaging.psf import FWHM_PER_SIGMA, shift_stamps
from workers.imaging.stamps import Stamps

__all__ = ["UNUSABLE", "Floats", "Side", "SourcePixels", "ratio", "source_pixels", "total"]

Floats = NDArray[np.float32]
_Bool = NDArray[np.bool_]

UNUSABLE = MaskPlane.BAD | MaskPlane.CR | MaskPlane.EDGE | MaskPlane.NO_DATA
"""Planes whose pixels enter no feature but the counts. Saturated pixels do enter: their halo is flagged too."""


@dataclass(frozen=True)
class Side:
    """One of the two images that were subtracted, float32 (n, s, s); pixels that can't be used have weight 0."""

    flux: Floats
    weight: Floats
    """Inverse variance."""
    psf: Floats


@dataclass(frozen=True)
class SourcePixels:
    """The stamps of n sources, each (n, s, s) but `fwhm`, prepared for measuring."""

    flux: Floats
    """Difference, nJy, with the sign that makes the source positive; 0 where not usable."""
    weight: Floats
    """Inverse variance, 0 where not usable."""
    good: _Bool
    mask: NDArray[np.int32]
    psf: Floats
    """Of the difference, shifted to the source's position, unit sum."""
    dx: Floats
    """Pixels from the source's position, along x and y."""
    dy: Floats
    radius: Floats
    """Distance from the source in units of the FWHM."""
    fwhm: Floats
    """Shape (n,), pixels: of the Gaussian with the PSF's noise area."""
    faint: Side
    """The image with less light at the source: the template of a positive, the science image of a negative source."""
    bright: Side


def source_pixels(sources: NDArray[Any], stamps: Stamps) -> SourcePixels:
    """Return the prepared pixels of `sources` (diaSource rows with x, y, isNegative), in the same order.

    A negative source is a positive one with the two images exchanged; that is how it is presented here, so that what
    is learned from one sign holds for the other.
    """
    size = stamps.difference.shape[1]
    x, y = (np.nan_to_num(sources[axis].astype(float)) for axis in ("x", "y"))
    shift = x - np.round(x), y - np.round(y)
    negative = np.asarray(sources["isNegative"], bool)
    flux, weight, good = _cleaned(stamps.difference, stamps.differenceVariance, stamps.differenceMask)
    axis = np.arange(size, dtype=np.float32) - np.float32(size // 2)
    dx = axis[None, None, :] - shift[0].astype(np.float32)[:, None, None] + np.zeros((1, size, 1), np.float32)
    dy = axis[None, :, None] - shift[1].astype(np.float32)[:, None, None] + np.zeros((1, 1, size), np.float32)
    area = 1.0 / np.maximum(np.square(stamps.differencePsf).sum(axis=(1, 2)), 1e-6)
    fwhm = (FWHM_PER_SIGMA * np.sqrt(area / (4.0 * np.pi))).astype(np.float32)
    sides = [
        _side(stamps.science, stamps.scienceVariance, stamps.scienceMask, stamps.sciencePsf, shift),
        _side(stamps.template, stamps.templateVariance, stamps.templateMask, stamps.templatePsf, shift),
    ]
    return SourcePixels(
        flux=np.where(negative[:, None, None], -flux, flux),
        weight=weight,
        good=good,
        mask=stamps.differenceMask,
        psf=_placed(stamps.differencePsf, size, shift),
        dx=dx,
        dy=dy,
        radius=np.hypot(dx, dy) / fwhm[:, None, None],
        fwhm=fwhm,
        faint=_chosen(negative, *sides),
        bright=_chosen(~negative, *sides),
    )


def total(pixels: NDArray[Any]) -> Floats:
    """Return the sum over each stamp, float32 (n,)."""
    return np.asarray(pixels.reshape(len(pixels), -1).sum(axis=1, dtype=np.float32))


def ratio(top: Floats, bottom: Floats, limit: float = 1e3) -> Floats:
    """Return top / bottom within +-`limit`, and 0 where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.where(bottom > 0.0, top / bottom, 0.0)
    return np.asarray(np.clip(np.nan_to_num(value), -limit, limit), np.float32)


def _cleaned(image: Floats, variance: Floats, mask: NDArray[np.int32]) -> tuple[Floats, Floats, _Bool]:
    """Return flux and inverse variance, both 0 where not usable, and where they are usable."""
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0.0) & ((mask & int(UNUSABLE)) == 0)
    weight = np.zeros_like(variance)
    np.divide(1.0, variance, out=weight, where=good)
    return np.where(good, image, np.float32(0.0)), weight, good


def _side(
    image: Floats, variance: Floats, mask: NDArray[np.int32], psf: Floats, shift: tuple[NDArray[Any], NDArray[Any]]
) -> Side:
    flux, weight, _ = _cleaned(image, variance, mask)
    return Side(flux, weight, _placed(psf, image.shape[1], shift))


def _chosen(second: _Bool, *sides: Side) -> Side:
    """Return sides[0] where `second`, else sides[1]."""
    pick = second[:, None, None]
    return Side(*(np.where(pick, getattr(sides[0], n), getattr(sides[1], n)) for n in ("flux", "weight", "psf")))


def _placed(psf: Floats, size: int, shift: tuple[NDArray[Any], NDArray[Any]]) -> Floats:
    """Return PSF stamps shifted to the sources, in squares of `size` pixels."""
    moved = shift_stamps(psf, *shift).astype(np.float32)
    own = psf.shape[1]
    if own >= size:
        start = (own - size) // 2
        return moved[:, start : start + size, start : start + size]
    start = (size - own) // 2
    out = np.zeros((len(psf), size, size), np.float32)
    out[:, start : start + own, start : start + own] = moved
    return out
