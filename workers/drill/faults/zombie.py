"""A worker stands still in the middle of its work, loses its share to another, and goes on as if nothing were."""

from __future__ import annotations

import signal
import time

from schemas.errors import ExpiredError, SkydeltaError
from workers.drill.compare import Difference
from workers.drill.crew import Member
from workers.drill.night import ASSOCIATE, PIXELS, Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding
from workers.drill.victim import DATABASE, Plan

__all__ = ["inject"]

_SITUATIONS = (
    (PIXELS, Plan("commit", "before", 2, signal.SIGSTOP)),
    (ASSOCIATE, Plan("commit", "before", 3, signal.SIGSTOP)),
    (ASSOCIATE, Plan(DATABASE, "before", 5, signal.SIGSTOP)),
)
"""With its outputs ready; between the commits of database and bus; and within a database transaction."""
_SLEEP = 2.5
"""Session time-outs."""
_PATIENCE = 60.0
"""Seconds for the zombie to stand still, and to end once it goes on."""
_LOOK = 0.1


def inject(stage: Stage, place: Place) -> Finding:
    """One night per situation: the zombie is resumed when its session has timed out, and must end as fenced."""
    total, notes = Difference(), []
    for role, plan in _SITUATIONS:
        with begun(stage.settings, stage.prepared, place, "zombie") as night:
            end = _one_night(night, role, plan)
            difference = night.compared(stage.expected)
        where = f"{role}, {plan.side} {plan.place}"
        notes.append(f"{where}: ended with exit code {end}")
        if end != ExpiredError.exit_code:
            difference.differs(f"{where}: the zombie did not end as fenced")
        total.add(difference)
        stage.say(notes[-1])
    return finding("zombie", place, total, injections=len(_SITUATIONS), nights=len(_SITUATIONS), notes=notes)


def _one_night(night: Night, role: str, plan: Plan) -> int | None:
    """Return the zombie's exit code, None where it was still at work long after."""
    night.ingest()
    zombie = night.crew.hire(role, plan)
    night.hire(pixels=int(role != PIXELS), associate=int(role != ASSOCIATE))
    _wait_until_still(night, zombie)
    night.crew.hire(role)  # now, so that the zombie was not without work
    time.sleep(_SLEEP * night.settings.session_timeout)
    zombie.send(signal.SIGCONT)
    deadline = time.monotonic() + _PATIENCE
    while zombie.alive and time.monotonic() < deadline:
        night.crew.tend()
        time.sleep(_LOOK)
    end = zombie.process.exitcode
    night.finish()
    return end


def _wait_until_still(night: Night, zombie: Member) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not zombie.struck:
        if time.monotonic() > deadline or not zombie.alive:
            raise SkydeltaError(f"the worker that was to stand still never came there; see {zombie.files.log}")
        night.crew.tend()
        time.sleep(_LOOK)
