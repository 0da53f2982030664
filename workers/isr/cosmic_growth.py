"""From the first hits of cosmic rays to their neighbours: a pixel against what the free pixels round it allow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["BLOCKED", "DARKEST", "FREE", "HIT", "excess_over_pairs", "grow", "is_free", "pedestal"]

FREE, BLOCKED, HIT = 0, 1, 2
"""States of a pixel; only free ones tell anything about their neighbours."""
_STEP_Y, _STEP_X = np.array([0, 1, 1, 1]), np.array([1, 0, 1, -1])
_KIND = np.array([0, 0, 1, 1])
DARKEST = 3.0
"""Sigma below the pedestal: a darker neighbour is a defect and counts as no darker."""
_HEAVIEST = 12.0
"""Sum of a pair's weights beyond which it tells nothing but noise."""
_BIAS = 0.5
"""Sigma added to the mean of the fainter half of the ring, which lies 0.8 sigma below the mean of flat sky."""


@njit(cache=True, nogil=True)
def is_free(state: Any, y: Any, x: Any) -> Any:  # pragma: no cover - compiled
    """Tell whether the pixel lies inside and is neither blocked nor a hit."""
    return 0 <= y < state.shape[0] and 0 <= x < state.shape[1] and state[y, x] == FREE


@njit(cache=True, nogil=True)
def pedestal(planes: Any, ring: Any, y: Any, x: Any, work: Any) -> Any:  # pragma: no cover - compiled
    """Level below the sources at a pixel, and its variance: mean of the fainter half of the ring's free pixels.

    `planes` are image, variance and state; `work` a float64 array (2, at least 16). Nan where no pixel is free.
    """
    image, variance, state = planes
    values, noises = work
    count = 0
    for index in range(len(ring)):
        row, column = y + ring[index, 0], x + ring[index, 1]
        if not is_free(state, row, column):
            continue
        place = count
        while place > 0 and values[place - 1] > image[row, column]:
            values[place], noises[place] = values[place - 1], noises[place - 1]
            place -= 1
        values[place], noises[place] = image[row, column], variance[row, column]
        count += 1
    if count == 0:
        return np.nan, np.nan
    half = max(count // 2, 1)
    noise = noises[:half].mean()
    return values[:half].mean() + _BIAS * np.sqrt(noise), noise / half


@njit(cache=True, nogil=True)
def _bound(planes: Any, rule: Any, y: Any, x: Any, way: Any, gaps: Any, level: Any) -> Any:  # pragma: no cover
    """What a pair allows: bound above the pedestal, its variance, the pixel's variance at most, share of the pedestal.

    The neighbours are the nearest free ones at least `gaps` pixels away; nan where there are none.
    """
    image, variance, state = planes
    before, after = rule[0], rule[1]
    reach, (back, on) = before.shape[1], gaps
    dy, dx = _STEP_Y[way], _STEP_X[way]
    while back <= reach and not is_free(state, y - back * dy, x - back * dx):
        back += 1
    while on <= reach and not is_free(state, y + on * dy, x + on * dx):
        on += 1
    if back > reach or on > reach:
        return np.nan, 0.0, 0.0, 0.0
    a, b = before[_KIND[way], back - 1, on - 1], after[_KIND[way], back - 1, on - 1]
    if a + b > _HEAVIEST:
        return np.nan, 0.0, 0.0, 0.0
    noise_a, noise_b = variance[y - back * dy, x - back * dx], variance[y + on * dy, x + on * dx]
    one = max(image[y - back * dy, x - back * dx] - level, -DARKEST * np.sqrt(noise_a))
    other = max(image[y + on * dy, x + on * dx] - level, -DARKEST * np.sqrt(noise_b))
    return a * one + b * other, a * a * noise_a + b * b * noise_b, a * noise_a + b * noise_b, a + b - 1.0


@njit(cache=True, nogil=True)
def excess_over_pairs(
    planes: Any, rule: Any, y: Any, x: Any, work: Any, most: Any, least: Any
) -> Any:  # pragma: no cover - compiled
    """Excess of a pixel over what pairs of neighbours allow, in sigma: the largest of one pair, and that of their mean.

    `rule` holds the bounds' weights before and after, the ring and the roughness; `most` is 1 for the nearest pairs
    only and 4 for those a pixel farther out too. (-1, -1) where the pixel is less than `least` sigma above
    the pedestal and the lowest of those bounds, or nothing bounds it.
    """
    image, variance, _ = planes
    level, level_noise = pedestal(planes, rule[2], y, x, work)
    own = variance[y, x]
    value = image[y, x] - level
    if not value >= least * np.sqrt(own):
        return -1.0, -1.0
    best, weight, total, lowest, lightest = -1.0, 0.0, 0.0, own, value
    for way in range(4):
        for number in range(most):
            gaps = (1 + number // 2, 1 + number % 2)
            bound, noise, allowed, share = _bound(planes, rule, y, x, way, gaps, level)
            if not np.isfinite(bound):
                continue
            noise += share * share * level_noise
            if number == 0:
                weight += 1.0 / noise
                total += bound / noise
                lowest, lightest = min(lowest, allowed), min(lightest, max(bound, 0.0))
            # the pixel's variance has its own excess in it: what counts is the noise of what the pair allows
            spread = min(own, allowed) + noise + (rule[3] * bound) ** 2
            best = max(best, (value - max(bound, 0.0)) / np.sqrt(spread))
    if weight == 0.0 or value - lightest < least * np.sqrt(own):
        return -1.0, -1.0
    bound = max(total / weight, 0.0)
    return best, (value - bound) / np.sqrt(lowest + 1.0 / weight + (rule[3] * bound) ** 2)


@njit(cache=True, nogil=True)
def grow(planes: Any, found: Any, rule: Any, limits: Any) -> None:  # pragma: no cover - compiled
    """Make hits of free neighbours of the `found` pixels (flat indices), then of theirs, until none is added.

    `limits` in sigma: excess over one pair, over the mean of all pairs, and over the pedestal.
    """
    _, _, state = planes
    height, width = state.shape
    work = np.empty((2, len(rule[2])))
    while len(found) > 0:
        fresh = np.empty(8 * len(found), np.int64)
        count = 0
        for index in range(len(found)):
            y, x = found[index] // width, found[index] % width
            for row in range(max(y - 1, 0), min(y + 2, height)):
                for column in range(max(x - 1, 0), min(x + 2, width)):
                    if state[row, column] != FREE:
                        continue
                    single, mean = excess_over_pairs(planes, rule, row, column, work, 1, limits[2])
                    if single > limits[0] or mean > limits[1]:
                        fresh[count] = row * width + column
                        count += 1
        found = np.unique(fresh[:count])
        for index in range(len(found)):
            state[found[index] // width, found[index] % width] = HIT
