"""What goes wrong costs its own exposure: no dead letter is lost, and nobody waits for ever in the line."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConflictError, SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from tests.associate.scored_night import NIGHT, TOPICS, ScoredNight, make_night, messages_of, open_worker, survey_of
from workers.associate import worker as worker_module
from workers.associate.exposure import Ended, ExposureAssociation
from workers.associate.worker import AssociateWorker
from workers.database.sqlite import SqliteDatabase
from workers.items import SourcesItem, decode, encode

VISITS, SCORED = TOPICS.name("visits"), TOPICS.name("scored")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def night(blobs: BlobStore) -> ScoredNight:
    return make_night(blobs, visits=3)


@pytest.fixture
def worker(tmp_path: Path, blobs: BlobStore) -> AssociateWorker:
    return open_worker(survey_of(tmp_path), blobs, SqliteDatabase(tmp_path / "dia.sqlite"))


def outcomes(worker: AssociateWorker) -> dict[str, str]:
    return {f"{one.visit}:{one.detector}": one.outcome for one in worker.database.announcements()}  # type: ignore[attr-defined]


def announced(night: ScoredNight) -> list[Message]:
    return messages_of(list(night.announcements), VISITS, 0)


def scored(night: ScoredNight) -> list[Message]:
    return messages_of(list(night.scored), SCORED, 0)


def letters(outputs: list[Outgoing]) -> list[dict[str, Any]]:
    return [codec.decode(one.value).record for one in outputs if one.topic == TOPICS.name("dead")]


def garbage(offset: int) -> Message:
    return Message(VISITS, 0, offset, b"k", b"no framing", 1)


def test_a_poison_whose_letter_was_not_published_is_poison_again(worker: AssociateWorker, night: ScoredNight) -> None:
    """The batch's later messages were applied, and the bus commit failed: all of it comes again."""
    good = [replace(message, offset=message.offset + 1) for message in announced(night)[:2]]
    conflict = _other_bytes(night, offset=3)
    for _ in range(2):
        with pytest.raises(SchemaError):
            worker.process(garbage(0))
        assert worker.process(good[0]) == []
        assert worker.process(good[1]) == []
        with pytest.raises(ConflictError):
            worker.process(conflict)
    worker.committed([garbage(0), *good, conflict])
    assert worker.process(garbage(0)) == []  # published for certain: done


def _other_bytes(night: ScoredNight, offset: int) -> Message:
    record = codec.decode(night.announcements[0].value).record | {"sha256": "f" * 64}
    return Message(VISITS, 0, offset, b"k", codec.encode("visit", record), night.announcements[0].timestamp)


def test_outputs_are_given_again_until_they_are_committed(worker: AssociateWorker, night: ScoredNight) -> None:
    for message in announced(night):
        worker.process(message)
    first = [worker.process(message) for message in scored(night)]
    assert sum(map(len, first)) > 20
    assert [worker.process(message) for message in scored(night)] == first
    worker.committed(scored(night))
    assert [worker.process(message) for message in scored(night)] == [[]] * len(first)  # a position was forgotten


def test_a_bug_costs_one_exposure(worker: AssociateWorker, night: ScoredNight, monkeypatch: pytest.MonkeyPatch) -> None:
    """It strikes in the turn that another exposure's message brought."""
    run = ExposureAssociation.run

    def broken(self: ExposureAssociation, value: bytes, *, late: bool) -> Ended:
        info = decode(value, self.blobs).info
        if (info.visit, info.detector) == (1001, 0):
            raise ValueError("nobody foresaw this")
        return run(self, value, late=late)

    monkeypatch.setattr(ExposureAssociation, "run", broken)
    for message in announced(night):
        worker.process(message)
    outputs = [one for message in reversed(scored(night)) for one in worker.process(message)]
    found = outcomes(worker)
    assert found.pop("1001:0") == "failed"
    assert set(found.values()) == {"alerts"}
    (letter,) = letters(outputs)
    assert (letter["errorType"], letter["message"]) == ("ValueError", "nobody foresaw this")
    assert "in broken" in letter["traceback"]


def failure_of(message: Outgoing, blobs: BlobStore) -> Outgoing:
    item = decode(message.value, blobs)
    failed = SourcesItem(item.info, item.tile, "failed", failure="isr: DataError: no light")
    return replace(message, value=encode(failed, "scored", blobs))


def test_a_retry_before_its_turn_takes_the_failures_place(
    worker: AssociateWorker, night: ScoredNight, blobs: BlobStore
) -> None:
    for message in announced(night):
        worker.process(message)
    first, *others = night.scored
    again = [*others[1:], failure_of(others[0], blobs), others[0], failure_of(others[0], blobs), first]
    for message in messages_of(again, SCORED, 0):
        worker.process(message)
    assert set(outcomes(worker).values()) == {"alerts"}


def test_a_failure_alone_ends_as_failed(worker: AssociateWorker, night: ScoredNight, blobs: BlobStore) -> None:
    for message in announced(night):
        worker.process(message)
    first, *others = night.scored
    for message in messages_of([failure_of(first, blobs), *others], SCORED, 0):
        worker.process(message)
    assert Counter(outcomes(worker).values()) == {"alerts": 11, "failed": 1}


def test_a_message_that_kills_its_worker_holds_nobody_up(worker: AssociateWorker, night: ScoredNight) -> None:
    """The runner buries it unrun; its exposure has failed, and the next tick gives the others their turn."""
    for message in announced(night):
        worker.process(message)
    culprit, *others = scored(night)
    for message in others:
        worker.process(message)
    assert "open" in outcomes(worker).values()
    assert worker.failed(culprit, "associate: FatalInputError: 2 processes died") == []
    assert outcomes(worker)["1000:0"] == "failed"
    tick = codec.encode("tick", {"night": NIGHT, "timestamp": 1})
    outputs = worker.process(Message(VISITS, 0, 99, b"k", tick, 1))
    assert Counter(outcomes(worker).values()) == {"alerts": 11, "failed": 1}
    assert sum(one.topic == TOPICS.name("alerts") for one in outputs) > 20
    assert worker.failed(garbage(100), "whatever") == []


def test_one_message_gives_so_much_and_ticks_give_the_rest(
    worker: AssociateWorker, night: ScoredNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_MOST_BYTES", 1)
    for message in announced(night):
        worker.process(message)
    counts = []
    for message in scored(night)[::-1]:
        worker.process(message)
        counts.append(Counter(outcomes(worker).values())["alerts"])
    assert counts[-2] == 0
    assert counts[-1] == 1
    tick = codec.encode("tick", {"night": NIGHT, "timestamp": 1})
    for number in range(11):
        worker.process(Message(VISITS, 0, 100 + number, b"k", tick, 1))
        assert Counter(outcomes(worker).values())["alerts"] == number + 2
