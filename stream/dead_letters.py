"""Dead letters: messages that can't be processed, kept with their cause, place and original bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing

__all__ = ["DeadLetters", "Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage gave a message up."""

    stage: str
    errorType: str
    message: str
    attempts: int
    traceback: str | None = None
    """Only of errors that nobody foresaw."""

    def __str__(self) -> str:
        return f"{self.stage}: {self.errorType}: {self.message}"


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Writes dead letters to `topic`, and makes the original of one again."""

    topic: str
    blobs: BlobStore
    clock: Callable[[], float]
    """Returns the present as MJD TAI."""
    version: str
    """Of the code."""

    def write(self, message: Message, failure: Failure) -> Outgoing:
        """Return the dead letter of `message`, under its key and timestamp; raises UnreachableError."""
        record = {
            "stage": failure.stage,
            "errorType": failure.errorType,
            "message": failure.message,
            "traceback": failure.traceback,
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "key": message.key,
            "headers": dict(message.headers),
            "timestamp": message.timestamp,
            "value": self.blobs.payload(message.value),
            "attempts": failure.attempts,
            "codeVersion": self.version,
            "failedMjdTai": self.clock(),
        }
        return Outgoing(self.topic, message.key, codec.encode("dead_letter", record), message.timestamp)

    def original(self, letter: dict[str, Any]) -> Outgoing:
        """Return the message that a decoded dead letter is about, to be published once more on its topic.

        Raises DataError where its bytes were damaged, UnreachableError where they are missing.
        """
        value = self.blobs.open_payload(letter["value"])
        return Outgoing(letter["topic"], letter["key"], value, letter["timestamp"], letter["headers"])
