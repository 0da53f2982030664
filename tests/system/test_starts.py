"""A worker starts while bus or database are away, and its watch goes on whatever happens."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import workers.night
from schemas.errors import ConfigurationError, FencedError, UnreachableError
from stream.retry import Retry
from tests.associate.scored_night import NIGHT, make_night, survey_of
from tests.cli.command import skydelta
from tests.system.nights import environment
from workers.connect import open_blobs, open_bus, open_database, open_topics
from workers.database import Announcement
from workers.database.conformance import make_exposure, make_object, make_sources
from workers.night import Role, run_role
from workers.replay import prepare
from workers.survey.config import Survey
from workers.ticker import Ticker

ASSOCIATE = Role("associate", drain=True)
OPENERS = ("open_bus", "open_topics", "open_database")


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Survey:
    """A survey with a visit that lacks the last of its four detectors: only a tick closes it."""
    monkeypatch.setattr("workers.night._PAUSES", Retry(pause=0.01, longest_pause=0.02))
    monkeypatch.setattr("workers.night._WATCH", 0.01)
    survey = survey_of(tmp_path)
    night = make_night(open_blobs(survey), visits=1)
    bus = open_bus(survey)
    open_topics(survey, bus)
    bus.publish([*night.announcements[:3], *night.scored[:3]])
    bus.close()
    return survey


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the night logs, as text: a record would keep the error, and with it connections of a thread that is gone."""
    texts: list[str] = []
    log = logging.Logger("night")
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: texts.append(record.getMessage()))
    log.addHandler(handler)
    monkeypatch.setattr(workers.night, "_log", log)
    return texts


def count(said: list[str], text: str) -> int:
    return sum(text in one for one in said)


@contextmanager
def running(survey: Survey, role: Role) -> Iterator[threading.Thread]:
    """Run a role beside the test; it is stopped in the end."""
    stop = threading.Event()
    thread = threading.Thread(target=run_role, args=(survey, role, stop))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)


def announcements(survey: Survey) -> list[Announcement]:
    database = open_database(survey)
    found = database.announcements()
    database.close()
    return found


def failing(call: Callable[..., Any], watch: bool, *errors: Exception) -> Callable[..., Any]:
    """Let the first calls, of the watch or of all others, raise `errors`."""
    left = list(errors)

    def flaky(*arguments: Any, **named: Any) -> Any:
        if left and watch == (threading.current_thread().name == "watch"):
            error = left.pop(0)
            raise type(error)(*error.args)  # a new one: its traceback would keep connections of its thread
        return call(*arguments, **named)

    return flaky


@pytest.mark.parametrize("error", [UnreachableError("away"), ConfigurationError("refused")], ids=["away", "refused"])
@pytest.mark.parametrize("opener", OPENERS)
def test_the_watch_opens_again_what_it_could_not(
    opener: str, error: Exception, survey: Survey, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(workers.night, opener, failing(getattr(workers.night, opener), True, *[error] * 3))
    with running(survey, ASSOCIATE) as worker:
        worker.join(20)
        assert not worker.is_alive()
    assert count(said, f"the watch of associate looks again in 0.0 s: {error}") == 3
    assert sorted(one.outcome for one in announcements(survey))[-1] == "missing"


ERRORS = [UnreachableError("away"), ConfigurationError("refused"), FencedError("taken")]


@pytest.mark.parametrize("error", ERRORS, ids=["away", "refused", "fenced"])
def test_the_watch_looks_past_every_trouble(
    error: Exception, survey: Survey, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(Ticker, "look", failing(Ticker.look, True, *[error] * 3))
    with running(survey, ASSOCIATE) as worker:
        worker.join(20)
        assert not worker.is_alive()
    assert count(said, "the watch of associate looks again") == 3
    assert "ended by itself" not in " ".join(said)


def test_a_bug_in_the_watch_is_told(survey: Survey, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.setattr(Ticker, "look", failing(Ticker.look, True, ZeroDivisionError()))
    with running(survey, ASSOCIATE):
        until(lambda: "the watch of associate ended by itself" in " ".join(said))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_worker_waits_for_what_is_away_at_its_start(
    opener: str, survey: Survey, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    errors = [UnreachableError("nobody answers")] * 3
    monkeypatch.setattr(workers.night, opener, failing(getattr(workers.night, opener), False, *errors))
    with running(survey, ASSOCIATE) as worker:
        worker.join(20)
        assert not worker.is_alive()
    assert count(said, "associate can't start yet, and tries again in 0.0 s: nobody answers") == 3
    assert len(announcements(survey)) == 4


def test_a_stop_ends_the_wait_at_the_start(survey: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.night, "_PAUSES", Retry(pause=60.0))
    monkeypatch.setattr(workers.night, "open_bus", failing(open_bus, False, *[UnreachableError("away")] * 99))
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    begin = time.monotonic()
    assert run_role(survey, ASSOCIATE, stop).messages == 0
    assert time.monotonic() - begin < 10
    timer.join()


def test_a_wrong_configuration_still_ends_a_worker_at_its_start(
    survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.night, "open_database", failing(open_database, False, ConfigurationError("wrong")))
    with pytest.raises(ConfigurationError, match="wrong"):
        run_role(survey, ASSOCIATE, threading.Event())


def test_run_says_why_it_waits_and_ends_when_told(tmp_path: Path) -> None:
    """By the command line: `status` ends with 4 where the bus is away, a worker does not."""
    assert skydelta("init", tmp_path / "survey").code == 0
    bus = tmp_path / "survey" / "state" / "bus.sqlite"
    bus.mkdir(parents=True)
    assert skydelta("status", "-s", tmp_path / "survey").code == 4
    command = [sys.executable, "-m", "workers", "run", "archive", "-s", str(tmp_path / "survey")]
    worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    assert worker.stderr is not None
    assert "archive can't start yet" in worker.stderr.readline()
    bus.rmdir()
    until(bus.is_file)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    worker.stderr.close()


def test_a_replay_starts_with_what_was_observed_up_to_the_night(survey: Survey) -> None:
    """The night before may have ended shortly before: nothing of it is left out, and nothing of the night is there."""
    begin = 61100.0
    live = open_database(survey)
    with live.transaction():
        for visit, mjd in ((1, begin - 0.1), (2, begin)):
            live.store(make_object(visit, mjd=mjd), make_sources(visit, [mjd]), make_exposure(visit, mjd))
    live.close()
    bus = open_bus(survey)
    _, groups = prepare(survey, bus, NIGHT, "again.")
    bus.close()
    assert len(groups) == 3
    copy = open_database(survey, "again.")
    assert copy.counts() | {"announcements": 0} == {
        "dia_objects": 1, "dia_sources": 1, "exposures": 1, "announcements": 0,
    }  # fmt: skip
    assert len(copy.object(1)) == 1
    copy.close()
