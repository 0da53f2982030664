"""An image as means of small bins: what the background is measured on, with a sixteenth of the numbers.

A bin of 4 x 4 pixels sees a star as well as a matched filter does, and its mean has Gaussian noise whatever the pixels'
is: no mode, no median, and no bias between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage

__all__ = ["SIDE", "Bins", "bin_image", "block_sums", "middles", "spread_blocks", "stretch"]

SIDE = 4
"""Pixels."""
_LEAST = 0.25
"""A bin counts where this share of its pixels is usable."""

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """An image of (height, width) pixels in bins, all planes float32 of (ceil(height / 4), ceil(width / 4))."""

    mean: FloatImage
    """Of the usable pixels, in the image's unit; 0 where there are none."""
    count: FloatImage
    """Usable pixels; 0 where fewer than a quarter are."""
    variance: FloatImage
    """Of the usable pixels about their mean, unbiased."""
    shape: tuple[int, int]


def middles(shape: tuple[int, ...], size: int) -> tuple[_Float, _Float]:
    """Return the pixel coordinates (y, x) of the middles of (rows, columns) blocks of `size` pixels."""
    rows, columns = (size * (np.arange(count, dtype=np.float64) + 0.5) - 0.5 for count in shape)
    return np.asarray(rows, np.float64), np.asarray(columns, np.float64)


def bin_image(image: NDArray[Any], blocked: _Bool) -> Bins:
    """Return `image` (height, width) in bins, without its `blocked` and its not finite pixels."""
    plain = np.asarray(image)
    if plain.dtype not in (np.float32, np.float64) or not plain.dtype.isnative:
        plain = plain.astype(np.float32)
    shape = plain.shape[0], plain.shape[1]
    mean, count, variance = (np.zeros((-(-shape[0] // SIDE), -(-shape[1] // SIDE)), np.float32) for _ in range(3))
    _bin(plain, np.asarray(blocked, bool), mean, count, variance)
    return Bins(mean, count, variance, shape)


def block_sums(plane: NDArray[Any], size: int) -> _Float:
    """Return the sums of `plane` over blocks of `size` x `size`, those at the far edges smaller."""
    sums = np.zeros((-(-plane.shape[0] // size), -(-plane.shape[1] // size)))
    _block_sums(np.asarray(plane), size, sums)
    return sums


def spread_blocks(blocks: NDArray[Any], size: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a plane of `shape` where each block of `size` x `size` has its value."""
    return np.asarray(blocks.repeat(size, axis=0)[: shape[0]].repeat(size, axis=1)[:, : shape[1]])


def stretch(nodes: NDArray[Any], step: int, shape: tuple[int, int]) -> FloatImage:
    """Return float32 of `shape`, bilinear between `nodes` that stand for the middles of cells of `step` pixels.

    Beyond the outermost middles the last slope goes on.
    """
    out = np.empty(shape, np.float32)
    _stretch(np.ascontiguousarray(nodes, dtype=np.float32), step, out)
    return out


@njit(cache=True, nogil=True)
def _bin(image: Any, blocked: Any, mean: Any, count: Any, variance: Any) -> None:  # pragma: no cover - compiled
    """Means, counts and variances of bins; differences from the bin's first pixel keep the sums small."""
    height, width = image.shape
    for j in range(mean.shape[0]):
        bottom, top = SIDE * j, min(SIDE * j + SIDE, height)
        for i in range(mean.shape[1]):
            left, right = SIDE * i, min(SIDE * i + SIDE, width)
            n, total, square, zero = 0, 0.0, 0.0, 0.0
            for y in range(bottom, top):
                for x in range(left, right):
                    value = image[y, x]
                    if not blocked[y, x] and np.isfinite(value):
                        if n == 0:
                            zero = value
                        n += 1
                        total += value - zero
                        square += (value - zero) * (value - zero)
            if n > 0 and n >= _LEAST * (top - bottom) * (right - left):
                mean[j, i] = zero + total / n
                count[j, i] = n
                if n > 1:
                    variance[j, i] = max(square - total * total / n, 0.0) / (n - 1)


@njit(cache=True, nogil=True)
def _block_sums(plane: Any, size: Any, sums: Any) -> None:  # pragma: no cover - compiled
    """Add up row by row."""
    for y in range(plane.shape[0]):
        row = y // size
        for column in range(sums.shape[1]):
            total = 0.0
            for x in range(column * size, min(column * size + size, plane.shape[1])):
                total += plane[y, x]
            sums[row, column] += total


@njit(cache=True, nogil=True)
def _stretch(nodes: Any, step: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Fill `out`, row by row."""
    rows, columns = nodes.shape
    height, width = out.shape
    row = np.empty(columns, np.float32)
    for y in range(height):
        v = (y + 0.5) / step - 0.5
        low = min(max(int(np.floor(v)), 0), max(rows - 2, 0))
        high = min(low + 1, rows - 1)
        share = np.float32(v - low)
        for i in range(columns):
            row[i] = nodes[low, i] + share * (nodes[high, i] - nodes[low, i])
        for i in range(max(columns - 1, 1)):
            left = 0 if i == 0 else int(np.ceil((i + 0.5) * step - 0.5))
            right = width if i >= columns - 2 else min(int(np.ceil((i + 1.5) * step - 0.5)), width)
            slope = np.float32((row[min(i + 1, columns - 1)] - row[i]) / step)
            base = row[i] + slope * np.float32(0.5 - (i + 0.5) * step)
            for x in range(left, right):
                out[y, x] = base + slope * np.float32(x)
