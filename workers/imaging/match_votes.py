"""Offset voting: every pair of a source and a reference star votes, at each of many rotations, for one offset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["best_cells"]

_Float = NDArray[np.float64]


def best_cells(
    sources: _Float, references: _Float, angles: _Float, radius: float, cell: float, peaks: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.int64], _Float]:
    """Return the fullest 3 x 3 blocks of voting cells: (votes, row of `angles`, offset), most votes first.

    `sources` (n, 2) and `references` (m, 2): pixels about the centre of rotation. `angles`, radians: the references are
    turned by each, and `peaks` blocks of the offsets source - turned reference (up to `radius` pixels along each axis,
    cells `cell` pixels wide) are kept of each. The same peak seen at a neighbouring angle appears once.
    """
    order = np.argsort(references[:, 1], kind="stable")
    near = np.ascontiguousarray(references[order])
    slack = radius + float(np.abs(angles).max(initial=0.0)) * float(np.abs(references).max(initial=1.0)) * 1.5
    sx, sy, rx, ry = _pairs(np.ascontiguousarray(sources), near, slack)
    cells = max(3, 2 * int(np.ceil(radius / cell)) + 1)
    votes, column, row = _count(sx, sy, rx, ry, np.cos(angles), np.sin(angles), radius, cell, cells, peaks)
    turn = np.repeat(np.arange(len(angles)), peaks)
    offset = (np.stack([column, row], axis=-1).reshape(-1, 2) + 0.5) * cell - 0.5 * cells * cell
    return _distinct(votes.ravel(), turn, offset, cell)


def _distinct(
    votes: NDArray[np.int64], turn: NDArray[np.int64], offset: _Float, cell: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], _Float]:
    """Sort by votes and leave out what lies within two cells and two angles of a fuller block."""
    kept: list[int] = []
    for one in np.argsort(-votes, kind="stable"):
        if not any(abs(turn[k] - turn[one]) <= 2 and np.abs(offset[k] - offset[one]).max() < 2.1 * cell for k in kept):
            kept.append(int(one))
    return votes[kept], turn[kept], offset[kept]


@njit(cache=True, nogil=True)
def _pairs(sources: Any, references: Any, reach: Any) -> Any:  # pragma: no cover - compiled
    """Return source x, y and reference x, y of the pairs within `reach` along each axis; references sorted by y."""
    first = np.searchsorted(references[:, 1], sources[:, 1] - reach)
    last = np.searchsorted(references[:, 1], sources[:, 1] + reach)
    total = 0
    for i in range(len(sources)):
        for j in range(first[i], last[i]):
            if abs(sources[i, 0] - references[j, 0]) <= reach:
                total += 1
    sx, sy, rx, ry = np.empty(total), np.empty(total), np.empty(total), np.empty(total)
    k = 0
    for i in range(len(sources)):
        for j in range(first[i], last[i]):
            if abs(sources[i, 0] - references[j, 0]) <= reach:
                sx[k], sy[k], rx[k], ry[k] = sources[i, 0], sources[i, 1], references[j, 0], references[j, 1]
                k += 1
    return sx, sy, rx, ry


@njit(cache=True, nogil=True)
def _count(
    sx: Any, sy: Any, rx: Any, ry: Any, cosine: Any, sine: Any, radius: Any, cell: Any, cells: Any, peaks: Any
) -> Any:  # pragma: no cover - compiled
    """Return votes, column and row, each (angles, peaks), of the fullest blocks that don't overlap."""
    votes = np.zeros((len(cosine), peaks), np.int64)
    column, row = np.zeros((len(cosine), peaks), np.int64), np.zeros((len(cosine), peaks), np.int64)
    # a margin of one empty cell on each side; the offset of a pair is always positive before it becomes an index
    grid, shift, per = np.zeros((cells + 2, cells + 2), np.int32), 0.5 * cells * cell, 1.0 / cell
    for turn in range(len(cosine)):
        c, s = cosine[turn], sine[turn]
        grid[:] = 0
        for k in range(len(sx)):
            dx, dy = sx[k] - c * rx[k] + s * ry[k], sy[k] - s * rx[k] - c * ry[k]
            if abs(dx) <= radius and abs(dy) <= radius:
                grid[1 + int((dy + shift) * per), 1 + int((dx + shift) * per)] += 1
        _peaks(grid, votes[turn], column[turn], row[turn])
    return votes, column, row


@njit(cache=True, nogil=True)
def _peaks(grid: Any, votes: Any, column: Any, row: Any) -> None:  # pragma: no cover - compiled
    """Fill the lists of an angle with the fullest 3 x 3 blocks."""
    cells, peaks = grid.shape[0] - 2, len(votes)
    strip = np.zeros(cells + 2, np.int32)
    for y in range(cells):
        for x in range(cells + 2):
            strip[x] = grid[y, x] + grid[y + 1, x] + grid[y + 2, x]
        for x in range(cells):
            total = strip[x] + strip[x + 1] + strip[x + 2]
            if total > votes[peaks - 1]:
                _insert(votes, column, row, total, x, y)


@njit(cache=True, nogil=True)
def _insert(votes: Any, column: Any, row: Any, total: Any, x: Any, y: Any) -> None:  # pragma: no cover - compiled
    """Put a block into the descending list of an angle; of overlapping blocks the fuller stays."""
    place = len(votes) - 1
    for k in range(len(votes)):
        if votes[k] > 0 and abs(column[k] - x) <= 2 and abs(row[k] - y) <= 2:
            if votes[k] >= total:
                return
            place = k
            break
    while place > 0 and votes[place - 1] < total:
        votes[place], column[place], row[place] = votes[place - 1], column[place - 1], row[place - 1]
        place -= 1
    votes[place], column[place], row[place] = total, x, y
