"""What the alerts of one exposure say, as tables: one row per alert, and groups of rows where an alert has many."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import RowGroups

__all__ = ["AlertRows"]

Rows = NDArray[Any]


@dataclass(frozen=True)
class AlertRows:
    """The n alerts of one exposure, in the order of their sources; everything is as of the exposure's visit."""

    index: NDArray[np.int64]
    """Place of each alert's source among the exposure's sources and stamps, shape (n,)."""
    sources: Rows
    """The source of each alert: diaSource rows, shape (n,)."""
    objects: Rows
    """The object of each alert, this source included: rows, shape (n,), with columns named as fields of diaObject."""
    bands: RowGroups
    """diaObjectBand rows of each alert's object, in order of the band's name."""
    previous: RowGroups
    """Earlier diaSource rows of each alert's object within the history window, in order of time."""
    exposures: Rows
    """Earlier exposures round here: diaNondetectionLimit rows in order of time, shape (e,)."""
    limits: RowGroups
    """For each alert the places (int64) in `exposures` of those that covered the object and did not detect it."""
    new: NDArray[np.bool_]
    """Whether the source began its object, shape (n,)."""
    forced: RowGroups | None = None
    """diaForcedSource rows of each alert, in order of time; None where the exposure has none at all."""
    ssSources: RowGroups | None = None
    """The ssSource row (none or one) of each alert."""
    orbits: RowGroups | None = None
    """The mpc_orbits row (none or one) of each alert."""

    def __len__(self) -> int:
        """Number of alerts."""
        return len(self.index)

    def part(self, start: int, stop: int) -> AlertRows:
        """Return the alerts from `start` up to `stop`, as views; the exposures stay whole."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = {
            name: value.part(start, stop) if isinstance(value, RowGroups) else value[start:stop]
            for name, value in own.items()
            if value is not None and name != "exposures"
        }
        return AlertRows(**(own | parts))
