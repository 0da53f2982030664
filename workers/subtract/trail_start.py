"""First guesses of trails: the line through a source along which the light stands out most from the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["REACH", "first_line", "line_noise", "smooth_square"]

_Float = NDArray[np.float64]

REACH = 60
"""Pixels from the source within which the first guess looks for the trail's ends."""
ANGLES, STRIDE, HOLD = 48, 2, 1.3
"""Of the first guess: directions over half a turn, pixels between samples, and the most that one sample may be worth,
in units of the light at the source: a trail is as bright elsewhere, a star on the line is not part of it."""


def line_noise(sigma: float) -> _Float:
    """Return the variance of the sum of n = 0, 1, ... samples, float64 (REACH + 2,), in units of one sample's.

    Samples lie `STRIDE` pixels apart on a line in white noise smoothed with a Gaussian of `sigma` pixels.
    """
    gap = STRIDE * np.arange(REACH + 2)
    correlation = np.exp(-0.25 * np.square(gap / sigma))
    count = np.arange(REACH + 2)
    pairs = np.clip(count[:, None] - count[None, :], 0, None) * correlation
    return np.asarray(2.0 * pairs.sum(axis=1) - pairs[:, 0])


@njit(cache=True, nogil=True)
def smooth_square(data: Any, sigma: float, once: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Smooth a square with a Gaussian cut at 2.5 sigma, into `out`; its border keeps zero."""
    reach = int(np.ceil(2.5 * sigma))
    size = data.shape[0]
    taps = np.empty(2 * reach + 1)
    for k in range(2 * reach + 1):
        taps[k] = np.exp(-0.5 * ((k - reach) / sigma) ** 2)
    once[:], out[:] = 0.0, 0.0
    for i in range(size):
        for k in range(2 * reach + 1):
            source, target = data[i, k : k + size - 2 * reach], once[i, reach : size - reach]
            for j in range(size - 2 * reach):
                target[j] += taps[k] * source[j]
    for i in range(reach, size - reach):
        for k in range(2 * reach + 1):
            source, target = once[i + k - reach], out[i]
            for j in range(size):
                target[j] += taps[k] * source[j]


@njit(cache=True, nogil=True)
def first_line(smooth: Any, sign: float, sigma: float, noise: Any, line: Any) -> None:  # pragma: no cover - compiled
    """Write the line through the middle that stands out most from the noise to line[1:], from `smooth_square`."""
    middle = smooth.shape[0] // 2
    most = HOLD * max(sign * smooth[middle, middle], 0.0)
    count = REACH // STRIDE
    sums = np.zeros((2, count + 1))
    best = -1.0
    for turn in range(ANGLES):
        dx, dy = np.cos(np.pi * turn / ANGLES), np.sin(np.pi * turn / ANGLES)
        for side in range(2):
            way = 1.0 - 2.0 * side
            for k in range(1, count + 1):
                x, y = middle + way * STRIDE * k * dx, middle + way * STRIDE * k * dy
                j, i = int(x), int(y)
                u, v = x - j, y - i
                value = (1.0 - v) * ((1.0 - u) * smooth[i, j] + u * smooth[i, j + 1])
                value += v * ((1.0 - u) * smooth[i + 1, j] + u * smooth[i + 1, j + 1])
                sums[side, k] = sums[side, k - 1] + min(sign * value, most)
        for a in range(count + 1):
            for b in range(count + 1):
                total = most / HOLD + sums[0, a] + sums[1, b]
                gain = total * abs(total) / noise[a + b + 1]
                if gain > best:
                    best = gain
                    length, shift = max(STRIDE * (a + b), 1.5 * sigma), 0.5 * STRIDE * (a - b)
                    line[1], line[2], line[3], line[4] = shift * dx, shift * dy, length * dx, length * dy
