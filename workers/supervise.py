"""Keep worker processes running: one that a signal ended, or that its group declared dead, is started again.

Starting again loses and repeats nothing (`stream.runner`), so a segmentation fault, the kernel's want of memory, or a
`kill -9` costs seconds. An error that a new process would meet again, a wrong configuration say, stops all.

A supervisor that is itself killed can't stop its workers. Each is told its process id and asks now and then whether
that is still its parent (`stop_when_gone`): that needs no help of the kernel's and no code between fork and exec.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.errors import ExpiredError

__all__ = ["Restarts", "stop_when_gone", "supervise"]

_LOOK = 0.05  # s between looks at the processes
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restarts:
    """How soon a process is started again; times in seconds."""

    pause: float = 0.1
    longest_pause: float = 5.0
    """Pauses double up to this."""
    healthy: float = 10.0
    """After living so long the next pause is short again."""


def supervise(
    commands: Sequence[Sequence[str]],
    stop: threading.Event,
    *,
    restarts: Restarts | None = None,
    started: Callable[[int, int], None] = lambda place, pid: None,
) -> int:
    """Run one process per command until all have ended with 0, one failed, or `stop` is set; return the exit code.

    One ended by a signal, or with ExpiredError's exit code, is started again. One that ended with another code stops
    all, and that code is returned. Stopping sends SIGTERM to each and waits. `started` is told the place of the
    command in `commands` and the process id, at each start.
    """
    children = [_Child(place, command, started, restarts or Restarts()) for place, command in enumerate(commands)]
    code = 0
    try:
        for child in children:
            child.start()
        while code == 0 and not stop.wait(_LOOK) and not all(child.ended for child in children):
            code = next((failed for child in children if (failed := child.look())), 0)
    finally:
        for child in children:
            child.terminate()
        codes = [child.wait() for child in children]
    return code or next((each for each in codes if each > 0 and each != ExpiredError.exit_code), 0)


class _Child:
    """One command, through all its processes."""

    def __init__(
        self, place: int, command: Sequence[str], started: Callable[[int, int], None], restarts: Restarts
    ) -> None:
        self._place, self._command, self._started, self._restarts = place, command, started, restarts
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = restarts.pause
        self._since = self._due = 0.0  # of the last start and for the next, on the monotonic clock
        self.ended = False
        """It ended with 0, and is not started again."""

    def start(self) -> None:
        self._process = subprocess.Popen(list(self._command))
        self._since = time.monotonic()
        self._started(self._place, self._process.pid)

    def look(self) -> int:
        """Start it again where that is due; return the exit code by which it failed, 0 where it did not."""
        if self.ended:
            return 0
        if self._process is None:
            if time.monotonic() >= self._due:
                self.start()
            return 0
        code = self._process.poll()
        if code is None:
            return 0
        if code >= 0 and code != ExpiredError.exit_code:
            self.ended = code == 0
            return code
        self._plan(code, self._process.pid)
        return 0

    def _plan(self, code: int, pid: int) -> None:
        """Plan the next start after an end that does not count."""
        if time.monotonic() - self._since >= self._restarts.healthy:
            self._pause = self._restarts.pause
        how = f"was ended by {_name(-code)}" if code < 0 else "was declared dead by its group"
        words = " ".join(self._command)
        _log.warning("process %d %s; it is started again in %.1f s: %s", pid, how, self._pause, words)
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, self._restarts.longest_pause)
        self._process = None

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> int:
        """Return its last exit code, 0 where it was waiting for its next start."""
        return 0 if self._process is None else self._process.wait()


def stop_when_gone(parent: int, stop: threading.Event, *, look: float = 1.0, grace: float = 60.0) -> threading.Thread:
    """Set `stop` as soon as the process `parent` is not this one's parent any more; looks every `look` seconds.

    A process that has not ended `grace` seconds later is ended at once, which is harmless too.
    """
    never = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            never.wait(look)
        _log.error("the supervisor, process %d, is gone: this worker stops", parent)
        stop.set()
        never.wait(grace)
        _log.critical("this worker did not stop within %.0f s and is ended", grace)
        os._exit(ExpiredError.exit_code)

    thread = threading.Thread(target=watch, name="watch of the supervisor", daemon=True)
    thread.start()
    return thread


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one
