"""The sky in bins of a few pixels, flattened: what is left is noise, sources and trails, in units of the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane

__all__ = ["BLOCKED", "Box", "FlatSky", "flatten"]

Box = tuple[int, int, int, int]
"""Pixels y0, y1, x0, x1 (ends excluded) that share one electronic level."""

BLOCKED = int(MaskPlane.BAD | MaskPlane.SATURATED | MaskPlane.CR | MaskPlane.NO_DATA)
"""Planes whose pixels carry no sky."""

_MESH = 64  # bins: much wider than the widest trail, which then hardly moves the median
_BINS = 1280  # at most along a side: larger detectors get larger bins


@dataclass(frozen=True)
class FlatSky:
    """The binned detector; arrays of shape (height // bin, width // bin), float32."""

    bin: int
    """Pixels along a bin's side."""
    value: FloatImage
    """Mean of the good pixels minus background, in units of the noise of a full bin."""
    weight: FloatImage
    """Share of good pixels, 0 to 1: the variance of `value` is 1 / weight."""
    background: FloatImage
    """In the image's unit."""
    noise: FloatImage
    """Of one pixel, in the image's unit: the measured scatter of bins times the bin's side."""
    saturated: NDArray[np.bool_]
    """Bins that hold a saturated pixel."""


def flatten(image: FloatImage, mask: MaskImage, binning: int, boxes: Sequence[Box] = ()) -> FlatSky:
    """Bin the image and take off background and scale.

    `image` float32 (height, width), sky included; `mask` int32 MaskPlane bits. `boxes`: the amplifiers' pixels; each
    gets a background of its own, so that steps between amplifiers go. Without them the detector is one box.
    """
    side = max(binning, -(-max(image.shape) // _BINS))
    mean, weight, saturated = _binned(image, mask, side, BLOCKED, int(MaskPlane.SATURATED))
    background, noise = np.zeros_like(mean), np.zeros_like(mean)
    height, width = mean.shape
    for y0, y1, x0, x1 in boxes or ((0, image.shape[0], 0, image.shape[1]),):
        part = np.s_[_edge(y0, side) : min(_edge(y1, side), height), _edge(x0, side) : min(_edge(x1, side), width)]
        if mean[part].size:
            background[part], noise[part] = _levels(mean[part], weight[part])
    weight[noise <= 0] = 0.0
    value = np.divide(mean - background, noise, out=np.zeros_like(mean), where=weight > 0)
    return FlatSky(side, value, weight, background, noise * np.float32(side), saturated)


def _edge(pixel: int, side: int) -> int:
    return (pixel + side // 2) // side


def _levels(mean: FloatImage, weight: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return background and noise at every bin from clipped medians in meshes, joined by straight lines."""
    height, width = mean.shape
    rows = max(1, round(height / _MESH))
    columns = max(1, round(width / _MESH))
    level, scatter = _meshes(mean, weight, rows, columns)
    known = np.isfinite(level)
    if not known.any():
        return np.zeros_like(mean), np.zeros_like(mean)
    level[~known], scatter[~known] = np.median(level[known]), np.median(scatter[known])
    level, scatter = median_filter(level, 3, mode="nearest"), median_filter(scatter, 3, mode="nearest")
    left, right = _joining(height, rows), _joining(width, columns)
    background = left @ level @ right.T
    noise = np.clip(left, 0, 1) @ scatter @ np.clip(right, 0, 1).T
    noise = np.clip(noise, 0.5 * scatter.min(), 2 * scatter.max())
    return background.astype(np.float32), noise.astype(np.float32)


def _joining(size: int, meshes: int) -> NDArray[np.float64]:
    """Return the matrix (size, meshes) of linear interpolation between centres, extended straight at the ends."""
    matrix = np.zeros((size, meshes))
    place = (np.arange(size) + 0.5) * meshes / size - 0.5
    if meshes == 1:
        matrix[:] = 1.0
        return matrix
    low = np.clip(np.floor(place).astype(int), 0, meshes - 2)
    matrix[np.arange(size), low] = 1.0 - (place - low)
    matrix[np.arange(size), low + 1] = place - low
    return matrix


@njit(cache=True, nogil=True)
def _binned(image: Any, mask: Any, side: int, blocked: int, full: int) -> Any:  # pragma: no cover - compiled
    """Mean of the good pixels of each bin, their share, and where any is saturated."""
    height, width = image.shape[0] // side, image.shape[1] // side
    mean = np.zeros((height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    saturated = np.zeros((height, width), np.bool_)
    share = np.float32(1.0 / (side * side))
    count = np.empty(width, np.int32)
    for y in range(height):
        count[:] = 0
        for row in range(y * side, (y + 1) * side):
            for x in range(width):
                total = np.float32(0.0)
                good = 0
                bits = 0
                for column in range(x * side, (x + 1) * side):
                    value = image[row, column]
                    use = (mask[row, column] & blocked) == 0 and np.isfinite(value)
                    total += value if use else np.float32(0.0)
                    good += 1 if use else 0
                    bits |= mask[row, column]
                mean[y, x] += total
                count[x] += good
                if bits & full:
                    saturated[y, x] = True
        for x in range(width):
            if 4 * count[x] >= side * side:
                mean[y, x] /= count[x]
                weight[y, x] = count[x] * share
            else:
                mean[y, x] = 0.0
    return mean, weight, saturated


@njit(cache=True, nogil=True)
def _meshes(mean: Any, weight: Any, rows: int, columns: int) -> Any:  # pragma: no cover - compiled
    """Clipped median and scatter (from the faint side, where no source is) of every mesh; NaN where hardly a bin."""
    height, width = mean.shape
    level = np.full((rows, columns), np.nan)
    scatter = np.full((rows, columns), np.nan)
    values = np.empty((height // rows + 2) * (width // columns + 2), np.float32)
    for row in range(rows):
        for column in range(columns):
            count = 0
            for y in range(row * height // rows, (row + 1) * height // rows, 2):
                for x in range(column * width // columns + (y // 2) % 2, (column + 1) * width // columns, 2):
                    if weight[y, x] > 0.5:
                        values[count] = mean[y, x]
                        count += 1
            if count < 32:
                continue
            ordered = np.sort(values[:count])
            last = count
            middle, sigma = 0.0, 0.0
            for _ in range(4):
                middle = float(ordered[last // 2])
                sigma = middle - float(ordered[int(0.1587 * last)])
                top = middle + 2.5 * sigma
                kept = int(np.searchsorted(ordered[:last], np.float32(top), side="right"))
                if kept == last:
                    break
                last = kept
            level[row, column] = middle
            scatter[row, column] = sigma
    return level, scatter
