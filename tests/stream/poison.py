"""A worker for the tests of messages that kill: copies each message of `in` to `out`, and dies of some.

python poison.py BUS BLOBS JOURNAL COUNTERS: a message `fault`, `abort`, `kill`, `exit` or `memory` ends the process in
that way, `burial` does so when it is given its outcome; the file COUNTERS stands for the kernel's counters.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import DataError
from stream import deaths
from stream.attempts import Attempts
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.dead_letters import DeadLetters
from stream.runner import run

counters = Path()


def be_killed_for_memory() -> None:
    counters.write_text(f"low 0\noom_kill {deaths.killings([counters])[0][1] + 1}\n")
    os.kill(os.getpid(), signal.SIGKILL)


WAYS: dict[bytes, Callable[[], object]] = {
    b"fault": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"exit": lambda: os._exit(3),
    b"memory": be_killed_for_memory,
}


class Drinker:
    name = "drinker"
    inputs = ("in",)

    def process(self, message: Message) -> list[Outgoing]:
        WAYS.get(message.value, lambda: None)()
        if message.value == b"burial":
            raise DataError("no good")
        return [Outgoing("out", message.key, message.value, message.timestamp)]

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        if message.value == b"burial":
            os.abort()
        return [Outgoing("out", message.key, b"failed " + message.value, message.timestamp)]

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        pass


def main(bus_path: str, blobs: str, journal: str, count: str) -> None:
    global counters
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counters = Path(count)
    deaths._counters = lambda: [counters]
    bus = EmbeddedBus(bus_path, 0.4)  # s until a dead member is put out
    letters = DeadLetters("dead", BlobStore(blobs), lambda: 61000.0, "test")
    attempts = Attempts(Path(journal))
    run(Drinker(), bus, group="g", dead_letters=letters, batch=4, idle_exit=0.0, attempts=attempts)


if __name__ == "__main__":
    main(*sys.argv[1:])
