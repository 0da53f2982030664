"""The DIA database in one SQLite file: the embedded default."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, UnreachableError
from workers.database import OBJECT_DTYPE, Announcement, Position, Rows, StoredOutput
from workers.database.layout import (
    LAYOUT_VERSION,
    TABLES,
    dtype_fingerprint,
    exposure_rows,
    object_rows,
    pixels,
    pixels_near,
    source_rows,
    source_values,
)

__all__ = ["SqliteDatabase"]

_OBJECT_COLUMNS = ", ".join(OBJECT_DTYPE.names or ())
_ANNOUNCEMENT = "SELECT visit, detector, tile, mjd, sha256, night, outcome, alerts FROM announcements"
_KEEP_OUTPUTS = 1000
"""Offsets for which outputs stay remembered: far more than one bus transaction holds."""


class _Connection:
    """A durable SQLite connection whose errors are errors of the tree."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.raw = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            weakref.finalize(self, self.raw.close).atexit = False
            self.raw.execute("PRAGMA journal_mode=WAL")
            self.raw.execute("PRAGMA synchronous=FULL")
            self.raw.executescript(TABLES)
        except (sqlite3.Error, OSError) as error:
            raise UnreachableError(f"the DIA database {self.path} can't be opened: {error}") from error

    def execute(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        try:
            return self.raw.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise UnreachableError(f"the DIA database {self.path} does not answer: {error}") from error

    def before(self, mjd: float) -> tuple[Rows, Rows, Rows]:
        """Return sources, exposures and objects as they were before MJD `mjd`: of each object its last version."""
        sources = self.execute("SELECT row FROM dia_sources WHERE mjd < ?", (mjd,))
        columns = "visit, detector, mjd, band, psfLimit, corners"
        exposures = self.execute(f"SELECT {columns} FROM exposures WHERE mjd < ?", (mjd,))  # noqa: S608
        objects = self.execute(
            "SELECT row, max(validityStartMjdTai) FROM dia_object_versions WHERE validityStartMjdTai < ? "
            "GROUP BY diaObjectId",
            (mjd,),
        )
        kept = np.frombuffer(b"".join(row for row, _ in objects), OBJECT_DTYPE).copy()
        return source_rows([row for (row,) in sources]), exposure_rows(exposures), kept

    def executemany(self, text: str, values: Sequence[Sequence[Any]]) -> None:
        """Run one statement for many rows."""
        try:
            self.raw.executemany(text, values)
        except sqlite3.Error as error:
            raise UnreachableError(f"the DIA database {self.path} does not answer: {error}") from error


class _Line:
    """Announcements: the order in which the exposures of a tile are associated."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def announce(self, announcement: Announcement) -> str:
        known = self.announced(announcement.visit, announcement.detector)
        if known is not None:
            return "same" if known.sha256 == announcement.sha256 else "conflict"
        values = (announcement.visit, announcement.detector, announcement.tile, announcement.midpointMjdTai)
        self.connection.execute(
            "INSERT INTO announcements(visit, detector, tile, mjd, sha256, night, outcome, alerts) "
            "VALUES(?,?,?,?,?,?,'open',0)",
            (*values, announcement.sha256, announcement.night),
        )
        return "new"

    def deliver(self, visit: int, detector: int, message: bytes) -> bool:
        found = self.connection.execute(
            "UPDATE announcements SET message = ? WHERE visit = ? AND detector = ? AND outcome = 'open' "
            "AND message IS NULL RETURNING rank",
            (message, visit, detector),
        )
        return bool(found)

    def reopen(self, visit: int, detector: int) -> None:
        self.connection.execute(
            "UPDATE announcements SET outcome = 'open' WHERE visit = ? AND detector = ? AND outcome = 'failed'",
            (visit, detector),
        )

    def next_ready(self, tile: int) -> tuple[Announcement, bytes] | None:
        rows = self.connection.execute(
            "SELECT visit, detector, tile, mjd, sha256, night, outcome, alerts, message FROM announcements "
            "WHERE tile = ? AND outcome = 'open' ORDER BY rank LIMIT 1",
            (tile,),
        )
        if not rows or rows[0][-1] is None:
            return None
        return Announcement(*rows[0][:-1]), rows[0][-1]

    def close_visit(self, visit: int, detector: int, outcome: str, alerts: int) -> None:
        self.connection.execute(
            "UPDATE announcements SET outcome = ?, alerts = ?, message = NULL WHERE visit = ? AND detector = ?",
            (outcome, alerts, visit, detector),
        )

    def announcements(self, night: int | None = None) -> list[Announcement]:
        where, values = ("", ()) if night is None else (" WHERE night = ?", (night,))
        return [Announcement(*row) for row in self.connection.execute(f"{_ANNOUNCEMENT}{where} ORDER BY rank", values)]

    def announced(self, visit: int, detector: int) -> Announcement | None:
        rows = self.connection.execute(f"{_ANNOUNCEMENT} WHERE visit = ? AND detector = ?", (visit, detector))
        return Announcement(*rows[0]) if rows else None


class _Catalogue:
    """Objects, sources and exposures."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def objects_near(self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> Rows:
        found: list[tuple[Any, ...]] = []
        near = pixels_near(np.asarray(ra, float), np.asarray(dec, float), radius) if len(ra) else []
        for start in range(0, len(near), 500):
            part = near[start : start + 500]
            marks = ",".join("?" * len(part))
            found += self.connection.execute(
                f"SELECT {_OBJECT_COLUMNS} FROM dia_objects WHERE pixel IN ({marks})",  # noqa: S608
                part,
            )
        return object_rows(sorted(found))

    def history(self, object_ids: Sequence[int], since: float, before: tuple[float, int]) -> Rows:
        wanted = sorted({int(number) for number in object_ids})
        found: list[tuple[bytes]] = []
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            found += self.connection.execute(
                f"SELECT row FROM dia_sources WHERE diaObjectId IN ({marks}) AND mjd >= ? "  # noqa: S608
                "AND (mjd, visit) < (?, ?) ORDER BY diaObjectId, mjd, diaSourceId",
                (*part, since, *before),
            )
        return source_rows([row for (row,) in found])

    def exposures_near(self, ra: float, dec: float, radius: float, since: float, before: tuple[float, int]) -> Rows:
        rows = self.connection.execute(
            "SELECT visit, detector, mjd, band, psfLimit, corners, ra, dec FROM exposures "
            "WHERE dec BETWEEN ? AND ? AND mjd >= ? AND (mjd, visit) < (?, ?) ORDER BY mjd, visit, detector",
            (dec - radius, dec + radius, since, *before),
        )
        width = radius / max(np.cos(np.radians(dec)), 1e-6)
        return exposure_rows(row[:6] for row in rows if abs((row[6] - ra + 180.0) % 360.0 - 180.0) <= width)

    def store(self, objects: Rows, sources: Rows, exposures: Rows) -> None:
        marks = ",".join("?" * (len(OBJECT_DTYPE.names or ()) + 1))
        listed = zip(pixels(objects["ra"], objects["dec"]).tolist(), objects.tolist(), strict=True)
        self.connection.executemany(
            f"INSERT OR REPLACE INTO dia_objects(pixel, {_OBJECT_COLUMNS}) VALUES({marks})",
            [(pixel, *row) for pixel, row in listed],
        )
        self.connection.executemany(
            "INSERT OR REPLACE INTO dia_object_versions VALUES(?,?,?)",
            [(int(row["diaObjectId"]), float(row["validityStartMjdTai"]), row.tobytes()) for row in objects],
        )
        self.connection.executemany(
            "DELETE FROM dia_sources WHERE diaSourceId = ?", [(int(n),) for n in sources["diaSourceId"]]
        )
        self.connection.executemany("INSERT INTO dia_sources VALUES(?,?,?,?,?,?,?,?,?,?)", source_values(sources))
        for row in exposures:
            corners = np.stack([row["cornersRa"], row["cornersDec"]]).astype("<f8")
            turn = (corners[0] - corners[0, 0] + 180.0) % 360.0 - 180.0
            centre = ((corners[0, 0] + turn.mean()) % 360.0, corners[1].mean())
            values = (int(row["visit"]), int(row["detector"]), float(row["midpointMjdTai"]), str(row["band"]))
            self.connection.execute(
                "INSERT OR REPLACE INTO exposures VALUES(?,?,?,?,?,?,?,?)",
                (*values, float(row["psfLimit"]), *centre, corners.tobytes()),
            )

    def object(self, number: int) -> Rows:
        text = f"SELECT {_OBJECT_COLUMNS} FROM dia_objects WHERE diaObjectId = ?"  # noqa: S608
        return object_rows(self.connection.execute(text, (number,)))

    def sources_of(self, number: int) -> Rows:
        text = "SELECT row FROM dia_sources WHERE diaObjectId = ? ORDER BY mjd, diaSourceId"
        return source_rows([row for (row,) in self.connection.execute(text, (number,))])

    def sources_in(self, visit: int, detector: int) -> Rows:
        text = "SELECT row FROM dia_sources WHERE visit = ? AND detector = ? ORDER BY diaSourceId"
        return source_rows([row for (row,) in self.connection.execute(text, (visit, detector))])

    def source(self, number: int) -> Rows:
        rows = self.connection.execute("SELECT row FROM dia_sources WHERE diaSourceId = ?", (number,))
        return source_rows([row for (row,) in rows])

    def counts(self) -> dict[str, int]:
        tables = ("dia_objects", "dia_sources", "exposures", "announcements")
        return {name: int(self.connection.execute(f"SELECT count(*) FROM {name}")[0][0]) for name in tables}  # noqa: S608


class SqliteDatabase(_Line, _Catalogue):
    """`DiaDatabase` and `DiaReader` on one SQLite file (WAL, synchronous=FULL); see the port for the promises."""

    def __init__(self, path: str | Path) -> None:
        connection = _Connection(path)
        self.connection = connection
        for name, value in (("layout", LAYOUT_VERSION), ("diaSource", dtype_fingerprint())):
            connection.execute("INSERT OR IGNORE INTO meta VALUES(?, ?)", (name, value))
            stored = connection.execute("SELECT value FROM meta WHERE name = ?", (name,))[0][0]
            if stored != value:
                raise ConfigurationError(
                    f"the DIA database {path} has another {name} layout ({stored[:12]}, here {value[:12]}); "
                    "use the skydelta version that wrote it, or start a new database file in survey.toml [database]"
                )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside is kept together, or not at all when the block raises."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        finally:
            if self.connection.raw.in_transaction:
                self.connection.execute("ROLLBACK")

    def applied(self, position: Position) -> list[StoredOutput] | None:
        """Return the remembered outputs of a message applied before, or None for a new one."""
        key = (position.group, position.topic, position.partition)
        rows = self.connection.execute("SELECT next FROM positions WHERE grp = ? AND topic = ? AND part = ?", key)
        if not rows or rows[0][0] <= position.offset:
            return None
        rows = self.connection.execute(
            "SELECT out_topic, key, value, timestamp FROM outputs "
            "WHERE grp = ? AND topic = ? AND part = ? AND off = ? ORDER BY rank",
            (*key, position.offset),
        )
        return [StoredOutput(*row) for row in rows]

    def remember(self, position: Position, outputs: Sequence[StoredOutput]) -> None:
        """Mark a message as applied, with its outputs, and drop outputs that the bus has had long since."""
        key = (position.group, position.topic, position.partition)
        self.connection.execute("INSERT OR REPLACE INTO positions VALUES(?,?,?,?)", (*key, position.offset + 1))
        self.connection.executemany(
            "INSERT OR REPLACE INTO outputs VALUES(?,?,?,?,?,?,?,?,?)",
            [(*key, position.offset, i, o.topic, o.key, o.value, o.timestamp) for i, o in enumerate(outputs)],
        )
        self.connection.execute(
            "DELETE FROM outputs WHERE grp = ? AND topic = ? AND part = ? AND off < ?",
            (*key, position.offset - _KEEP_OUTPUTS),
        )

    def copy_before(self, mjd: float, path: Path) -> None:
        """Write a database with the sources, exposures and objects as they were before MJD `mjd` (for replay)."""
        sources, exposures, objects = self.connection.before(mjd)
        copy = SqliteDatabase(path)
        with copy.transaction():
            copy.store(objects, sources, exposures)
        copy.close()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self.connection.raw.close()
