"""Whose turn it is: announcements and scored messages move exposures along the one line of the night."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import ConflictError
from stream import codec
from workers.associate.line import Rules, closing_visits, next_tick
from workers.database import Announcement, DiaDatabase, OpenVisit
from workers.items import info_of

__all__ = ["Key", "MoreTilesError", "Turns"]

Key = tuple[int, int]
"""Visit and detector."""


class MoreTilesError(Exception):
    """The transaction must begin again with these sky tiles too: tiles are only ever taken all at once, in order."""

    def __init__(self, tiles: Collection[int]) -> None:
        self.tiles = frozenset(tiles)


@dataclass(frozen=True)
class Turns:
    """The line, within one database transaction that holds the sky tiles `held`."""

    database: DiaDatabase
    rules: Rules
    held: frozenset[int] = frozenset()

    def announce(self, record: dict[str, Any], closing: int) -> list[Key]:
        """Write the announcement `record` down, and return the exposures that get a place in the line by it.

        `closing` is when its shutter closed (ms). Raises ConflictError where other bytes were announced before.
        """
        info, tile = info_of(record), int(record["tile"])
        announcement = Announcement(
            visit=info.visit,
            detector=info.detector,
            tile=tile,
            midpointMjdTai=info.midpointMjdTai,
            sha256=info.sha256,
            night=info.night,
            tiles=tuple(record["tiles"]),
        )
        answer = self.database.announce(announcement, record["expected"], closing)
        if answer == "conflict":
            raise ConflictError(
                f"visit {info.label} ({info.fileName}) was announced before with other bytes; the first stands. "
                "Give the exposure its own visit number and ingest it again"
            )
        late = [(info.visit, info.detector)] if answer == "late" else []
        self._enqueue(late, late=True)
        return late + self.pass_time(info.night, closing)

    def pass_time(self, night: int, watermark: int) -> list[Key]:
        """Let event time of a night come to `watermark` (ms), and return the exposures of visits that close, in order.

        A night ends when a later one begins: then all its visits close.
        """
        waiting = self.database.open_visits()
        moved: list[Key] = []
        for earlier in sorted({visit.night for visit in waiting if visit.night < night}):
            left = [visit for visit in waiting if visit.night == earlier]
            moved += self._close(earlier, left, next_tick(left, self.rules))
        return moved + self._close(night, [visit for visit in waiting if visit.night == night], watermark)

    def deliver(self, record: dict[str, Any], value: bytes) -> list[Key]:
        """Keep a scored message until its turn, and return its exposure and the first ones of its tiles.

        It may be the turn of its own; and of one of those where the message that should have brought it failed.
        """
        info = info_of(record)
        key = (info.visit, info.detector)
        known = self.database.announced(*key)
        self._hold({int(record["tile"])} if known is None else known.tiles)
        mended = known is not None and known.outcome == "failed" and record["outcome"] != "failed"
        if known is not None and mended and known.sha256 == info.sha256:
            self.database.reopen(*key)  # a dead letter was retried with success: its turn is now, after later ones
            self._enqueue([key], late=True)
        self.database.deliver(*key, info.sha256, value, instead=record["outcome"] != "failed" and self._failed(key))
        return [key] if known is None else list(dict.fromkeys([key, *self.behind(known)]))

    def ready(self, key: Key) -> tuple[Announcement, bytes] | None:
        """Return an exposure and its scored message if it is its turn: no open one before it shares a sky tile."""
        exposure = self.database.announced(*key)
        if exposure is None or exposure.outcome != "open":
            return None
        self._hold(exposure.tiles)
        value = self.database.delivered(*key)
        if value is None or any(self._first(tile) != key for tile in exposure.tiles):
            return None
        return exposure, value

    def firsts(self) -> list[Key]:
        """Return every exposure that is the first on one of its tiles: some may have missed their turn."""
        heads = self.database.heads()
        self._hold({tile for head in heads for tile in head.tiles})
        return [(head.visit, head.detector) for head in heads]

    def behind(self, exposure: Announcement) -> list[Key]:
        """Return the exposures that are the first ones on the sky tiles of `exposure`."""
        return [key for tile in exposure.tiles if (key := self._first(tile)) is not None]

    def _failed(self, key: Key) -> bool:
        """Whether what is kept for an exposure is a failure: a retry that went well, before its turn, replaces it."""
        kept = self.database.delivered(*key)
        return kept is not None and codec.decode(kept).record["outcome"] == "failed"

    def _first(self, tile: int) -> Key | None:
        head = self.database.head(tile)
        return None if head is None else (head.visit, head.detector)

    def _close(self, night: int, waiting: Sequence[OpenVisit], watermark: int) -> list[Key]:
        closing = closing_visits(waiting, self.database.line_state(night), watermark, self.rules)
        moved: list[Key] = []
        for visit, late in closing.visits:
            self.database.close_visit(visit.visit)
            keys = [(visit.visit, detector) for detector in visit.seen]
            self._enqueue(keys, late=late)
            moved += keys
        self.database.keep_line_state(night, closing.state)
        return moved

    def _enqueue(self, keys: Sequence[Key], *, late: bool) -> None:
        known = [self.database.announced(*key) for key in keys]
        self._hold({tile for one in known if one is not None for tile in one.tiles})
        for visit, detector in keys:
            self.database.enqueue(visit, detector, late)

    def _hold(self, tiles: Collection[int]) -> None:
        """Be the only writer of `tiles` until the transaction ends; raises MoreTilesError to begin again with them."""
        if not self.database.exclusive and not self.held.issuperset(tiles):
            raise MoreTilesError(tiles)
