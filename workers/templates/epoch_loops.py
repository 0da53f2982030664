"""Compiled loops over the epochs of a cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

__all__ = [
    "Intervals",
    "Sums",
    "best_intervals",
    "blind",
    "take_off",
    "weighted_mean",
    "weights",
]


@njit(cache=True, nogil=True, fastmath={"nsz", "contract", "reassoc"})
def take_off(flux: Any, planes: Any, terms: Any) -> None:  # pragma: no cover - compiled
    """Subtract sum_i terms[k, i] planes[i] from each flux[k], in place; float32 (N, h, w), (7, h, w) and (N, 7)."""
    height, width = flux.shape[1:]
    for k in range(len(flux)):
        a, b, c, d, e, f, g = terms[k]
        for y in range(height):
            for x in range(width):
                flux[k, y, x] -= (
                    a * planes[0, y, x]
                    + b * planes[1, y, x]
                    + c * planes[2, y, x]
                    + d * planes[3, y, x]
                    + e * planes[4, y, x]
                    + f * planes[5, y, x]
                    + g * planes[6, y, x]
                )


@njit(cache=True, nogil=True)
def weights(variance: Any, power: Any, known: Any, left: Any, scatter: Any) -> Any:  # pragma: no cover - compiled
    """Return 1 / (scatter (power variance + left)), 0 where nothing is known, float32 (N, height, width)."""
    out = np.zeros(variance.shape, np.float32)
    height, width = variance.shape[1:]
    for k in range(len(variance)):
        for y in range(height):
            for x in range(width):
                if known[k, y, x]:
                    out[k, y, x] = np.float32(1.0) / (scatter[y, x] * (power[k] * variance[k, y, x] + left[y, x]))
    return out


def blind(unusable: Any, reach: int, step: int) -> Any:
    """Return, of every `step`-th pixel, those with an unusable one of their epoch within `reach` in x and y.

    bool (N, ceil(height / step), ceil(width / step)).
    """
    return _blind(unusable, unusable.any(axis=2), reach, step)


@njit(cache=True, nogil=True)
def _blind(unusable: Any, somewhere: Any, reach: int, step: int) -> Any:  # pragma: no cover - compiled
    count, height, width = unusable.shape
    out = np.zeros((count, (height + step - 1) // step, (width + step - 1) // step), np.bool_)
    near = np.zeros(out.shape[2], np.bool_)
    for k in range(count):
        for y in range(height):
            if not somewhere[k, y]:
                continue
            near[:] = False
            for x in range(width):
                if unusable[k, y, x]:
                    near[(max(x - reach, 0) + step - 1) // step : (x + reach) // step + 1] = True
            for row in range((max(y - reach, 0) + step - 1) // step, min((y + reach) // step + 1, out.shape[1])):
                out[k, row] |= near
    return out


class Sums(NamedTuple):
    """The mean of the epochs at each pixel, (height, width), 0 where none is in it; and what each epoch gave."""

    mean: Any
    """sum(w v) / sum(w), float32."""
    variance: Any
    """sum(w² var) / sum(w)², float32."""
    background: Any
    """The same of each epoch's `sky` variance, float32."""
    count: Any
    """Epochs in the mean, int16."""
    pixels: Any
    """Pixels to which each epoch gave, int64 (N,)."""
    noise: Any
    """Sum of their variances, float64 (N,)."""


def weighted_mean(image: Any, variance: Any, chosen: Any, weights: Any, sky: Any) -> Sums:
    """Return the mean over the `chosen` of N planes (N, height, width); `weights` and `sky` are float64 (N,)."""
    return Sums(*_weighted_mean(image, variance, chosen, weights, sky))


@njit(cache=True, nogil=True)
def _weighted_mean(image: Any, variance: Any, chosen: Any, weights: Any, sky: Any) -> Any:  # pragma: no cover
    count, height, width = image.shape
    mean = np.zeros((height, width), np.float32)
    spread = np.zeros((height, width), np.float32)
    background = np.zeros((height, width), np.float32)
    there = np.zeros((height, width), np.int16)
    pixels, noise = np.zeros((count, width), np.int32), np.zeros((count, width))
    sums = np.zeros((4, width))
    for y in range(height):
        sums[:] = 0.0
        for k in range(count):
            one, two, three = weights[k], weights[k] ** 2, weights[k] ** 2 * sky[k]
            for x in range(width):
                here = chosen[k, y, x]
                var = np.float64(variance[k, y, x]) if here else 0.0
                sums[0, x] += one if here else 0.0
                sums[1, x] += one * image[k, y, x] if here else 0.0
                sums[2, x] += two * var
                sums[3, x] += three if here else 0.0
                noise[k, x] += var
            for x in range(width):
                pixels[k, x] += np.int32(chosen[k, y, x])
                there[y, x] += np.int16(chosen[k, y, x])
        for x in range(width):
            part = 1.0 / sums[0, x] if sums[0, x] > 0.0 else 0.0
            mean[y, x] = sums[1, x] * part
            spread[y, x] = sums[2, x] * part * part
            background[y, x] = sums[3, x] * part * part
    return mean, spread, background, there, pixels.sum(axis=1), noise.sum(axis=1)


