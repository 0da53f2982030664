"""kill -9 of random workers at random times, until there were enough."""

from __future__ import annotations

import signal
import time

import numpy as np

from workers.drill.compare import Difference
from workers.drill.crew import Member
from workers.drill.night import Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding

__all__ = ["inject"]

_PACE = {"embedded": 0.5, "kafka": 1.0}
"""Mean time between two kills, in session time-outs: the survivors must get something done meanwhile."""
_AIMED = 0.5
"""Fraction of the kills that wait for a message to be in work: most of the time most workers have none."""
_LOOK = 0.003


def inject(stage: Stage, place: Place) -> Finding:
    """Two pixel workers, two association workers and the archive; whoever dies is replaced at once.

    A night that ends before the kills are done is followed by another.
    """
    rng = np.random.default_rng(stage.settings.seed)
    kills = at_work = nights = 0
    total = Difference()
    while kills < stage.settings.kills:
        with begun(stage.settings, stage.prepared, place, "kill") as night:
            done, busy = _one_night(night, rng, stage.settings.kills - kills)
            difference = night.compared(stage.expected)
        nights, kills, at_work = nights + 1, kills + done, at_work + busy
        total.add(difference)
        stage.say(f"{kills} of {stage.settings.kills} kills in {nights} nights")
        if not done:
            break  # nights too short to kill anyone: the finding says so
    notes = [f"{at_work} of the killed had a message in work"]
    return finding("kill", place, total, injections=kills, nights=nights, notes=notes)


def _one_night(night: Night, rng: np.random.Generator, wanted: int) -> tuple[int, int]:
    """Return how many were killed, and how many of these had a message in work."""
    night.ingest()
    night.hire(pixels=2, associate=2)
    pace = night.settings.session_timeout * _PACE[night.place.bus]
    kills = at_work = 0
    while not night.over() and kills < wanted:
        time.sleep(rng.uniform(0.0, 1.5 * pace))
        victim = night.crew.members[rng.integers(len(night.crew.members))]
        if rng.random() < _AIMED:
            _await_work(victim, 0.5 * pace)
        if victim.alive:
            at_work += victim.at_work
            victim.send(signal.SIGKILL)
            victim.process.join()
            kills += 1
        night.crew.tend()
    night.finish()
    return kills, at_work


def _await_work(victim: Member, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not victim.at_work and time.monotonic() < end:
        time.sleep(_LOOK)
