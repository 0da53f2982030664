"""The journal of attempts: a message that kills its process is not tried for ever.

A dead process can't report the message that killed it. So each worker writes into the journal which message it begins,
and takes that back when the message is done, well or with an error. What still stands there when the process is gone is
a death in that message. It is judged by its evidence (`stream.deaths`) and counted when the message comes again, here
or in another process of this machine.

The journal is a folder for all workers of a survey. Each process writes only its own file, `PID-RANDOM.open`, and holds
a lock on it as long as it exists, stopped processes too: what can be locked by another is a dead one's. Whoever
polls next removes that, or, where a message was in work, renames it to `PID-RANDOM.fault`, `.memory` or `.unexplained`:
one file for each death, which stays until its message, or one after it, is committed. Nothing is synced: the death
of a process leaves what it wrote, and the loss of the machine is nobody's poison.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import FatalInputError, UnreachableError
from stream.bus import Message
from stream.deaths import PAGE, Death, Evidence, evidence_of, killings, parse

__all__ = ["Attempts", "DeathLimits"]

_OPEN = ".open"
_NEW = ".new"
_JUDGED = tuple(f".{evidence.value}" for evidence in Evidence)
_FRESH = 0.2  # s; the counters of memory are read again when they are older
_log = logging.getLogger(__name__)
_SAID = {Evidence.FAULT: "by a fault", Evidence.MEMORY: "for want of memory", Evidence.UNEXPLAINED: "unexplained"}


@dataclass(frozen=True, slots=True)
class DeathLimits:
    """How many processes may die in one message before it is given up without being run again."""

    explained: int = 2
    """By a fault (a segmentation fault, an abort) or for want of memory: most likely the message's doing."""
    unexplained: int = 9
    """SIGKILL of a healthy worker looks so, and must not cost an exposure."""
    kept: float = 7 * 86400.0
    """Seconds after which the deaths of a message that never came again are forgotten."""


class Attempts:
    """The journal in `folder`, on a local disk, as one process writes it; nothing is written before the first use.

    While it is in use, `faulthandler` writes into it. Not shared between threads. Every method raises UnreachableError
    where the folder can't be read or written.
    """

    def __init__(self, folder: Path, limits: DeathLimits | None = None) -> None:
        self._folder = folder
        self._limits = limits or DeathLimits()
        self._record: _Record | None = None
        self._known: dict[str, Death] = {}
        self._killings: list[tuple[str, int]] = []
        self._counted = -_FRESH

    def review(self) -> None:
        """Find the deaths of other processes; due after every poll, and before any message of it is begun.

        A partition comes to another member after its owner died, and so do its messages: no death is overlooked.
        """
        with self._reached():
            own = self._own().path
            for path in self._files(_OPEN):
                if path != own:
                    _judge(path)
            found = [self._known.get(path.name) or _death(path) for path in self._files(*_JUDGED)]
            self._known = {death.path.name: death for death in found if death is not None}
            self._forget_old()

    @contextmanager
    def entry(self, group: str, message: Message) -> Iterator[FatalInputError | None]:
        """Keep `message` in the journal while it is in work within.

        Gives the error that it must be buried with, without being run, where too many processes died in it.
        """
        key = (group, message.topic, message.partition, message.offset, message.timestamp, len(message.value))
        deaths = [death for death in self._known.values() if death.message == key]
        with self._reached():
            record = self._own()
            record.begin({"message": key, "deaths": len(deaths), "pid": os.getpid(), "killings": self._memory()})
        try:
            yield self._condemned(deaths)
        finally:
            with self._reached():
                record.end()

    def committed(self, group: str, consumed: Sequence[Message]) -> None:
        """Forget the deaths in messages up to those of `consumed`, which are committed."""
        if not self._known:
            return
        ends: dict[tuple[Any, ...], int] = {}
        for message in consumed:
            place = (group, message.topic, message.partition)
            ends[place] = max(message.offset, ends.get(place, 0))
        with self._reached():
            for death in list(self._known.values()):
                if death.message[3] <= ends.get(death.message[:3], -1):
                    death.path.unlink(missing_ok=True)
                    del self._known[death.path.name]

    def close(self) -> None:
        """Leave the journal, and leave nothing in it; twice is allowed."""
        if self._record is not None:
            self._record.close()
            self._record = None

    def _condemned(self, deaths: Sequence[Death]) -> FatalInputError | None:
        counts = Counter(death.evidence for death in deaths)
        limits, unexplained = self._limits, counts[Evidence.UNEXPLAINED]
        explained = len(deaths) - unexplained
        if explained < limits.explained and unexplained < limits.unexplained:
            return None
        last = max((death for death in deaths if death.trace), key=lambda death: death.time, default=None)
        fault = f" (the last: {last.trace.splitlines()[0]})" if last else ""
        said = {**_SAID, Evidence.FAULT: _SAID[Evidence.FAULT] + fault}
        how = ", ".join(f"{counts[each]} {said[each]}" for each in Evidence if counts[each])
        return FatalInputError(
            f"{len(deaths)} processes died while they worked on this message: {how}. It was not run again; mend the "
            "cause, then publish it once more (skydelta dead retry)",
            len(deaths),
            last.trace if last else "",
            alone=explained > limits.explained or unexplained > 2 * limits.unexplained,
        )

    def _memory(self) -> list[tuple[str, int]]:
        """Return the kernel's counters of kills for want of memory, not older than a moment."""
        now = time.monotonic()
        if now - self._counted >= _FRESH:
            self._killings = killings()
            self._counted = now
        return self._killings

    def _own(self) -> _Record:
        if self._record is None:
            self._record = _Record(self._folder)
        return self._record

    def _files(self, *suffixes: str) -> list[Path]:
        return [self._folder / name for name in os.listdir(self._folder) if name.endswith(suffixes)]

    def _forget_old(self) -> None:
        for death in [death for death in self._known.values() if time.time() - death.time > self._limits.kept]:
            death.path.unlink(missing_ok=True)
            del self._known[death.path.name]
        for path in self._files(_NEW):  # of a process that died before it was locked
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > self._limits.kept:
                    path.unlink()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreachableError(
                f"the journal of attempts {self._folder} failed: {error}; see that its disk has room and that it may "
                "be written"
            ) from error


