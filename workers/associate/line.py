"""In which order the exposures of a night are associated: visits close by event time, and closed ones form one line.

Event time is what the messages' timestamps say, never the wall clock, so that a replayed night closes as the live one.
Each night has its own, so that one frame with a wrong date does not move the others; it ends when a later one begins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from workers.database import LineState, OpenVisit

__all__ = ["Closing", "Rules", "closing_visits", "next_tick"]


@dataclass(frozen=True)
class Rules:
    """When a visit closes; milliseconds of event time after the closing of its shutter."""

    deadline: int
    """Without the detectors that it lacks."""
    reorder: int = 0
    """With all of them; above 0 where visits may be announced in another order than they were taken."""


@dataclass(frozen=True)
class Closing:
    """The visits that close now, in their order, and the state of the line afterwards."""

    visits: Sequence[tuple[OpenVisit, bool]]
    """Each with whether it is late: a later visit has closed before it."""
    state: LineState


def closing_visits(waiting: Sequence[OpenVisit], state: LineState, watermark: int, rules: Rules) -> Closing:
    """Return which of the `waiting` visits of one night close when event time has come to `watermark` (ms).

    They close in order of (midpoint, visit): a complete one waits for an earlier one that is not.
    """
    state = replace(state, watermark=max(state.watermark, watermark))
    closed: list[tuple[OpenVisit, bool]] = []
    for visit in sorted(waiting, key=lambda one: (one.midpointMjdTai, one.visit)):
        patience = rules.reorder if set(visit.expected) <= set(visit.seen) else rules.deadline
        if state.watermark < visit.closing + patience:
            break
        late = (visit.midpointMjdTai, visit.visit) < (state.midpointMjdTai, state.visit)
        closed.append((visit, late))
        if not late:
            state = replace(state, midpointMjdTai=visit.midpointMjdTai, visit=visit.visit)
    return Closing(closed, state)


def next_tick(waiting: Collection[OpenVisit], rules: Rules) -> int:
    """Return the event time (ms) at which all `waiting` visits close."""
    return max(visit.closing for visit in waiting) + max(rules.deadline, rules.reorder)
