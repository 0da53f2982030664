"""The bus without a server: an SQLite log in one file, for several processes on one machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from schemas.errors import ConfigurationError
from stream.bus import Message, Outgoing
from stream.bus.embedded_log import Log, ranges
from stream.bus.embedded_session import EmbeddedSession, Timing

__all__ = ["EmbeddedBus"]

_READ_MESSAGES = 64
_TRIM_MESSAGES = 1_000  # per transaction, so that writers are not kept waiting


class EmbeddedBus:
    """Implements `stream.bus.Bus` on the file `path`, which must lie on a local disk (SQLite's WAL needs it).

    A commit is on the disk when it returns (WAL, synchronous=FULL). A member whose process dies or stops loses
    its partitions after `session_timeout` seconds; one whose thread makes no call, after `silence_limit` more.
    A transaction waits `lock_timeout` seconds for others before UnreachableError. Raises UnreachableError where
    the file can't be opened, ConfigurationError where it is no bus.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        session_timeout: float = 30.0,
        *,
        silence_limit: float = 900.0,
        lock_timeout: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._timing = Timing(session_timeout, silence_limit, lock_timeout, clock)
        self._guard = threading.RLock()
        self._opened: dict[int, Log] = {}  # by process: a connection must not cross a fork
        self._log()

    def _log(self) -> Log:
        with self._guard:
            if os.getpid() not in self._opened:
                self._opened[os.getpid()] = Log(self._path, self._timing.lock)
            return self._opened[os.getpid()]

    def ensure(self, topics: Mapping[str, int]) -> None:
        """See `Bus.ensure`."""
        log = self._log()
        with self._guard, log.reached("creating topics"), log.transaction():
            known = _partitions(log)
            for topic, count in topics.items():
                if not 1 <= count == known.get(topic, count):
                    raise ConfigurationError(
                        f"topic {topic!r} on {self._path} has {known.get(topic, 0)} partitions and {count} are wanted; "
                        "the count of a topic never changes and is at least 1: set bus.partitions so, or bus.prefix "
                        "to begin with new topics"
                    )
                for partition in range(count if topic not in known else 0):
                    log.execute("INSERT INTO slot (topic, partition) VALUES (?, ?)", (topic, partition))

    def topics(self) -> dict[str, int]:
        """See `Bus.topics`."""
        log = self._log()
        with self._guard, log.reached("listing topics"):
            return _partitions(log)

    def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """See `Bus.publish`."""
        if not outgoing:
            return
        log = self._log()
        with self._guard, log.reached("publishing"):
            by_slot = log.addressed(outgoing)
            with log.transaction():
                log.append(by_slot)

    def session(self, group: str, topics: Sequence[str]) -> EmbeddedSession:
        """See `Bus.session`."""
        return EmbeddedSession(self._path, group, topics, self._timing)

    def read(self, topic: str) -> Iterator[Message]:
        """See `Bus.read`; what is published during the reading is not given."""
        log = self._log()
        with self._guard, log.reached(f"reading {topic}"):
            slots = log.slots([topic])
        for slot in slots:
            start = slot.first
            while start < slot.next:
                with self._guard, log.reached(f"reading {topic}"):
                    messages = log.read(slot, start, _READ_MESSAGES)
                if not messages:
                    break
                yield from messages
                start = messages[-1].offset + 1

    def lag(self, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """See `Bus.lag`."""
        log = self._log()
        with self._guard, log.reached(f"reading the positions of group {group!r}"), log.snapshot():
            rows = log.execute("SELECT slot, position FROM seat WHERE team = ?", (group,))
            positions = dict(rows.fetchall())
            slots = log.slots(topics)
        return {(s.topic, s.partition): s.next - positions.get(s.id, s.first) for s in slots}

    def trim(self, before_timestamp: int, topics: Collection[str] | None = None) -> int:
        """Delete messages from the old ends of `topics` (all, where None) and return how many.

        In each partition those go that come before the first with a timestamp (ms since 1970 UTC) of
        `before_timestamp` or later. A group that has not read them gets PositionLostError. Deleting gives room to
        new messages; it does not shrink the file.
        """
        log = self._log()
        with self._guard, log.reached("deleting old messages"):
            return sum(_trim(log, slot.id, slot.first, slot.next, before_timestamp) for slot in log.slots(topics))

    def close(self) -> None:
        """See `Bus.close`; sessions stay open until they are closed themselves."""
        with self._guard:
            if log := self._opened.get(os.getpid()):
                log.close()


def _partitions(log: Log) -> dict[str, int]:
    return dict(log.execute("SELECT topic, count(*) FROM slot GROUP BY topic ORDER BY topic").fetchall())


def _trim(log: Log, slot: int, first: int, end: int, before: int) -> int:
    low, high = ranges(slot, first, end)
    kept = log.execute(
        "SELECT id FROM message WHERE id >= ? AND id < ? AND timestamp >= ? ORDER BY id LIMIT 1", (low, high, before)
    ).fetchone()
    stop = kept[0] if kept else high
    for start in range(low, stop, _TRIM_MESSAGES):
        until = min(start + _TRIM_MESSAGES, stop)
        with log.transaction():
            log.execute("UPDATE slot SET first = ? WHERE id = ?", (first + until - low, slot))
            log.execute("DELETE FROM message WHERE id >= ? AND id < ?", (start, until))
    return int(stop - low)
