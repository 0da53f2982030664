"""A small night for the tests of the runner: ten messages, a worker that copies them, and troubles for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.embedded import EmbeddedBus
from stream.dead_letters import DeadLetters
from stream.retry import Retry, RunReport
from stream.runner import run

QUICK = Retry(wait=0.001, longest_wait=0.002, pause=0.01, longest_pause=0.02)


class Crash(BaseException):
    """Ends a run as the death of its process would: nothing handles it."""


@dataclass
class Relay:
    """Copies `in` to `out`; `trouble` may raise first."""

    trouble: Callable[[Message], None] = lambda message: None
    name: str = "relay"
    inputs: Sequence[str] = ("in",)
    seen: list[bytes] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    flushes: int = 0

    def process(self, message: Message) -> Sequence[Outgoing]:
        self.seen.append(message.value)
        self.trouble(message)
        return [Outgoing("out", message.key, message.value, message.timestamp)]

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        self.failures.append(failure)
        return [Outgoing("out", message.key, b"failed " + message.value, message.timestamp)]

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1


class Night:
    """A bus with ten messages on one partition, and what a run needs."""

    def __init__(self, path: Path) -> None:
        self.bus = EmbeddedBus(path / "bus.sqlite", lock_timeout=0.2)
        self.bus.ensure({"in": 1, "out": 1, "dead": 1})
        self.blobs = BlobStore(path / "blobs", 100)
        self.letters = DeadLetters("dead", self.blobs, lambda: 61000.5, "1.2.3")
        self.publish(10)

    def publish(self, count: int, start: int = 0) -> None:
        self.bus.publish([Outgoing("in", b"1:2", b"%d" % n, 1000 + n) for n in range(start, start + count)])

    def run(self, worker: Relay, **options: Any) -> RunReport:
        settings = {"batch": 4, "idle_exit": 0.0, "retry": QUICK} | options
        return run(worker, self.bus, group="g", dead_letters=self.letters, **settings)

    def values(self, topic: str = "out") -> list[bytes]:
        return [message.value for message in self.bus.read(topic)]

    def dead(self) -> list[dict[str, Any]]:
        return [codec.decode(value).record for value in self.values("dead")]

    def lag(self) -> int:
        return self.bus.lag("g", ["in"])["in", 0]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


def on(value: bytes, *errors: BaseException) -> Callable[[Message], None]:
    """Raise `errors`, one at each call with a message of this value, then nothing."""
    left = list(errors)

    def trouble(message: Message) -> None:
        if message.value == value and left:
            raise left.pop(0)

    return trouble


def always(value: bytes, error: BaseException) -> Callable[[Message], None]:
    return on(value, *[error] * 1000)
