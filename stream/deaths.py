"""How a process died in the middle of a message, as far as it can be known afterwards.

A record of one attempt is a small file: a JSON line, in a place of its own, and behind it whatever `faulthandler`
wrote when the process met a fault. The line's first byte is zero while no message is in work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "Death", "Evidence", "evidence_of", "killings", "parse"]

PAGE = 16384  # bytes for the entry, whose longest part are paths; the fault's traceback lies behind them
_TRACE_LINES = 40
_CGROUPS = Path("/sys/fs/cgroup")


class Evidence(Enum):
    """What ended a process."""

    FAULT = "fault"
    """SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT: there is a traceback."""
    MEMORY = "memory"
    """The kernel killed for want of memory since the message was begun."""
    UNEXPLAINED = "unexplained"
    """Anything else: SIGKILL by a person, the power."""


@dataclass(frozen=True, slots=True)
class Death:
    """One process that died in one message."""

    path: Path
    """Of its record."""
    message: tuple[Any, ...]
    """Group, topic, partition, offset, timestamp and size of the message in work."""
    evidence: Evidence
    trace: str
    """What faulthandler wrote, at its end; empty where there was no fault."""
    time: float
    """Seconds since 1970 of the last that it wrote."""


def parse(content: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return the entry (None: no message was in work) and the end of the traceback that a record holds."""
    entry: dict[str, Any] | None = None
    if content[:1] == b"{":
        with suppress(ValueError):  # torn, when the machine itself was lost
            entry = json.loads(content[:PAGE].split(b"\n", 1)[0])
    lines = content[PAGE:].decode(errors="replace").rstrip().splitlines()
    told = [line for line in lines if not line.startswith("Extension modules:")]
    return entry, "\n".join(told[:1] + told[1:][-_TRACE_LINES:])


def evidence_of(entry: Mapping[str, Any], trace: str) -> Evidence:
    """Tell what ended the process that left this behind."""
    if trace:
        return Evidence.FAULT
    for path, before in entry["killings"]:  # the first that can still be read is the most particular
        now = _counted(Path(path))
        if now is not None:
            return Evidence.MEMORY if now > before else Evidence.UNEXPLAINED
    return Evidence.UNEXPLAINED


def killings(paths: Iterable[Path] = ()) -> list[tuple[str, int]]:
    """Return how often the kernel has killed for want of memory: its counters (`paths`, or this process's) by file.

    First the control group's own, where there is one (`memory.events`, or `memory.oom_control` of version 1): it
    counts the processes of this group, whoever's limit was met. Then the machine's, of /proc/vmstat.
    """
    counted = ((str(path), _counted(path)) for path in (paths or _counters()))
    return [(path, count) for path, count in counted if count is not None]


def _counters() -> list[Path]:
    """Return the files that count, from the particular to the general."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    groups = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        inner = place.lstrip("/")
        if not controllers:  # within a container the group's own folder is the root of the mount
            groups += [_CGROUPS / inner / "memory.events", _CGROUPS / "memory.events"]
        elif "memory" in controllers.split(","):
            groups += [_CGROUPS / "memory" / inner / "memory.oom_control", _CGROUPS / "memory" / "memory.oom_control"]
    own = next((path for path in groups if _counted(path) is not None), None)
    return [path for path in (own, Path("/proc/vmstat")) if path is not None]


def _counted(path: Path) -> int | None:
    """Return the oom_kill count of one file, None where it has none."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    _, found, rest = (b"\n" + content).partition(b"\noom_kill ")
    return int(rest.split(b"\n", 1)[0]) if found else None
