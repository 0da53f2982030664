"""One night of the drill: a fresh survey folder, its workers, and the wait for its end."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from schemas.errors import SkydeltaError, TransientError
from stream.bus import Bus, Outgoing
from stream.topics import Topics
from workers.clock import event_timestamp
from workers.connect import open_bus, open_topics
from workers.database import Database
from workers.drill.cleaning import clean
from workers.drill.compare import Difference, Ending, Letter, compare, read_ending
from workers.drill.crew import Crew, Member, hired
from workers.drill.place import NO_TABLES, Place, Tables
from workers.drill.settings import SIZES, DrillSettings
from workers.drill.survey import Prepared
from workers.drill.victim import HARMLESS, Plan
from workers.ingest.open import open_ingest
from workers.ingest.worker import Ingest, Ingested
from workers.night import ALL, lags
from workers.survey.config import Survey, load_survey

__all__ = ["ARCHIVE", "ASSOCIATE", "PIXELS", "Night", "Stage", "begun"]

PIXELS, ASSOCIATE = "isr+subtract+score", "associate"
ARCHIVE = tuple(role for role in ALL if role not in (PIXELS, ASSOCIATE))
"""Further roles of a night."""
_LOOK = 0.2
"""Seconds between two looks at the night."""


@dataclass(frozen=True)
class Stage:
    """What every fault plays on."""

    settings: DrillSettings
    prepared: Prepared
    expected: Ending
    """Of the undisturbed night."""
    say: Callable[[str], None]


@dataclass
class Night:
    """A night that has begun."""

    place: Place
    survey: Survey
    settings: DrillSettings
    prepared: Prepared
    crew: Crew
    bus: Bus
    topics: Topics
    door: Ingest
    begin: float = field(default_factory=time.monotonic)
    kept: bool = False
    """It was not as expected, and is left for a look at it."""

    def ingest(self, paths: Iterable[Path] | None = None) -> list[Ingested]:
        """Ingest raw frames (all of the night, where None) in one call."""
        chosen = self.prepared.frames if paths is None else paths
        return self.door.files([self.survey.root / path for path in chosen])

    def publish(self, topic: str, key: str, value: bytes, mjd: float | None = None) -> None:
        """Put one message on a topic of this night, as someone else's program might; at MJD TAI, or as it began."""
        began = SIZES[self.settings.size].cadence.live_mjd
        timestamp = event_timestamp(began if mjd is None else mjd)
        self.bus.publish([Outgoing(self.topics.name(topic), key.encode(), value, timestamp)])

    def hire(self, pixels: int = 1, associate: int = 1) -> None:
        """Start workers: so many of each of these roles, and one of every other."""
        for role, count in ((PIXELS, pixels), (ASSOCIATE, associate), *((role, 1) for role in ARCHIVE)):
            for _ in range(count):
                self.crew.hire(role)

    def over(self) -> bool:
        """Whether nothing waits any more; False while the bus does not answer."""
        if time.monotonic() - self.begin > self.settings.limit:
            raise SkydeltaError(f"the night in {self.survey.root} has not ended after {self.settings.limit:.0f} s")
        try:
            return not any(lags(self.bus, self.topics, "").values())
        except TransientError:
            return False

    def reach(self, fraction: float) -> None:
        """Let the night go on until this fraction of its exposures is through the pixel stages."""
        while not self.over() and self._through() < fraction:
            self.crew.tend()
            time.sleep(_LOOK)

    def pass_time(self, seconds: float) -> None:
        """Let the night go on for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.crew.tend()
            time.sleep(min(left, _LOOK))

    def _through(self) -> float:
        try:
            waiting = sum(lags(self.bus, self.topics, "", last="isr").values())
        except TransientError:
            return 0.0
        return 1.0 - waiting / len(self.prepared.frames)

    def finish(self, plan: Callable[[Member], Plan] = lambda member: HARMLESS) -> None:
        """Replace workers that end, until the night is over; then dismiss all."""
        while not self.over():
            self.crew.tend(plan)
            time.sleep(_LOOK)
        self.crew.dismiss()

    def ending(self) -> Ending:
        """Return how the night ended."""
        return read_ending(self.survey, self.bus, self.topics)

    def compared(self, expected: Ending, letters: Collection[Letter] = (), also: Collection[str] = ()) -> Difference:
        """Return what is not as `expected` (see `compare`), workers that ended by themselves among it."""
        result = compare(expected, self.ending(), letters, also)
        for member in (*self.crew.crashes(), *self.crew.stuck):
            code, words = member.process.exitcode, member.last_words()
            result.differs(f"{member.process.name} ended with exit code {code}: {words}")
        if result:
            self.kept = True
            result.notes.append(f"this night is kept in {self.survey.root}")
        return result


@contextmanager
def begun(
    settings: DrillSettings, prepared: Prepared, place: Place, name: str, tables: Tables = NO_TABLES
) -> Iterator[Night]:
    """Give a night in a folder (topics, schema) of its own; all of it goes where the night was as expected.

    `tables` are keys of survey.toml, by table, that this night has beside its place's.
    """
    unique = f"{name}-{uuid.uuid4().hex[:8]}"
    root = prepared.copy(settings.folder.resolve() / "nights" / unique, place.tables(settings, unique, tables))
    survey = load_survey(root)
    bus = open_bus(survey)
    door = open_ingest(survey)
    try:
        with hired(root, prepared) as crew:
            night = Night(place, survey, settings, prepared, crew, bus, open_topics(survey, bus), door)
            yield night
    finally:
        door.bus.close()
        cast(Database, door.database).close()  # what `open_ingest` opened
        bus.close()
    if not night.kept:
        clean(survey)
        shutil.rmtree(root)
