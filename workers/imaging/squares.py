"""The squares of pixels round many positions at once, as arrays that fits can work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import frozen_array

__all__ = ["Squares", "cut_squares"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_FAR = 10**6
"""Pixel index that lies outside any image; where positions that are not finite are put."""


@dataclass(frozen=True)
class Squares:
    """m squares of n x n pixels; the planes are float64 (m, n, n)."""

    data: _Float
    """0 where a pixel is not usable or outside the image."""
    noise: _Float
    """Variance; -1 there."""
    x: NDArray[np.int64]
    """Column of the middle pixel, shape (m,)."""
    y: NDArray[np.int64]
    """Row of the middle pixel, shape (m,)."""

    @property
    def good(self) -> _Bool:
        """True where a pixel is usable, (m, n, n)."""
        return np.asarray(self.noise >= 0.0)

    @property
    def variance(self) -> _Float:
        """Variance, 0 where a pixel is not usable, (m, n, n)."""
        return np.maximum(self.noise, 0.0)


def cut_squares(
    image: NDArray[np.floating], variance: NDArray[np.floating], usable: _Bool, x: _Float, y: _Float, half: int
) -> Squares:
    """Cut 2 half + 1 pixels along each side round pixel (round(x), round(y)); nothing where x or y is not finite.

    Planes (height, width), the variance not negative where `usable`; positions (m,), anywhere.
    """
    known = np.isfinite(x) & np.isfinite(y)
    column = np.clip(np.round(np.where(known, x, -_FAR)), -_FAR, _FAR).astype(np.int64)
    row = np.clip(np.round(np.where(known, y, -_FAR)), -_FAR, _FAR).astype(np.int64)
    data, noise = (np.empty((len(x), 2 * half + 1, 2 * half + 1)) for _ in range(2))
    # read-only, whatever they were: compiled once
    _cut(frozen_array(image), frozen_array(variance), frozen_array(usable), column, row, data, noise)
    return Squares(data, noise, column, row)


@njit(cache=True, nogil=True)
def _cut(
    image: Any, variance: Any, usable: Any, column: Any, row: Any, data: Any, noise: Any
) -> None:  # pragma: no cover - compiled
    """Copy the squares round pixels (column, row), of the shape of `data` (m, n, n), and their variance to `noise`."""
    height, width = image.shape
    size = data.shape[1]
    for source in range(data.shape[0]):
        left, bottom = column[source] - size // 2, row[source] - size // 2
        first, last = min(max(-left, 0), size), max(min(width - left, size), 0)
        for i in range(size):
            pixels, noises = data[source, i], noise[source, i]
            pixels[:], noises[:] = 0.0, -1.0
            y = bottom + i
            if 0 <= y < height and first < last:
                values = image[y, left + first : left + last]
                spread = variance[y, left + first : left + last]
                good = usable[y, left + first : left + last]
                for j in range(last - first):
                    pixels[first + j] = values[j] if good[j] else 0.0
                    noises[first + j] = spread[j] if good[j] else -1.0
