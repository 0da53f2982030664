"""Announcements, the visits they belong to, and how far event time has come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from workers.database import Announcement, LineState, OpenVisit
from workers.database.connection import Connection

__all__ = ["COLUMNS", "WAITING", "SqlVisits", "announcement_of", "numbers"]

COLUMNS = "visit, detector, tile, mjd, sha256, night, outcome, alerts, tiles, late, processedMjdTai"
_FIELDS = COLUMNS.replace("mjd", "midpointMjdTai").split(", ")
_MARKS = ",".join("?" * 11)
WAITING = "INSERT INTO line(visit, detector, tile, rank) VALUES(?,?,?,0) ON CONFLICT(visit, detector, tile) DO NOTHING"
"""Puts an exposure down on one of its tiles, without a rank."""
_KNOWN = (
    "SELECT (SELECT closed FROM visits WHERE visit = ?), "
    "(SELECT sha256 FROM announcements WHERE visit = ? AND detector = ? AND outcome <> 'missing')"
)


def _joined(values: Iterable[int]) -> str:
    return " ".join(str(value) for value in sorted(set(values)))


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list kept as text."""
    return tuple(int(word) for word in text.split())


def announcement_of(row: Sequence[Any]) -> Announcement:
    """Return the announcement whose COLUMNS a row holds."""
    values = dict(zip(_FIELDS, row, strict=True))
    processed = values["processedMjdTai"]
    values["tiles"], values["late"] = numbers(values["tiles"]), bool(values["late"])
    values["processedMjdTai"] = math.nan if processed is None else processed
    return Announcement(**values)


class SqlVisits:
    """`workers.database.Visits` in SQL."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def announce(self, announcement: Announcement, expected: Sequence[int], closing: int) -> str:
        """Add an exposure and, with the first of it, its visit: ``new``, ``late``, ``same`` or ``conflict``."""
        visit, detector = announcement.visit, announcement.detector
        ((closed, sha256),) = self.connection.query(_KNOWN, (visit, visit, detector))
        if sha256 is not None:
            return "same" if sha256 == announcement.sha256 else "conflict"
        if closed is None:
            values = (visit, announcement.midpointMjdTai, announcement.night, closing)
            self.connection.execute(
                "INSERT INTO visits(visit, mjd, night, closing, closed, expected) VALUES(?,?,?,?,0,?) "
                "ON CONFLICT(visit) DO NOTHING",
                (*values, _joined(expected or (detector,))),
            )
        self._insert(announcement)
        return "late" if closed else "new"

    def _insert(self, announcement: Announcement) -> None:
        """Write the row of an open exposure, over that of a missing one, and its tiles, without a rank."""
        key, tiles = (announcement.visit, announcement.detector), announcement.tiles
        place = (announcement.tile, announcement.midpointMjdTai, announcement.sha256, announcement.night)
        self.connection.execute(
            f"INSERT INTO announcements({COLUMNS}) VALUES({_MARKS}) "
            "ON CONFLICT(visit, detector) DO UPDATE SET tile = excluded.tile, mjd = excluded.mjd, "
            "sha256 = excluded.sha256, night = excluded.night, outcome = 'open', tiles = excluded.tiles",
            (*key, *place, "open", 0, _joined(tiles), 0, None),
        )
        self.connection.executemany(WAITING, [(*key, tile) for tile in tiles])

    def open_visits(self) -> list[OpenVisit]:
        """Return the visits that have not closed, in order of (midpointMjdTai, visit)."""
        columns = "visit, mjd, closing, expected, night"
        rows = self.connection.query(f"SELECT {columns} FROM visits WHERE closed = 0 ORDER BY mjd, visit")  # noqa: S608
        seen: dict[int, list[int]] = {row[0]: [] for row in rows}
        if seen:
            among, value = self.connection.among("visit", list(seen))
            text = f"SELECT visit, detector FROM announcements WHERE {among} ORDER BY visit, detector"  # noqa: S608
            for visit, detector in self.connection.query(text, (value,)):
                seen[visit].append(detector)
        return [
            OpenVisit(visit, mjd, closing, numbers(expected), tuple(seen[visit]), night)
            for visit, mjd, closing, expected, night in rows
        ]

    def close_visit(self, visit: int) -> None:
        """Close a visit; expected detectors that were not announced become ``missing``."""
        rows = self.connection.query("SELECT mjd, night, expected FROM visits WHERE visit = ? AND closed = 0", (visit,))
        if not rows:
            return
        mjd, night, expected = rows[0]
        self.connection.execute("UPDATE visits SET closed = 1 WHERE visit = ?", (visit,))
        self.connection.executemany(
            f"INSERT INTO announcements({COLUMNS}) VALUES({_MARKS}) ON CONFLICT(visit, detector) DO NOTHING",
            [(visit, n, 0, mjd, "", night, "missing", 0, "0", 0, None) for n in numbers(expected)],
        )

    def line_state(self, night: int) -> LineState:
        """Return how far event time has come in a night (YYYYMMDD); the default before any was kept."""
        rows = self.connection.query("SELECT watermark, mjd, visit FROM line_states WHERE night = ?", (night,))
        return LineState(*rows[0]) if rows else LineState()

    def keep_line_state(self, night: int, state: LineState) -> None:
        """Write how far event time has come in a night."""
        self.connection.execute(
            "INSERT INTO line_states(night, watermark, mjd, visit) VALUES(?,?,?,?) ON CONFLICT(night) "
            "DO UPDATE SET watermark = excluded.watermark, mjd = excluded.mjd, visit = excluded.visit",
            (night, state.watermark, float(state.midpointMjdTai), state.visit),
        )

    def announced(self, visit: int, detector: int) -> Announcement | None:
        """Return the announcement of a visit and detector, if there is one."""
        text = f"SELECT {COLUMNS} FROM announcements WHERE visit = ? AND detector = ?"  # noqa: S608
        rows = self.connection.query(text, (visit, detector))
        return announcement_of(rows[0]) if rows else None

    def announcements(self, night: int | None = None) -> list[Announcement]:
        """Return the announcements of a night (YYYYMMDD), or all, in order; missing ones where they were added."""
        where, values = ("", ()) if night is None else (" WHERE night = ?", (night,))
        text = f"SELECT {COLUMNS} FROM announcements{where} ORDER BY seq"  # noqa: S608
        return [announcement_of(row) for row in self.connection.query(text, values)]
