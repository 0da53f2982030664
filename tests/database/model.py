"""The port in plain dictionaries: what a database must answer, without how."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace

from workers.database import Announcement, LineState, OpenVisit


class Model:
    def __init__(self):
        self.rows: dict[tuple[int, int], Announcement] = {}
        self.visits: dict[int, OpenVisit] = {}
        self.closed: set[int] = set()
        self.ranks: dict[tuple[int, int], int] = {}
        self.rank = 0
        self.kept: dict[tuple[int, int, str], bytes] = {}
        self.states: dict[int, LineState] = {}
        self.next: dict[tuple[str, str, int], int] = {}
        self.outputs: dict[tuple[str, str, int], dict[int, list]] = {}

    @contextmanager
    def transaction(self, tiles=()):
        before = copy.deepcopy(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def applied(self, position):
        key = (position.group, position.topic, position.partition)
        kept = self.outputs.get(key, {})
        if position.offset in kept:
            return kept[position.offset]
        return None if position.offset >= self.next.get(key, 0) else []

    def remember(self, position, outputs):
        key = (position.group, position.topic, position.partition)
        self.outputs.setdefault(key, {})[position.offset] = list(outputs)

    def settle(self, position):
        key = (position.group, position.topic, position.partition)
        self.next[key] = max(self.next.get(key, 0), position.offset + 1)
        kept = self.outputs.get(key, {})
        self.outputs[key] = {offset: value for offset, value in kept.items() if offset > position.offset}

    def announce(self, announcement, expected, closing):
        visit, detector = announcement.visit, announcement.detector
        known = self.rows.get((visit, detector))
        if known is not None and known.outcome != "missing":
            return "same" if known.sha256 == announcement.sha256 else "conflict"
        if visit not in self.visits:
            wanted = tuple(sorted(set(expected or (detector,))))
            place = (visit, announcement.midpointMjdTai, closing, wanted, (), announcement.night)
            self.visits[visit] = OpenVisit(*place)
        self.rows[(visit, detector)] = announcement
        return "late" if visit in self.closed else "new"

    def open_visits(self):
        found = []
        for visit in self.visits.values():
            if visit.visit not in self.closed:
                seen = tuple(sorted(detector for number, detector in self.rows if number == visit.visit))
                found.append(replace(visit, seen=seen))
        return sorted(found, key=lambda visit: (visit.midpointMjdTai, visit.visit))

    def close_visit(self, visit):
        if visit in self.visits and visit not in self.closed:
            self.closed.add(visit)
            known = self.visits[visit]
            for detector in known.expected:
                row = Announcement(visit, detector, 0, known.midpointMjdTai, "", known.night, "missing")
                self.rows.setdefault((visit, detector), row)

    def line_state(self, night):
        return self.states.get(night, LineState())

    def keep_line_state(self, night, state):
        self.states[night] = state

    def announced(self, visit, detector):
        return self.rows.get((visit, detector))

    def announcements(self, night=None):
        return [row for row in self.rows.values() if night in (None, row.night)]

    def enqueue(self, visit, detector, late):
        key = (visit, detector)
        if key in self.rows and self.rows[key].outcome == "open" and key not in self.ranks:
            self.rank += 1
            self.ranks[key] = self.rank
            self.rows[key] = replace(self.rows[key], late=late)

    def deliver(self, visit, detector, sha256, message, *, instead=False):
        known = self.rows.get((visit, detector))
        if known is not None and known.outcome != "missing" and (known.outcome, known.sha256) != ("open", sha256):
            return False
        if (visit, detector, sha256) in self.kept and not instead:
            return False
        self.kept[(visit, detector, sha256)] = message
        return True

    def delivered(self, visit, detector):
        known = self.rows.get((visit, detector))
        return None if known is None else self.kept.get((visit, detector, known.sha256))

    def head(self, tile):
        waiting = [(rank, key) for key, rank in self.ranks.items() if tile in self.rows[key].tiles]
        return self.rows[min(waiting)[1]] if waiting else None

    def heads(self):
        first = {min((rank, key) for key, rank in self.ranks.items() if tile in self.rows[key].tiles)[1]
                 for _, tiles in ((key, self.rows[key].tiles) for key in self.ranks) for tile in tiles}  # fmt: skip
        return [row for key, row in self.rows.items() if key in first]

    def finish(self, visit, detector, outcome, alerts, processed):
        key = (visit, detector)
        if key in self.rows:
            self.rows[key] = replace(self.rows[key], outcome=outcome, alerts=alerts, processedMjdTai=processed)
        self.ranks.pop(key, None)
        self.kept = {one: message for one, message in self.kept.items() if one[:2] != key}

    def reopen(self, visit, detector):
        row = self.rows.get((visit, detector))
        if row is not None and row.outcome == "failed":
            self.rows[(visit, detector)] = replace(row, outcome="open")
