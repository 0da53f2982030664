"""The embedded bus's file: an SQLite log of partitions, appended and read in transactions.

A *slot* is one partition of one topic. A message's row id is `slot << 40 | offset`, so that each partition lies
in one contiguous, ordered range of a single B-tree, and no index is needed beside it.
"""

from __future__ import annotations

import json
import sqlite3
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError, DataError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.partition import partition_of

__all__ = ["Log", "Slot", "ranges"]

_OFFSET_BITS = 40
_FORMAT = 1
_CHECKPOINT_PAGES = 4_096  # 16 MiB of write-ahead log before its pages go into the file, in larger runs than by default
_WAL_BYTES = 64 << 20  # a write-ahead log that grew beyond, under readers, is cut back when it starts anew
_READ_BYTES = 64 << 20  # what one read holds in memory at most, beyond its first message

_LARGEST = 10 << 20  # bytes of one value, the same as on Kafka: what runs here runs there

_SCHEMA = """
CREATE TABLE slot (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL
);
CREATE TABLE member (
    id INTEGER PRIMARY KEY AUTOINCREMENT, team TEXT NOT NULL, topics TEXT NOT NULL, beat REAL NOT NULL
);
CREATE TABLE seat (
    team TEXT NOT NULL, slot INTEGER NOT NULL, position INTEGER NOT NULL,
    owner INTEGER NOT NULL DEFAULT 0, heir INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (team, slot)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """One partition of one topic; offsets from `first` (oldest kept) up to `next` (excluded) can be read."""

    id: int
    topic: str
    partition: int
    first: int
    next: int


class Log:
    """One connection to the file, which is created where it does not exist.

    `durable` connections sync the disk at every commit. Raises UnreachableError where the file can't be opened,
    ConfigurationError where it is something else.
    """

    def __init__(self, path: Path, lock_timeout: float, *, durable: bool = True) -> None:
        self.path = path
        self._slots: dict[str, list[int]] = {}
        with self.reached("opening it"):
            self._connection = _connect(path, lock_timeout, durable)
            weakref.finalize(self, self._connection.close).atexit = False
            self._prepare()

    def _prepare(self) -> None:
        if _is_empty(self._connection):
            with self.transaction():
                for statement in _SCHEMA.split(";") if _is_empty(self._connection) else ():
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {_FORMAT}")
        if (found := self.version("user_version")) != _FORMAT:
            raise ConfigurationError(
                f"{self.path} is an SQLite file of format {found}, not a bus of format {_FORMAT}; "
                "set bus.path in survey.toml to another file"
            )

    @contextmanager
    def reached(self, doing: str) -> Iterator[None]:
        """Turn SQLite's errors within into UnreachableError or, for a file that is no bus, ConfigurationError."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise UnreachableError(
                f"the bus file {self.path} failed while {doing}: {error}; see that its disk has room, that it may "
                "be written, and that no other program keeps it locked"
            ) from error
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise
            raise ConfigurationError(
                f"{self.path} is damaged or no bus file: {error}; move it away, or set bus.path to another file"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of what happens within, durably, or nothing where anything raises."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads within see the same state."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(sql, values)

    def version(self, pragma: str = "data_version") -> int:
        """Return a number of the file; `data_version` changes when another connection commits."""
        return int(self.execute(f"PRAGMA {pragma}").fetchone()[0])

    def slots(self, topics: Iterable[str] | None = None) -> list[Slot]:
        """Return the slots of `topics` (all, where None) as they are now; raises ConfigurationError if unknown."""
        wanted = None if topics is None else set(topics)
        rows = self.execute("SELECT id, topic, partition, first, next FROM slot ORDER BY topic, partition")
        slots = [Slot(*row) for row in rows.fetchall()]
        known = {slot.topic for slot in slots}
        for topic in sorted((wanted or set()) - known):
            raise ConfigurationError(
                f"topic {topic!r} is not on the bus {self.path}, which holds {', '.join(sorted(known)) or 'none'}; "
                "create it with ensure() or correct its name"
            )
        return [slot for slot in slots if wanted is None or slot.topic in wanted]

    def addressed(self, outgoing: Sequence[Outgoing]) -> dict[int, list[Outgoing]]:
        """Sort records by the slot that their key belongs to; raises ConfigurationError for an unknown topic.

        Raises DataError where one is too large.
        """
        unknown = {record.topic for record in outgoing} - self._slots.keys()
        for slot in self.slots(unknown) if unknown else ():
            self._slots.setdefault(slot.topic, []).append(slot.id)
        by_slot: dict[int, list[Outgoing]] = {}
        for record in outgoing:
            if len(record.value) > _LARGEST:
                raise DataError(
                    f"a message of {len(record.value)} bytes for {record.topic}, key {record.key!r}, is larger than "
                    f"the {_LARGEST} that a bus takes; put its pixels into the blob store (blobs.inline_max_bytes)"
                )
            slots = self._slots[record.topic]
            by_slot.setdefault(slots[partition_of(record.key, len(slots))], []).append(record)
        return by_slot

    def append(self, by_slot: Mapping[int, Sequence[Outgoing]]) -> None:
        """Add records at the ends of their slots; to be called within `transaction`."""
        for slot, records in by_slot.items():
            (end,) = self.execute(
                "UPDATE slot SET next = next + ? WHERE id = ? RETURNING next", (len(records), slot)
            ).fetchone()
            low = (slot << _OFFSET_BITS) + end - len(records)
            self._connection.executemany(
                "INSERT INTO message (id, timestamp, key, headers, value) VALUES (?, ?, ?, ?, ?)",
                ((low + i, r.timestamp, r.key, _pack(r.headers), r.value) for i, r in enumerate(records)),
            )

    def read(self, slot: Slot, start: int, limit: int) -> list[Message]:
        """Return up to `limit` messages of `slot` from offset `start`; fewer where they are large."""
        low, high = ranges(slot.id, start, slot.next)
        cursor = self.execute(
            "SELECT id, key, value, timestamp, headers FROM message WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (low, high, limit),
        )
        messages: list[Message] = []
        size = 0
        for row, key, value, timestamp, headers in cursor:
            offset = row - (slot.id << _OFFSET_BITS)
            messages.append(Message(slot.topic, slot.partition, offset, key, value, timestamp, _unpack(headers)))
            size += len(value)
            if size > _READ_BYTES:
                break
        cursor.close()
        return messages

    def close(self) -> None:
        """Close the connection; twice is allowed."""
        self._connection.close()


def ranges(slot: int, start: int, stop: int) -> tuple[int, int]:
    """Return the row ids of the offsets `start` (included) to `stop` (excluded) of a slot."""
    return (slot << _OFFSET_BITS) + start, (slot << _OFFSET_BITS) + stop


def _connect(path: Path, lock_timeout: float, durable: bool) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=lock_timeout, isolation_level=None, check_same_thread=False)
    deadline = time.monotonic() + lock_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.DatabaseError as error:  # SQLite does not wait here for another who changes the mode
            if not isinstance(error, sqlite3.OperationalError) or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(0.01)
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES if durable else 0}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _pack(headers: Mapping[str, bytes]) -> str:
    return json.dumps({name: value.decode("latin-1") for name, value in headers.items()}) if headers else ""


def _unpack(text: str) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in json.loads(text).items()} if text else {}
