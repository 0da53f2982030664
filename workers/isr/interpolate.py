"""Interpolation of masked pixels from good neighbours: for display, and so that no filter meets an extreme value.

The filled values are no measurement. The planes that said why a pixel was bad stay, INTERPOLATED is added, and the
variance stays what it was: no fit and no score uses such a pixel, as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.flagged_pixels import flagged_pixels
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["apply", "fill_from_neighbours"]

_FAR = 50
"""Pixels; farther than this no neighbour is asked, and the level of the image stands in."""
_GAP = 3
"""Bad pixels in a line that a cubic may cross."""
_WIDER = 2.5
_LOPSIDED = 2.0
"""Growth of the noise, squared, of a plane's value where its neighbours lie on one side: beyond it, it is a guess."""
_SAMPLES = 100_000


def fill_from_neighbours(image: FloatImage, mask: MaskImage, planes: int, *, fwhm: float = 3.0) -> int:
    """Fill the pixels of `image` that have a bit of `planes` in `mask`, both changed in place; return their number.

    `image` float32 (height, width), `mask` int32 of the same shape; `fwhm` of a star in pixels. Only pixels without
    any of `planes` are used. In this order, whichever is possible: the cubic through two good neighbours on each side
    of a gap of at most three pixels, along the row or the column (a lone pixel, a bad column); a plane fitted to the
    good neighbours with the weights of a Gaussian star, or of one two and a half times as wide (a broad column); the
    nearest good pixels in the four directions by inverse square of their distance (the inside of a saturated star);
    the median of the image.
    """
    places = flagged_pixels(mask, planes)
    near, wide = _star_weights(fwhm), _star_weights(_WIDER * fwhm)
    _fill(image, mask, places, np.int32(planes), near, wide, _level(image, mask, planes))
    mask.reshape(-1)[places] |= np.int32(MaskPlane.INTERPOLATED)
    return len(places)


def _star_weights(fwhm: float) -> NDArray[np.float64]:
    """Return a Gaussian of `fwhm` pixels out to 2 sigma, square, with its peak of 1 in the middle."""
    reach = max(math.ceil(0.85 * fwhm), 2)
    steps = np.arange(-reach, reach + 1)
    return np.asarray(np.exp(-0.5 * (steps[:, None] ** 2 + steps[None, :] ** 2) * (2.3548 / fwhm) ** 2))


def _level(image: FloatImage, mask: MaskImage, planes: int) -> float:
    """Median of the good pixels, of about a hundred thousand rows and columns apart; 0 where there is none."""
    stride = max(round(math.sqrt(image.size / _SAMPLES)), 1)
    sample = image[::stride, ::stride]
    sample = sample[((mask[::stride, ::stride] & np.int32(planes)) == 0) & np.isfinite(sample)]
    return float(np.median(sample)) if sample.size else 0.0


def _bits(names: Iterable[str]) -> int:
    return int(reduce(or_, (MaskPlane[name] for name in names), MaskPlane(0)))


def apply(state: IsrState) -> None:
    """Fill the planes that ``[isr.interpolate]`` names and set INTERPOLATED; every other bit stays. Put it last."""
    config = state.config.interpolate
    filled = fill_from_neighbours(state.image, state.mask, _bits(config.planes), fwhm=config.fwhm)
    state.metrics["interpolatedFraction"] = filled / state.mask.size


@njit(cache=True, nogil=True)
def _fill(
    image: Any, mask: Any, places: Any, planes: Any, near: Any, wide: Any, level: float
) -> None:  # pragma: no cover - compiled
    """Fill the flagged pixels, in ascending order; only unflagged ones are read, so that the order does not matter.

    `top` and `bottom` are the ends of the latest gap of each column, `left` and `right` those of the latest of a row.
    """
    height, width = image.shape
    top, bottom = np.zeros(width, np.int64), np.full(width, -1, np.int64)
    left, right, row = 0, -1, -1
    for place in places:
        y, x = place // width, place % width
        if y > bottom[x]:
            top[x], bottom[x] = y, y
            while bottom[x] + 1 < height and mask[bottom[x] + 1, x] & planes != 0:
                bottom[x] += 1
        if y != row or x > right:
            row, left, right = y, x, x
            while right + 1 < width and mask[y, right + 1] & planes != 0:
                right += 1
        value = _cubic(image, mask, planes, y, x)
        if not np.isfinite(value):
            value = _plane(image, mask, planes, near, y, x)
        if not np.isfinite(value):
            value = _plane(image, mask, planes, wide, y, x)
        if not np.isfinite(value):
            value = _nearest(image, mask, planes, y, x, (top[x], bottom[x], left, right), level)
        image[y, x] = value


