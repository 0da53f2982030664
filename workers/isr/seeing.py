"""The width of stars, straight from the pixels: before cosmic rays are known and before there is a PSF model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.isr.sky_levels import sky_levels, sky_row

__all__ = ["estimate_fwhm"]

_SIGNIFICANT = 25.0
"""Sigma of the peak pixel."""
_MOST = 20000
"""Peaks looked at; in a richer field the first rows have enough."""
_ALONE = 8
"""Pixels round a peak without a brighter one or, nearer than half of it, a blocked one."""
_WIDEST = 12
_SLENDER = 1.45
"""Ratio of the widths across a peak beyond which it is a track or a galaxy on edge."""
_NARROWEST = 1.3
_CLUSTER = 0.15
"""Width in ln FWHM of the window that finds the stars."""
_PEAKS = 7
"""Stars that must agree."""
_RIVAL = 0.5
"""A cluster of smaller sources with so many members, relative to the largest, is preferred: galaxies are wider."""


def estimate_fwhm(
    image: FloatImage, variance: FloatImage, blocked: NDArray[np.bool_], *, sky: FloatImage | None = None
) -> float | None:
    """Return the FWHM of stars in pixels, the pixel's own width included; None where too few stars agree.

    Bright, unblocked, solitary peaks are measured across four directions at the distance where a Gaussian falls to
    about half: FWHM = 2 h sqrt(2 ln 2 / ln(peak² / (value h before * value h after))), which does not depend on where
    in its pixel a Gaussian star lies. Stars are the densest cluster of sizes; hits are narrower or slender, galaxies
    spread to larger sizes.
    """
    levels = sky_levels(image, blocked) if sky is None else sky
    sizes = np.sort(_sizes(image, variance, blocked, levels))
    if len(sizes) < _PEAKS:
        return None
    log = np.log(sizes)
    counts = np.searchsorted(log, log + _CLUSTER, side="right") - np.arange(len(log))
    if counts.max() < _PEAKS:
        return None
    least = max(_PEAKS, int(np.ceil(_RIVAL * counts.max())))
    first = int(np.argmax(counts >= least))
    # the window that first has enough members may only touch the cluster: go to the fullest it overlaps
    near = slice(first, first + int(counts[first]))
    best = first + int(np.argmax(counts[near]))
    return float(np.median(sizes[best : best + counts[best]]))


@njit(cache=True, nogil=True)
def _sizes(image: Any, variance: Any, blocked: Any, levels: Any) -> Any:  # pragma: no cover - compiled
    """Return the FWHM of each round solitary peak."""
    height, width = image.shape
    level = np.empty(width, np.float32)
    sizes, count = np.empty(_MOST), 0
    for y in range(_WIDEST, height - _WIDEST):
        sky_row(levels, y, level)
        for x in range(_WIDEST, width - _WIDEST):
            rise = image[y, x] - level[x]
            if not rise > 0 or rise * rise < _SIGNIFICANT**2 * variance[y, x] or blocked[y, x]:
                continue
            if image[y, x - 1] > image[y, x] or image[y, x + 1] >= image[y, x] or not _alone(image, blocked, y, x):
                continue
            size = _size(image, y, x, level[x])
            if size > 0:
                sizes[count] = size
                count += 1
                if count == _MOST:
                    return sizes
    return sizes[:count]


@njit(cache=True, nogil=True)
def _alone(image: Any, blocked: Any, y: Any, x: Any) -> Any:  # pragma: no cover - compiled
    for row in range(y - _ALONE, y + _ALONE + 1):
        for column in range(x - _ALONE, x + _ALONE + 1):
            if image[row, column] > image[y, x]:
                return False
            if blocked[row, column] and 2 * max(abs(row - y), abs(column - x)) <= _ALONE:
                return False
    return True


@njit(cache=True, nogil=True)
def _size(image: Any, y: Any, x: Any, level: Any) -> Any:  # pragma: no cover - compiled
    """FWHM of the peak at (y, x), or -1 where it is no round source."""
    peak = image[y, x] - level
    # the distance at which the mean over the four sides first falls below 0.6 of the peak
    gap = 1
    while gap <= _WIDEST:
        sides = image[y - gap, x] + image[y + gap, x] + image[y, x - gap] + image[y, x + gap]
        if 0.25 * sides - level < 0.6 * peak:
            break
        gap += 1
    if gap > _WIDEST:
        return -1.0
    steep, flat, total = 0.0, 1.0e30, 0.0
    for way in range(4):
        dy, dx = (0, 1, 1, 1)[way], (1, 0, 1, -1)[way]
        step = gap if way < 2 else max(int(np.round(gap * np.sqrt(0.5))), 1)
        one = image[y - step * dy, x - step * dx] - level
        other = image[y + step * dy, x + step * dx] - level
        if not one > 0.02 * peak or not other > 0.02 * peak:
            return -1.0
        curvature = np.log(peak * peak / (one * other)) / (step * step * (dy * dy + dx * dx))
        steep, flat = max(steep, curvature), min(flat, curvature)
        total += 0.25 * curvature
    if not flat > 0 or steep > _SLENDER**2 * flat:
        return -1.0
    size = 2.0 * np.sqrt(2.0 * np.log(2.0) / total)
    return size if size > _NARROWEST else -1.0
