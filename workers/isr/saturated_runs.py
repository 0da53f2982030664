"""Saturated pixels as runs along columns, and runs that touch as one star: the ground of the bleed trails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import MaskImage
from workers.imaging.flagged_pixels import flagged_pixels

__all__ = ["SaturatedRuns", "saturated_runs"]

_Index = NDArray[np.int64]


@dataclass(frozen=True)
class SaturatedRuns:
    """Uninterrupted runs of flagged pixels along columns, sorted by (star, column, row); int64 arrays of one length."""

    star: _Index
    """Runs that touch, also by a corner, have the same number; 0 to `count` - 1."""
    column: _Index
    first: _Index
    """Row of the run's first pixel."""
    last: _Index
    """Row of its last pixel."""

    @property
    def count(self) -> int:
        """Number of groups of runs that touch."""
        return int(self.star[-1]) + 1 if len(self.star) else 0

    @property
    def starts(self) -> _Index:
        """Index of each group's first run, with the number of all runs at the end; (count + 1,)."""
        return np.searchsorted(self.star, np.arange(self.count + 1))


def saturated_runs(mask: MaskImage, planes: int) -> SaturatedRuns:
    """Return the runs along columns of the pixels of `mask` (int32, height by width) that have a bit of `planes`."""
    places = flagged_pixels(mask, planes)
    rows, columns = np.divmod(places, mask.shape[1])
    order = np.lexsort((rows, columns))
    rows, columns = rows[order], columns[order]
    breaks = np.ones(len(rows), bool)
    breaks[1:] = (np.diff(columns) != 0) | (np.diff(rows) != 1)
    starts = np.flatnonzero(breaks)
    ends = np.append(starts[1:], len(rows))[: len(starts)] - 1
    column, first, last = columns[starts], rows[starts], rows[ends]
    star = np.unique(_joined(column, first, last), return_inverse=True)[1].astype(np.int64)
    by_star = np.argsort(star, kind="stable")
    return SaturatedRuns(star[by_star], column[by_star], first[by_star], last[by_star])


@njit(cache=True, nogil=True)
def _joined(column: Any, first: Any, last: Any) -> Any:  # pragma: no cover - compiled
    """Return for each run the index of the run that stands for its group (union-find); runs sorted by column, row."""
    parent = np.arange(column.size)
    behind = 0
    for run in range(column.size):
        while column[behind] < column[run] - 1 or (column[behind] == column[run] - 1 and last[behind] < first[run] - 1):
            behind += 1
        other = behind
        while other < run and column[other] == column[run] - 1 and first[other] <= last[run] + 1:
            one, two = _root(parent, run), _root(parent, other)
            parent[max(one, two)] = min(one, two)
            other += 1
    for run in range(column.size):
        parent[run] = _root(parent, run)
    return parent


@njit(cache=True, nogil=True)
def _root(parent: Any, run: int) -> int:  # pragma: no cover - compiled
    """Return the run that stands for the group of `run`, halving the path on the way."""
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
