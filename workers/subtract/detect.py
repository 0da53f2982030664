"""Sources of both signs in a score image: local maxima, less what brighter neighbours explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from scipy.spatial import cKDTree

from workers.imaging.exposure import FloatImage

__all__ = ["PEAK_DTYPE", "detect_peaks", "footprint_sizes", "local_maxima", "one_per_region"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

PEAK_DTYPE = np.dtype([("x", "i8"), ("y", "i8"), ("score", "f8"), ("bboxSize", "i4")])
"""Pixel of the extremum, its signed score, and the side of the square round the pixels above threshold."""


def local_maxima(score: FloatImage, threshold: float) -> tuple[_Index, _Index]:
    """Return pixel (x, y) of every maximum over its 8 neighbours above `threshold`, ordered by (y, x)."""
    height, width = score.shape
    y, x = np.nonzero(score > threshold)
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    x, y = x[inner], y[inner]
    value = score[y, x]
    peak = np.ones(len(x), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            other = score[y + dy, x + dx]
            # of two equal neighbours the first in (y, x) is the peak
            peak &= (value > other) | ((value == other) & ((dy, dx) >= (0, 0)))
    return x[peak], y[peak]


def detect_peaks(score: FloatImage, threshold: float, psf: _Float, radius: float) -> _Rows:
    """Return the sources in `score` beyond +-`threshold`, rows of PEAK_DTYPE, strongest first.

    Peaks of one sign within `radius` pixels are one source. A peak must keep `threshold` after the response of stronger
    ones is taken off: the matched filter of a point source rings when the noise was whitened. `psf` (n, n) is the
    difference's PSF in the middle of the image.
    """
    peaks = np.concatenate([_signed_peaks(score, threshold, sign) for sign in (1.0, -1.0)])
    peaks = peaks[np.lexsort((peaks["x"], peaks["y"], -np.abs(peaks["score"])))]
    response = signal.fftconvolve(psf, psf[::-1, ::-1]) / np.square(psf).sum()
    return peaks[_explained_away(peaks, response, threshold, radius)]


def _signed_peaks(score: FloatImage, threshold: float, sign: float) -> _Rows:
    """Return the peaks of one sign with the size of their footprints."""
    signed = score if sign > 0 else -score
    x, y = local_maxima(signed, threshold)
    rows = np.zeros(len(x), PEAK_DTYPE)
    rows["x"], rows["y"], rows["score"] = x, y, score[y, x]
    rows["bboxSize"] = footprint_sizes(signed > threshold, x, y)
    return rows


def footprint_sizes(above: _Bool, x: _Index, y: _Index) -> NDArray[np.int32]:
    """Return the side of the square box round the connected region of `above` that holds each pixel, int32."""
    labels, _ = ndimage.label(above, structure=np.ones((3, 3), int))
    boxes = ndimage.find_objects(labels)
    sizes = np.array([max(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in boxes] or [0])
    return np.asarray(sizes[labels[y, x] - 1], np.int32) if len(x) else np.zeros(0, np.int32)


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
    labels, _ = ndimage.label(region, structure=np.ones((3, 3), int))
    label = labels[peaks["y"], peaks["x"]]
    keep = np.ones(len(peaks), bool)
    first = np.unique(label, return_index=True)[1]
    keep[:] = label == 0
    keep[first] = True
    return keep
