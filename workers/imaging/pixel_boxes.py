"""The squares of pixels round many positions at once, as arrays that fits can work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PixelBoxes", "cut_boxes"]

_Float = NDArray[np.float64]
_FAR = 10**6
"""Pixel index that lies outside any image; where positions that are not finite are put."""


@dataclass(frozen=True)
class PixelBoxes:
    """m squares of n x n pixels; the planes are float64 (m, n, n) with unusable pixels zero."""

    data: _Float
    variance: _Float
    good: _Float
    """1 where usable, else 0."""
    x: NDArray[np.int64]
    """Column of the middle pixel, shape (m,)."""
    y: NDArray[np.int64]
    """Row of the middle pixel, shape (m,)."""
    edge: NDArray[np.bool_]
    """True where the square leaves the image."""
    centre: NDArray[np.bool_]
    """True where all of the middle 3x3 pixels are usable."""


def cut_boxes(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: NDArray[np.bool_],
    x: _Float,
    y: _Float,
    size: int,
) -> PixelBoxes:
    """Cut `size` x `size` pixels (odd) round pixel (round(x), round(y)), positions (m,), from (height, width)."""
    half, (height, width) = size // 2, image.shape
    finite = np.isfinite(x) & np.isfinite(y)
    column = np.clip(np.round(np.where(finite, x, -_FAR)), -_FAR, _FAR).astype(np.int64)
    row = np.clip(np.round(np.where(finite, y, -_FAR)), -_FAR, _FAR).astype(np.int64)
    reach = np.arange(-half, half + 1)
    rows, columns = row[:, None] + reach, column[:, None] + reach
    in_rows, in_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    at = np.clip(rows, 0, height - 1)[:, :, None] * width + np.clip(columns, 0, width - 1)[:, None, :]
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    good = np.take(usable, at) & inside
    return PixelBoxes(
        data=np.where(good, np.take(image, at), 0.0).astype(float),
        variance=np.where(good, np.take(variance, at), 0.0).astype(float),
        good=good.astype(float),
        x=column,
        y=row,
        edge=~inside.all(axis=(1, 2)),
        centre=good[:, half - 1 : half + 2, half - 1 : half + 2].all(axis=(1, 2)),
    )
