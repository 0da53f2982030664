"""What a worker makes durable before each commit, and what happens where it can't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.errors import DataError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.embedded_session import EmbeddedSession
from tests.stream.copied_night import Night, Relay, numbers


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


class Ledger(Relay):
    """Keeps what it processed in memory until `flush` makes it durable."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.held: list[bytes] = []
        self.durable: set[bytes] = set()
        self.refused: set[bytes] = set()

    def process(self, message: Message) -> Sequence[Outgoing]:
        self.held.append(message.value)
        return super().process(message)

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        self.held.append(b"failed " + message.value)
        return super().failed(message, failure)

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        super().flush()
        held, self.held = self.held, []
        if self.refused & set(held):
            raise DataError("a number that no column holds")
        if self.errors:
            raise self.errors.pop()
        self.durable |= set(held)


def test_what_is_flushed_is_durable_before_its_commit(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, commit = Ledger(), EmbeddedSession.commit

    def check(self: EmbeddedSession, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
        assert {record.value for record in outgoing} <= worker.durable
        commit(self, outgoing, consumed)

    monkeypatch.setattr(EmbeddedSession, "commit", check)
    night.run(worker)
    assert night.values() == numbers(10)


def test_a_flush_that_must_wait_gives_the_batch_up(night: Night) -> None:
    worker = Ledger(UnreachableError("the disk is full"), UnreachableError("the disk is full"))
    report = night.run(worker)
    assert (report.pauses, report.messages, report.dead_letters) == (2, 10, 0)
    assert worker.seen == numbers(4) * 2 + numbers(10)
    assert worker.durable == set(numbers(10))
    assert night.values() == numbers(10)
    assert night.lag() == 0


def test_data_refused_at_the_flush_are_found(night: Night) -> None:
    worker = Ledger()
    worker.refused = {b"6"}
    report = night.run(worker)
    assert night.values() == [*numbers(6), b"failed 6", *numbers(10)[7:]]
    assert report.dead_letters == 1
    assert night.dead()[0]["message"] == "a number that no column holds"
    assert b"failed 6" in worker.durable


def test_an_outcome_refused_at_the_flush_too_stops_the_worker(night: Night) -> None:
    worker = Ledger()
    worker.refused = {b"6", b"failed 6"}
    with pytest.raises(DataError, match="no column"):
        night.run(worker)
    assert night.values() == numbers(6)
    assert night.lag() == 4
