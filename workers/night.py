"""Run workers: one process per worker, on any bus, until told to stop or until all that was ingested is done."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.errors import ConfigurationError
from stream.bus import Bus
from stream.retry import RunReport
from stream.runner import Worker, run
from stream.topics import Topics
from workers.clock import mjd_tai_now
from workers.connect import open_blobs, open_bus, open_database, open_dead_letters, open_topics
from workers.survey.config import Survey
from workers.worker import INPUT, PixelWorker, Stage

__all__ = ["ALL", "PIXEL_STAGES", "Role", "lags", "parse_stages", "run_role", "supervise"]

PIXEL_STAGES = ("isr", "subtract", "score")
ALL = ("isr+subtract+score", "associate")
"""The roles that `skydelta run all` starts."""


@dataclass(frozen=True)
class Role:
    """What one worker process does."""

    stages: str
    """Pixel stages joined by +, or ``associate``."""
    prefix: str = ""
    """Of topics and database: a replay has its own."""
    drain: bool = False
    """Stop when everything that was ingested is done."""


def parse_stages(text: str) -> tuple[str, ...]:
    """Return the roles named on the command line; raises ConfigurationError for an unknown or broken chain."""
    if text == "all":
        return ALL
    if text == "associate":
        return (text,)
    names = tuple(text.split("+"))
    first = PIXEL_STAGES.index(names[0]) if names[0] in PIXEL_STAGES else -1
    if first < 0 or names != PIXEL_STAGES[first : first + len(names)]:
        raise ConfigurationError(
            f"{text!r} is no stage; choose associate, all, or neighbours of {' + '.join(PIXEL_STAGES)} joined by +"
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
    worker = PixelWorker(open_stages(survey, role.stages.split("+")), topics, blobs, mjd_tai_now)
    return group, worker


def group_of(stages: str) -> str:
    """Return the consumer group of pixel stages: that of the first, so that fused and separate runs share it."""
    return stages.split("+")[0]


def run_role(survey: Survey, role: Role, stop: threading.Event) -> RunReport:
    """Run one worker in this process until `stop`, or until it has drained its inputs."""
    bus = open_bus(survey)
    try:
        topics = open_topics(survey, bus, role.prefix)
        group, worker = open_worker(survey, role, topics)
        with _drained(bus, topics, role, stop) if role.drain else _forever():
            return run(
                worker,
                bus,
                group=group,
                dead_letters=open_dead_letters(topics, open_blobs(survey)),
                batch=1 if "isr" in role.stages else survey.config.bus.batch,
                stop=stop,
            )
    finally:
        bus.close()


@contextmanager
def _forever() -> Iterator[None]:
    yield


@contextmanager
def _drained(bus: Bus, topics: Topics, role: Role, stop: threading.Event) -> Iterator[None]:
    """Set `stop` when no message waits in this role's input nor in any before it."""
    watch = threading.Thread(target=_watch, args=(bus, topics, role, stop), daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join(timeout=5.0)


def _watch(bus: Bus, topics: Topics, role: Role, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        if waiting(bus, topics, role) == 0:
            stop.set()


def waiting(bus: Bus, topics: Topics, role: Role) -> int:
    """Return how many messages wait in the role's input and in the inputs of the stages before it.

    The earliest stage is asked first: what it has committed by then is counted in the next one's input.
    """
    return sum(lags(bus, topics, role.prefix, last=role.stages.split("+")[0]).values())


def lags(bus: Bus, topics: Topics, prefix: str, last: str = "associate") -> dict[str, int]:
    """Return how many messages wait in the input of each stage, in their order, up to the stage `last`."""
    inputs = {**INPUT, "associate": "scored"}
    names = list(inputs)
    return {
        name: sum(bus.lag(prefix + group_of(name), [topics.name(inputs[name])]).values())
        for name in names[: names.index(last) + 1]
    }


def supervise(folder: str, roles: Sequence[Role], stop: threading.Event) -> int:
    """Start one process per role, pass on a stop, and return the first exit code that is not 0."""
    processes = [_start(folder, role) for role in roles]
    code = 0
    try:
        while any(process.poll() is None for process in processes) and not stop.is_set() and code == 0:
            time.sleep(0.1)
            code = next((process.returncode for process in processes if process.returncode), 0)
    finally:
        for process in processes:
            if process.poll() is None and (stop.is_set() or code):
                process.terminate()
        for process in processes:
            process.wait()
    return code or next((abs(process.returncode) for process in processes if process.returncode), 0)


def _start(folder: str, role: Role) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "workers", "run", role.stages, "-s", folder, "--prefix", role.prefix]
    return subprocess.Popen([*command, "--drain"] if role.drain else command)
