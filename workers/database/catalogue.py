"""Objects, sources and exposures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE, Database, Rows
from workers.database.connection import Connection
from workers.database.rows import (
    exposure_rows,
    exposure_values,
    object_rows,
    object_values,
    pixels_near,
    source_dtype,
    source_rows,
    source_values,
    version_values,
)

__all__ = ["SqlCatalogue"]

_BATCH = 10_000
"""Rows read at a time for a copy: some megabytes."""


def _upsert(table: str, columns: str, keys: int, conflict: str = "") -> str:
    """Return the statement that writes rows of a table, over those of the same key (the first `keys` columns)."""
    names = columns.split()
    unique = conflict or ", ".join(names[:keys])
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in unique.split(", "))
    marks = ",".join("?" * len(names))
    return f"INSERT INTO {table}({', '.join(names)}) VALUES({marks}) ON CONFLICT({unique}) DO UPDATE SET {changed}"


_OBJECT = _upsert(
    "dia_objects", "diaObjectId pixel ra dec nDiaSources firstDiaSourceMjdTai lastDiaSourceMjdTai data", 1
)
_VERSION = _upsert("dia_object_versions", "diaObjectId validityStartMjdTai data", 2)
_SOURCE = _upsert(
    "dia_sources",
    "diaObjectId mjd diaSourceId visit detector band psfFlux psfFluxErr reliability data",
    3,
    conflict="diaSourceId",  # a source that was given to another object is not in both
)
_EXPOSURE = _upsert("exposures", "visit detector mjd band psfLimit ra dec data", 2)


class SqlCatalogue:
    """`workers.database.Catalogue` in SQL."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def objects_near(self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> Rows:
        """Return objects, OBJECT_DTYPE by id, within at least `radius` arcsec of any of the positions (degrees)."""
        if len(ra) == 0:
            return np.zeros(0, OBJECT_DTYPE)
        near = pixels_near(np.asarray(ra, float), np.asarray(dec, float), radius)
        among, value = self.connection.among("pixel", near)
        text = f"SELECT data FROM dia_objects WHERE {among} ORDER BY diaObjectId"  # noqa: S608
        return object_rows(self.connection.query(text, (value,)))

    def history(self, object_ids: Sequence[int], since: float, before: tuple[float, int]) -> Rows:
        """Return diaSource rows of the objects from MJD `since` on, of visits before (midpointMjdTai, visit) only."""
        wanted = sorted({int(number) for number in object_ids})
        if not wanted:
            return np.zeros(0, source_dtype())
        among, value = self.connection.among("diaObjectId", wanted)
        return source_rows(
            self.connection.query(
                f"SELECT data FROM dia_sources WHERE {among} AND mjd >= ? "  # noqa: S608
                "AND (mjd, visit) < (?, ?) ORDER BY diaObjectId, mjd, diaSourceId",
                (value, float(since), float(before[0]), int(before[1])),
            )
        )

    def exposures_near(self, ra: float, dec: float, radius: float, since: float, before: tuple[float, int]) -> Rows:
        """Return exposures, EXPOSURE_DTYPE in time order, with a corner or centre within `radius` degrees."""
        band, order = (float(dec - radius), float(dec + radius)), (float(before[0]), int(before[1]))
        rows = self.connection.query(
            "SELECT ra, data FROM exposures "
            "WHERE dec BETWEEN ? AND ? AND mjd >= ? AND (mjd, visit) < (?, ?) ORDER BY mjd, visit, detector",
            (*band, float(since), *order),
        )
        width = radius / max(np.cos(np.radians(dec)), 1e-6)
        return exposure_rows([row for row in rows if abs((row[0] - ra + 180.0) % 360.0 - 180.0) <= width])

    def store(self, objects: Rows, sources: Rows, exposures: Rows) -> None:
        """Insert or replace rows by their ids; storing the same twice changes nothing."""
        for text, values in (
            (_OBJECT, object_values(objects)),
            (_VERSION, version_values(objects)),
            (_SOURCE, source_values(sources)),
            (_EXPOSURE, exposure_values(exposures)),
        ):
            self.connection.executemany(text, values)

    def copy_before(self, mjd: float, target: Database) -> None:
        """Write sources, exposures and objects as they were before MJD `mjd` into another database, of any kind."""
        objects, sources, exposures = (np.zeros(0, d) for d in (OBJECT_DTYPE, source_dtype(), EXPOSURE_DTYPE))
        with target.transaction():
            for rows in self._pages(self._objects_after, mjd, (-1,)):
                target.store(object_rows(rows), sources, exposures)
            for rows in self._pages(self._sources_after, mjd, (-1,)):
                target.store(objects, source_rows(rows), exposures)
            for rows in self._pages(self._exposures_after, mjd, (-1, -1)):
                target.store(objects, sources, exposure_rows(rows))

    def _pages(self, read: _Page, mjd: float, after: tuple[int, ...]) -> Iterator[list[tuple[int | bytes, ...]]]:
        """Walk through a table by its key."""
        while rows := read(float(mjd), after):
            yield rows
            after = tuple(int(number) for number in rows[-1][:-1])

    def _objects_after(self, mjd: float, after: tuple[int, ...]) -> list[tuple[int | bytes, ...]]:
        """Of each object its last version before `mjd`."""
        return self.connection.query(
            "SELECT diaObjectId, data FROM dia_object_versions v WHERE diaObjectId > ? AND validityStartMjdTai = ("
            "SELECT max(validityStartMjdTai) FROM dia_object_versions w "
            "WHERE w.diaObjectId = v.diaObjectId AND w.validityStartMjdTai < ?) ORDER BY diaObjectId LIMIT ?",
            (*after, mjd, _BATCH),
        )

    def _sources_after(self, mjd: float, after: tuple[int, ...]) -> list[tuple[int | bytes, ...]]:
        text = (
            "SELECT diaSourceId, data FROM dia_sources WHERE diaSourceId > ? AND mjd < ? ORDER BY diaSourceId LIMIT ?"
        )
        return self.connection.query(text, (*after, mjd, _BATCH))

    def _exposures_after(self, mjd: float, after: tuple[int, ...]) -> list[tuple[int | bytes, ...]]:
        return self.connection.query(
            "SELECT visit, detector, data FROM exposures WHERE (visit, detector) > (?, ?) AND mjd < ? "
            "ORDER BY visit, detector LIMIT ?",
            (*after, mjd, _BATCH),
        )


_Page = Callable[[float, tuple[int, ...]], list[tuple[int | bytes, ...]]]
