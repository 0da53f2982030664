"""The same calls, drawn at random, get the same answers from both databases, and from a model of the port."""

from __future__ import annotations

import random

import pytest

from tests.database.model import Model
from workers.database import LineState, Position, StoredOutput
from workers.database.conformance import make_announcement

NIGHTS = (20251120, 20251121)
TILES = range(4)


class Script:
    """Draws calls that a worker could make: few visits, detectors and tiles, so that they meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.offset = 0

    def key(self) -> tuple[int, int]:
        return self.random.randrange(6), self.random.randrange(3)

    def step(self) -> tuple[str, tuple[object, ...]]:
        names = ["announce"] * 4 + ["deliver"] * 4 + ["enqueue"] * 4 + ["finish"] * 3
        names += ["close_visit", "reopen", "reopen", "keep_line_state", "remember", "remember", "settle", "applied"]
        name = self.random.choice(names)
        return name, getattr(self, name)()

    def announce(self):
        visit, detector = self.key()
        tiles = self.random.sample(TILES, self.random.randint(1, 3))
        changes = {"sha256": self.random.choice("aaab"), "night": NIGHTS[visit % 2]}
        expected = self.random.choice([[], [0, 1], [2, 0, 1]])
        return make_announcement(visit, detector, *tiles, **changes), expected, self.random.randrange(99)

    def deliver(self):
        return *self.key(), self.random.choice("aaab"), self.random.randbytes(5)

    def enqueue(self):
        return *self.key(), self.random.random() < 0.3

    def finish(self):
        return *self.key(), self.random.choice(["alerts", "failed", "failed"]), self.random.randrange(9), 61000.5

    def close_visit(self):
        return (self.random.randrange(6),)

    def reopen(self):
        return self.key()

    def keep_line_state(self):
        state = LineState(self.random.randrange(2**40), self.random.choice([61000.1, float("-inf")]), 3)
        return self.random.choice(NIGHTS), state

    def remember(self):
        self.offset += self.random.choice([1, 1, 200])
        outputs = [StoredOutput("t", b"k", self.random.randbytes(9), n, {"h": b"v"}) for n in range(self.offset % 3)]
        return Position("g", "t", 0, self.offset), outputs

    def settle(self):
        return (Position("g", "t", 0, max(self.offset - self.random.choice([0, 1, 200]), 0)),)

    def applied(self):
        return (Position("g", "t", 0, max(self.offset - self.random.choice([-1, 0, 1, 200, 256]), 0)),)


def answers(database) -> list[object]:
    """Everything that can be asked."""
    keys = [(visit, detector) for visit in range(6) for detector in range(3)]
    return [
        database.open_visits(),
        [database.head(tile) for tile in TILES],
        sorted(database.heads(), key=lambda head: (head.visit, head.detector)),
        [(row, row.processedMjdTai if row.outcome == "alerts" else None) for row in database.announcements()],
        database.announcements(NIGHTS[0]),
        [database.announced(*key) for key in keys],
        [database.delivered(*key) for key in keys],
        [database.line_state(night) for night in NIGHTS],
    ]


class UndoneError(Exception):
    """Ends some transactions."""


def play(database, seed: int, transactions: int) -> list[object]:
    """Return every answer of a script: of each call, and of all questions after each transaction."""
    script, told = Script(seed), []
    for number in range(transactions):
        try:
            with database.transaction(TILES):
                for _ in range(script.random.randint(1, 8)):
                    name, values = script.step()
                    told.append((name, values, getattr(database, name)(*values)))
                if number % 5 == 4:
                    raise UndoneError
        except UndoneError:
            pass
        told.append(answers(database))
    return told


@pytest.mark.parametrize("seed", range(6))
def test_calls_get_the_answers_of_the_model(seed, make, tmp_path):
    database = make(tmp_path / "dia")
    expected, found = play(Model(), seed, 60), play(database, seed, 60)
    for one, other in zip(expected, found, strict=True):
        assert other == one
    calls = [told[0] for told in found if isinstance(told, tuple)]
    assert len(set(calls)) == 10
    heads = [told[1] for told in found if isinstance(told, list)]
    assert sum(head is not None for tiles in heads for head in tiles) > 30  # the line was not empty all the time
    database.close()
