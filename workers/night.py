"""Run workers: one process per worker, on any bus, until told to stop or until all that was ingested is done."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from schemas.errors import ConfigurationError, SkydeltaError, TransientError
from stream.bus import Bus
from stream.retry import Retry, RunReport
from stream.runner import Worker, run
from stream.topics import Topics
from workers.clock import mjd_tai_now
from workers.connect import (
    open_archive,
    open_attempts,
    open_blobs,
    open_bus,
    open_database,
    open_dead_letters,
    open_topics,
)
from workers.supervise import supervise
from workers.survey.config import Survey
from workers.ticker import Ticker
from workers.worker import INPUTS, PixelWorker, Stage

__all__ = ["ALL", "PIXEL_STAGES", "Role", "finished", "lags", "parse_stages", "run_role", "run_roles", "waiting"]

PIXEL_STAGES = ("isr", "subtract", "score")
SINGLE = ("associate", "archive")
"""Stages that are not joined to others."""
ALL = ("isr+subtract+score", "associate", "archive")
"""The roles that `skydelta run all` starts."""

_WATCH = 0.5  # s between looks at what waits
_PAUSES = Retry()
"""How patiently a worker is opened, and its watch."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Role:
    """What one worker process does."""

    stages: str
    """Pixel stages joined by +, ``associate`` or ``archive``."""
    prefix: str = ""
    """Of topics and database: a replay has its own."""
    drain: bool = False
    """Stop when everything that was ingested is done."""


def parse_stages(text: str) -> tuple[str, ...]:
    """Return the roles named on the command line; raises ConfigurationError for an unknown or broken chain."""
    if text == "all":
        return ALL
    if text in SINGLE:
        return (text,)
    names = tuple(text.split("+"))
    first = PIXEL_STAGES.index(names[0]) if names[0] in PIXEL_STAGES else -1
    if first < 0 or names != PIXEL_STAGES[first : first + len(names)]:
        raise ConfigurationError(
            f"{text!r} is no stage; choose {', '.join(SINGLE)}, all, or neighbours of {' + '.join(PIXEL_STAGES)} "
            "joined by +"
        )
    return (text,)


def open_stages(survey: Survey, names: Sequence[str]) -> list[Stage]:
    """Bind pixel stages to the survey; only those named are imported."""
    stages: list[Stage] = []
    for name in names:
        if name == "isr":
            from workers.isr.worker import IsrStage

            stages.append(IsrStage.open(survey))
        elif name == "subtract":
            from workers.subtract.worker import SubtractStage

            stages.append(SubtractStage.open(survey))
        else:
            from workers.score.worker import ScoreStage

            stages.append(ScoreStage.open(survey))
    return stages


def open_worker(survey: Survey, role: Role, topics: Topics) -> tuple[str, Worker]:
    """Return consumer group and worker of a role."""
    blobs = open_blobs(survey)
    group = role.prefix + group_of(role.stages)
    if role.stages == "associate":
        from workers.associate.worker import AssociateWorker

        database = open_database(survey, role.prefix)
        letters = open_dead_letters(topics, blobs)
        return group, AssociateWorker(survey, topics, blobs, database, letters, mjd_tai_now, group=group)
    if role.stages == "archive":
        from workers.archive.worker import ArchiveWorker

        return group, ArchiveWorker(open_archive(survey, role.prefix), topics)
    stages = open_stages(survey, role.stages.split("+"))
    from workers.warm import warm_up

    warm_up(max(detector.width * detector.height for detector in survey.camera.detectors))
    worker = PixelWorker(stages, topics, blobs, mjd_tai_now)
    return group, worker


def group_of(stages: str) -> str:
    """Return the consumer group of pixel stages: that of the first, so that fused and separate runs share it."""
    return stages.split("+")[0]


def run_role(survey: Survey, role: Role, stop: threading.Event) -> RunReport:
    """Run one worker in this process until `stop`, or until it has drained its inputs.

    A bus, database or store that is away at the start is waited for: a worker started again must not end for it.
    """
    opened = _patiently(lambda: _open(survey, role), stop, role.stages)
    if opened is None:
        return RunReport()
    bus, topics, group, worker = opened
    try:
        with _watched(survey, role, stop):
            return run(
                worker,
                bus,
                group=group,
                dead_letters=open_dead_letters(topics, open_blobs(survey)),
                batch=1 if "isr" in role.stages else survey.config.bus.batch,
                stop=stop,
                attempts=open_attempts(survey),
            )
    finally:
        bus.close()


