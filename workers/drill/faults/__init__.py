"""The faults of the drill by name: each file injects one, in one place, and says how the night stood it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workers.drill.faults import broker, database, disk, inputs, kill, replay, steps, workers, zombie
from workers.drill.night import Stage
from workers.drill.place import Place
from workers.drill.report import Finding

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """One way to break a night."""

    inject: Callable[[Stage, Place], Finding]
    what: str
    """In one line."""


FAULTS = {
    "kill": Fault(kill.inject, "kill -9 of random workers at random times, at least --kills in all"),
    "steps": Fault(steps.inject, "a worker dies before and after each step of the runner and each database commit"),
    "zombie": Fault(zombie.inject, "a worker stands still beyond the session time-out and goes on"),
    "inputs": Fault(inputs.inject, "poison, hard poison, duplicate, out-of-order, missing and late exposures"),
    "workers": Fault(workers.inject, "1, 2 and 8 association workers, 1 and 2 pixel workers, over a tile border"),
    "broker": Fault(broker.inject, "kill -9 of the Kafka broker in the middle of the night, three times"),
    "database": Fault(database.inject, "kill -9 of the PostgreSQL server in the middle of the night, three times"),
    "disk": Fault(disk.inject, "the disk of bus, blobs or database runs full, and has room again"),
    "replay": Fault(replay.inject, "the archived night replayed at maximum speed gives the same bytes"),
}
