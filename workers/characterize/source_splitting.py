"""Split footprints that hold more than one peak: what the tree of thresholds left together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage

__all__ = ["further_peaks", "shared_out"]

_Index = NDArray[np.int64]

PEAK = 5.0
"""Sigma, of a further peak."""
SADDLE = 3.0
"""Sigma, of the noise at the peak: how far the light must fall between two peaks."""
SHARE = 0.03
"""Of the peak: the least fall, whatever the noise, since PSFs are not known better."""
APART = 2.0
"""Pixels between peaks, more than that."""


def further_peaks(
    sharp: FloatImage,
    noise: FloatImage,
    segments: NDArray[np.int32],
    peaks: tuple[_Index, _Index],
) -> tuple[_Index, _Index]:
    """Return pixels (x, y), int64, of peaks that footprints hold beside those of their rows, the brightest first.

    `sharp` in units of the sky's noise, `noise` in the same units and with the sources' photons; `segments` 0 or
    1 + the row, whose peak is ``peaks[0][row], peaks[1][row]``. A further peak is the highest of its 5 x 5 pixels,
    5 sigma high, and on the straight way to each other peak of its footprint the light falls by 3 sigma of the peak's
    own noise.
    """
    x, y = _maxima(sharp, segments, PEAK)
    order = np.lexsort((x, y, -sharp[y, x]))
    x, y = x[order], y[order]
    owner = segments[y, x] - 1
    known = np.r_[peaks[0], x].astype(np.int64), np.r_[peaks[1], y].astype(np.int64)
    rows = np.r_[np.arange(len(peaks[0])), owner].astype(np.int64)
    accepted = np.zeros(len(rows), np.bool_)
    accepted[: len(peaks[0])] = True
    by_row = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[by_row], np.arange(len(peaks[0]) + 1)).astype(np.int64)
    _choose(sharp, noise, *known, rows, by_row, bounds, len(peaks[0]), accepted)
    new = accepted[len(peaks[0]) :]
    return x[new], y[new]


def shared_out(
    segments: NDArray[np.int32], rows: _Index, x: NDArray[np.floating], y: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Return `segments` with the pixels of split footprints given to the nearest of their peaks.

    `rows` (n,) names the footprint, counted from 0, that each peak (x, y) lies in; label n + 1 is that of peak n.
    """
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(int(segments.max()) + 1)).astype(np.int64)
    out = np.zeros_like(segments)
    _give(segments, order.astype(np.int64), bounds, np.asarray(x, float), np.asarray(y, float), out)
    return out


@njit(cache=True, nogil=True)
def _maxima(image: Any, segments: Any, least: float) -> tuple[Any, Any]:  # pragma: no cover - compiled
    """Return columns and rows of pixels in footprints that are the highest of their 5 x 5."""
    xs, ys, count = np.empty(1024, np.int64), np.empty(1024, np.int64), 0
    for i in range(2, image.shape[0] - 2):
        for j in range(2, image.shape[1] - 2):
            value = image[i, j]
            if segments[i, j] == 0 or value < least or image[i, j - 1] >= value or image[i, j + 1] > value:
                continue
            if not _highest(image, i, j):
                continue
            if count == xs.size:
                xs, ys = np.append(xs, np.empty_like(xs)), np.append(ys, np.empty_like(ys))
            xs[count], ys[count] = j, i
            count += 1
    return xs[:count], ys[:count]


@njit(cache=True, nogil=True)
def _highest(image: Any, i: int, j: int) -> bool:  # pragma: no cover - compiled
    """Tell whether no pixel of the 5 x 5 about (j, i) is higher, nor an earlier one as high."""
    for k in range(-2, 3):
        for m in range(-2, 3):
            other = image[i + k, j + m]
            if other > image[i, j] or (other == image[i, j] and (k < 0 or (k == 0 and m < 0))):
                return False
    return True


@njit(cache=True, nogil=True)
def _choose(
    sharp: Any, noise: Any, x: Any, y: Any, rows: Any, by_row: Any, bounds: Any, first: int, accepted: Any
) -> None:  # pragma: no cover - compiled
    """Accept candidates, from `first` on, in their order."""
    for a in range(first, x.size):
        height = sharp[y[a], x[a]]
        fall = max(SADDLE * noise[y[a], x[a]], SHARE * height)
        apart = True
        for k in range(bounds[rows[a]], bounds[rows[a] + 1]):
            b = by_row[k]
            if accepted[b] and not _separate(sharp, x[a], y[a], x[b], y[b], height - fall):
                apart = False
                break
        accepted[a] = apart


@njit(cache=True, nogil=True)
def _separate(sharp: Any, xa: int, ya: int, xb: int, yb: int, level: float) -> bool:  # pragma: no cover - compiled
    """Tell whether two peaks are not too near, and the light between them falls below `level`."""
    distance = np.hypot(float(xa - xb), float(ya - yb))
    if distance <= APART:
        return False
    steps = int(2.0 * distance) + 1
    for k in range(1, steps):
        share = k / steps
        row = int(np.floor(ya + share * (yb - ya) + 0.5))
        column = int(np.floor(xa + share * (xb - xa) + 0.5))
        if sharp[row, column] < level:
            return True
    return False


@njit(cache=True, nogil=True)
def _give(segments: Any, order: Any, bounds: Any, x: Any, y: Any, out: Any) -> None:  # pragma: no cover - compiled
    """See `shared_out`."""
    for i in range(segments.shape[0]):
        for j in range(segments.shape[1]):
            row = segments[i, j] - 1
            if row < 0:
                continue
            nearest = np.inf
            for k in range(bounds[row], bounds[row + 1]):
                peak = order[k]
                distance = (x[peak] - j) ** 2 + (y[peak] - i) ** 2
                if distance < nearest:
                    nearest = distance
                    out[i, j] = peak + 1
