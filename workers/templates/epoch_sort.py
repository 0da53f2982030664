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
    row = np.zeros((count, width), np.float32)
    for y in range(height):
        for k in range(count):
            for x in range(width):
                row[k, x] = planes[k, y, x] if known[k, y, x] else np.float32(np.inf)
        for p in range(len(pairs)):
            first, second = row[pairs[p, 0]], row[pairs[p, 1]]
            for x in range(width):
                low, high = min(first[x], second[x]), max(first[x], second[x])
                first[x], second[x] = low, high
        _read_off(row, planes[:, y], known[:, y], middle[y], lower[y], spread[y])
    return middle, lower, spread


@njit(cache=True, nogil=True, fastmath={"nsz", "contract"})
def _read_off(
    row: Any, planes: Any, known: Any, middle: Any, lower: Any, spread: Any
) -> None:  # pragma: no cover - compiled
    """Fill a row of results from its values in order."""
    count, width = planes.shape
    for x in range(width):
        n = 0
        for k in range(count):
            n += 1 if known[k, x] else 0
        if n == 0:
            middle[x] = lower[x] = _mean(planes, x, count)
            continue
        middle[x] = np.float32(0.5) * (row[(n - 1) // 2, x] + row[n // 2, x])
        lower[x] = _mean(row, x, (n + 1) // 2)
        if n > 1:
            spread[x] = _variance(row, x, max((n + 1) // 3, 2))


@njit(cache=True, nogil=True)
def _mean(row: Any, x: int, count: int) -> Any:  # pragma: no cover - compiled
    total = np.float32(0.0)
    for k in range(count):
        total += row[k, x]
    return total / np.float32(count)


@njit(cache=True, nogil=True)
def _variance(row: Any, x: int, count: int) -> Any:  # pragma: no cover - compiled
    mean, total = _mean(row, x, count), np.float32(0.0)
    for k in range(count):
        total += (row[k, x] - mean) ** 2
    return total / np.float32(count - 1)
