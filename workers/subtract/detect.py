"""Sources of both signs in a score image: local maxima, less what brighter neighbours explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import signal
from scipy.spatial import cKDTree

from workers.imaging.exposure import FloatImage
from workers.subtract.runs import Runs, find_runs

__all__ = ["PEAK_DTYPE", "detect_peaks", "local_maxima", "one_per_region"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

PEAK_DTYPE = np.dtype([("x", "i8"), ("y", "i8"), ("score", "f8"), ("bboxSize", "i4")])
"""Pixel of the extremum, its signed score, and the side of the square round the pixels above threshold."""


def local_maxima(score: FloatImage, runs: Runs, sign: float = 1.0) -> tuple[_Index, _Index]:
    """Return pixel (x, y) of every maximum of sign x score over its 8 neighbours within `runs`, ordered by (y, x).

    Pixels of the image's border are left out.
    """
    found = np.zeros((int((runs.end - runs.begin).sum()), 2), np.intp)
    count = _maxima(score, runs.row, runs.begin, runs.end, np.float32(sign), found)
    return found[:count, 0], found[:count, 1]


@njit(cache=True, nogil=True)
def _maxima(score: Any, row: Any, begin: Any, end: Any, sign: Any, found: Any) -> int:  # pragma: no cover - compiled
    """Write the maxima; of two equal neighbours the first in (y, x) is one."""
    count = 0
    for k in range(row.size):
        y = row[k]
        if y == 0 or y == score.shape[0] - 1:
            continue
        for x in range(max(begin[k], 1), min(end[k], score.shape[1] - 1)):
            value, highest = sign * score[y, x], True
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    other = sign * score[y + dy, x + dx]
                    later = dy > 0 or (dy == 0 and dx >= 0)
                    highest &= value > other or (value == other and later)
            if highest:
                found[count, 0], found[count, 1] = x, y
                count += 1
    return count


def detect_peaks(
    score: FloatImage, footprints: tuple[Runs, Runs], threshold: float, psf: _Float, radius: float
) -> _Rows:
    """Return the sources in `score` beyond +-`threshold`, rows of PEAK_DTYPE, strongest first.

    `footprints`: the pixels above `threshold` and those below minus it.
    Peaks of one sign within `radius` pixels are one source. A peak must keep `threshold` after the response of stronger
    ones is taken off: the matched filter of a point source rings when the noise was whitened. `psf` (n, n) is the
    difference's PSF in the middle of the image.
    """
    peaks = np.concatenate(
        [_signed_peaks(score, runs, sign) for runs, sign in zip(footprints, (1.0, -1.0), strict=True)]
    )
    peaks = peaks[np.lexsort((peaks["x"], peaks["y"], -np.abs(peaks["score"])))]
    response = signal.fftconvolve(psf, psf[::-1, ::-1]) / np.square(psf).sum()
    return peaks[_explained_away(peaks, response, threshold, radius)]


def _signed_peaks(score: FloatImage, runs: Runs, sign: float) -> _Rows:
    """Return the peaks of one sign with the size of their footprints."""
    x, y = local_maxima(score, runs, sign)
    rows = np.zeros(len(x), PEAK_DTYPE)
    rows["x"], rows["y"], rows["score"] = x, y, score[y, x]
    if len(x):
        rows["bboxSize"] = runs.sides()[runs.group_at(x, y)]
    return rows


def _explained_away(peaks: _Rows, response: _Float, threshold: float, radius: float) -> _Bool:
    """Return which peaks (strongest first) remain sources next to the stronger ones that remain."""
    keep = np.ones(len(peaks), bool)
    if len(peaks) < 2:
        return keep
    middle = response.shape[0] // 2
    points = np.column_stack([peaks["x"], peaks["y"]])
    neighbours = cKDTree(points).query_ball_point(points, middle, p=np.inf, return_sorted=True)
    for i, near in enumerate(neighbours):
        stronger = np.array([j for j in near if j < i and keep[j]], int)
        if len(stronger) == 0:
            continue
        step = points[i] - points[stronger]
        same = peaks["score"][stronger] * peaks["score"][i] > 0
        explained = (peaks["score"][stronger] * response[middle + step[:, 1], middle + step[:, 0]]).sum()
        left = (peaks["score"][i] - explained) * np.sign(peaks["score"][i])
        keep[i] = left >= threshold and not np.any(same & (np.hypot(*step.T) < radius))
    return keep


def one_per_region(peaks: _Rows, region: _Bool) -> _Bool:
    """Return which peaks (strongest first) to keep so that each connected part of `region` holds at most one."""
    label = find_runs(region, 0.5).group_at(peaks["x"], peaks["y"])
    keep = label < 0
    keep[np.unique(label, return_index=True)[1]] = True
    return np.asarray(keep)
