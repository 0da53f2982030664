"""A worker as the runner sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stream.bus import Message, Outgoing

__all__ = ["Worker"]


class Worker(Protocol):
    """One stage, or several fused, as the runner sees them."""

    @property
    def name(self) -> str:
        """Stage name, for dead letters and the log."""

    @property
    def inputs(self) -> Sequence[str]:
        """Full names of the topics to read."""

    def process(self, message: Message) -> Sequence[Outgoing]:
        """Return what one message leads to.

        Called again for the same message after a crash or a transient error: what it does elsewhere must be
        harmless to repeat. TransientError is tried again; any other error makes a dead letter.
        """

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        """Return what goes out beside the dead letter of `message`: the outcome that closes its visit.

        `failure` is "stage: type of the error: its text".
        """

    def committed(self, messages: Sequence[Message]) -> None:
        """Take note that the bus has `messages` and what they led to for certain: they never come again.

        A death right before it leaves this uncalled; what it raises is logged and changes nothing.
        """

    def flush(self) -> None:
        """Make durable what `process` and `failed` wrote elsewhere since the last call.

        Called before every commit that holds something. After TransientError the batch is given up, paused for and
        done again; after DataError its message is found, and buried.
        """
