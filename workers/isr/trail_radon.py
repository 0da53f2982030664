"""Sums along all straight lines and their dyadic pieces, by the fast Radon transform.

Brady 1998 (SIAM J. Comput. 27, 107): the sums over two neighbouring strips of 2^k rows give those over the strip of
2^(k+1), so that all lines of an N x N image cost N² log N additions. The sums over short strips find trails that end
inside the image, are broken or bend (Nir, Zackay & Ofek 2018, AJ 156, 229).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage

__all__ = ["find_lines"]

_WIDTHS = np.array([1, 2, 4, 8], np.int64)  # bins
_LEVELS = 4


def find_lines(signal: FloatImage, weight: FloatImage, threshold: float, shortest: float) -> NDArray[np.float64]:
    """Return straight pieces that stand out, brightest first: rows of x0, y0, x1, y1 (bins), width (bins), z.

    `signal` is weight times value, `weight` its inverse variance, float32 of shape (height, width). The excess of a
    bar over the bars beside it, in units of its error, must be larger than `threshold`, and larger than that times
    the scatter of all excesses of that length and width (confusion); the bar must be `shortest` bins long, half
    of it good sky. At most one line per cell of 8 slopes and 16 offsets.
    """
    found = []
    for turned in (False, True):
        for flipped in (False, True):
            planes = [plane.T if turned else plane for plane in (signal, weight)]
            planes = [plane[:, ::-1] if flipped else plane for plane in planes]
            lines = _quadrant(planes[0], planes[1], threshold, shortest)
            if flipped:
                lines[:, [0, 2]] = planes[0].shape[1] - 1 - lines[:, [0, 2]]
            if turned:
                lines = lines[:, [1, 0, 3, 2, 4, 5]]
            found.append(lines)
    lines = np.concatenate(found)
    return np.asarray(lines[np.argsort(-lines[:, 5], kind="stable")])


def _quadrant(signal: FloatImage, weight: FloatImage, threshold: float, shortest: float) -> NDArray[np.float64]:
    """Return the lines that go down and right by at most 45 degrees off the vertical."""
    height, width = signal.shape
    levels = int(np.ceil(np.log2(height)))
    rows = 1 << levels
    planes = np.zeros((2, 2, rows, width + rows), np.float32)
    planes[0, 0, :height, rows:] = signal
    planes[0, 1, :height, rows:] = weight
    first = max(levels - _LEVELS + 1, int(np.ceil(np.log2(shortest))))
    if first > levels:
        return np.empty((0, 6))
    found, counts = _transform(planes, levels, first, _WIDTHS, 0.9 * threshold, 0.5 * shortest, height)
    scatter = _scatter(counts)
    level, size = found[:, 6].astype(int) - first, found[:, 7].astype(int)
    found[:, 5] /= np.maximum(scatter[level, size], 1.0)
    return np.asarray(found[found[:, 5] > threshold, :6])


def _scatter(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the standard deviation from the quartiles of each histogram (last axis)."""
    total = np.cumsum(counts, axis=-1)
    share = total / np.maximum(total[..., -1:], 1)
    low = np.argmax(share > 0.25, axis=-1)
    high = np.argmax(share > 0.75, axis=-1)
    return np.asarray(0.1 * (high - low) / 1.349)


@njit(cache=True, nogil=True)
def _transform(
    planes: Any, levels: int, first: int, widths: Any, threshold: float, shortest: float, height: int
) -> Any:  # pragma: no cover - compiled
    """Merge strips level by level; from level `first` on look for bars. Returns lines and histograms of z."""
    rows = planes.shape[2]
    counts = np.zeros((levels - first + 1, len(widths), 121), np.int64)
    found = np.empty((1 << 14, 8))
    number = 0
    now = 0
    for level in range(levels + 1):
        long = 1 << level
        if level >= first:
            for strip in range(0, rows, long):
                if strip < height:
                    number = _bars(
                        planes[now], strip, level, widths, threshold, shortest, counts[level - first], found, number
                    )
        if level == levels:
            break
        for strip in range(0, min(rows, height), 2 * long):
            for plane in range(2):
                _merge(planes[now, plane], planes[1 - now, plane], strip, long)
        now = 1 - now
    return found[:number], counts