@njit(cache=True, nogil=True)
def _good(image: Any, mask: Any, planes: Any, y: int, x: int) -> Any:  # pragma: no cover - compiled
    """Return the value of a good pixel; NaN outside, where flagged, and where it is no number."""
    if y < 0 or x < 0 or y >= image.shape[0] or x >= image.shape[1] or mask[y, x] & planes != 0:
        return np.nan
    return np.float64(image[y, x]) if np.isfinite(image[y, x]) else np.nan


@njit(cache=True, nogil=True)
def _cubic(image: Any, mask: Any, planes: Any, y: int, x: int) -> Any:  # pragma: no cover - compiled
    """Cubic across the gap that is narrower, along the row or along the column; their mean where both are alike."""
    row, wide = _across(image, mask, planes, y, x, 0, 1)
    column, high = _across(image, mask, planes, y, x, 1, 0)
    if wide == high:
        return 0.5 * (row + column)
    return row if wide < high else column


@njit(cache=True, nogil=True)
def _across(image: Any, mask: Any, planes: Any, y: int, x: int, dy: int, dx: int) -> Any:  # pragma: no cover
    """Return the cubic through the two good pixels before and behind the gap in one direction, and the gap's width.

    NaN and a wide gap where there are no such pixels, or where more than `_GAP` bad ones lie between them.
    """
    before, behind = 1, 1
    while before <= _GAP and np.isnan(_good(image, mask, planes, y - before * dy, x - before * dx)):
        before += 1
    while behind <= _GAP and np.isnan(_good(image, mask, planes, y + behind * dy, x + behind * dx)):
        behind += 1
    if before + behind - 1 > _GAP:
        return np.nan, _GAP + 1
    total = 0.0
    places = (-before - 1, -before, behind, behind + 1)
    for one in places:
        share = 1.0
        for other in places:
            if other != one:
                share *= -other / (one - other)
        total += share * _good(image, mask, planes, y + one * dy, x + one * dx)
    return (total, before + behind - 1) if np.isfinite(total) else (np.nan, _GAP + 1)


@njit(cache=True, nogil=True)
def _plane(image: Any, mask: Any, planes: Any, weights: Any, y: int, x: int) -> Any:  # pragma: no cover - compiled
    """Value at the pixel of the weighted plane through its good neighbours; NaN where they do not surround it."""
    reach = weights.shape[0] // 2
    some = False
    for dy in (-reach, 0, reach):
        for dx in (-reach, 0, reach):
            some |= not np.isnan(_good(image, mask, planes, y + dy, x + dx))
    if not some:  # the inside of something large
        return np.nan
    s, sx, sy, sxx, sxy, syy, v, vx, vy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            value = _good(image, mask, planes, y + dy, x + dx)
            if np.isnan(value):
                continue
            w = weights[dy + reach, dx + reach]
            s, sx, sy = s + w, sx + w * dx, sy + w * dy
            sxx, sxy, syy = sxx + w * dx * dx, sxy + w * dx * dy, syy + w * dy * dy
            v, vx, vy = v + w * value, vx + w * dx * value, vy + w * dy * value
    a, b, c = sxx * syy - sxy * sxy, sxy * sy - sx * syy, sx * sxy - sxx * sy
    determinant = s * a + sx * b + sy * c
    if not (determinant > 1e-6 * s * sxx * syy and s * a < _LOPSIDED * determinant):
        return np.nan
    return (v * a + vx * b + vy * c) / determinant


@njit(cache=True, nogil=True)
def _nearest(
    image: Any, mask: Any, planes: Any, y: int, x: int, gap: Any, level: float
) -> Any:  # pragma: no cover - compiled
    """Mean of the good pixels at the ends of both gaps by inverse square of their distance; `level` without any."""
    top, bottom, left, right = gap
    total, weight = 0.0, 0.0
    for row, column in ((top - 1, x), (bottom + 1, x), (y, left - 1), (y, right + 1)):
        distance = abs(row - y) + abs(column - x)
        value = _good(image, mask, planes, row, column)
        if distance <= _FAR and np.isfinite(value):
            total += value / distance**2
            weight += 1.0 / distance**2
    return total / weight if weight > 0.0 else level
