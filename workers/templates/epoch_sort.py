"""The epochs of a cell in order of value, pixel by pixel: a network of comparisons, each over a row at once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["comparisons", "order_statistics"]


@lru_cache
def comparisons(count: int) -> NDArray[np.int64]:
    """Return the pairs (m, 2) of places to compare that sort `count` values.

    Batcher's odd-even merge sort (1968, AFIPS Spring Joint Computer Conference 32, 307).
    """
    pairs: list[tuple[int, int]] = []
    step = 1
    while step < count:
        gap = step
        while gap >= 1:
            firsts = [f for start in range(gap % step, count - gap, 2 * gap) for f in range(start, start + gap)]
            pairs += [(f, f + gap) for f in firsts if f + gap < count and f // (2 * step) == (f + gap) // (2 * step)]
            gap //= 2
        step *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


def order_statistics(planes: Any, known: Any) -> Any:
    """Return the median, the mean of the lower half and the variance of the lowest third of the values at each pixel.

    `planes` float32 and `known` bool are (N, height, width); results float32 (height, width). Where nothing is known
    the first two are the mean of all values.
    """
    return _order_statistics(planes, known, comparisons(len(planes)))


@njit(cache=True, nogil=True, fastmath={"nsz", "contract"})
def _order_statistics(planes: Any, known: Any, pairs: Any) -> Any:  # pragma: no cover - compiled
    count, height, width = planes.shape
    middle = np.zeros((height, width), np.float32)
    lower = np.zeros((height, width), np.float32)
    spread = np.zeros((height, width), np.float32)
    row, number = np.zeros((count, width), np.float32), np.zeros(width, np.int32)
    for y in range(height):
        _sort(planes[:, y], known[:, y], pairs, row, number)
        _read_off(row, number, middle[y], lower[y], spread[y])
        for x in range(width):
            if number[x] == 0:
                middle[y, x] = lower[y, x] = planes[:, y, x].sum() / np.float32(count)
    return middle, lower, spread


@njit(cache=True, nogil=True, fastmath={"nsz", "contract"})
def _sort(planes: Any, known: Any, pairs: Any, row: Any, number: Any) -> None:  # pragma: no cover - compiled
    """Fill `row` (N, width) with values in order, unknown ones last as inf, and `number` with how many are known."""
    count, width = row.shape
    number[:] = 0
    for k in range(count):
        for x in range(width):
            row[k, x] = planes[k, x] if known[k, x] else np.float32(np.inf)
            number[x] += np.int32(1) if known[k, x] else np.int32(0)
    for p in range(len(pairs)):
        first, second = row[pairs[p, 0]], row[pairs[p, 1]]
        for x in range(width):
            low, high = min(first[x], second[x]), max(first[x], second[x])
            first[x], second[x] = low, high


@njit(cache=True, nogil=True, fastmath={"nsz", "contract"})
def _read_off(row: Any, number: Any, middle: Any, lower: Any, spread: Any) -> None:  # pragma: no cover - compiled
    """Fill a row of results from its values in order; each value is asked whether it counts, for all x at once."""
    count, width = row.shape
    zero, one = np.float32(0.0), np.int32(1)
    below, half, third = np.zeros(width, np.int32), np.zeros(width, np.int32), np.zeros(width, np.int32)
    mean = np.zeros(width, np.float32)
    for x in range(width):
        below[x], half[x] = (number[x] - one) >> one, (number[x] + one) >> one
        third[x] = max((number[x] + one) // np.int32(3), np.int32(2))
    for k in range(count):
        here = np.int32(k)
        for x in range(width):
            value = row[k, x]
            middle[x] += value if here == below[x] else zero
            middle[x] += value if here == number[x] >> one else zero
            lower[x] += value if here < half[x] else zero
            mean[x] += value if here < third[x] else zero
    for x in range(width):
        middle[x] *= np.float32(0.5)
        lower[x] /= np.float32(max(half[x], one))
        mean[x] /= np.float32(third[x])
    for k in range(count):
        here = np.int32(k)
        for x in range(width):
            off = row[k, x] - mean[x]
            spread[x] += off * off if here < third[x] else zero
    for x in range(width):
        spread[x] = spread[x] / np.float32(third[x] - one) if number[x] > one else zero
