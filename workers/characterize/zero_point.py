"""The zero point: how many nanojansky one electron of this exposure is, from reference stars.

The electrons are PSF fluxes. No aperture correction is needed: whatever part of a star's light the PSF's stamp leaves
out is the same for reference stars and for sources, and the zero point contains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["ZeroPoint", "fit_zero_point"]

_Float = NDArray[np.float64]

MIN_SNR = 15.0
"""Expected, of the stars used: fainter ones carry no weight and the noise in their choice."""
CLIP = 3.5
"""Robust sigma: variable stars, blends and wrong matches lie beyond."""
FLOOR = 0.003
"""Relative scatter that no star's errors fall below: flat field and PSF."""


@dataclass(frozen=True)
class ZeroPoint:
    """The result of one exposure."""

    nJyPerElectron: float
    relativeError: float
    nStars: int
    scatter: float
    """Relative, of the kept stars beyond their errors: 0 where the errors explain all."""


def fit_zero_point(
    electrons: _Float, electrons_error: _Float, reference: _Float, reference_error: _Float, *, min_stars: int
) -> ZeroPoint:
    """Return the zero point from matched stars: PSF fluxes in electrons, reference fluxes in nJy, float64 (n,) each.

    The ratio electrons/reference is averaged with weights that don't depend on the measured flux, so that noise does
    not bias it. Raises DataError where fewer than `min_stars` usable stars agree.
    """
    fine = np.isfinite(electrons) & (electrons_error > 0.0) & (reference > 0.0) & (reference_error >= 0.0)
    fine &= electrons > 0.0
    _need(int(np.count_nonzero(fine)), min_stars, len(electrons))
    typical = _weighted_median((electrons / np.where(fine, reference, 1.0))[fine], (electrons / electrons_error)[fine])
    fine &= typical * reference > MIN_SNR * electrons_error
    _need(int(np.count_nonzero(fine)), min_stars, len(electrons))
    ratio = electrons[fine] / reference[fine]
    expected = typical * reference[fine]
    error = typical * np.hypot(electrons_error[fine] / expected, reference_error[fine] / reference[fine])
    mean, mean_error, scatter, kept = _robust_mean(ratio, np.hypot(error, FLOOR * typical))
    _need(kept, min_stars, len(electrons))
    return ZeroPoint(1.0 / mean, mean_error / mean, kept, scatter / mean)


def _need(stars: int, min_stars: int, matched: int) -> None:
    """Raise DataError where too few stars remain."""
    if stars < min_stars:
        raise DataError(
            f"zero point failed: {stars} of {matched} matched stars are usable and agree, {min_stars} are needed; is "
            "the reference catalogue's flux column in nJy and of this band, and is the exposure not saturated?"
        )


def _weighted_median(value: _Float, weight: _Float) -> float:
    """Return the value that halves the weight."""
    order = np.argsort(value)
    total = np.cumsum(weight[order])
    return float(value[order][np.searchsorted(total, 0.5 * total[-1])])


def _robust_mean(value: _Float, error: _Float) -> tuple[float, float, float, int]:
    """Return the clipped weighted mean, its error, the scatter beyond the errors, and how many were kept.

    Clipping is about the weighted median, which bright outliers can't drag along.
    """
    kept = np.ones(len(value), bool)
    scatter = 1.4826 * float(np.median(np.abs(value - np.median(value))))
    for _ in range(10):
        deviation = value - _weighted_median(value[kept], 1.0 / np.hypot(error[kept], scatter))
        excess = _excess_scatter(deviation[kept], error[kept])
        keep = np.abs(deviation) < CLIP * np.hypot(error, excess)
        if np.array_equal(keep, kept) and abs(excess - scatter) < 1e-3 * float(np.median(error)):
            break
        kept, scatter = keep, excess
    weight = 1.0 / (np.square(error[kept]) + scatter**2)
    middle = float((weight * value[kept]).sum() / weight.sum())
    return middle, float(1.0 / np.sqrt(weight.sum())), scatter, int(np.count_nonzero(kept))


def _excess_scatter(deviation: _Float, error: _Float) -> float:
    """Return the scatter which, added to the errors, brings the median pull to that of a Gaussian; by bisection."""
    if np.median(np.abs(deviation) / error) < 0.6745:
        return 0.0
    low, high = 0.0, float(1.4826 * np.median(np.abs(deviation))) * 2.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        if np.median(np.abs(deviation) / np.hypot(error, middle)) > 0.6745:
            low = middle
        else:
            high = middle
    return high
