"""Messages that kill their process, with the runner, in processes that really die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stream import codec
from stream.attempts import Attempts
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.dead_letters import DeadLetters
from stream.retry import Retry
from stream.runner import run

SCRIPT = Path(__file__).with_name("poison.py")
ROOT = Path(__file__).parents[2]


class Survey:
    """A bus and a journal, with a worker that dies of some messages."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder, folder / "attempts"
        self.bus = EmbeddedBus(folder / "bus.sqlite", session_timeout=0.4)
        self.bus.ensure({"in": 1, "out": 1, "dead": 1})
        (folder / "counters").write_text("oom_kill 0\n")

    def publish(self, *values: bytes) -> None:
        self.bus.publish([Outgoing("in", b"k", value, 1000 + n) for n, value in enumerate(values)])

    def start(self) -> int:
        words = ["bus.sqlite", "blobs", "attempts", "counters"]
        command = [sys.executable, str(SCRIPT), *(str(self.folder / word) for word in words)]
        child = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60, check=False
        )
        time.sleep(0.45)  # the session of a dead one runs out
        return child.returncode

    def outputs(self) -> list[bytes]:
        return [one.value for one in self.bus.read("out")]

    def dead(self) -> list[dict[str, Any]]:
        return [codec.decode(one.value).record for one in self.bus.read("dead")]


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    return Survey(tmp_path)


@pytest.mark.parametrize(
    ("poison", "code", "words", "trace"),
    [
        (b"fault", -signal.SIGSEGV, "2 by a fault (the last: Fatal Python error: Segmentation fault)", "string_at"),
        (b"abort", -signal.SIGABRT, "2 by a fault (the last: Fatal Python error: Aborted)", "in process"),
        (b"memory", -signal.SIGKILL, "2 for want of memory", None),
    ],
    ids=["fault", "abort", "memory"],
)
def test_hard_poison_is_buried_at_the_third_start(
    survey: Survey, poison: bytes, code: int, words: str, trace: str | None
) -> None:
    survey.publish(b"a", poison, b"b")
    assert [survey.start() for _ in range(3)] == [code, code, 0]
    assert survey.outputs() == [b"a", b"failed " + poison, b"b"]
    (letter,) = survey.dead()
    assert (letter["errorType"], letter["attempts"], letter["offset"]) == ("FatalInputError", 2, 1)
    assert words in letter["message"]
    assert letter["traceback"] is None if trace is None else trace in letter["traceback"]
    assert list(survey.journal.iterdir()) == []


@pytest.mark.parametrize(
    ("poison", "code"),
    [(b"kill", -signal.SIGKILL), pytest.param(b"exit", 3, marks=pytest.mark.slow)],
    ids=["kill", "exit"],
)
def test_unexplained_deaths_need_ten_starts(survey: Survey, poison: bytes, code: int) -> None:
    survey.publish(b"a", poison, b"b")
    assert [survey.start() for _ in range(10)] == [code] * 9 + [0]
    assert survey.outputs() == [b"a", b"failed " + poison, b"b"]
    (letter,) = survey.dead()
    assert (letter["errorType"], letter["attempts"]) == ("FatalInputError", 9)
    assert "9 unexplained" in letter["message"]
    assert list(survey.journal.iterdir()) == []


def test_an_outcome_that_kills_is_left_out(survey: Survey) -> None:
    survey.publish(b"burial", b"b")
    assert [survey.start() for _ in range(4)] == [-signal.SIGABRT] * 3 + [0]
    assert survey.outputs() == [b"b"]
    (letter,) = survey.dead()
    assert (letter["errorType"], letter["attempts"]) == ("FatalInputError", 3)
    assert list(survey.journal.iterdir()) == []


class Copier:
    name, inputs = "copier", ("in",)

    def process(self, one: Message) -> list[Outgoing]:
        return [Outgoing("out", one.key, one.value, one.timestamp)]

    def failed(self, one: Message, failure: str) -> list[Outgoing]:
        return []

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        pass


def test_harmless_work_whose_commit_died_is_not_counted(survey: Survey) -> None:
    """Ten crashes before the commit, after messages were processed well: no death of theirs."""

    class Crash(BaseException):
        pass

    class Crasher(Copier):
        def flush(self) -> None:
            if left.pop():
                raise Crash

    left = [False] + [True] * 10
    survey.publish(b"a", b"b")
    letters = DeadLetters("dead", BlobStore(survey.folder / "blobs"), lambda: 61000.0, "test")
    for _ in range(10):
        with pytest.raises(Crash):
            run(Crasher(), survey.bus, group="g", dead_letters=letters, attempts=Attempts(survey.journal))
        assert list(survey.journal.iterdir()) == []
    run(Crasher(), survey.bus, group="g", dead_letters=letters, attempts=Attempts(survey.journal), idle_exit=0.0)
    assert survey.outputs() == [b"a", b"b"]
    assert survey.dead() == []


def test_a_journal_out_of_reach_pauses_the_worker(survey: Survey) -> None:
    survey.publish(b"a")
    survey.journal.touch()  # a file where the folder should be
    letters = DeadLetters("dead", BlobStore(survey.folder / "blobs"), lambda: 61000.0, "test")

    timer = threading.Timer(0.2, survey.journal.unlink)
    timer.start()
    report = run(
        Copier(),
        survey.bus,
        group="g",
        dead_letters=letters,
        attempts=Attempts(survey.journal),
        idle_exit=0.0,
        retry=Retry(pause=0.05),
    )
    timer.join()
    assert report.pauses > 0
    assert survey.outputs() == [b"a"]