class Intervals(NamedTuple):
    """What stands out at each pixel: planes (height, width)."""

    change: Any
    """Highest - lowest value of a series that is no constant, float32, unit of the flux."""
    significance: Any
    """(Mean inside the interval - mean outside) / sigma, float32; 0 where no interval with an excess stands out."""
    first: Any
    """First epoch of the interval, int16; -1 without one."""
    last: Any


def best_intervals(flux: Any, weight: Any, least: float, cost: float, outside: int) -> Intervals:
    """Return the interval of epochs that stands out most at each pixel.

    A series is a constant except in one interval of epochs [first, last], whose values are free: of all intervals that
    stand out by `least` sigma and leave `outside` known epochs, that with the least chi² of the rest + `cost` times its
    own epochs, of which those below the mean of the rest count to it. One with an excess goes before one with a deficit
    that is as good but for `_DEFICIT`. `flux` and `weight` (inverse variance, 0: unknown) are float32
    (N, height, width).
    """
    return Intervals(*_best_intervals(flux, weight, least, cost, outside))


_DEFICIT = 20.0
"""Chi² by which a deficit must explain a series better than an excess."""
_RESTLESS = 6.0
"""Sigma by which chi² exceeds its mean in a series that varies all the time."""


@njit(cache=True, nogil=True)
def _best_intervals(flux: Any, weight: Any, least: float, cost: float, outside: int) -> Any:  # pragma: no cover
    count, height, width = flux.shape
    change = np.zeros((height, width), np.float32)
    significance = np.zeros((height, width), np.float32)
    first = np.full((height, width), np.int16(-1))
    last = np.full((height, width), np.int16(-1))
    w, s, q = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    known = np.zeros(count + 1, np.int64)
    for y in range(height):
        for x in range(width):
            shift = np.float64(flux[0, y, x])
            for k in range(count):
                weigh = np.float64(weight[k, y, x])
                value = np.float64(flux[k, y, x]) - shift
                w[k + 1] = w[k] + weigh
                s[k + 1] = s[k] + weigh * value
                q[k + 1] = q[k] + weigh * value * value
                known[k + 1] = known[k] + (1 if weigh > 0.0 else 0)
            total, there = w[count], known[count]
            if there <= outside:
                continue
            chi = q[count] - s[count] * s[count] / total
            if chi < least * least:
                continue  # no interval's significance² exceeds the chi² about the mean
            high, i, j = _interval(w, s, q, known, least, cost, outside, chi)
            if high >= least:
                change[y, x], significance[y, x] = _range(flux, weight, y, x), high
                first[y, x], last[y, x] = i, j
            elif high <= -least or chi > there - 1 + _RESTLESS * np.sqrt(2.0 * (there - 1)):
                change[y, x] = _range(flux, weight, y, x)
    return change, significance, first, last


@njit(cache=True, nogil=True)
def _interval(
    w: Any, s: Any, q: Any, known: Any, sigma: float, cost: float, outside: int, chi: float
) -> Any:  # pragma: no cover - compiled
    """Return significance, first and last epoch of the best interval beyond `sigma`, from sums before each epoch."""
    count = len(w) - 1
    least = np.array([chi, chi])
    found = np.zeros((2, 2), np.int64)
    there = np.zeros(2, np.bool_)
    for i in range(count):
        for j in range(i, count):
            inside = known[j + 1] - known[i]
            if inside == 0 or known[count] - inside < outside:
                continue
            w_in, s_in = w[j + 1] - w[i], s[j + 1] - s[i]
            w_out, s_out = w[count] - w_in, s[count] - s_in
            left = q[count] - q[j + 1] + q[i] - s_out * s_out / w_out + cost * inside
            high = s_in * w_out - s_out * w_in  # times sqrt(w_in w_out (w_in + w_out)): sigma
            if high * high < sigma * sigma * w_in * w_out * w[count]:
                continue
            side = 0 if high > 0.0 else 1
            if left < least[side] and side == 0:
                left += _below(w, s, q, i, j, s_out / w_out)
            if left < least[side]:
                least[side], there[side] = left, True
                found[side, 0], found[side, 1] = i, j
    if not (there[0] or there[1]):
        return 0.0, -1, -1
    side = 0 if there[0] and least[0] < least[1] + _DEFICIT else 1
    i, j = found[side]
    w_in, s_in = w[j + 1] - w[i], s[j + 1] - s[i]
    w_out, s_out = w[count] - w_in, s[count] - s_in
    deviation = s_in / w_in - s_out / w_out
    return deviation / np.sqrt(1.0 / w_in + 1.0 / w_out), i, j


@njit(cache=True, nogil=True)
def _below(w: Any, s: Any, q: Any, first: int, last: int, mean: float) -> float:  # pragma: no cover - compiled
    """Return the chi² of the epochs of an interval that lie below the mean of the others."""
    total = 0.0
    for k in range(first, last + 1):
        w_k, s_k = w[k + 1] - w[k], s[k + 1] - s[k]
        if s_k < mean * w_k:
            total += q[k + 1] - q[k] - 2.0 * mean * s_k + mean * mean * w_k
    return total


@njit(cache=True, nogil=True)
def _range(flux: Any, weight: Any, y: int, x: int) -> float:  # pragma: no cover - compiled
    low, high = np.inf, -np.inf
    for k in range(len(flux)):
        if weight[k, y, x] > 0.0:
            low, high = min(low, flux[k, y, x]), max(high, flux[k, y, x])
    return high - low
