"""Connected pixels beyond a threshold, as runs along rows: few are bright, so that no image of labels is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import frozen_array

__all__ = ["Runs", "find_runs"]

_Index = NDArray[np.int64]
_GUESS = 1 << 16
"""Runs that there is room for at first."""
_PIECE = 64
"""Pixels of a row looked at as one."""


@dataclass(frozen=True)
class Runs:
    """Stretches of pixels [begin, end) of rows, ordered by (row, begin), joined where they touch (8 neighbours)."""

    row: _Index
    begin: _Index
    end: _Index
    group: _Index
    """Of each run: 0, 1, ... in the order of the groups' first runs."""
    boxes: _Index
    """(groups, 4): first and last row, first and last column."""

    def group_at(self, x: NDArray[np.integer], y: NDArray[np.integer]) -> _Index:
        """Return the group that holds each pixel, int64 (n,); -1 for none."""
        if len(self.row) == 0:
            return np.full(len(x), -1)
        width = int(self.end.max()) + 1
        at = np.searchsorted(self.row * width + self.begin, np.asarray(y) * width + np.minimum(x, width - 1), "right")
        run = np.maximum(at - 1, 0)
        inside = (at > 0) & (self.row[run] == y) & (self.begin[run] <= x) & (x < self.end[run])
        return np.where(inside, self.group[run], -1)

    def sides(self) -> NDArray[np.int32]:
        """Return the side of the square round each group, pixels, int32 (groups,)."""
        extent = self.boxes[:, 1::2] - self.boxes[:, ::2] + 1
        return np.asarray(extent.max(axis=1, initial=0), np.int32)


def find_runs(image: NDArray[Any], threshold: float, sign: float = 1.0) -> Runs:
    """Return the groups of pixels of `image` (2-D) with sign x value > `threshold`."""
    image = frozen_array(np.ascontiguousarray(image))
    count = _GUESS
    while True:  # once more where there are more than expected
        row, begin, end = (np.empty(count, np.int64) for _ in range(3))
        needed = int(_list(image, threshold, sign, row, begin, end))
        if needed <= count:
            break
        count = needed
    row, begin, end, count = row[:needed], begin[:needed], end[:needed], needed
    parent = np.arange(count)
    _join(row, begin, end, parent)
    first, group = np.unique(parent, return_inverse=True)
    boxes = np.empty((len(first), 4), np.int64)
    boxes[:, ::2], boxes[:, 1::2] = np.iinfo(np.int64).max, -1
    for k, values in ((0, row), (2, begin)):
        np.minimum.at(boxes[:, k], group, values)
    for k, values in ((1, row), (3, end - 1)):
        np.maximum.at(boxes[:, k], group, values)
    return Runs(row, begin, end, np.asarray(group, np.int64), boxes)


@njit(cache=True, nogil=True)
def _list(
    image: Any, threshold: float, sign: float, row: Any, begin: Any, end: Any
) -> int:  # pragma: no cover - compiled
    """Count the runs and write them where there is room; pieces of rows without any are passed over as a whole."""
    k = -1
    for y in range(image.shape[0]):
        line = image[y]
        before = False
        for first in range(0, line.size, _PIECE):
            last, some = min(first + _PIECE, line.size), False
            for x in range(first, last):
                some |= line[x] * sign > threshold
            if not some:
                before = False
                continue
            for x in range(first, last):
                above = line[x] * sign > threshold
                k += above and not before
                if above and k < row.size:
                    if not before:
                        row[k], begin[k] = y, x
                    end[k] = x + 1
                before = above
    return k + 1


@njit(cache=True, nogil=True)
def _root(parent: Any, k: int) -> int:  # pragma: no cover - compiled
    """Return the first run of the group."""
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@njit(cache=True, nogil=True)
def _join(row: Any, begin: Any, end: Any, parent: Any) -> None:  # pragma: no cover - compiled
    """Give every run the first run of its group as parent."""
    above = 0
    for k in range(row.size):
        while above < k and (row[above] < row[k] - 1 or (row[above] == row[k] - 1 and end[above] < begin[k])):
            above += 1
        other = above
        while other < k and row[other] == row[k] - 1 and begin[other] <= end[k]:
            one, two = _root(parent, k), _root(parent, other)
            parent[max(one, two)] = min(one, two)
            other += 1
    for k in range(row.size):
        parent[k] = _root(parent, k)
