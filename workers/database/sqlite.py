"""The DIA database in one SQLite file: the embedded default."""

from __future__ import annotations

import json
import sqlite3
import time
import weakref
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.errors import DataError, SkydeltaError, UnreachableError
from workers.database.catalogue import SqlCatalogue
from workers.database.connection import Values
from workers.database.layout import UPGRADE, check_layout, expected_layout, statements, upgraded_layout
from workers.database.line import SqlLine
from workers.database.positions import SqlPositions
from workers.database.reader import SqlReader

__all__ = ["SqliteDatabase"]

_WORDS = {"blob": "BLOB", "real": "REAL", "serial": "INTEGER PRIMARY KEY", "clustered": " WITHOUT ROWID"}
_WAIT = 60.0
"""Seconds that a writer waits for another one."""
_META = "SELECT name, value FROM meta"


class SqliteDatabase(SqlPositions, SqlLine, SqlCatalogue, SqlReader):
    """`Database` on one SQLite file (WAL, synchronous=FULL); see the port for the promises.

    A transaction excludes every other one, in this process and in others. Raises UnreachableError where the file can't
    be opened, ConfigurationError where it has another layout.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(_Connection(path))


class _Connection:
    """A durable SQLite connection whose errors are errors of the tree."""

    exclusive = True

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.raw = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            weakref.finalize(self, self.raw.close).atexit = False
            _write_ahead(self.raw)
            if not _is_laid_out(self.raw):
                _lay_out(self.raw)
            self.raw.executemany(UPGRADE, upgraded_layout(self.raw.execute(_META).fetchall()))
            kept = self.raw.execute(_META).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise UnreachableError(f"the DIA database {self.path} can't be opened: {error}") from error
        check_layout(self.path, kept)

    def begin(self, tiles: Collection[int]) -> None:
        """Begin a transaction, which holds every tile: there is one writer."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if there is one; never raises."""
        with suppress(sqlite3.Error):  # a full disk, for one, has rolled back already
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")

    def lock(self, *names: str | int) -> None:
        """Do nothing: whoever is in a transaction holds everything."""

    def query(self, text: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        try:
            return self.raw.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def execute(self, text: str, values: Values = ()) -> None:
        """Run one statement that gives no rows."""
        self.query(text, values)

    def executemany(self, text: str, rows: Sequence[Values]) -> None:
        """Run one statement, that gives no rows, for many rows of values."""
        try:
            self.raw.executemany(text, rows)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> SkydeltaError:
        if isinstance(error, sqlite3.IntegrityError):
            return DataError(f"the DIA database {self.path} can't keep this: {error}; nothing of it was written")
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return UnreachableError(
                f"the disk of the DIA database {self.path} is full ({error}): nothing of this transaction was written; "
                "make room, and it is tried again"
            )
        return UnreachableError(f"the DIA database {self.path} does not answer: {error}")

    def among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        """Return the condition that `column` is one of many numbers, and the value of its one `?`."""
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps([int(number) for number in numbers])  # noqa: S608

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self.raw.close()


def _write_ahead(raw: sqlite3.Connection) -> None:
    """Turn the log on, once in the life of the file; SQLite does not wait for others here, so this does."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    raw.execute("PRAGMA synchronous=FULL")


def _is_laid_out(raw: sqlite3.Connection) -> bool:
    return bool(raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchall())


def _lay_out(raw: sqlite3.Connection) -> None:
    """Make the tables, unless another process did in the meantime."""
    raw.execute("BEGIN IMMEDIATE")
    try:
        if not _is_laid_out(raw):
            for text in statements(_WORDS):
                raw.execute(text)
            raw.executemany("INSERT INTO meta(name, value) VALUES(?,?)", expected_layout())
        raw.execute("COMMIT")
    finally:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