def _open(survey: Survey, role: Role) -> tuple[Bus, Topics, str, Worker]:
    """Open what a role works with: all of it, or nothing."""
    with ExitStack() as closing:
        bus = open_bus(survey)
        closing.callback(bus.close)
        topics = open_topics(survey, bus, role.prefix)
        group, worker = open_worker(survey, role, topics)
        closing.pop_all()
    return bus, topics, group, worker


def _patiently(call: Callable[[], _T], stop: threading.Event, name: str) -> _T | None:
    """Return what `call` returns, tried again after growing pauses while it can't be had; None once `stop` is set."""
    troubles = 0
    while not stop.is_set():
        try:
            return call()
        except TransientError as error:
            pause = _PAUSES.pause_after(troubles)
            _log.warning("%s can't start yet, and tries again in %.1f s: %s", name, pause, error)
        stop.wait(pause)
        troubles += 1
    return None


@contextmanager
def _watched(survey: Survey, role: Role, stop: threading.Event) -> Iterator[None]:
    """Beside the worker, look twice a second whether its work is done, and whether visits should close."""
    if not role.drain and role.stages != "associate":
        yield
        return
    watch = threading.Thread(target=_watch, args=(survey, role, stop), name="watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join(timeout=5.0)


def _watch(survey: Survey, role: Role, stop: threading.Event) -> None:
    """Look until `stop`; whatever goes wrong is looked past, after growing pauses.

    It runs in a thread of its own, so with connections of its own. After an error that will not pass by itself they
    are opened anew: an operator may have mended it.
    """
    look: Callable[[], None] | None = None
    pause = _WATCH
    with ExitStack() as connections:
        connections.callback(_tell_end, role, stop)
        closing = connections.enter_context(ExitStack())
        while not stop.wait(pause):
            try:
                if look is None:
                    closing.close()
                    look = _open_look(survey, role, stop, closing)
                look()
                pause = _WATCH
            except SkydeltaError as error:  # the worker itself sees it too, and waits
                if not isinstance(error, TransientError):
                    look = None
                pause = min(2.0 * pause, _PAUSES.longest_pause)
                _log.warning("the watch of %s looks again in %.1f s: %s", role.stages, pause, error)


def _tell_end(role: Role, stop: threading.Event) -> None:
    """Say so where the watch ends though nobody asked it to, by a bug: no visit is closed by a tick then."""
    if not stop.is_set():
        _log.critical("the watch of %s ended by itself: start the worker again", role.stages)


def _open_look(survey: Survey, role: Role, stop: threading.Event, closing: ExitStack) -> Callable[[], None]:
    """Return what looks once; `closing` is given the connections that it opens."""
    bus = open_bus(survey)
    closing.callback(bus.close)
    topics = open_topics(survey, bus, role.prefix)
    database = open_database(survey, role.prefix)
    closing.callback(database.close)
    ticker = Ticker(survey, bus, topics, database)

    def idle() -> bool:
        return waiting(bus, topics, role) == 0

    def look() -> None:
        if role.stages == "associate":
            ticker.look(idle, drain=role.drain)
        if role.drain and finished(ticker, idle, role):
            stop.set()

    return look


def finished(ticker: Ticker, idle: Callable[[], bool], role: Role) -> bool:
    """Tell whether nothing is left to do for a role: no visit is open and, looked at after that, no message waits."""
    if role.stages in SINGLE and ticker.open_visits():
        return False
    return idle()


def waiting(bus: Bus, topics: Topics, role: Role) -> int:
    """Return how many messages wait in the role's input and in the inputs of the stages before it.

    The earliest stage is asked first: what it has committed by then is counted in the next one's input.
    """
    return sum(lags(bus, topics, role.prefix, last=role.stages.split("+")[0]).values())


def lags(bus: Bus, topics: Topics, prefix: str, last: str = "archive") -> dict[str, int]:
    """Return how many messages wait in the input of each stage, in their order, up to the stage `last`."""
    names = list(INPUTS)
    return {
        name: sum(bus.lag(prefix + group_of(name), [topics.name(topic) for topic in INPUTS[name]]).values())
        for name in names[: names.index(last) + 1]
    }


def run_roles(folder: str, roles: Sequence[Role], stop: threading.Event) -> int:
    """Run one process per role; those that a signal ended start again. Returns the first exit code that is not 0."""
    return supervise([_command(folder, role) for role in roles], stop)


def _command(folder: str, role: Role) -> list[str]:
    command = [sys.executable, "-m", "workers", "run", role.stages, "-s", folder, "--prefix", role.prefix]
    return [*command, "--parent", str(os.getpid()), *(["--drain"] if role.drain else [])]
