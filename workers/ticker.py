"""Ticks: where nothing more is announced, event time goes on by a message, so that the last visits close."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream import codec
from stream.bus import Bus, Outgoing
from stream.topics import Topics
from workers.associate.line import next_tick
from workers.associate.worker import rules_of
from workers.database import Announcement, Database, OpenVisit
from workers.survey.config import Survey

__all__ = ["Ticker"]


@dataclass
class Ticker:
    """Publishes a tick when visits have waited for the deadline, by the wall clock, without any news.

    The tick is a record on the topic of announcements: a replay reads it where the live night had it, and never looks
    at a clock. More than one for the same visits does no harm.
    """

    survey: Survey
    bus: Bus
    topics: Topics
    database: Database
    clock: Callable[[], float] = time.monotonic
    known: tuple[list[OpenVisit], list[Announcement]] = ([], [])
    since: float = 0.0
    told: bool = False
    """Exposures that still stand in the line after a tick wait for something else."""

    def open_visits(self) -> list[OpenVisit]:
        """Return the visits that wait for detectors."""
        return self.database.open_visits()

    def look(self, idle: Callable[[], bool], *, drain: bool) -> None:
        """Publish a tick per night if visits are open, and the deadline has gone by without news while all was `idle`.

        One tick is also due where nothing comes and exposures stand in the line all the same: it gives them their turn.
        With `drain` nothing more is to come, and the deadline is not waited for.
        """
        found, now = (self.open_visits(), self.database.heads()), self.clock()
        if found != self.known:
            self.known, self.since, self.told = found, now, False
        patience = 0.0 if drain else self.survey.config.associate.deadline_s
        if self.told or not any(found) or now - self.since < patience:
            return
        if not idle():
            self.since = now
            return
        self._publish(*found)
        self.since, self.told = now, not found[0]

    def _publish(self, visits: Sequence[OpenVisit], heads: Sequence[Announcement]) -> None:
        rules = rules_of(self.survey)
        for night in sorted({visit.night for visit in visits} | {head.night for head in heads}):
            waiting = [visit for visit in visits if visit.night == night]
            timestamp = next_tick(waiting, rules) if waiting else self.database.line_state(night).watermark
            value = codec.encode("tick", {"night": night, "timestamp": timestamp})
            self.bus.publish([Outgoing(self.topics.name("visits"), str(night).encode(), value, timestamp)])
