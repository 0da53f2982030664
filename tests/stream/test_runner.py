"""The runner: retries, pauses, dead letters, fencing, stops, and a failure at each numbered step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import (
    ConfigurationError,
    DataError,
    DeliveryError,
    ExpiredError,
    FencedError,
    PositionLostError,
    SchemaError,
    TransientError,
    UnreachableError,
)
from stream.bus import Message, Outgoing
from stream.bus.embedded_session import EmbeddedSession
from stream.retry import STEPS, Retry
from stream.shutdown import stop_on_signals
from tests.stream.copied_night import Crash, Night, Relay, always, numbers, on


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_relays_in_batches(night: Night) -> None:
    steps: list[tuple[int, str]] = []
    worker = Relay()
    report = night.run(worker, on_step=lambda step, side: steps.append((step, side)))
    assert night.values() == numbers(10)
    assert (report.messages, report.outputs, report.transactions, report.dead_letters) == (10, 10, 3, 0)
    order = [1, 2, 2, 2, 2, 4, 5, 6] * 2 + [1, 2, 2, 4, 5, 6] + [1]
    assert steps == [(step, side) for step in order for side in ("before", "after")]
    assert worker.flushes == 3  # none for the last poll, which gave nothing
    assert list(report.seconds) == ["poll", "process", "bury", "flush", "commit", "count", "pause"]
    assert min(report.seconds["poll"], report.seconds["process"], report.seconds["commit"]) > 0
    assert report.seconds["bury"] == 0
    assert report.seconds["pause"] == pytest.approx(0, abs=0.01)
    assert night.run(Relay()).messages == 0


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_loses_and_repeats_nothing(night: Night, step: int, side: str, count: int) -> None:
    left = [count]

    def die(*at: object) -> None:
        left[0] -= at == (step, side)
        if left[0] == 0:
            left[0] = -1
            raise Crash

    def bad(message: Message) -> None:
        if message.value in (b"1", b"5", b"6"):
            raise DataError("no good")

    with pytest.raises(Crash):
        night.run(Relay(bad), on_step=die)
    committed = len(night.values())
    assert night.lag() == 10 - committed
    night.run(Relay(bad), on_step=die)
    assert night.values() == [b"failed %d" % n if n in (1, 5, 6) else b"%d" % n for n in range(10)]
    assert [letter["offset"] for letter in night.dead()] == [1, 5, 6]
    assert night.lag() == 0


def test_short_troubles_are_tried_again_at_once(night: Night) -> None:
    worker = Relay(on(b"2", TransientError("lock"), UnreachableError("network")))
    report = night.run(worker)
    assert (report.retries, report.pauses, report.dead_letters) == (2, 0, 0)
    assert worker.seen.count(b"2") == 3
    assert night.values() == numbers(10)


def test_long_troubles_pause_and_keep_the_order(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    """Nine failures are three rounds of three tries; the messages before go out at the first pause."""
    worker = Relay(on(b"2", *[UnreachableError("the disk is away")] * 9))
    report = night.run(worker)
    assert night.values() == numbers(10)
    assert (report.retries, report.pauses) == (6, 3)
    assert worker.seen[: 2 + 9] == [b"0", b"1"] + [b"2"] * 9
    assert report.seconds["pause"] >= 0.8 * (0.01 + 0.02 + 0.02)
    assert "relay pauses 0.0 s: the disk is away" in caplog.text


def test_pauses_keep_the_member_alive(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr("stream.runner._BEAT", 0.01)
    monkeypatch.setattr(EmbeddedSession, "keep_alive", lambda self: beats.append(1))
    worker = Relay(on(b"0", *[UnreachableError("away")] * 3))
    night.run(worker, retry=Retry(wait=0.001, pause=0.1))
    assert len(beats) >= 10 + 5  # one before each message, and those of the pause


def test_poison_becomes_a_dead_letter(night: Night) -> None:
    night.bus.publish([Outgoing("in", b"k", b"poison" * 100, 77, {"trace": b"\x00\xff"})])
    night.publish(1, 10)
    worker = Relay(always(b"poison" * 100, SchemaError("unknown schema id 7 in the message")))
    report = night.run(worker)
    assert (report.messages, report.dead_letters, report.outputs) == (12, 1, 13)
    assert night.values() == [*numbers(10), b"failed " + b"poison" * 100, b"10"]
    assert worker.failures == ["relay: SchemaError: unknown schema id 7 in the message"]
    (letter,) = night.dead()
    assert night.blobs.open_payload(letter.pop("value")) == b"poison" * 100
    assert letter == {
        "stage": "relay",
        "errorType": "SchemaError",
        "message": "unknown schema id 7 in the message",
        "traceback": None,
        "topic": "in",
        "partition": 0,
        "offset": 10,
        "key": b"k",
        "headers": {"trace": b"\x00\xff"},
        "timestamp": 77,
        "attempts": 1,
        "codeVersion": "1.2.3",
        "failedMjdTai": 61000.5,
    }
    (sent,) = night.bus.read("dead")
    assert (sent.key, sent.timestamp) == (b"k", 77)


def test_a_bug_costs_one_message_and_shows_its_place(night: Night) -> None:
    night.run(Relay(always(b"3", ZeroDivisionError())))
    (letter,) = night.dead()
    assert (letter["errorType"], letter["message"]) == ("ZeroDivisionError", "ZeroDivisionError()")
    assert "in trouble" in letter["traceback"]
    assert night.values() == [*numbers(3), b"failed 3", *numbers(10)[4:]]


def test_attempts_are_counted(night: Night) -> None:
    night.run(Relay(on(b"3", TransientError("lock"), DataError("no good"))))
    assert night.dead()[0]["attempts"] == 2


def test_a_worker_without_an_outcome_still_gets_its_dead_letter(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Relay(always(b"3", DataError("no good")))
    monkeypatch.setattr(Relay, "failed", lambda self, message, failure: {}["visit"])
    report = night.run(worker)
    assert (report.dead_letters, report.outputs) == (1, 10)
    assert "relay gave no outcome either" in caplog.text
    assert b"3" not in night.values()


def test_an_outcome_that_must_wait_is_tried_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, left = Relay.failed, [UnreachableError("away")]

    def flaky(self: Relay, message: Message, failure: str) -> Sequence[Outgoing]:
        if left:
            raise left.pop()
        return failed(self, message, failure)

    monkeypatch.setattr(Relay, "failed", flaky)
    report = night.run(Relay(always(b"3", DataError("no good"))))
    assert (report.pauses, report.dead_letters, len(night.dead())) == (1, 1, 1)
    assert night.values()[3] == b"failed 3"


def test_the_blob_store_may_be_away_for_a_dead_letter(night: Night, tmp_path: Path) -> None:
    night.bus.publish([Outgoing("in", b"k", bytes(500), 0)])
    (tmp_path / "blobs").touch()  # a file where the folder should be

    def mend(step: int, side: str, calls: list[int] = []) -> None:  # noqa: B006
        calls.append(step)
        if calls.count(3) == 3 and step == 3:
            (tmp_path / "blobs").unlink()

    report = night.run(Relay(always(bytes(500), DataError("empty"))), on_step=mend)
    assert (report.pauses, report.dead_letters) == (2, 1)
    assert night.blobs.open_payload(night.dead()[0]["value"]) == bytes(500)


@pytest.mark.parametrize("error", [UnreachableError("no disk"), FencedError("taken")], ids=["away", "fenced"])
@pytest.mark.parametrize("call", ["poll", "commit", "rewind", "keep_alive"])
def test_troubles_of_the_bus_pass(
    night: Night, call: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second call of each kind fails once; `rewind` is made to happen by a first trouble of the worker."""
    real, calls = getattr(EmbeddedSession, call), [0]

    def flaky(self: EmbeddedSession, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == (1 if call == "rewind" else 2):
            raise error
        return real(self, *args)

    monkeypatch.setattr(EmbeddedSession, call, flaky)
    trouble = 1 if call == "rewind" else 0
    report = night.run(Relay(on(b"5", *[TransientError("x")] * 3 * trouble)))
    assert night.values() == numbers(10)
    assert night.lag() == 0
    fenced = isinstance(error, FencedError)
    assert (report.pauses, report.fenced) == (trouble + (not fenced), fenced)
    assert ("joins again: taken" in caplog.text) == fenced


def _joining(night: Night, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    """Let the bus raise these errors, one at each try to join the group."""
    join, left = night.bus.session, list(errors)

    def flaky(group: str, topics: Sequence[str]) -> EmbeddedSession:
        if left:
            raise left.pop(0)
        return join(group, topics)

    monkeypatch.setattr(night.bus, "session", flaky)


def test_a_bus_that_is_away_at_the_start_is_waited_for(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _joining(night, monkeypatch, *[UnreachableError("no broker answers")] * 3)
    report = night.run(Relay())
    assert night.values() == numbers(10)
    assert (report.pauses, report.messages) == (3, 10)
    assert report.seconds["pause"] >= 0.8 * (0.01 + 0.02 + 0.02)
    assert caplog.text.count("relay pauses 0.0 s before it joins: no broker answers") == 3


def test_a_stop_ends_the_wait_for_the_bus(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    _joining(night, monkeypatch, *[UnreachableError("away")] * 1000)
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    report = night.run(Relay(), stop=stop, idle_exit=None, retry=Retry(pause=60.0))
    timer.join()
    assert (report.messages, report.pauses) == (0, 1)
    assert report.seconds["pause"] < 10
    assert night.lag() == 10


@pytest.mark.parametrize("error", [ConfigurationError("no such topic"), FencedError("taken")])
def test_other_errors_at_the_start_are_raised(night: Night, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _joining(night, monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        night.run(Relay())
    assert night.lag() == 10


@pytest.mark.parametrize("call", ["poll", "commit", "rewind", "keep_alive"])
def test_a_worker_declared_dead_ends_at_once(night: Night, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def expired(self: EmbeddedSession, *args: Any) -> None:
        raise ExpiredError("declared dead while it worked")

    monkeypatch.setattr(EmbeddedSession, call, expired)
    trouble = [UnreachableError("away")] * 3 * (call == "rewind")
    with pytest.raises(ExpiredError, match="declared dead") as caught:
        night.run(Relay(on(b"5", *trouble)))
    assert caught.value.exit_code == 75
    assert night.values() == (numbers(5) if trouble else [])
    assert night.lag() == (5 if trouble else 10)


def test_fenced_again_and_again_stops(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fenced(self: EmbeddedSession, *args: Any) -> None:
        calls.append(1)
        raise FencedError("taken by another member")

    monkeypatch.setattr(EmbeddedSession, "commit", fenced)
    with pytest.raises(FencedError, match="taken by another") as caught:
        night.run(Relay(), retry=Retry(fenced=3))
    assert caught.value.exit_code == 4
    assert len(calls) == 3
    assert night.values() == []


def test_lost_positions_stop_the_worker(night: Night) -> None:
    first = night.bus.session("g", ["in"])
    first.commit([], first.poll(2, 0))
    first.close()
    night.bus.trim(1005)
    with pytest.raises(PositionLostError, match="deleted unread") as caught:
        night.run(Relay())
    assert caught.value.exit_code == 4


def test_a_delivery_error_of_the_worker_stops_it(night: Night) -> None:
    with pytest.raises(DeliveryError, match="database says no"):
        night.run(Relay(always(b"5", DeliveryError("database says no"))))
    assert night.values() == numbers(4)
    assert night.dead() == []


def test_unknown_output_topic_stops_the_worker(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "process", lambda self, message: [Outgoing("nowhere", b"", b"", 0)])
    with pytest.raises(ConfigurationError, match="'nowhere' is not on the bus"):
        night.run(Relay())
    assert night.lag() == 10


def test_an_output_too_large_for_the_bus_is_found_in_its_batch(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def swell(self: Relay, message: Message) -> list[Outgoing]:
        return [Outgoing("out", b"", bytes(11 << 20) if message.value == b"6" else message.value, 0)]

    monkeypatch.setattr(Relay, "process", swell)
    report = night.run(Relay())
    assert night.values() == [*numbers(6), b"failed 6", *numbers(10)[7:]]
    assert (report.dead_letters, report.messages, report.outputs) == (1, 10, 11)
    assert report.transactions == 1 + 4 + 1  # the four of the refused batch went one by one
    (letter,) = night.dead()
    assert letter["offset"] == 6
    assert "larger than the 10485760 that a bus takes" in letter["message"]


def test_stop_ends_the_message_in_work_and_commits(night: Night) -> None:
    stop = threading.Event()

    def ask(message: Message) -> None:
        if message.value == b"5":
            stop.set()

    report = night.run(Relay(ask), stop=stop, idle_exit=None)
    assert night.values() == numbers(6)
    assert (report.messages, report.transactions) == (6, 2)
    assert night.lag() == 4


def test_stop_ends_a_pause(night: Night) -> None:
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    worker = Relay(always(b"0", UnreachableError("away")))
    report = night.run(worker, stop=stop, idle_exit=None, retry=Retry(wait=0.001, pause=60.0))
    timer.join()
    assert (report.messages, report.pauses) == (0, 1)
    assert report.seconds["pause"] < 10
    assert night.lag() == 10


def test_pauses_grow_to_their_limit(night: Night) -> None:
    stop = threading.Event()
    ends: list[float] = []

    class Watched(Relay):
        def process(self, message: Message) -> Sequence[Outgoing]:
            if len(self.seen) == 18:
                stop.set()
            return super().process(message)

    def note(step: int, side: str) -> None:
        if (step, side) == (1, "before"):
            ends.append(1)

    report = night.run(
        Watched(always(b"0", UnreachableError("away"))),
        stop=stop,
        idle_exit=None,
        retry=Retry(tries=1, pause=0.001, longest_pause=0.004),
        on_step=note,
    )
    assert report.pauses == len(ends) == 19
    assert 0.8 * (0.001 + 0.002 + 16 * 0.004) <= report.seconds["pause"] < 2.0


def test_pauses_are_short_again_after_a_commit(night: Night) -> None:
    """Three troubles before each message: pauses of 1, 2 and 4 ms; growing on, they would last 1000 s."""
    troubles = {n: [UnreachableError("away")] * 3 for n in numbers(10)}

    def stumble(message: Message) -> None:
        if troubles[message.value]:
            raise troubles[message.value].pop()

    report = night.run(Relay(stumble), retry=Retry(tries=1, pause=0.001))
    assert (report.pauses, report.messages) == (30, 10)
    assert report.seconds["pause"] < 5.0


def test_idle_exit_waits_for_late_messages(night: Night) -> None:
    night.run(Relay())
    timer = threading.Timer(0.3, lambda: night.publish(2, 10))
    timer.start()
    report = night.run(Relay(), idle_exit=1.0)
    timer.join()
    assert report.messages == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_in_good_order(night: Night, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def send(message: Message) -> None:
        if message.value == b"2":
            os.kill(os.getpid(), number)

    with stop_on_signals() as stop:
        night.run(Relay(send), stop=stop, idle_exit=None)
    assert night.values() == numbers(3)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_not_waited_for() -> None:
    started_with = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.wait(5)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, started_with)


def test_the_session_is_closed_whatever_happens(night: Night) -> None:
    with pytest.raises(Crash):
        night.run(Relay(on(b"0", Crash())))
    heir = night.bus.session("g", ["in"])
    assert heir.assigned() == {("in", 0)}
    heir.close()


def test_dead_letters_can_be_published_again(night: Night) -> None:
    night.run(Relay(always(b"3", DataError("calibration missing"))))
    night.bus.publish([night.letters.original(letter) for letter in night.dead()])
    night.run(Relay())
    again = list(night.bus.read("in"))[-1]
    assert (again.key, again.value, again.timestamp, again.headers) == (b"1:2", b"3", 1003, {})
    assert night.values()[-1] == b"3"
