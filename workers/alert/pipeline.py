"""Put one alert together: the packet of schemas/alert, from records that the stages before have made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas

__all__ = ["AlertContext", "AlertParts", "grouped_records", "object_record", "pack_alert"]

Record = dict[str, Any]

RUBIN_BANDS = "ugrizy"
"""Bands that the packet's fixed fields have columns for; every band is in `diaObject.bands`."""

_BAND_FLUXES = (
    "psfFluxMean",
    "psfFluxMeanErr",
    "psfFluxSigma",
    "psfFluxMin",
    "psfFluxMax",
    "psfFluxMaxSlope",
    "psfFluxErrMean",
    "fpFluxMean",
    "fpFluxMeanErr",
    "scienceFluxMean",
    "scienceFluxMeanErr",
)
_OBJECT_FIELDS = (
    "diaObjectId",
    "validityStartMjdTai",
    "ra",
    "raErr",
    "dec",
    "decErr",
    "ra_dec_Cov",
    "firstDiaSourceMjdTai",
    "lastDiaSourceMjdTai",
    "nDiaSources",
)


@dataclass(frozen=True)
class AlertContext:
    """What all alerts of one visit and detector have in common."""

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
    stageTimes: Sequence[Mapping[str, Any]] = ()
    late: bool = False


@dataclass(frozen=True)
class AlertParts:
    """What is known of one source besides the source itself; every part is an Avro record or a list of them."""

    previous: Sequence[Record] = ()
    """Earlier diaSources of the object, in order of time."""
    forced: Sequence[Record] = ()
    """diaForcedSources, in order of time."""
    limits: Sequence[Record] = ()
    """diaNondetectionLimits, in order of time."""
    diaObject: Record | None = None
    ssSource: Record | None = None
    orbit: Record | None = None
    """An mpc_orbits record."""
    cutouts: tuple[bytes, bytes, bytes] | None = None
    """FITS stamps: difference, science, template."""


def pack_alert(source: Record, parts: AlertParts, context: AlertContext) -> Record:
    """Return the alert of one diaSource record, as ``stream.codec.encode("alert", ...)`` takes it.

    Lists without members become null, as in Rubin's packets. Nothing is copied but the outermost level.
    """
    difference, science, template = parts.cutouts or (None, None, None)
    return {
        "diaSourceId": source["diaSourceId"],
        "observation_reason": context.reason or None,
        "target_name": context.target or None,
        "diaSource": source,
        "prvDiaSources": list(parts.previous) or None,
        "prvDiaForcedSources": list(parts.forced) or None,
        "diaObject": parts.diaObject,
        "ssSource": parts.ssSource,
        "mpc_orbits": parts.orbit,
        "cutoutDifference": difference,
        "cutoutScience": science,
        "cutoutTemplate": template,
        "instrument": context.instrument,
        "night": context.night,
        "prvDiaNondetectionLimits": list(parts.limits) or None,
        "template": None if context.template is None else dict(context.template),
        "calibrations": dict(context.calibrations),
        "codeVersion": context.codeVersion,
        "modelVersion": context.modelVersion,
        "stageTimes": [dict(item) for item in context.stageTimes],
        "late": context.late,
    }


def object_record(row: NDArray[np.void], bands: Sequence[Mapping[str, Any]]) -> Record:
    """Return the diaObject record of one object.

    `row`, of shape (1,), has columns named as fields of diaObject; nullable ones that it lacks become null.
    `bands` are diaObjectBand records; what they lack becomes null. The fixed u_ to y_ fields repeat those bands.
    """
    names = row.dtype.names or ()
    summaries = sorted((_band_record(band) for band in bands), key=lambda band: str(band["band"]))
    by_name = {band["band"]: band for band in summaries}
    no_band = _band_record({"band": ""})
    record: Record = {name: _value(row[name][0]) if name in names else None for name in _OBJECT_FIELDS}
    for letter in RUBIN_BANDS:
        summary = by_name.get(letter, no_band)
        record.update({f"{letter}_{name}": summary[name] for name in (*_BAND_FLUXES, "psfFluxNdata")})
    return {**record, "bands": summaries}


def grouped_records(groups: Sequence[NDArray[np.void]]) -> list[list[Record]]:
    """Return the rows of each group as Avro records, converted in one go; the groups share one dtype."""
    if not groups:
        return []
    records = schemas.rows_to_records(np.concatenate(groups))
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [records[end - len(group) : end] for group, end in zip(groups, ends, strict=True)]


def _band_record(band: Mapping[str, Any]) -> Record:
    """Return a complete diaObjectBand record with null for what is missing or not a number."""
    fluxes = {name: _value(band.get(name)) for name in _BAND_FLUXES}
    return {"band": band["band"], **fluxes, "psfFluxNdata": int(band.get("psfFluxNdata", 0))}


def _value(value: Any) -> Any:
    """Return a plain Python value; NaN is null."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain
