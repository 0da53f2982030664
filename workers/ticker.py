"""Ticks: where nothing more is announced, event time goes on by a message, so that the last visits close."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stream import codec
from stream.bus import Bus, Outgoing
from stream.topics import Topics
from workers.associate.line import next_tick
from workers.associate.worker import rules_of
from workers.database import Database, OpenVisit
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
    known: list[OpenVisit] = field(default_factory=list)
    since: float = 0.0

    def open_visits(self) -> list[OpenVisit]:
        """Return the visits that wait for detectors."""
        return self.database.open_visits()

    def look(self, idle: Callable[[], bool], *, drain: bool) -> None:
        """Publish a tick per night if visits are open, and the deadline has gone by without news while all was `idle`.

        With `drain` nothing more is to come, and the deadline is not waited for.
        """
        found, now = self.open_visits(), self.clock()
        if found != self.known:
            self.known, self.since = found, now
        patience = 0.0 if drain else self.survey.config.associate.deadline_s
        if not found or now - self.since < patience:
            return
        if not idle():
            self.since = now
            return
        rules = rules_of(self.survey)
        for night in sorted({visit.night for visit in found}):
            timestamp = next_tick([visit for visit in found if visit.night == night], rules)
            value = codec.encode("tick", {"night": night, "timestamp": timestamp})
            self.bus.publish([Outgoing(self.topics.name("visits"), str(night).encode(), value, timestamp)])
        self.since = now
