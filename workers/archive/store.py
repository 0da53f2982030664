"""The alert archive: messages byte for byte in Avro container files, one per night and schema version, with an index.

Any Avro reader opens the files. A flush cuts each file back to the length that the index knows, adds the new
alerts, syncs it, and commits the index: what a writer leaves behind that dies on the way is cut by the next one.
Writers of one archive, in any number of processes on one machine, wait for each other by the index's transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import schemas
from schemas.errors import ConflictError, DataError, SchemaError, UnreachableError
from workers.archive.alert import ArchivedAlert, Entry
from workers.archive.container import body_of, framed
from workers.archive.files import read_part
from workers.archive.index import Index
from workers.archive.reindex import Reindexed, reindex
from workers.archive.writing import Waiting, describe, is_known, write

__all__ = ["AlertArchive"]

_BUFFER = 32 << 20  # bytes of blocks that wait; beyond, a flush comes before its time


class AlertArchive:
    """An archive in the folder `folder`, which must lie on a local disk (SQLite's WAL needs it).

    What an alert is, its id and its bytes, decides whether it is a repeat, not its position: after the bus was made
    anew the same positions hold other alerts. Not shared between threads. Every method raises UnreachableError where
    disk or index fail; the same call works again when that is mended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = Index(folder)
        self._waiting: dict[int, Waiting] = {}
        self._consumed: dict[tuple[str, int], int] = {}
        self._size = 0

    def append(self, alert: ArchivedAlert) -> None:
        """Keep an alert for the next flush; one that the archive has changes nothing.

        Raises SchemaError or DataError where it is no alert or contradicts itself, ConflictError where the archive
        has the same alertId with other bytes.
        """
        described = describe(alert)
        self._index.ready(create=True)
        waits = self._waiting.get(alert.alertId)
        if not is_known(waits.entry if waits else self._index.find(alert.alertId), described.entry):
            self._waiting[alert.alertId] = packed = described.packed()
            self._size += len(packed.block)
        if alert.topic:
            place = alert.topic, alert.partition
            self._consumed[place] = max(self._consumed.get(place, 0), alert.offset + 1)
        if self._size > _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write all that waits, durably, in one go.

        Raises ConflictError where another writer was first with other bytes: what waited is then forgotten, and the
        one in question is refused when all are given again.
        """
        if not self._waiting and not self._consumed:
            return
        self._index.ready(create=True)
        try:
            write(self._index, self._folder, self._waiting.values(), self._consumed)
        except ConflictError:
            self._forget()
            raise
        self._forget()

    def get(self, alert_id: int) -> ArchivedAlert | None:
        """Return an alert, None where the archive does not have it.

        Raises DataError where its bytes are not those that were written.
        """
        entry = self._index.find(alert_id) if self._index.ready() else None
        return None if entry is None else _read(self._folder, entry)

    def night(self, night: int) -> Iterator[ArchivedAlert]:
        """Yield the alerts of a night (YYYYMMDD) in order of alertId; raises DataError as `get` does."""
        if self._index.ready():
            for entry in self._index.entries(night):
                yield _read(self._folder, entry)

    def digests(self, night: int) -> dict[int, str]:
        """Return the sha256 of each message of a night, by alertId, in order."""
        if not self._index.ready():
            return {}
        rows = self._index.rows("SELECT id, sha256 FROM alert WHERE night = ? ORDER BY id", (night,))
        return {number: digest.hex() for number, digest in rows}

    def nights(self) -> dict[int, int]:
        """Return how many alerts each night has."""
        return _by_night(self._index, "SELECT night, count(*) FROM alert GROUP BY night ORDER BY night")

    def sizes(self) -> dict[int, int]:
        """Return how many bytes the container files of each night have."""
        return _by_night(self._index, "SELECT night, sum(length) FROM container GROUP BY night ORDER BY night")

    def consumed(self) -> dict[tuple[str, int], int]:
        """Return the offset after the last that was archived, by topic and partition."""
        rows = self._index.rows("SELECT topic, partition, next FROM consumed") if self._index.ready() else []
        return {(topic, partition): following for topic, partition, following in rows}

    def reindex(self) -> Reindexed:
        """Make the index anew from the container files: after damage, or after files were put back.

        The containers alone suffice for alertId, night and bytes. Key, timestamp, headers and position of an alert
        are in the index only: those that it lost come back when the alert is given again.
        """
        return reindex(self._index, self._folder)

    def close(self) -> None:
        """Release the index; what waits is not written. Closing twice is allowed."""
        self._index.close()

    def _forget(self) -> None:
        self._waiting, self._consumed, self._size = {}, {}, 0


def _by_night(index: Index, text: str) -> dict[int, int]:
    return dict(index.rows(text)) if index.ready() else {}


def _read(folder: Path, entry: Entry) -> ArchivedAlert:
    path = folder / entry.container
    schema = schemas.get("alert", path.stem.removeprefix("alerts-"))
    try:
        data = read_part(path, entry.start, entry.length)
        value = framed(schema, body_of(data))
    except OSError as error:
        raise UnreachableError(
            f"alert {entry.alertId} can't be read: {error}; put the file back from a copy, or let "
            "`skydelta alerts reindex` count what is left"
        ) from error
    except SchemaError:
        value = b""
    if hashlib.sha256(value).digest() != entry.sha256:
        raise DataError(
            f"{path}: the {entry.length} bytes from {entry.start} are not alert {entry.alertId} as it was written; "
            "put the file back from a copy, or let `skydelta alerts reindex` count what is left"
        )
    origin = (entry.key, entry.timestamp, entry.headers, entry.topic, entry.partition, entry.offset)
    return ArchivedAlert(entry.alertId, entry.night, value, *origin)
