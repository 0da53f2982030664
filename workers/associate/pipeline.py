"""Associate the sources of one exposure with the objects seen before, as of that exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.associate.limits import non_detections
from workers.associate.match import match
from workers.associate.objects import band_summaries, summarise
from workers.database import OBJECT_DTYPE

__all__ = ["Associated", "Association", "associate", "worthy"]

Rows = NDArray[Any]

_CENTRE_FLAGS = ("pixelFlags_saturatedCenter", "pixelFlags_nodataCenter", "pixelFlags_offimage", "centroid_flag")
"""A source with one of these may belong to an object but never begins one, and makes no alert."""


@dataclass(frozen=True)
class Associated:
    """One alert-worthy source with what is known of its object as of this exposure."""

    index: int
    """Of the source in `Association.sources`."""
    object: Rows
    """Its object, one OBJECT_DTYPE row that includes this source."""
    bands: Sequence[dict[str, Any]]
    previous: Rows
    """Earlier diaSource rows of the object within the history window, in time order."""
    limits: Sequence[dict[str, Any]]
    new: bool


@dataclass(frozen=True)
class Association:
    """What one exposure adds: rows to store and sources to alert on."""

    sources: Rows
    """All sources, `diaObjectId` filled where they belong to an object (0 elsewhere)."""
    objects: Rows
    """New and updated objects, OBJECT_DTYPE."""
    alerts: Sequence[Associated]


def worthy(sources: Rows, min_reliability: float) -> NDArray[np.bool_]:
    """Return which sources may begin an object and make an alert.

    They are as reliable as asked for and carry no flag that their centre can't be trusted. The others are stored, with
    their object if they have one, and counted; they are how the threshold can be changed later.
    """
    good = sources["reliability"] >= min_reliability
    for name in _CENTRE_FLAGS:
        good &= ~sources[name]
    return np.asarray(good)


def associate(
    sources: Rows,
    objects: Rows,
    history: Rows,
    exposures: Rows,
    *,
    radius: float,
    min_reliability: float,
    since: float = -np.inf,
) -> Association:
    """Match `sources` (diaSource rows of one exposure) to `objects` (OBJECT_DTYPE) within `radius` arcsec.

    `history` are all of the objects' earlier diaSource rows, `exposures` (EXPOSURE_DTYPE) the earlier exposures round
    here; alerts carry those from MJD `since` on. A new object takes the diaSourceId of its first source for its id.
    Alert-worthy sources are matched first and then the rest to what is left, so that a spurious one never takes an
    object away.
    """
    objects = objects[np.argsort(objects["diaObjectId"], kind="stable")]
    good = worthy(sources, min_reliability)
    link = _match_in_turn(sources, objects, good, radius)
    linked = sources.copy()
    linked["diaObjectId"] = np.where(link >= 0, objects["diaObjectId"][link] if len(objects) else 0, 0)
    fresh = good & (link < 0)
    linked["diaObjectId"][fresh] = linked["diaSourceId"][fresh]
    by_object = _split(history)
    alerts, rows = [], []
    for index in np.flatnonzero(linked["diaObjectId"] != 0):
        number = int(linked["diaObjectId"][index])
        previous = by_object.get(number, history[:0])
        row = summarise(number, np.concatenate([previous, linked[index : index + 1]]))
        rows.append(row)
        if good[index]:
            bands = band_summaries(np.concatenate([previous, linked[index : index + 1]]))
            recent = previous[previous["midpointMjdTai"] >= since]
            limits = non_detections(float(row["ra"][0]), float(row["dec"][0]), exposures, recent)
            alerts.append(Associated(int(index), row, bands, recent, limits, new=bool(fresh[index])))
    stored = np.concatenate(rows) if rows else np.zeros(0, OBJECT_DTYPE)
    return Association(linked, stored, alerts)


def _match_in_turn(sources: Rows, objects: Rows, good: NDArray[np.bool_], radius: float) -> NDArray[np.int64]:
    """Match the alert-worthy sources to all objects, then the others to the objects left over."""
    link = np.full(len(sources), -1, np.int64)
    order = np.argsort(sources["diaSourceId"], kind="stable")
    free = np.arange(len(objects))
    for part in (order[good[order]], order[~good[order]]):
        some, rest = sources[part], objects[free]
        found = match(_position(some), _errors(some), _position(rest), _errors(rest), radius)
        link[part] = np.where(found >= 0, free[found] if len(free) else -1, -1)
        free = np.setdiff1d(free, link[part])
    return link


def _position(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return rows["ra"].astype(float), rows["dec"].astype(float)


def _errors(rows: Rows) -> NDArray[np.float64]:
    return np.stack([rows["raErr"], rows["decErr"]], axis=-1).astype(float) * 3600.0


def _split(history: Rows) -> dict[int, Rows]:
    """Rows by object, each in time order."""
    ordered = history[np.lexsort((history["diaSourceId"], history["midpointMjdTai"], history["diaObjectId"]))]
    numbers, starts = np.unique(ordered["diaObjectId"], return_index=True)
    return dict(zip(numbers.tolist(), np.split(ordered, starts[1:]), strict=True)) if len(numbers) else {}
