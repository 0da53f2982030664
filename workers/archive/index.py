"""The index of the archive: one SQLite file, whose transactions say what is archived."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import UnreachableError
from workers.archive.alert import Entry

__all__ = ["CONTAINERS", "Index", "is_damage"]

CONTAINERS = "*/alerts-*.avro"
"""The archive's files below its folder."""

_LAYOUT = 1
_LOCK_WAIT = 60.0  # s for another writer's flush
_TABLES = """
CREATE TABLE container (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, night INTEGER NOT NULL, length INTEGER NOT NULL
);
CREATE TABLE alert (
    id INTEGER PRIMARY KEY, night INTEGER NOT NULL, container INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, sha256 BLOB NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    position INTEGER NOT NULL, timestamp INTEGER NOT NULL, key BLOB NOT NULL, headers TEXT NOT NULL
);
CREATE INDEX alert_by_night ON alert (night);
CREATE TABLE consumed (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""
_ENTRY = (
    "SELECT a.id, a.night, c.name, a.start, a.length, a.sha256, a.topic, a.partition, a.position, a.timestamp, a.key, "
    "a.headers FROM alert a JOIN container c ON c.id = a.container"
)
_PAGE = 500  # entries read at once


class Index:
    """The file ``index.sqlite`` of an archive; opened at the first call that needs it.

    Raises UnreachableError whenever SQLite does: the disk is full, the file is damaged, another writer takes too long.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "index.sqlite"
        self._opened: tuple[tuple[int, int], sqlite3.Connection] | None = None

    def ready(self, *, create: bool = False) -> bool:
        """Open the index; return False where there is none, unless one is to be made.

        Raises UnreachableError where it is missing beside containers: they would seem to be empty.
        """
        if self.path.exists():
            return True
        containers = next(self.folder.glob(CONTAINERS), None)
        if self.path.exists():  # another process has made both meanwhile
            return True
        if containers is not None:
            raise UnreachableError(
                f"{self.path} is missing, but its containers are there ({containers}): run `skydelta alerts reindex`"
            )
        if create:
            with self.reached("being made"):
                self.connection()
        return create

    def connection(self) -> sqlite3.Connection:
        """Return the connection of this process to the file that is there now; creates it where it is missing."""
        if self._opened is None or self._opened[0] != _identity(self.path):
            self.close()
            connection = _connect(self.path)
            weakref.finalize(self, connection.close).atexit = False
            self._opened = _identity(self.path), connection
        return self._opened[1]

    @contextmanager
    def reached(self, doing: str) -> Iterator[None]:
        """Turn failures of disk and SQLite into UnreachableError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            advice = "see that its disk has room and may be written; the same call works again then"
            if is_damage(error):
                advice = "it is damaged: stop the archive workers and run `skydelta alerts reindex`"
            raise UnreachableError(
                f"the archive's index {self.path} failed while {doing}: {error}; {advice}"
            ) from error
        except OSError as error:
            raise UnreachableError(
                f"the alert archive {self.folder} failed while {doing}: {error}; see that its disk is there, has room "
                "and may be written; the same call works again then"
            ) from error

    @contextmanager
    def transaction(self, doing: str) -> Iterator[None]:
        """Hold the archive against other writers; what happens within is written whole, or not at all."""
        with self.reached(doing):
            connection = self.connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def rows(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self.reached("reading or writing the index"):
            return self.connection().execute(text, values).fetchall()

    def find(self, alert_id: int) -> Entry | None:
        """Return the entry of an alert, None where there is none."""
        found = self.rows(f"{_ENTRY} WHERE a.id = ?", (alert_id,))
        return _entry(found[0]) if found else None

    def entries(self, night: int) -> Iterator[Entry]:
        """Yield the entries of a night in order of alertId, a page at a time."""
        last = -(2**63)
        while page := self.rows(f"{_ENTRY} WHERE a.night = ? AND a.id > ? ORDER BY a.id LIMIT {_PAGE}", (night, last)):
            yield from map(_entry, page)
            last = page[-1][0]

    def write(self, entries: Iterable[Entry]) -> None:
        """Add entries, or replace those of the same alertId; their containers are known."""
        with self.reached("writing the index"):
            self.connection().executemany(
                "INSERT OR REPLACE INTO alert VALUES (?, ?, (SELECT id FROM container WHERE name = ?), "
                "?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_row, entries),
            )

    def container_length(self, name: str) -> int | None:
        """Return how many bytes of a container count, None where it is unknown."""
        found = self.rows("SELECT length FROM container WHERE name = ?", (name,))
        return int(found[0][0]) if found else None

    def keep_container(self, name: str, night: int, length: int) -> None:
        """Write how many bytes of a container count."""
        self.rows(
            "INSERT INTO container (name, night, length) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET length = excluded.length",
            (name, night, length),
        )

    def close(self) -> None:
        """Close the connection; twice is allowed."""
        if self._opened is not None and self._opened[0][0] == os.getpid():
            self._opened[1].close()
        self._opened = None


def is_damage(error: BaseException | None) -> bool:
    """Tell a damaged or foreign index from a disk that is full or gone."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR", "SQLITE_MISMATCH"))


def _identity(path: Path) -> tuple[int, int]:
    """Process and file: a connection must not cross a fork, nor outlive the file it was opened on."""
    return os.getpid(), path.stat().st_ino if path.exists() else 0


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT, isolation_level=None)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Make every commit durable, and the tables where there are none."""
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here for another who changes the mode
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")
    if _layout(connection) == 0:
        connection.execute("BEGIN IMMEDIATE")
        if _layout(connection) == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
        connection.execute("COMMIT")
    if _layout(connection) != _LAYOUT:
        foreign = sqlite3.DatabaseError(f"its layout is {_layout(connection)}, and this skydelta's is {_LAYOUT}")
        foreign.sqlite_errorname = "SQLITE_MISMATCH"
        raise foreign


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _row(entry: Entry) -> tuple[Any, ...]:
    where = (entry.alertId, entry.night, entry.container, entry.start, entry.length, entry.sha256)
    return (*where, entry.topic, entry.partition, entry.offset, entry.timestamp, entry.key, _pack(entry.headers))


def _entry(row: Sequence[Any]) -> Entry:
    number, night, name, start, length, digest, topic, partition, offset, timestamp, key, headers = row
    unpacked = _unpack(headers)
    return Entry(number, night, name, start, length, digest, topic, partition, offset, timestamp, key, unpacked)


def _pack(headers: Mapping[str, bytes]) -> str:
    return json.dumps({name: value.decode("latin-1") for name, value in headers.items()}) if headers else ""


def _unpack(text: str) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in json.loads(text).items()} if text else {}
