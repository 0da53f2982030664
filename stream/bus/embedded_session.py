"""A member of a consumer group on the embedded bus, and the pulse that keeps it one during long work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import DeliveryError, ExpiredError, FencedError, PositionLostError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.embedded_group import beat, join, leave, release
from stream.bus.embedded_log import Log, Slot

__all__ = ["EmbeddedSession", "Timing"]

_WAIT = 0.01  # s between looks for new messages
_PULSE = 1.0  # s between beats at most
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long, in seconds, things may last; and the wall clock, in seconds since 1970."""

    session: float
    """Without a beat a member is dead (its process was killed, stopped, or lost its machine)."""
    silence: float
    """Without a call on its session a member's heart stops (its thread hangs)."""
    lock: float
    """Waiting for another connection's transaction."""
    clock: Callable[[], float]


class EmbeddedSession:
    """Implements `stream.bus.Session`.

    Fencing rests on two checks in the transaction that publishes: this member owns the seat, and the seat's
    position is the offset of the first message consumed.
    """

    def __init__(self, path: Path, group: str, topics: Sequence[str], timing: Timing) -> None:
        self._group, self._topics, self._timing = group, list(topics), timing
        self._log = Log(path, timing.lock)
        self._reads: dict[int, int] = {}  # slot in work: the offset after the last polled
        self._last = 0  # slot that was served last
        self._guard = threading.Lock()  # between this thread and the pulse; taken before any transaction
        self._closed = False
        with self._log.reached(f"joining group {group!r}"), self._log.transaction():
            self._member = self._join()
        self._touched = time.monotonic()
        self._stop = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name=f"pulse of {group}", daemon=True)
        self._pulse.start()

    def poll(self, limit: int, timeout: float) -> list[Message]:
        """See `Session.poll`."""
        deadline = time.monotonic() + timeout
        while True:
            self._touched = time.monotonic()
            with self._log.reached(f"reading for group {self._group!r}"):
                version = self._log.version()
                with self._guard:
                    messages = self._take(limit)
                if messages:
                    return messages
                while self._log.version() == version:
                    if time.monotonic() >= deadline:
                        return []
                    time.sleep(_WAIT)

    def commit(self, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
        """See `Session.commit`; raises DeliveryError where `consumed` leaves out messages polled before it."""
        self._touched = time.monotonic()
        if not outgoing and not consumed:
            return
        with self._log.reached(f"committing for group {self._group!r}"), self._guard:
            by_slot = self._log.addressed(outgoing)
            try:
                with self._log.transaction():
                    done = self._advance(consumed)
                    self._log.append(by_slot)
                    rest = {s: end for s, end in self._reads.items() if done.get(s) != end}
                    release(self._log, self._group, self._member, rest)
            except FencedError:
                self._reads.clear()
                raise
            self._reads = rest

    def rewind(self) -> None:
        """See `Session.rewind`; seats with an heir pass on at the next poll or beat."""
        self._touched = time.monotonic()
        with self._guard:
            self._reads.clear()

    def keep_alive(self) -> None:
        """See `Session.keep_alive`; the pulse does the rest."""
        self._touched = time.monotonic()

    def assigned(self) -> set[tuple[str, int]]:
        """See `Session.assigned`."""
        with self._log.reached(f"reading the seats of group {self._group!r}"):
            return {(slot.topic, slot.partition) for slot, _, _ in self._seats()}

    def close(self) -> None:
        """See `Session.close`; where the file does not answer, the lease runs out instead."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._pulse.join()
        try:
            with self._log.reached(f"leaving group {self._group!r}"), self._log.transaction():
                leave(self._log, self._group, self._member, self._timing.clock(), self._timing.session)
        except UnreachableError as error:
            _log.warning("left without notice: %s", error)
        self._log.close()

    def _is_member(self) -> bool:
        return self._log.execute("SELECT 1 FROM member WHERE id = ?", (self._member,)).fetchone() is not None

    def _expired(self) -> ExpiredError:
        return ExpiredError(
            f"member {self._member} of group {self._group!r} was declared dead while it worked: nothing was committed, "
            "and others have its work; it was stopped or silent too long, see bus.session_timeout_s. Start it again"
        )

    def _join(self) -> int:
        return join(self._log, self._group, self._topics, self._timing.clock(), self._timing.session)

    def _seats(self) -> list[tuple[Slot, int, int]]:
        """Return the slots that this member owns, each with the group's position and the heir (0: none)."""
        rows = self._log.execute(
            "SELECT id, topic, partition, first, next, position, heir FROM seat JOIN slot ON slot.id = seat.slot "
            "WHERE team = ? AND owner = ? ORDER BY id",
            (self._group, self._member),
        )
        return [(Slot(*row[:5]), row[5], row[6]) for row in rows.fetchall()]

    def _take(self, limit: int) -> list[Message]:
        """Return what can be read now, starting at the slot after the one served last."""
        if not self._is_member():
            working, self._reads = bool(self._reads), {}
            if working:
                raise self._expired()
            _log.info("member %d of group %s was removed; it joins again", self._member, self._group)
            with self._log.transaction():
                self._member = self._join()
        with self._log.snapshot():
            seats = self._seats()
            messages: list[Message] = []
            for slot, position, heir in sorted(seats, key=lambda seat: seat[0].id <= self._last):
                start = self._reads.get(slot.id, position)
                self._require_kept(slot, start)
                if heir == 0 and len(messages) < limit:
                    found = self._log.read(slot, start, limit - len(messages))
                    if found:
                        messages += found
                        self._reads[slot.id] = found[-1].offset + 1
                        self._last = slot.id
        if any(heir and slot.id not in self._reads for slot, _, heir in seats):
            with self._log.transaction():
                release(self._log, self._group, self._member, self._reads)
        return messages

    def _require_kept(self, slot: Slot, position: int) -> None:
        if position < slot.first:
            raise PositionLostError(
                f"group {self._group!r} stands at offset {position} of {slot.topic}[{slot.partition}] in "
                f"{self._log.path}, but the oldest message kept is {slot.first}: {slot.first - position} were deleted "
                "unread; replay what was lost, then read on with a new group name, and keep messages longer"
            )

    def _advance(self, consumed: Sequence[Message]) -> dict[int, int]:
        """Move the group's positions past `consumed`; return the new ones by slot."""
        spans: dict[tuple[str, int], list[int]] = {}
        for message in consumed:
            spans.setdefault((message.topic, message.partition), []).append(message.offset)
        done: dict[int, int] = {}
        for (topic, partition), offsets in spans.items():
            row = self._log.execute(
                "SELECT slot, owner, position FROM seat JOIN slot ON slot.id = seat.slot "
                "WHERE team = ? AND topic = ? AND partition = ?",
                (self._group, topic, partition),
            ).fetchone()
            slot, owner, position = row or (0, 0, 0)
            if owner != self._member and not self._is_member():
                raise self._expired()
            if owner != self._member or position > min(offsets):
                raise FencedError(
                    f"{topic}[{partition}] went on without this member of group {self._group!r} (it is "
                    f"{self._member}, the owner {owner}; position {position}, consumed from {min(offsets)}): nothing "
                    "was committed; poll again"
                )
            if position < min(offsets):
                raise DeliveryError(
                    f"commit would skip offsets {position} to {min(offsets) - 1} of {topic}[{partition}] in group "
                    f"{self._group!r}; commit messages in the order in which they were polled"
                )
            done[slot] = max(offsets) + 1
            self._log.execute(
                "UPDATE seat SET position = ? WHERE team = ? AND slot = ?", (done[slot], self._group, slot)
            )
        return done

    def _beat(self) -> None:
        """Renew the lease until `close`, unless the session's own thread has been silent too long."""
        timing = self._timing
        log: Log | None = None
        while not self._stop.wait(min(timing.session / 3, _PULSE)):
            if time.monotonic() - self._touched > timing.silence:
                continue
            try:
                log = log or Log(self._log.path, timing.lock, durable=False)
                with log.reached("beating"), self._guard, log.transaction():
                    if beat(log, self._group, self._member, timing.clock(), timing.session):
                        release(log, self._group, self._member, self._reads)
            except UnreachableError as error:
                _log.warning("a beat was missed: %s", error)
        if log:
            log.close()
