"""What lies round each source: bits of the mask under it, and the sky that was left beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, frozen_array
from workers.imaging.masks import MaskPlane

__all__ = ["local_background", "mask_bits", "set_pixel_flags"]

_Float = NDArray[np.float64]

_SATURATED = MaskPlane.SATURATED | MaskPlane.BLEED
_SUSPECT = MaskPlane.SUSPECT | MaskPlane.GHOST
FOOTPRINT_FLAGS = {
    "pixelFlags_bad": MaskPlane.BAD,
    "pixelFlags_cr": MaskPlane.CR,
    "pixelFlags_edge": MaskPlane.EDGE | MaskPlane.NO_DATA,
    "pixelFlags_nodata": MaskPlane.NO_DATA,
    "pixelFlags_interpolated": MaskPlane.INTERPOLATED,
    "pixelFlags_saturated": _SATURATED,
    "pixelFlags_suspect": _SUSPECT,
    "pixelFlags_streak": MaskPlane.STREAK,
}
CENTRE_FLAGS = {
    "pixelFlags_crCenter": MaskPlane.CR,
    "pixelFlags_interpolatedCenter": MaskPlane.INTERPOLATED,
    "pixelFlags_saturatedCenter": _SATURATED,
    "pixelFlags_suspectCenter": _SUSPECT,
}
CLIP, CLIP_ROUNDS, FEWEST = 3.0, 3, 20
"""Sigma and rounds of clipping the sky beside a source; pixels that it takes."""


def set_pixel_flags(rows: NDArray[Any], mask: NDArray[np.int32], radius: float) -> None:
    """Fill the pixelFlags of `rows` from the mask in the disc of `radius` pixels about (x, y), and its 3 x 3 centre.

    What lies outside the image counts as NO_DATA, and so as edge.
    """
    footprint, centre = mask_bits(mask, rows["x"], rows["y"], radius)
    for name, planes in FOOTPRINT_FLAGS.items():
        rows[name] = (footprint & int(planes)) != 0
    for name, planes in CENTRE_FLAGS.items():
        rows[name] = (centre & int(planes)) != 0


def mask_bits(
    mask: NDArray[np.int32], x: NDArray[np.floating], y: NDArray[np.floating], radius: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the union of the mask's bits in the disc about each pixel (round(x), round(y)) and in its 3 x 3 centre."""
    disc, centre = np.zeros(len(x), np.int32), np.zeros(len(x), np.int32)
    column, row = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    plane = frozen_array(np.ascontiguousarray(mask, np.int32))
    _bits(plane, column, row, float(radius), np.int32(MaskPlane.NO_DATA), disc, centre)
    return disc, centre


@njit(cache=True, nogil=True)
def _bits(
    mask: Any, column: Any, row: Any, radius: float, outside: Any, disc: Any, centre: Any
) -> None:  # pragma: no cover - compiled
    """See `mask_bits`."""
    height, width = mask.shape
    reach = int(radius)
    for source in range(column.size):
        for i in range(-reach, reach + 1):
            span = int(np.sqrt(radius * radius - i * i))
            y = row[source] + i
            for j in range(-span, span + 1):
                x = column[source] + j
                bits = mask[y, x] if 0 <= y < height and 0 <= x < width else outside
                disc[source] |= bits
                if abs(i) <= 1 and abs(j) <= 1:
                    centre[source] |= bits


def local_background(
    exposure: Exposure,
    usable: NDArray[np.bool_],
    segments: NDArray[np.int32],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    radii: tuple[float, float],
) -> tuple[_Float, _Float]:
    """Return the clipped mean per pixel of the ring between `radii` pixels about each source, and its error.

    Only usable pixels outside of every source's footprint (`segments`) count; NaN where there are fewer than 20.
    """
    level, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    free = frozen_array(usable & (segments == 0))
    column, row = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    _rings(exposure.image, free, column, row, float(radii[0]), float(radii[1]), level, error)
    return level, error


@njit(cache=True, nogil=True)
def _rings(
    image: Any, free: Any, column: Any, row: Any, inner: float, outer: float, level: Any, error: Any
) -> None:  # pragma: no cover - compiled
    """See `local_background`."""
    height, width = image.shape
    reach = int(outer)
    values = np.empty((2 * reach + 1) * (2 * reach + 1))
    for source in range(column.size):
        count = 0
        for i in range(-reach, reach + 1):
            y = row[source] + i
            for j in range(-reach, reach + 1):
                x = column[source] + j
                if (
                    inner * inner <= i * i + j * j <= outer * outer
                    and 0 <= y < height
                    and 0 <= x < width
                    and free[y, x]
                ):
                    values[count] = image[y, x]
                    count += 1
        _clipped(values, count, source, level, error)


@njit(cache=True, nogil=True)
def _clipped(values: Any, count: int, source: int, level: Any, error: Any) -> None:  # pragma: no cover - compiled
    """Write the clipped mean of the first `count` values and its error."""
    low, high = -np.inf, np.inf
    for _ in range(CLIP_ROUNDS + 1):
        number, total, squares = 0, 0.0, 0.0
        for k in range(count):
            if low <= values[k] <= high:
                number += 1
                total += values[k]
                squares += values[k] * values[k]
        if number < FEWEST:
            return
        mean = total / number
        spread = np.sqrt(max(squares / number - mean * mean, 0.0))
        low, high = mean - CLIP * spread, mean + CLIP * spread
        level[source], error[source] = mean, spread / np.sqrt(number)