@njit(cache=True, nogil=True)
def _merge(source: Any, target: Any, strip: int, long: int) -> None:  # pragma: no cover - compiled
    """Join the strips of `long` rows at `strip` and after it: every line of twice the length, row per slope."""
    rows, size = source.shape
    for slope in range(2 * long):
        shift = (slope + 1) // 2
        a, b = source[strip + slope // 2], source[strip + long + slope // 2]
        c = target[strip + slope]
        for x in range(rows - 2 * long, size - shift):
            c[x] = a[x] + b[x + shift]
        for x in range(size - shift, size):
            c[x] = a[x]


@njit(cache=True, nogil=True)
def _bars(
    planes: Any,
    strip: int,
    level: int,
    widths: Any,
    threshold: float,
    shortest: float,
    counts: Any,
    found: Any,
    number: int,
) -> Any:  # pragma: no cover - compiled
    """Append the best bar of every cell of one strip to `found`; returns how many there are then."""
    long = 1 << level
    rows, size = planes.shape[1], planes.shape[2]
    begin = rows - long
    cells = np.zeros((size // 16 + 1, 4))
    # cumulated, with room on both sides for the bars beside
    sums, weights = np.zeros(size - begin + 161, np.float32), np.zeros(size - begin + 161, np.float32)
    z = np.empty(len(sums), np.float32)
    for slope in range(long):
        _cumulated(planes[0, strip + slope], planes[1, strip + slope], begin, sums, weights)
        for index in range(len(widths)):
            width = widths[index]
            stride = max(1, width // 2)
            if slope % stride:
                continue
            thin_sums, thin_weights = sums[::stride].copy(), weights[::stride].copy()
            units, side = width // stride, 6 if stride == 1 else 4
            top = _contrast(thin_sums, thin_weights, units, side, np.float32(shortest * width), z)
            last = len(thin_sums) - 2 - side - units
            if slope % 16 == 0:
                _count(z[side + 1 : last], counts[index])
            if top > threshold:
                _keep(thin_sums, thin_weights, z, last, side, width, begin, threshold, slope, index, cells)
        if slope % 8 == 7:
            number = _collect(cells, widths, rows, strip, level, found, number)
            cells[:] = 0.0
    return number


@njit(cache=True, nogil=True)
def _count(z: Any, counts: Any) -> None:  # pragma: no cover - compiled
    """Add every third z to the histogram."""
    for place in range(0, len(z), 3):
        if z[place] != 0 and abs(z[place]) < 6:
            counts[int((z[place] + 6.05) * 10)] += 1


@njit(cache=True, nogil=True)
def _keep(
    sums: Any,
    weights: Any,
    z: Any,
    last: int,
    side: int,
    width: int,
    begin: int,
    threshold: float,
    slope: int,
    index: int,
    cells: Any,
) -> None:  # pragma: no cover - compiled
    """Keep the best bar of each cell of 16 offsets: z, centre, slope and index of its width."""
    stride = max(1, width // 2)
    for place in range(side + 1, last):
        x = place * stride - 80 + begin
        if z[place] < threshold or x < 0:
            continue
        cell = cells[min((x + width // 2) // 16, len(cells) - 1)]
        if z[place] > cell[0] and not _step(sums, weights, place, width // stride, side):
            cell[0], cell[1], cell[2], cell[3] = z[place], x + 0.5 * (width - 1), slope, index


@njit(cache=True, nogil=True)
def _collect(
    cells: Any, widths: Any, rows: int, strip: int, level: int, found: Any, number: int
) -> Any:  # pragma: no cover - compiled
    """Append the cells' lines: x0, y0, x1, y1, width, z, level and index of the width."""
    for index in range(len(cells)):
        if cells[index, 0] > 0 and number < len(found):
            x = cells[index, 1] - rows
            line = found[number]
            line[0], line[1], line[2], line[3] = x, strip, x + cells[index, 2], strip + (1 << level) - 1
            line[4], line[5] = widths[int(cells[index, 3])], cells[index, 0]
            line[6], line[7] = level, cells[index, 3]
            number += 1
    return number


@njit(cache=True, nogil=True)
def _cumulated(signal: Any, weight: Any, begin: int, sums: Any, weights: Any) -> None:  # pragma: no cover - compiled
    """Cumulate a row from `begin` on; 80 places stay free on both sides."""
    total, good = np.float32(0.0), np.float32(0.0)
    for x in range(begin, len(signal)):
        total += signal[x]
        good += weight[x]
        sums[x - begin + 81] = total
        weights[x - begin + 81] = good
    sums[len(signal) - begin + 81 :] = total
    weights[len(signal) - begin + 81 :] = good


@njit(cache=True, nogil=True, fastmath=True)
def _contrast(sums: Any, weights: Any, width: int, side: int, least: Any, z: Any) -> Any:  # pragma: no cover - compiled
    """Put the excess of every bar over the bars on both sides, in units of its error, into `z`; returns the top.

    A place of gap is left on both sides. z is 0 where too little sky is under the bar or beside it.
    """
    first, last = side + 1, len(sums) - 2 - side - width
    size = last - first
    # views, so that the loop has one index and runs on vectors
    w0, w1 = weights[first:], weights[first + width :]
    wa, wb = weights[first - 1 - side :], weights[first - 1 :]
    wc, wd = weights[first + width + 1 :], weights[first + width + 1 + side :]
    s0, s1 = sums[first:], sums[first + width :]
    sa, sb = sums[first - 1 - side :], sums[first - 1 :]
    sc, sd = sums[first + width + 1 :], sums[first + width + 1 + side :]
    out = z[first:]
    tiny = np.float32(1e-6)
    for x in range(size):
        good = w1[x] - w0[x]
        beside = wb[x] - wa[x] + wd[x] - wc[x]
        level = sb[x] - sa[x] + sd[x] - sc[x]
        square = max(good * beside * (good + beside), tiny)
        height = ((s1[x] - s0[x]) * beside - level * good) / np.sqrt(square)
        out[x] = height if min(good, beside) > least else np.float32(0.0)
    top = np.float32(0.0)
    for x in range(size):
        top = max(top, out[x])
    return top


@njit(cache=True, nogil=True)
def _step(sums: Any, weights: Any, x: int, width: int, side: int) -> bool:  # pragma: no cover - compiled
    """Whether one side is nearly as bright as the bar: the edge of something wide."""
    right = x + width + 1
    level = (sums[x + width] - sums[x]) / max(weights[x + width] - weights[x], 1e-3)
    before = (sums[x - 1] - sums[x - 1 - side]) / max(weights[x - 1] - weights[x - 1 - side], 1e-3)
    after = (sums[right + side] - sums[right]) / max(weights[right + side] - weights[right], 1e-3)
    return bool(level - max(before, after) < 0.3 * (level - min(before, after)))
