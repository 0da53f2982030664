"""The archive worker in the runner: every alert once, conflicts to the dead letters, whatever happens between."""

from __future__ import annotations

from pathlib import Path

import pytest

import schemas
from schemas.errors import SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.dead_letters import DeadLetters
from stream.retry import RunReport
from stream.runner import run
from stream.topics import Topics
from tests.archive.packets import NIGHT, value
from tests.archive.test_store import FILE, ids
from workers.archive.store import AlertArchive
from workers.archive.worker import GROUP, ArchiveWorker, archived

TOPICS = Topics(partitions=3)


class Death(BaseException):
    """Ends the runner where a kill would."""


@pytest.fixture
def bus(tmp_path: Path) -> EmbeddedBus:
    bus = EmbeddedBus(tmp_path / "bus.sqlite", 1.0)
    bus.ensure(TOPICS.all())
    return bus


def outgoing(number: int, noise: bytes = b"", *, headers: bool = True, night: int = NIGHT) -> Outgoing:
    said = {"alertId": b"%d" % number, "night": b"%d" % night, "stageTimes": b"[]"} if headers else {}
    return Outgoing("alerts", b"k%d" % (number % 7), value(number, night, noise), 1000 + number, said)


def work(bus: EmbeddedBus, tmp_path: Path, death: tuple[int, str, int] | None = None) -> RunReport:
    left = [death[2] if death else 0]

    def die(step: int, side: str) -> None:
        left[0] -= (step, side) == (death or ())[:2]
        if death and left[0] == 0:
            raise Death

    letters = DeadLetters("dead", BlobStore(tmp_path / "blobs"), lambda: 61000.0, "test")
    worker = ArchiveWorker(AlertArchive(tmp_path / "archive"), TOPICS)
    try:
        return run(worker, bus, group=GROUP, dead_letters=letters, batch=4, idle_exit=0.05, on_step=die)
    finally:
        worker.archive.close()


def letters(bus: EmbeddedBus) -> list[dict]:
    return [codec.decode(message.value).record for message in bus.read("dead")]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_death_at_any_step(bus: EmbeddedBus, tmp_path: Path, step: int, side: str) -> None:
    published = [outgoing(number, headers=number % 2 == 0) for number in range(1, 32)]  # 31 has the key of 3
    bus.publish([*published[:30], outgoing(3, b"other bytes"), outgoing(5, headers=False), published[30]])
    with pytest.raises(Death):
        work(bus, tmp_path, (step, side, 3))
    work(bus, tmp_path)
    archive = AlertArchive(tmp_path / "archive")
    assert {one.alertId: (one.value, dict(one.headers), one.key, one.timestamp) for one in archive.night(NIGHT)} == {
        int(out.timestamp - 1000): (out.value, dict(out.headers), out.key, out.timestamp) for out in published
    }
    assert sorted(ids(tmp_path / "archive" / FILE)) == list(range(1, 32))
    (letter,) = letters(bus)
    assert (letter["errorType"], letter["stage"]) == ("ConflictError", "archive")
    assert "first stands" in letter["message"]
    assert sum(bus.lag(GROUP, ["alerts"]).values()) == 0
    assert sum(archive.consumed().values()) == 33


def test_what_is_no_alert_is_a_dead_letter(bus: EmbeddedBus, tmp_path: Path) -> None:
    named = {"alertId": b"9", "night": b"20251120"}
    tick = b"\0" + schemas.latest("quality").id.to_bytes(4, "big") + b"\2\2"
    bus.publish(
        [
            Outgoing("alerts", b"a", b"garbage", 1),
            Outgoing("alerts", b"b", value(8), 2, named),
            Outgoing("alerts", b"c", value(9), 3, {"alertId": b"nine", "night": b"0"}),
            Outgoing("alerts", b"d", tick, 4, named),
            outgoing(10),
        ]
    )
    report = work(bus, tmp_path)
    assert (report.messages, report.dead_letters, report.outputs) == (5, 4, 4)
    assert sorted(letter["errorType"] for letter in letters(bus)) == ["DataError", *["SchemaError"] * 3]
    assert AlertArchive(tmp_path / "archive").nights() == {NIGHT: 1}


def test_a_bus_made_anew_is_archived_too(bus: EmbeddedBus, tmp_path: Path) -> None:
    """The same positions hold other alerts then: what an alert is decides, not where it stood."""
    bus.publish([outgoing(number) for number in range(1, 9)])
    work(bus, tmp_path)
    bus.close()
    for path in tmp_path.glob("bus.sqlite*"):
        path.unlink()
    bus = EmbeddedBus(tmp_path / "bus.sqlite", 1.0)
    bus.ensure(TOPICS.all())
    bus.publish([outgoing(number) for number in range(5, 15)])
    work(bus, tmp_path)
    assert sorted(ids(tmp_path / "archive" / FILE)) == list(range(1, 15))


def test_identity_without_headers() -> None:
    message = Message("alerts", 1, 5, b"k", value(77, 20260101), 12)
    one = archived(message)
    assert (one.alertId, one.night, one.topic, one.partition, one.offset) == (77, 20260101, "alerts", 1, 5)
    with pytest.raises(SchemaError, match=r"alerts\[0\] offset 0 does not say"):
        archived(Message("alerts", 0, 0, b"", value(1), 0, {"alertId": b"x", "night": b"y"}))
