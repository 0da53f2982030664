"""A worker dies before and after each numbered step of the runner, and on both sides of a database commit."""

from __future__ import annotations

import signal
import time

from stream.retry import STEPS
from workers.drill.compare import Difference, Letter
from workers.drill.crew import Member
from workers.drill.night import ARCHIVE, ASSOCIATE, PIXELS, Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding
from workers.drill.victim import DATABASE, HARMLESS, Plan
from workers.worker import INPUTS

__all__ = ["inject", "plans_of"]

_BURY = "bury"
_MOST_NIGHTS = 4
_LOOK = 0.1
"""Seconds."""


def plans_of(role: str) -> list[Plan]:
    """Return every place at which a worker of `role` is to die, in an order that a night comes to."""
    places = [place for place in STEPS.values() if place != _BURY or role not in ARCHIVE]
    if role == ASSOCIATE:
        places.append(DATABASE)
    return [Plan(place, side) for place in places for side in ("before", "after")]


def inject(stage: Stage, place: Place) -> Finding:
    """One worker of each role; each dies at its next place as soon as it comes there, until it died at all of them.

    Burying happens to bad messages alone: one is published whenever a death at that step is due.
    """
    due = {role: plans_of(role) for role in (PIXELS, ASSOCIATE, *ARCHIVE)}
    wanted = sum(map(len, due.values()))
    total, nights = Difference(), 0
    while any(due.values()) and nights < _MOST_NIGHTS:
        with begun(stage.settings, stage.prepared, place, "steps") as night:
            letters = _one_night(night, due)
            difference = night.compared(stage.expected, letters)
        nights += 1
        total.add(difference)
        stage.say(f"{wanted - sum(map(len, due.values()))} of {wanted} deaths in {nights} nights")
    for role, plans in due.items():
        for plan in plans:
            total.differs(f"{role} never died {plan.side} {plan.place}: the night did not come there")
    left = sum(map(len, due.values()))
    return finding("steps", place, total, injections=wanted - left, nights=nights)


def _one_night(night: Night, due: dict[str, list[Plan]]) -> list[Letter]:
    """Run one night, strike off what was died at, and return the dead letters of the bad messages."""
    letters: list[Letter] = []

    def plan(role: str) -> Plan:
        chosen = due[role][0] if due[role] else HARMLESS
        if chosen.place == _BURY:
            letters.append(_garbage(night, role, len(letters)))
        return chosen

    def successor(member: Member) -> Plan:
        role = member.role.stages
        if member.process.exitcode == -signal.SIGKILL and due[role]:
            due[role].pop(0)
        return plan(role)

    night.ingest()
    for role in due:
        night.crew.hire(role, plan(role))
    while not night.over():
        night.crew.tend(successor)
        time.sleep(_LOOK)
    night.finish(successor)
    return letters


def _garbage(night: Night, role: str, number: int) -> Letter:
    """Publish bytes that are no message to the first input of `role`; return the dead letter that they become."""
    topic = INPUTS[role.split("+")[0]][0]
    key = f"garbage-{number}"
    night.publish(topic, key, b"no framing at all", 1)
    return Letter(role, "SchemaError", topic, key)
