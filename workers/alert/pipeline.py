"""What a packet says besides the rows it is given: the object with its bands, and what an exposure's alerts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas
from schemas import RowGroups
from schemas.errors import SchemaError

__all__ = ["AlertContext", "object_rows", "shared_values"]

RUBIN_BANDS = "ugrizy"
"""Bands that the packet's fixed fields have columns for; every band is in `diaObject.bands`."""


@dataclass(frozen=True)
class AlertContext:
    """What all alerts of one visit and detector have in common; nothing of it comes from the wall clock."""

    instrument: str
    night: int
    """YYYYMMDD."""
    codeVersion: str
    target: str = ""
    reason: str = ""
    """Why the scheduler took the image."""
    modelVersion: str | None = None
    template: Mapping[str, Any] | None = None
    """A templateProvenance record."""
    calibrations: Mapping[str, str] = field(default_factory=dict)
    late: bool = False


def shared_values(context: AlertContext) -> dict[str, Any]:
    """Return the alert's fields that are the same for the whole exposure; empty texts become null where they can.

    `stageTimes` has no members: what the clock said travels beside the packet, not in it.
    """
    return {
        "observation_reason": context.reason or None,
        "target_name": context.target or None,
        "instrument": context.instrument,
        "night": context.night,
        "template": None if context.template is None else dict(context.template),
        "calibrations": dict(context.calibrations),
        "codeVersion": context.codeVersion,
        "modelVersion": context.modelVersion,
        "stageTimes": [],
        "late": context.late,
    }


def object_rows(objects: NDArray[Any], bands: RowGroups) -> NDArray[Any]:
    """Return the diaObject row of each object, shape (n,), in the packet's dtype.

    `objects` has columns named as fields of diaObject; nullable ones that it lacks become null, and without one of the
    others a SchemaError is raised. `bands` are their diaObjectBand rows: the fixed u_ to y_ fields repeat those of
    Rubin's bands, whose count is 0 and the rest null where there are none.
    """
    columns = schemas.columns_of("alert", "diaObject")
    rows = np.zeros(len(objects), schemas.table_dtype("alert", "diaObject"))
    fixed = {f"{letter}_{name}": (letter, name) for letter in RUBIN_BANDS for name in bands.rows.dtype.names or ()}
    owner = np.repeat(np.arange(len(objects)), bands.counts)
    places = {letter: np.flatnonzero(bands.rows["band"] == letter) for letter in RUBIN_BANDS}
    for column in columns:
        name = column.name
        if name in (objects.dtype.names or ()):
            rows[name] = objects[name]
        elif column.branches is not None and rows[name].dtype.kind == "f":
            rows[name] = np.nan
        elif name not in fixed:
            raise SchemaError(f"the objects have no column {name}, which every packet's diaObject says")
        if name in fixed:
            letter, source = fixed[name]
            rows[name][owner[places[letter]]] = bands.rows[source][places[letter]]
    return rows
