"""Many frames into one: the mean of what is left after clipping about the median, pixel by pixel."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["Combined", "clip_sigma", "combine", "frame_noise"]

_TILE_SAMPLES = 4_000_000
_ROUNDS = 5
_SMALL = 20
_NOISE_SAMPLE = 2_000_000


@dataclass(frozen=True)
class Combined:
    """Planes of one shape (height, width)."""

    mean: NDArray[np.float32]
    """NaN where no frame had a good value."""
    variance: NDArray[np.float32]
    """Of the mean, from the scatter of the values used."""
    count: NDArray[np.int32]
    """Values used."""
    rejected: NDArray[np.int64]
    """Values clipped in each frame, shape (frames,)."""


def clip_sigma(frames: int) -> float:
    """Return where to clip, in sigma: 4 up to 20 frames, 3.5 beyond.

    The MAD of few values scatters so much that clipping Gaussian ones at 3 would take 2 % of them and make the mean 7 %
    noisier.
    """
    return 4.0 if frames <= _SMALL else 3.5


def frame_noise(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the noise of one pixel of one frame from two frames of one scene: 1.4826 MAD of the difference / sqrt 2.

    Of more than two million pixels every so-many-th row is looked at. Where whole counts make the MAD zero, the uniform
    scatter of rounding (1/sqrt 12) stands in.
    """
    stride = max(first.size // _NOISE_SAMPLE, 1)
    difference = np.asarray(first[::stride], float) - np.asarray(second[::stride], float)
    difference = difference[np.isfinite(difference)]
    if difference.size == 0:
        raise DataError("two frames have no pixel in common that is good in both; are they all saturated?")
    mad = float(np.median(np.abs(difference - np.median(difference))))
    step = min(float(np.ptp(difference)) or 1.0, 1.0)
    return 1.4826 * mad / math.sqrt(2.0) or step / math.sqrt(12.0)


def combine(stack: NDArray[np.float32], *, noise: float, sigma: float | None = None, threads: int = 2) -> Combined:
    """Return mean, variance of the mean and count of a float32 stack (frames, height, width); NaN values are left out.

    Values farther than `sigma` (default `clip_sigma`) times max(1.4826 MAD, `noise`) from the median are dropped, and
    again until none is, 5 times at most. The floor `noise` (of one value, in the stack's unit) keeps whole-count data
    with MAD 0. Works tile by tile, on `threads` at once: a memory-mapped stack is never in memory whole.
    """
    frames, height, width = stack.shape
    limit = clip_sigma(frames) if sigma is None else sigma
    mean = np.empty((height, width), np.float32)
    variance, count = np.empty_like(mean), np.empty((height, width), np.int32)
    rows = max(_TILE_SAMPLES // (frames * width), 1)

    def one_tile(start: int) -> NDArray[np.int64]:
        tile = slice(start, min(start + rows, height))
        values = np.ascontiguousarray(stack[:, tile], np.float32)
        rejected = np.zeros(frames, np.int64)
        _combine_tile(values, limit, noise, _ROUNDS, mean[tile], variance[tile], count[tile], rejected)
        return rejected

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(one_tile, range(0, height, rows)))
    return Combined(mean, variance, count, np.sum(parts, axis=0))


@njit(cache=True, nogil=True)
def _combine_tile(
    stack: Any, limit: float, floor: float, rounds: int, mean: Any, variance: Any, count: Any, rejected: Any
) -> None:  # pragma: no cover - compiled
    frames, height, width = stack.shape
    sums = np.empty((4, width), np.float64)
    values = np.empty(frames, np.float64)
    for y in range(height):
        _moments(stack, y, sums)
        for x in range(width):
            centre = sums[0, x] / frames
            square = max(sums[1, x] - frames * centre**2, 0.0)
            spread = np.sqrt(square / frames)
            # the median is never farther from the mean than the standard deviation: most pixels need no sorting
            if max(sums[3, x] - centre, centre - sums[2, x]) + spread <= limit * floor and frames > 1:
                mean[y, x], count[y, x] = stack[0, y, x] + centre, frames
                variance[y, x] = square / (frames - 1) / frames
            else:
                n = _sorted_values(stack, y, x, values)
                _clipped(stack[:, y, x], values, n, (limit, floor, rounds), mean[y], variance[y], count[y], x, rejected)


@njit(cache=True, nogil=True)
def _moments(stack: Any, y: int, sums: Any) -> None:  # pragma: no cover - compiled
    """Sum, sum of squares, least and largest of each pixel of a row, less the first frame; NaN where any is."""
    frames, _, width = stack.shape
    sums[:] = 0.0
    for frame in range(1, frames):
        for x in range(width):
            value = np.float64(stack[frame, y, x]) - np.float64(stack[0, y, x])
            sums[0, x] += value
            sums[1, x] += value * value
            sums[2, x] = min(sums[2, x], value)
            sums[3, x] = max(sums[3, x], value)


@njit(cache=True, nogil=True)
def _clipped(
    pixel: Any, values: Any, n: int, rule: Any, mean: Any, variance: Any, count: Any, x: int, rejected: Any
) -> None:  # pragma: no cover - compiled
    """Clip one pixel's sorted values; set mean, variance and count at `x`, and count what each frame lost."""
    limit, floor, rounds = rule
    low, high = _kept_range(values, n, limit, floor, rounds)
    kept = high - low
    average, square = np.nan, 0.0
    if kept > 0:
        average = values[low:high].sum() / kept
    for i in range(low, high):
        square += (values[i] - average) ** 2
    mean[x], count[x] = average, kept
    if kept > 1:
        variance[x] = square / (kept - 1) / kept
    else:
        variance[x] = floor**2 if kept == 1 else np.nan
    if kept < n:
        for frame in range(pixel.size):
            value = pixel[frame]
            if np.isfinite(value) and not values[low] <= value <= values[high - 1]:
                rejected[frame] += 1


@njit(cache=True, nogil=True)
def _kept_range(values: Any, n: int, limit: float, floor: float, rounds: int) -> Any:  # pragma: no cover - compiled
    """Return the ends of the part of ``values[:n]``, which is sorted, that clipping leaves."""
    low, high = 0, n
    for _ in range(rounds):
        if high - low < 3:
            break
        centre, mad = _median_and_mad(values, low, high)
        reach = limit * max(1.4826 * mad, floor)
        before = high - low
        while values[low] < centre - reach:
            low += 1
        while values[high - 1] > centre + reach:
            high -= 1
        if high - low == before:
            break
    return low, high


@njit(cache=True, nogil=True)
def _sorted_values(stack: Any, y: int, x: int, values: Any) -> Any:  # pragma: no cover - compiled
    """Put the finite values of one pixel into `values`, in order; return how many there are."""
    n = 0
    for frame in range(stack.shape[0]):
        value = stack[frame, y, x]
        if np.isfinite(value):
            place = n
            while place > 0 and values[place - 1] > value:
                values[place] = values[place - 1]
                place -= 1
            values[place] = value
            n += 1
    return n


@njit(cache=True, nogil=True)
def _median_and_mad(values: Any, low: int, high: int) -> Any:  # pragma: no cover - compiled
    """Median and median absolute deviation of ``values[low:high]``, which is sorted: walk outwards from the middle."""
    n = high - low
    middle = low + n // 2
    centre = values[middle] if n % 2 == 1 else 0.5 * (values[middle - 1] + values[middle])
    left, right = middle - 1, middle
    last, before = 0.0, 0.0
    for _ in range(n // 2 + 1):
        before = last
        if right >= high or (left >= low and centre - values[left] < values[right] - centre):
            last = centre - values[left]
            left -= 1
        else:
            last = values[right] - centre
            right += 1
    return centre, last if n % 2 == 1 else 0.5 * (before + last)
