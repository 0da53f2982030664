"""Every source of the objects of one exposure, old and new, by object and in order of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import RowGroups

__all__ = ["LightCurves", "earlier", "light_curves"]

Rows = NDArray[Any]

_COLUMNS = (
    "diaSourceId",
    "visit",
    "detector",
    "midpointMjdTai",
    "ra",
    "raErr",
    "dec",
    "decErr",
    "band",
    "psfFlux",
    "psfFluxErr",
    "scienceFlux",
    "scienceFluxErr",
)
"""What summaries and limits are made from: a quarter of a source's bytes."""


@dataclass(frozen=True)
class LightCurves:
    """The light curves of `count` objects: m points, ordered by object, time, visit and id."""

    rows: Rows
    """The points: some columns of diaSource, shape (m,)."""
    owner: NDArray[np.int64]
    """Whose point each is, 0 to count - 1."""
    place: NDArray[np.int64]
    """Where each point stands in the history that was given; -1 for the exposure's own."""
    count: int

    def where(self, mask: NDArray[np.bool_]) -> LightCurves:
        """Return the same objects with only the points of a mask, shape (m,)."""
        kept = np.flatnonzero(mask)  # structured rows are taken several times faster by place than by mask
        return replace(self, rows=self.rows.take(kept), owner=self.owner[kept], place=self.place[kept])

    def of(self, objects: NDArray[np.bool_]) -> LightCurves:
        """Return only the objects of a mask, shape (count,), numbered anew."""
        part = self.where(objects[self.owner])
        number = np.cumsum(objects) - 1
        return replace(part, owner=number[part.owner], count=int(objects.sum()))

    def groups(self) -> RowGroups:
        """Return the points of each object."""
        return RowGroups(self.rows, np.bincount(self.owner, minlength=self.count))


def light_curves(sources: Rows, history: Rows) -> LightCurves:
    """Join `sources`, diaSource rows of different objects, with those rows of `history` that are of the same objects.

    Object k is that of ``sources[k]``. Rows of the history with the id of a source here are left out: an exposure that
    is associated again replaces what it said before.
    """
    order = np.argsort(sources["diaObjectId"])
    position = np.searchsorted(sources["diaObjectId"], history["diaObjectId"], sorter=order)
    known = position < len(sources)
    known[known] &= sources["diaObjectId"][order[position[known]]] == history["diaObjectId"][known]
    known &= ~np.isin(history["diaSourceId"], sources["diaSourceId"])
    place = np.concatenate([np.flatnonzero(known), np.full(len(sources), -1)])
    owner = np.concatenate([order[position[known]], np.arange(len(sources))])
    rows = np.zeros(len(place), [(name, sources.dtype[name]) for name in _COLUMNS])
    for name in _COLUMNS:
        rows[name] = np.concatenate([history[name][known], sources[name]])
    order = np.lexsort((rows["diaSourceId"], rows["visit"], rows["midpointMjdTai"], owner))
    return LightCurves(rows.take(order), owner[order], place[order], len(sources))


def earlier(rows: Rows, before: tuple[float, int]) -> NDArray[np.bool_]:
    """Return which sources or exposures are of a visit before (midpointMjdTai, visit)."""
    time, visit = rows["midpointMjdTai"], rows["visit"]
    return np.asarray((time < before[0]) | ((time == before[0]) & (visit < before[1])))