class _Record:
    """The file of this process: locked, and where faults are written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{os.urandom(6).hex()}{_OPEN}"
        hidden = self.path.with_suffix(_NEW)  # until it is locked, so that nobody takes it for a dead one's
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._faults = -1
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._file, bytes(PAGE))  # its room on the disk
            os.rename(hidden, self.path)
            self._faults = os.open(self.path, os.O_WRONLY)
            os.lseek(self._faults, PAGE, os.SEEK_SET)
        except OSError:
            hidden.unlink(missing_ok=True)
            self._shut()
            raise
        self._before = faulthandler.is_enabled()
        faulthandler.enable(self._faults)

    def begin(self, entry: dict[str, Any]) -> None:
        """Write which message is in work."""
        os.pwrite(self._file, json.dumps(entry).encode() + b"\n", 0)

    def end(self) -> None:
        """Write that none is."""
        os.pwrite(self._file, b"\0", 0)

    def close(self) -> None:
        """Give faults back to whom they went before, as far as that is known, and remove the file."""
        faulthandler.disable()
        if self._before and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        with suppress(OSError):  # then it is removed as a dead one's
            self.path.unlink(missing_ok=True)
        self._shut()

    def _shut(self) -> None:
        for file in (self._file, self._faults):
            if file >= 0:
                os.close(file)


def _judge(path: Path) -> None:
    """Give the record of a dead process its verdict, or remove it where no message was in work."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others who look now must see the death too
        entry, trace = parse(os.pread(file, 1 << 20, 0))
        with suppress(FileNotFoundError):  # another was faster
            if entry is None:
                path.unlink()
            else:
                verdict = evidence_of(entry, trace).value
                path.rename(path.with_suffix(f".{verdict}"))
                _log.warning("process %d died (%s) in %s", entry["pid"], verdict, entry["message"])
    except BlockingIOError:  # its owner lives
        pass
    finally:
        os.close(file)


def _death(path: Path) -> Death | None:
    """Return what a judged record tells; None where it is gone."""
    try:
        entry, trace = parse(path.read_bytes())
        time_of_death = path.stat().st_mtime
    except FileNotFoundError:
        return None
    message = entry["message"] if entry else ()
    return Death(path, tuple(message), Evidence(path.suffix[1:]), trace, time_of_death)
