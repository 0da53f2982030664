"""Checks of announcements, visits and the state of the line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from workers.database import LineState, OpenVisit
from workers.database.conformance.samples import Check, MakeDatabase, make_announcement, require

__all__ = ["VISIT_CHECKS"]


def announcements_are_kept(make: MakeDatabase, path: Path) -> None:
    """A repeat is the same, other bytes are a conflict, and all come back in the order of their announcement."""
    database = make(path)
    second, first = make_announcement(2, 0, 7, 3), make_announcement(1, 4, night=20251121)
    with database.transaction([3, 5, 7]):
        require(database.announce(second, [], 20) == "new", "announce is not new")
        require(database.announce(first, [4], 10) == "new", "announce is not new")
        require(database.announce(second, [], 20) == "same", "a repeat is not the same")
        require(database.announce(replace(second, sha256="zz"), [], 20) == "conflict", "no conflict seen")
    require(database.announced(2, 0) == second, f"{database.announced(2, 0)} is not what was announced")
    found = database.announced(2, 0)
    require(found is not None and found.tiles == (3, 7) and found.tile == 7, "the tiles changed")
    require(found is not None and math.isnan(found.processedMjdTai), "processed before it was")
    require(database.announced(2, 1) is None, "something was announced that was not")
    require(database.announcements() == [second, first], "announcements out of order")
    require(database.announcements(20251121) == [first], "the night does not hold")
    database.close()


def visits_are_open_until_closed(make: MakeDatabase, path: Path) -> None:
    """The first announcement begins its visit; open ones come in order of (midpoint, visit) with what was seen."""
    database = make(path)
    with database.transaction([5]):
        for visit, detector in ((9, 2), (9, 0), (3, 1)):
            database.announce(
                make_announcement(visit, detector, midpointMjdTai=61009.0), [2, 1, 0], 10 * visit + detector
            )
        database.announce(make_announcement(5), [], 50)
    others = OpenVisit(5, 61005.0, 50, (0,), (0,), 20251120), OpenVisit(9, 61009.0, 92, (0, 1, 2), (0, 2), 20251120)
    require(
        database.open_visits() == [others[0], OpenVisit(3, 61009.0, 31, (0, 1, 2), (1,), 20251120), others[1]],
        f"open visits {database.open_visits()}",
    )
    with database.transaction():
        database.close_visit(3)
        database.close_visit(3)
        database.close_visit(77)
    require(database.open_visits() == list(others), "a closed visit is open")
    outcomes = [(a.visit, a.detector, a.outcome) for a in database.announcements()]
    missing = [(3, 0, "missing"), (3, 2, "missing")]
    before = [(9, 2, "open"), (9, 0, "open"), (3, 1, "open"), (5, 0, "open")]
    require(outcomes == before + missing, f"after a visit closed: {outcomes}")
    gone = database.announced(3, 2)
    require(
        gone == make_announcement(3, 2, 0, midpointMjdTai=61009.0, sha256="", outcome="missing"),
        f"the missing detector is {gone}",
    )
    database.close()


def late_announcements_are_told(make: MakeDatabase, path: Path) -> None:
    """After its visit closed an exposure is late, whether it was expected (and missing) or not; then it is known."""
    database = make(path)
    with database.transaction([5]):
        database.announce(make_announcement(1), [0, 1], 10)
        database.close_visit(1)
    expected, unexpected = make_announcement(1, 1, 6), make_announcement(1, 8)
    with database.transaction([5, 6]):
        for announcement in (expected, unexpected):
            require(database.announce(announcement, [0, 1], 11) == "late", "not seen as late")
            require(database.announce(announcement, [0, 1], 12) == "same", "a repeat is not the same")
            require(database.announce(replace(announcement, sha256="z"), [], 12) == "conflict", "no conflict seen")
    require(database.announced(1, 1) == expected, "the missing one did not become open")
    require([a.detector for a in database.announcements()] == [0, 1, 8], "it is not where it was missed")
    require(not database.open_visits(), "a late announcement opened its visit again")
    database.close()


def line_state_is_kept_by_night(make: MakeDatabase, path: Path) -> None:
    """Each night has its own state, kept over a restart; the last one written counts."""
    database = make(path)
    require(database.line_state(20251120) == LineState(0, -math.inf, 0), "a state before any was kept")
    with database.transaction():
        database.keep_line_state(20251120, LineState(1))
        database.keep_line_state(20251121, LineState(2**50, 61000.25, 2**40))
        database.keep_line_state(20251120, LineState(3, -math.inf, 4))
    database.close()
    database = make(path)
    require(database.line_state(20251120) == LineState(3, -math.inf, 4), "the state was not kept")
    require(database.line_state(20251121) == LineState(2**50, 61000.25, 2**40), "nights share their state")
    database.close()


VISIT_CHECKS: tuple[Check, ...] = (
    announcements_are_kept,
    visits_are_open_until_closed,
    late_announcements_are_told,
    line_state_is_kept_by_night,
)
