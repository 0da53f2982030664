"""The level of the sky in coarse cells: quick, and good enough to tell which pixels rise above it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage

__all__ = ["CELL", "sky_levels", "sky_row"]

CELL = 128
"""Pixels on a side."""
_STRIDE = 4
"""One pixel in so many, along both axes, enters the median."""


def sky_levels(image: FloatImage, blocked: NDArray[np.bool_]) -> FloatImage:
    """Return the medians of the image's cells, float32 of shape (ceil(height / CELL), ceil(width / CELL)).

    Cells without a usable pixel take the median of the others, 0 where there are none.
    """
    some = image[::_STRIDE, ::_STRIDE].astype(np.float32)
    some[blocked[::_STRIDE, ::_STRIDE]] = np.nan
    side = CELL // _STRIDE
    rows, columns = -(-some.shape[0] // side), -(-some.shape[1] // side)
    spare = (0, rows * side - some.shape[0]), (0, columns * side - some.shape[1])
    padded = np.pad(some, spare, constant_values=np.nan)
    cells = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, side * side)
    cells = np.sort(cells, axis=1)  # nan goes last
    counts = np.isfinite(cells).sum(axis=1)
    levels = cells[np.arange(len(cells)), counts // 2]
    known = counts > 0
    levels[~known] = np.median(levels[known]) if known.any() else 0.0
    return np.asarray(levels.reshape(rows, columns), np.float32)


@njit(cache=True, nogil=True)
def sky_row(levels: Any, y: Any, row: Any) -> None:  # pragma: no cover - compiled
    """Fill `row` (float32, width) with the sky of row y, bilinear between the centres of the cells."""
    rows, columns = levels.shape
    v = min(max((y + 0.5) / CELL - 0.5, 0.0), rows - 1.0)
    low = int(v)
    nodes = levels[low] + np.float32(v - low) * (levels[min(low + 1, rows - 1)] - levels[low])
    for x in range(len(row)):
        u = min(max((x + 0.5) / CELL - 0.5, 0.0), columns - 1.0)
        left = int(u)
        row[x] = nodes[left] + (u - left) * (nodes[min(left + 1, columns - 1)] - nodes[left])
