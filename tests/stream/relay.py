"""A worker for the tests that kill processes: copies each message of `in` to `out`, and refuses every 17th.

python relay.py BUS BLOBS [DEATH COUNT]: dies by SIGKILL at the COUNT-th time that it comes to DEATH, which is a
step of the runner with its side (`2-after`, say), or `inside`, between the writes of one transaction.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence

from schemas.errors import DataError
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.bus.embedded_log import Log
from stream.dead_letters import DeadLetters
from stream.runner import run
from stream.shutdown import stop_on_signals

SESSION_TIMEOUT = 1.0


class Relay:
    name = "relay"
    inputs = ("in",)

    def process(self, message: Message) -> list[Outgoing]:
        if int(message.value) % 17 == 0:
            raise DataError(f"{message.value!r} is a multiple of 17")
        return [Outgoing("out", message.key, message.value, message.timestamp)]

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        return [Outgoing("out", message.key, b"failed " + message.value, message.timestamp)]

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        pass


class Death:
    def __init__(self, place: str, count: int) -> None:
        self.place, self.left = place, count

    def __call__(self, *place: object) -> None:
        self.left -= "-".join(map(str, place)) == self.place
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(bus_path: str, blobs: str, place: str = "never", count: str = "1") -> None:
    death = Death(place, int(count))
    append = Log.append

    def append_and_die(self: Log, by_slot: Mapping[int, Sequence[Outgoing]]) -> None:
        append(self, by_slot)
        death("inside")

    Log.append = append_and_die  # type: ignore[method-assign]
    bus = EmbeddedBus(bus_path, SESSION_TIMEOUT)
    letters = DeadLetters("dead", BlobStore(blobs), lambda: 61000.0, "test")
    with stop_on_signals() as stop:
        report = run(Relay(), bus, group="relay", dead_letters=letters, batch=5, stop=stop, on_step=death)
    sys.stdout.write(f"{report.messages}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
