"""A worker for the tests that stop processes: copies each message of `in` to `out`, under a name.

python zombie.py KIND ADDRESS GROUP IN OUT FOLDER NAME: at the first message the file FOLDER/NAME.working appears, and
work on it ends when FOLDER/go is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import SkydeltaError
from stream.blobs import BlobStore
from stream.bus import Bus, Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.bus.kafka import KafkaBus
from stream.dead_letters import DeadLetters
from stream.runner import run
from stream.shutdown import stop_on_signals

SESSION_TIMEOUT = 2.0  # s


def open_bus(kind: str, address: str) -> Bus:
    if kind == "embedded":
        return EmbeddedBus(address, SESSION_TIMEOUT)
    return KafkaBus(address, session_timeout=SESSION_TIMEOUT)


class Copier:
    name = "copier"

    def __init__(self, topic: str, out: str, folder: Path, name: str) -> None:
        self.inputs = (topic,)
        self._out, self._folder, self._name = out, folder, name

    def process(self, message: Message) -> list[Outgoing]:
        (self._folder / f"{self._name}.working").touch()
        while not (self._folder / "go").exists():
            time.sleep(0.01)
        return [Outgoing(self._out, message.key, self._name.encode() + b" " + message.value, message.timestamp)]

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        return []

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        pass


def main(kind: str, address: str, group: str, topic: str, out: str, folder: str, name: str) -> int:
    bus = open_bus(kind, address)
    letters = DeadLetters("dead", BlobStore(Path(folder) / "blobs"), lambda: 61000.0, "test")
    try:
        with stop_on_signals() as stop:
            run(Copier(topic, out, Path(folder), name), bus, group=group, dead_letters=letters, batch=2, stop=stop)
    except SkydeltaError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    finally:
        bus.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
