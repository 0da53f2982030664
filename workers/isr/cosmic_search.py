"""The first sweep for cosmic rays: the few pixels that rise fast enough, tested with the bank of filters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from workers.isr.cosmic_growth import BLOCKED, DARKEST, FREE, HIT, excess_over_pairs, pedestal
from workers.isr.cosmic_patterns import HALF
from workers.isr.sky_levels import sky_row

__all__ = ["search"]

_STEEP = 2.0
"""Sigma by which a candidate must exceed the mean of two opposite neighbours, twice over."""
_OWN = 1.2
"""Sigma of its own that a pixel must have over what its neighbours allow: a star in a track's line has less."""
_MARKED = 3.0
"""Sigma over the pedestal for the other pixels in a found track's line."""


@njit(cache=True, nogil=True)
def search(
    planes: Any, sky: Any, rule: Any, weights: Any, lit: Any, least: Any, threshold: Any
) -> Any:  # pragma: no cover - compiled
    """Make hits of the pixels that some filter or pair of neighbours shows to be more than any star; return them.

    `planes` are image, variance and state; `sky` the levels of the image's cells, above which candidates rise `least`
    sigma. `rule` holds the pairs' weights, the ring and the roughness. The flat indices come sorted.
    """
    image, variance, state = planes
    height, width = image.shape
    found, count = np.empty(4096, np.int64), 0
    level = np.empty(width, np.float32)
    values, noises = np.empty((2, weights.shape[0]), np.float32)
    work = np.empty((2, len(rule[2])))
    for y in range(height):
        sky_row(sky, y, level)
        for x in range(width):
            rise = image[y, x] - level[x]
            if state[y, x] != FREE or not rise > 0 or rise * rise < least * least * variance[y, x]:
                continue
            if count + len(values) > len(found):
                found = _longer(found)
            if not _whole(state, y, x):
                single, mean = excess_over_pairs(planes, rule, y, x, work, 4, least)
                if max(single, mean) > threshold:
                    found[count] = y * width + x
                    count += 1
            elif _steep(image, variance, y, x):
                best = _best_filter(planes, rule, weights, y, x, threshold, values, noises, work)
                if best >= 0:
                    count = _mark(planes, rule, lit, best, y, x, (values, noises), work, found, count)
    unique = np.unique(found[:count])
    for index in range(len(unique)):
        state[unique[index] // width, unique[index] % width] = HIT
    return unique


@njit(cache=True, nogil=True)
def _longer(found: Any) -> Any:  # pragma: no cover - compiled
    longer = np.empty(2 * len(found), np.int64)
    longer[: len(found)] = found
    return longer


@njit(cache=True, nogil=True)
def _whole(state: Any, y: Any, x: Any) -> Any:  # pragma: no cover - compiled
    """Tell whether a filter's stamp lies inside and holds no blocked pixel."""
    if y < HALF or x < HALF or y >= state.shape[0] - HALF or x >= state.shape[1] - HALF:
        return False
    for row in range(y - HALF, y + HALF + 1):
        for column in range(x - HALF, x + HALF + 1):
            if state[row, column] == BLOCKED:
                return False
    return True


@njit(cache=True, nogil=True)
def _steep(image: Any, variance: Any, y: Any, x: Any) -> Any:  # pragma: no cover - compiled
    """Tell whether the pixel rises above its neighbours in some direction; most pixels of stars and galaxies do not."""
    most = 2.0 * image[y, x] - _STEEP * np.sqrt(variance[y, x])
    return (
        image[y - 1, x] + image[y + 1, x] < most
        or image[y, x - 1] + image[y, x + 1] < most
        or image[y - 1, x - 1] + image[y + 1, x + 1] < most
        or image[y - 1, x + 1] + image[y + 1, x - 1] < most
    )


@njit(cache=True, nogil=True)
def _best_filter(
    planes: Any, rule: Any, weights: Any, y: Any, x: Any, threshold: Any, values: Any, noises: Any, work: Any
) -> Any:  # pragma: no cover - compiled
    """Return the filter of highest response in sigma, or -1 where none exceeds `threshold`; fill the stamp's arrays."""
    image, variance, _ = planes
    level, level_noise = pedestal(planes, rule[2], y, x, work)
    size, filters = weights.shape
    sums, lowest, index = np.zeros(filters, np.float32), variance[y, x], 0
    for row in range(y - HALF, y + HALF + 1):
        for column in range(x - HALF, x + HALF + 1):
            noises[index] = variance[row, column]
            values[index] = max(image[row, column] - level, -DARKEST * np.sqrt(noises[index]))
            lowest = min(lowest, variance[row, column])
            for number in range(filters):
                sums[number] += weights[index, number] * values[index]
            index += 1
    best, highest = -1, threshold
    for number in range(filters):
        if not sums[number] > threshold * np.sqrt(lowest):
            continue
        noise, total, taken = 0.0, 0.0, 0.0
        for index in range(size):
            weight = weights[index, number]
            noise += weight * weight * noises[index]
            total += weight
            taken += min(weight, 0.0) * values[index]
        response = sums[number] / np.sqrt(noise + total * total * level_noise + (rule[3] * taken) ** 2)
        if response > highest:
            best, highest = number, response
    return best


@njit(cache=True, nogil=True)
def _mark(
    planes: Any, rule: Any, lit: Any, best: Any, y: Any, x: Any, stamp: Any, work: Any, found: Any, count: Any
) -> Any:  # pragma: no cover - compiled
    """Append the centre and the bright pixels in the found track's line that have an excess of their own."""
    width = planes[0].shape[1]
    values, noises = stamp
    for index in range(len(values)):
        row, column = y - HALF + index // (2 * HALF + 1), x - HALF + index % (2 * HALF + 1)
        centre = row == y and column == x
        if not centre and not (lit[index, best] and values[index] > _MARKED * np.sqrt(noises[index])):
            continue
        single, mean = excess_over_pairs(planes, rule, row, column, work, 4, 1.0)
        if max(single, mean) > _OWN:
            found[count] = row * width + column
            count += 1
    return count
