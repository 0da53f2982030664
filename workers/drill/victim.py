"""One worker of the night that dies, or stops, where its plan says: the only place that reaches into the night's code.

Nothing in the night knows of drills. The runner offers a hook at each of its numbered steps; the rest is put round what
`workers.night` opens, in this process alone.
"""

from __future__ import annotations

import functools
import mmap
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workers.night
from schemas.errors import SkydeltaError
from stream import codec
from stream.bus import Message, Outgoing
from stream.retry import STEPS
from stream.runner import run
from stream.shutdown import stop_on_signals
from stream.telemetry import configure
from workers.clock import mjd_tai_now
from workers.night import Role, run_role
from workers.supervise import stop_when_gone
from workers.survey.config import load_survey

__all__ = ["DATABASE", "HARMLESS", "IDLE", "STRUCK", "Files", "Plan", "work"]

DATABASE = "database"
"""Place of a plan beside the runner's steps: the commit of a database transaction."""
IDLE, STRUCK = 0, 255
"""In a flag file: no message is in work; the plan's signal comes now. Otherwise the number of the step."""
_IN_WORK = range(2, 6)


@dataclass(frozen=True)
class Plan:
    """Where a worker is struck."""

    place: str = ""
    """Name of a step of the runner, or ``database``; empty: nowhere."""
    side: str = "before"
    """``before`` or ``after``."""
    count: int = 1
    """The how-manieth time that it comes there."""
    signal: int = signal.SIGKILL
    fatal: str = ""
    """visit:detector of the exposure that makes it segfault."""


HARMLESS = Plan()
"""Of a worker that is not struck, or from outside alone."""


@dataclass(frozen=True)
class Files:
    """What a worker writes for the drill."""

    log: Path
    flag: Path
    """One byte: the step it is at."""
    steps: Path
    """A line for each step: number, side, MJD TAI."""


class _Strike:
    """The runner's hook: notes each step, and strikes when the plan's time has come."""

    def __init__(self, plan: Plan, files: Files) -> None:
        self._plan, self._left = plan, plan.count
        files.flag.write_bytes(bytes([IDLE]))
        with files.flag.open("r+b") as file:
            self._flag = mmap.mmap(file.fileno(), 1)
        self._steps = files.steps.open("a", encoding="utf-8", buffering=1)
        self.processing = False

    def __call__(self, step: int, side: str = "before") -> None:
        self._flag[0] = step if step in _IN_WORK else IDLE
        self.processing = (STEPS[step], side) == ("process", "before")
        self._steps.write(f"{step} {side} {mjd_tai_now():.9f}\n")
        self.at(STEPS[step], side)

    def at(self, place: str, side: str) -> None:
        """Strike here, if this is the place."""
        if (place, side) == (self._plan.place, self._plan.side):
            self._left -= 1
            if self._left == 0:
                self._flag[0] = STRUCK
                os.kill(os.getpid(), self._plan.signal)


class _Database:
    """The worker's database, with a strike on both sides of each commit of a message (others only tidy up)."""

    def __init__(self, database: Any, strike: _Strike) -> None:
        self._database, self._strike = database, strike

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @contextmanager
    def transaction(self, tiles: Collection[int] = ()) -> Iterator[None]:
        """See the port."""
        with self._database.transaction(tiles):
            yield
            if self._strike.processing:
                self._strike.at(DATABASE, "before")
        if self._strike.processing:
            self._strike.at(DATABASE, "after")


class _FatalTo:
    """A worker that one exposure takes down, as a bug in a compiled library does."""

    def __init__(self, worker: Any, label: str) -> None:
        self._worker, self._label = worker, label

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def process(self, message: Message) -> Sequence[Outgoing]:
        """Segfault, or hand the message on."""
        try:
            record = codec.decode(message.value).record
        except SkydeltaError:
            record = {}
        if f"{record.get('visit')}:{record.get('detector')}" == self._label:
            os.kill(os.getpid(), signal.SIGSEGV)
        result: Sequence[Outgoing] = self._worker.process(message)
        return result


def work(folder: str, role: Role, plan: Plan, files: Files) -> None:
    """Run one worker as `skydelta run` does, until SIGTERM or its plan's end; the entry of its process."""
    with files.log.open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    configure(sys.stderr)
    _rig(plan, files)
    with stop_on_signals() as stop:
        stop_when_gone(os.getppid(), stop)  # the fork server ends with the drill
        try:
            run_role(load_survey(Path(folder)), role, stop)
        except SkydeltaError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)


def _rig(plan: Plan, files: Files) -> None:
    """Put the strike into what this process will run."""
    strike = _Strike(plan, files)
    workers.night.run = functools.partial(run, on_step=strike)  # type: ignore[attr-defined]
    open_worker: Callable[..., tuple[str, Any]] = workers.night.open_worker

    def rigged(*arguments: Any, **named: Any) -> tuple[str, Any]:
        group, worker = open_worker(*arguments, **named)
        if hasattr(worker, "database"):
            worker.database = _Database(worker.database, strike)
        return group, _FatalTo(worker, plan.fatal) if plan.fatal else worker

    workers.night.open_worker = rigged
