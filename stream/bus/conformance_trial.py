"""What the conformance checks of the bus port stand on: their tools and their requirements."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from stream.bus import Bus, Message, Outgoing, Session

__all__ = ["POLL", "TIMESTAMP", "Trial", "equal", "numbers", "record", "refused", "require", "values"]

TIMESTAMP = 1_700_000_000_123  # ms since 1970; any but 0, which librdkafka takes for "now"
POLL = 0.1  # s; short, because one thread plays several members in turn


@dataclass
class Trial:
    """What a check works with; a context manager that closes all that was opened through it."""

    make_bus: Callable[[], Bus]
    patience: float = 10.0
    """Seconds to wait for what must happen."""
    silence: float = 2.0
    """Seconds without a call after which this bus surely declares a member dead."""
    expire: Callable[[str], None] | None = None
    """Deletes all messages that a topic keeps now, as retention would; None where the caller can't."""
    _opened: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()

    def bus(self) -> Bus:
        """Open another Bus on the store."""
        bus = self.make_bus()
        self._opened.callback(bus.close)
        return bus

    def topic(self, partitions: int = 1) -> str:
        """Create a topic of a new name."""
        name = self.name("topic")
        self.bus().ensure({name: partitions})
        return name

    def name(self, kind: str) -> str:
        """Return a name never used before."""
        return f"check-{kind}-{uuid.uuid4().hex[:12]}"

    def session(self, group: str, *topics: str) -> Session:
        """Join `group` through a Bus of its own."""
        session = self.bus().session(group, topics)
        self._opened.callback(session.close)
        return session

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Call `done` until it is true; fail when patience ends."""
        deadline = time.monotonic() + self.patience
        while not done():
            require(time.monotonic() < deadline, f"waited {self.patience} s in vain for: {what}")

    def take(self, session: Session, count: int, *others: Session) -> list[Message]:
        """Poll `session` until it gave `count` messages, keeping the `others` alive."""
        got: list[Message] = []

        def enough() -> bool:
            got.extend(session.poll(count - len(got), POLL))
            for other in others:
                other.keep_alive()
            return len(got) >= count

        self.until(enough, f"{count} messages")
        return got

    def nothing(self, session: Session) -> None:
        """Require that `session` gives no message for a while."""
        for _ in range(5):
            require(not (got := session.poll(10, POLL)), f"expected no message, got {got[:1]}")


def require(condition: bool, text: str) -> None:
    """Fail with `text` unless `condition` holds; raises AssertionError."""
    if not condition:
        raise AssertionError(text)


def equal(got: object, expected: object, what: str) -> None:
    """Fail unless `got` equals `expected`."""
    require(got == expected, f"{what}: got {got!r}, expected {expected!r}")


def refused(call: Callable[[], object], kind: type[Exception], *words: str) -> None:
    """Require that `call` raises `kind` with `words` in its text."""
    try:
        call()
    except kind as error:
        for word in words:
            require(word in str(error), f"the text of {kind.__name__} lacks {word!r}: {error}")
        return
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def record(topic: str, number: int, key: bytes | None = None) -> Outgoing:
    """Return a record that tells its number."""
    return Outgoing(topic, key if key is not None else b"k%d" % number, b"value %d" % number, TIMESTAMP + number)


def values(messages: Sequence[Message]) -> list[bytes]:
    """Return the values of `messages`, in their order."""
    return [message.value for message in messages]


def numbers(count: int, start: int = 0) -> list[bytes]:
    """Return the values of `count` records from `start`."""
    return [b"value %d" % number for number in range(start, start + count)]
