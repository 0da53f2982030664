"""Covariances of flat pixels: measured in a difference image, and as a function of the charge (Astier et al. 2019).

Astier et al. (2019, A&A 629, A36) let the area of a pixel change by a_ij for each electron (i, j) pixels away. Their
equation 16 (one pixel on its own) and 20 (series to third order in the charge, with b = 0) are the beginnings of

    C(x) = x F^-1[(exp(2 a~ x) - 1) / (2 a~ x)],    a~ = F[a],

the solution of dC/dx = delta + 2 a * C for x electrons: in Fourier space the lags part, and no series is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LAGS", "charge_covariances", "growth", "growth_slope", "lag_covariances", "mirrored"]

LAGS = 8
"""Largest distance in x and y, pixels."""

_Float = NDArray[np.float64]
_GRID = 64


def lag_covariances(
    difference: NDArray[np.float32], good: NDArray[np.bool_], lags: int = LAGS
) -> tuple[_Float, _Float]:
    """Return the mean product of `good` pixels at each lag and how many products it is of.

    Both float64 [lag y, lag x], (lags + 1, lags + 1). `difference`: float32 (height, width) of mean 0. Lags (y, x) and
    (y, -x) are averaged: no direction of readout is told from its opposite.
    """
    values = np.where(good, difference, np.float32(0.0)).astype(np.float32)
    sums, counts = np.zeros((lags + 1, 2 * lags + 1)), np.zeros((lags + 1, 2 * lags + 1))
    _products(np.pad(values, ((0, 0), (lags, lags))), lags, sums)
    _products(np.pad(good.astype(np.float32), ((0, 0), (lags, lags))), lags, counts)
    for plane in (sums, counts):
        plane[1:, lags + 1 :] += plane[1:, lags - 1 :: -1]
    return sums[:, lags:] / np.maximum(counts[:, lags:], 1.0), counts[:, lags:]


@njit(cache=True, nogil=True, fastmath=True)
def _products(padded: Any, lags: int, sums: Any) -> None:  # pragma: no cover - compiled
    """Add the products of pixels dy rows and dx columns apart to ``sums[dy, lags + dx]``; `padded` by `lags` in x."""
    height, wide = padded.shape
    width = wide - 2 * lags
    for y in range(height):
        here = padded[y]
        for dy in range(min(lags + 1, height - y)):
            there = padded[y + dy]
            for dx in range(-lags, lags + 1):
                total = np.float32(0.0)
                for x in range(lags, lags + width):
                    total += here[x] * there[x + dx]
                sums[dy, lags + dx] += total


def growth(exponent: _Float) -> _Float:
    """Return (exp(2 y) - 1) / (2 y), 1 at y = 0: variance over Poisson variance for ``y = a00 x`` (eq. 16)."""
    small = np.abs(exponent) < 1.0e-8
    safe = np.where(small, 1.0, 2.0 * exponent)
    return np.asarray(np.where(small, 1.0 + exponent, np.expm1(safe) / safe))


def growth_slope(exponent: _Float) -> _Float:
    """Return the derivative of `growth`: what a change of a_ij does to C_ij / x² once the charge is high."""
    small = np.abs(exponent) < 1.0e-4
    safe = np.where(small, 1.0, exponent)
    slope = (np.exp(2.0 * safe) - growth(safe)) / safe
    return np.asarray(np.where(small, 1.0 + 4.0 / 3.0 * exponent, slope))


def charge_covariances(charge: _Float, area: _Float) -> _Float:
    """Return the covariances of flats, float64 (charges, lags + 1, lags + 1), electrons².

    `charge`: mean electrons; `area`: a_ij per electron [lag y, lag x], (lags + 1, lags + 1).
    """
    lags = area.shape[0] - 1
    plane = np.zeros((_GRID, _GRID))
    span = np.arange(-lags, lags + 1)
    plane[np.ix_(span, span)] = mirrored(area)
    transform = np.fft.rfft2(plane).real
    spectra = growth(transform[None] * charge[:, None, None])
    lagged = np.fft.irfft2(spectra, (_GRID, _GRID))[:, : lags + 1, : lags + 1]
    return np.asarray(charge[:, None, None] * lagged)


def mirrored(quadrant: _Float) -> _Float:
    """Return the whole plane, (2 lags + 1, 2 lags + 1), of a quadrant [lag y, lag x] that is even in both."""
    half = np.concatenate([quadrant[:0:-1], quadrant])
    return np.concatenate([half[:, :0:-1], half], axis=1)
