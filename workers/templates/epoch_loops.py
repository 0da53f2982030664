"""Compiled loops over the epochs of a cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

__all__ = [
    "Intervals",
    "best_intervals",
    "blind",
    "patterns",
    "significances",
    "smoothed",
    "take_off",
    "weighted_mean",
    "weights",
]


@njit(cache=True, nogil=True)
def patterns(flux: Any) -> Any:  # pragma: no cover - compiled
    """Return what small errors of an epoch add to a sky of `flux`: 1, f, f_y, f_x, f_yy, f_xx, f_xy.

    float32 (7, height, width); derivatives by central differences, 0 on the two outermost rows and columns.
    """
    height, width = flux.shape
    out = np.zeros((7, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            out[0, y, x] = np.float32(1.0)
            out[1, y, x] = flux[y, x]
    half, quarter = np.float32(0.5), np.float32(0.25)
    for y in range(2, height - 2):
        for x in range(2, width - 2):
            f = flux[y, x]
            out[2, y, x] = half * (flux[y + 1, x] - flux[y - 1, x])
            out[3, y, x] = half * (flux[y, x + 1] - flux[y, x - 1])
            out[4, y, x] = quarter * (flux[y + 2, x] + flux[y - 2, x] - f - f)
            out[5, y, x] = quarter * (flux[y, x + 2] + flux[y, x - 2] - f - f)
            out[6, y, x] = quarter * (flux[y + 1, x + 1] - flux[y + 1, x - 1] - flux[y - 1, x + 1] + flux[y - 1, x - 1])
    return out


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


@njit(cache=True, nogil=True)
def blind(unusable: Any, reach: int) -> Any:  # pragma: no cover - compiled
    """Return the pixels with an unusable one of their epoch within `reach` in x and y, bool (N, height, width)."""
    count, height, width = unusable.shape
    out = np.zeros(unusable.shape, np.bool_)
    for k in range(count):
        for y in range(height):
            for x in range(width):
                if unusable[k, y, x]:
                    top, left = max(y - reach, 0), max(x - reach, 0)
                    out[k, top : y + reach + 1, left : x + reach + 1] = True
    return out


@njit(cache=True, nogil=True, fastmath={"nsz", "contract", "reassoc"})
def smoothed(image: Any, taps: Any) -> Any:  # pragma: no cover - compiled
    """Return an image convolved with symmetric `taps` along both axes; beyond its edges it goes on as at them."""
    height, width = image.shape
    reach = len(taps) // 2
    padded = np.zeros((height, width + 2 * reach), np.float32)
    column = np.zeros(width, np.float32)
    for y in range(height):
        column[:] = taps[reach] * image[y]
        for step in range(1, reach + 1):
            up, down = image[max(y - step, 0)], image[min(y + step, height - 1)]
            for x in range(width):
                column[x] += taps[reach + step] * (up[x] + down[x])
        padded[y, reach : reach + width] = column
        padded[y, :reach] = column[0]
        padded[y, reach + width :] = column[width - 1]
    out = np.zeros((height, width), np.float32)
    for y in range(height):
        for step in range(2 * reach + 1):
            tap = taps[step]
            for x in range(width):
                out[y, x] += tap * padded[y, x + step]
    return out


@njit(cache=True, nogil=True)
def significances(
    image: Any, reference: Any, variance: Any, other: Any, allowed: Any, here: Any, higher: bool, correlation: Any
) -> Any:  # pragma: no cover - compiled
    """Return the greater of the significances of a pixel and of the 3x3 pixels round it, float32 (height, width).

    Of image - reference, by what it exceeds `allowed`, where `here`; with `higher` only what is above. `variance` and
    `other` are those of the two, `correlation` the variance of a 3x3 sum over the sum of variances.
    """
    height, width = image.shape
    excess = np.zeros((height + 2, width + 2), np.float32)
    noise = np.zeros((height + 2, width + 2), np.float32)
    zero = np.float32(0.0)
    for y in range(height):
        for x in range(width):
            off = image[y, x] - reference[y, x]
            above = max(abs(off) - allowed[y, x], zero)
            keep = here[y, x] and (off > zero or not higher)
            excess[y + 1, x + 1] = (above if off > zero else -above) if keep else zero
            noise[y + 1, x + 1] = variance[y, x] + other[y, x]
    out = np.zeros((height, width), np.float32)
    least = np.float32(1e-30)
    for y in range(height):
        for x in range(width):
            total, power = zero, zero
            for v in range(3):
                for u in range(3):
                    total += excess[y + v, x + u]
                    power += noise[y + v, x + u]
            single = excess[y + 1, x + 1] ** 2 / max(noise[y + 1, x + 1], least)
            out[y, x] = np.sqrt(max(single, total**2 / (correlation * max(power, least))))
    return out


@njit(cache=True, nogil=True)
def weighted_mean(image: Any, variance: Any, chosen: Any, weights: Any) -> Any:  # pragma: no cover - compiled
    """Return sum(w v) / sum(w) and sum(w² var) / sum(w)² over the `chosen` of N planes, float32; 0 where none is."""
    count, height, width = image.shape
    mean = np.zeros((height, width), np.float32)
    noise = np.zeros((height, width), np.float32)
    sums = np.zeros((3, width))
    for y in range(height):
        sums[:] = 0.0
        for k in range(count):
            for x in range(width):
                weight = weights[k] if chosen[k, y, x] else 0.0
                sums[0, x] += weight
                sums[1, x] += weight * image[k, y, x]
                sums[2, x] += weight * weight * variance[k, y, x]
        for x in range(width):
            if sums[0, x] > 0.0:
                mean[y, x] = sums[1, x] / sums[0, x]
                noise[y, x] = sums[2, x] / sums[0, x] ** 2
    return mean, noise


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
