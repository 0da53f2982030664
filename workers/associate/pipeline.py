"""Associate the sources of one exposure with the objects seen before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas
from schemas import RowGroups
from workers.alert.rows import AlertRows
from workers.associate.light_curves import LightCurves, earlier, light_curves
from workers.associate.limits import non_detections
from workers.associate.match import match
from workers.associate.objects import band_summaries, summarise

__all__ = ["Association", "associate", "worthy"]

Rows = NDArray[Any]
_Int = NDArray[np.int64]
_Mask = NDArray[np.bool_]

_CENTRE_FLAGS = ("pixelFlags_saturatedCenter", "pixelFlags_nodataCenter", "pixelFlags_offimage", "centroid_flag")
"""A source with one of these may belong to an object but never begins one, and makes no alert."""


@dataclass(frozen=True)
class Association:
    """What one exposure adds: rows to store and sources to alert on."""

    sources: Rows
    """All sources: `diaObjectId` filled where they belong to an object (0 elsewhere), timeProcessedMjdTai NaN."""
    objects: Rows
    """New and updated objects, OBJECT_DTYPE, from everything that is known of them."""
    alerts: AlertRows
    """The sources to alert on, with what was known at this exposure's visit."""

    def with_alert_sources(self, rows: Rows) -> Association:
        """Return this with other columns in the sources of the alerts, in their order; stored as they are sent."""
        sources = self.sources.copy()
        sources[self.alerts.index] = rows
        return replace(self, sources=sources, alerts=replace(self.alerts, sources=rows))


def worthy(sources: Rows, min_reliability: float) -> _Mask:
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
    before: tuple[float, int],
    radius: float,
    min_reliability: float,
    since: float = -np.inf,
) -> Association:
    """Match `sources` (diaSource rows of one exposure) to `objects` (OBJECT_DTYPE) within `radius` arcsec.

    `history` are all stored diaSource rows of the objects, also of later visits; `exposures` (EXPOSURE_DTYPE) those
    round here, in order of time. The objects to store are summaries of everything. Alerts show what lies before
    `before`, (midpointMjdTai, visit) of this exposure, and of that the sources and limits from MJD `since` on: an
    exposure that comes late gives the same objects, and alerts as of its visit.

    A new object takes the diaSourceId of its first source for its id. Alert-worthy sources are matched first and then
    the rest to what is left, so that a spurious one never takes an object away.
    """
    objects = objects[np.argsort(objects["diaObjectId"], kind="stable")]
    good = worthy(sources, min_reliability)
    link = _match_in_turn(sources, objects, good, radius)
    linked = sources.copy()
    linked["timeProcessedMjdTai"] = np.nan  # rows are a function of the frames, not of when they were worked on
    linked["diaObjectId"] = np.where(link >= 0, objects["diaObjectId"][link] if len(objects) else 0, 0)
    fresh = good & (link < 0)
    linked["diaObjectId"][fresh] = linked["diaSourceId"][fresh]
    index = np.flatnonzero(linked["diaObjectId"] != 0)
    curves = light_curves(linked[index], history)
    stored = summarise(linked["diaObjectId"][index], curves.groups())
    exposures = exposures[earlier(exposures, before) & np.isfinite(exposures["psfLimit"])]
    seen = curves.where(earlier(curves.rows, before) | (curves.place < 0))
    objects = stored if len(seen.rows) == len(curves.rows) else summarise(stored["diaObjectId"], seen.groups())
    chosen = good[index]
    alerts = _alerts(linked, index[chosen], fresh, objects[chosen], seen.of(chosen), history, exposures, since)
    return Association(linked, stored, alerts)


def _alerts(
    sources: Rows,
    index: _Int,
    fresh: _Mask,
    objects: Rows,
    curves: LightCurves,
    history: Rows,
    exposures: Rows,
    since: float,
) -> AlertRows:
    """Return what the alerts of ``sources[index]`` say, with `objects` and their light `curves` as of the visit."""
    recent = curves.where((curves.place >= 0) & (curves.rows["midpointMjdTai"] >= since))
    points = recent.groups()
    limits = np.zeros(len(exposures), schemas.table_dtype("alert", "diaNondetectionLimit"))
    for name in limits.dtype.names or ():
        limits[name] = exposures[name]
    return AlertRows(
        index=index,
        sources=sources.take(index),
        objects=objects,
        bands=band_summaries(curves.groups()),
        previous=RowGroups(history.take(recent.place), points.counts),
        exposures=limits,
        limits=non_detections(objects["ra"], objects["dec"], exposures, points),
        new=fresh[index],
    )


def _match_in_turn(sources: Rows, objects: Rows, good: _Mask, radius: float) -> _Int:
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
