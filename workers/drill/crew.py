"""The workers of one night as processes that can be struck, and are replaced at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from schemas.errors import ExpiredError, SkydeltaError
from workers.drill.settings import WARM_FRAME, WARM_SURVEY
from workers.drill.survey import Prepared
from workers.drill.victim import HARMLESS, IDLE, STRUCK, Files, Plan, work
from workers.night import Role
from workers.process import prepare_process

__all__ = ["Crew", "Member", "hired"]

_PRELOADED = "workers.drill.warm"
_FAREWELL = 30.0
"""Seconds for a worker to end its message after SIGTERM."""
_MOST_CRASHES = 20
"""Ends that nobody asked for, after which a night is given up."""


@dataclass
class Member:
    """One worker process."""

    role: Role
    plan: Plan
    files: Files
    process: ForkServerProcess

    @property
    def alive(self) -> bool:
        """Whether the process runs (or stands still)."""
        return self.process.is_alive()

    @property
    def at_work(self) -> bool:
        """Whether a message is in its hands now."""
        return self._flag() not in (b"", bytes([IDLE]))

    @property
    def struck(self) -> bool:
        """Whether it stands where its plan stopped it."""
        return self._flag() == bytes([STRUCK])

    def _flag(self) -> bytes:
        return self.files.flag.read_bytes() if self.files.flag.exists() else b""

    def send(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.alive and self.process.pid:
            os.kill(self.process.pid, number)

    def told(self, word: str) -> int:
        """Return how many lines of its log hold `word`."""
        if not self.files.log.exists():
            return 0
        return sum(word in line for line in self.files.log.read_text(encoding="utf-8").splitlines())

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.files.log.read_text(encoding="utf-8").splitlines() if self.files.log.exists() else []
        return lines[-1] if lines else "it said nothing"

    def steps(self) -> list[tuple[int, str, float]]:
        """Return the steps it came to: number, side, MJD TAI."""
        if not self.files.steps.exists():
            return []
        lines = [line.split() for line in self.files.steps.read_text(encoding="utf-8").splitlines()]
        return [(int(step), side, float(when)) for step, side, when in lines]


@dataclass
class Crew:
    """The workers of the night in `root`, forked from a server that has everything loaded."""

    root: Path
    context: ForkServerContext
    members: list[Member] = field(default_factory=list)
    gone: list[Member] = field(default_factory=list)
    """Those that ended."""
    stuck: list[Member] = field(default_factory=list)
    """Those that SIGTERM did not end."""

    def hire(self, stages: str, plan: Plan = HARMLESS, prefix: str = "") -> Member:
        """Start one worker."""
        folder = self.root / "crew"
        folder.mkdir(exist_ok=True)
        name = f"{len(self.members) + len(self.gone):03d}-{stages}"
        files = Files(folder / f"{name}.log", folder / f"{name}.flag", folder / f"{name}.steps")
        role = Role(stages, prefix)
        process = self.context.Process(target=work, args=(str(self.root), role, plan, files), name=name)
        process.start()
        member = Member(role, plan, files, process)
        self.members.append(member)
        return member

    def tend(self, plan: Callable[[Member], Plan] = lambda member: HARMLESS) -> list[Member]:
        """Replace those that ended, each by one with the `plan` for its successor; return the dead.

        Raises SkydeltaError where workers end by themselves again and again.
        """
        dead = [member for member in self.members if not member.alive]
        for member in dead:
            self.members.remove(member)
            self.gone.append(member)
            self.hire(member.role.stages, plan(member), member.role.prefix)
        if len(crashed := self.crashes()) > _MOST_CRASHES:
            raise SkydeltaError(f"{len(crashed)} workers ended by themselves; see {crashed[-1].files.log}")
        return dead

    def crashes(self) -> list[Member]:
        """Return those that ended by themselves with an error for which `skydelta run` starts no other."""
        return [one for one in self.gone if (code := one.process.exitcode) and 0 < code != ExpiredError.exit_code]

    def dismiss(self) -> None:
        """End all with SIGTERM, and with SIGKILL what does not end."""
        for member in self.members:
            if member.alive:
                member.process.terminate()
        deadline = time.monotonic() + _FAREWELL
        for member in self.members:
            member.process.join(max(0.1, deadline - time.monotonic()))
            if member.alive:
                self.stuck.append(member)
                member.process.kill()
                member.process.join()
        self.gone += self.members
        self.members = []


@contextmanager
def hired(root: Path, prepared: Prepared) -> Iterator[Crew]:
    """Give a crew for the night in `root` that is dismissed at the end, whatever happens."""
    prepare_process()
    os.environ[WARM_SURVEY] = str(prepared.root.resolve())
    os.environ[WARM_FRAME] = str((prepared.root / prepared.frames[-1]).resolve())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    crew = Crew(root, context)
    try:
        yield crew
    finally:
        crew.dismiss()
