"""The archive worker: alerts from the bus into the archive, one flush per commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import SchemaError
from stream.bus import Message, Outgoing
from stream.topics import Topics
from workers.archive.alert import ArchivedAlert
from workers.archive.store import AlertArchive
from workers.records import alert_identity

__all__ = ["GROUP", "ArchiveWorker", "archived"]

GROUP = "archive"


@dataclass
class ArchiveWorker:
    """Keeps every alert byte for byte, with its headers; it publishes nothing.

    What is in the archive when the runner commits its positions is on the disk: a message given again after a crash
    finds itself there.
    """

    archive: AlertArchive
    topics: Topics
    name: str = "archive"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topic of alerts."""
        return (self.topics.name("alerts"),)

    def process(self, message: Message) -> Sequence[Outgoing]:
        """Take one alert. Raises SchemaError, DataError and ConflictError as the archive does."""
        self.archive.append(archived(message))
        return []

    def committed(self, messages: Sequence[Message]) -> None:
        """Do nothing: an alert that comes again is known by its id."""

    def flush(self) -> None:
        """Write what was taken, before its positions are committed."""
        self.archive.flush()

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        """Return nothing: the dead letter is the outcome here."""
        return []


def archived(message: Message) -> ArchivedAlert:
    """Return the message as the archive keeps it; raises SchemaError where it is no alert."""
    try:
        number, night = alert_identity(message)
    except (KeyError, ValueError) as error:
        raise SchemaError(
            f"{message.topic}[{message.partition}] offset {message.offset} does not say which alert it is: {error!r}"
        ) from error
    return ArchivedAlert(
        alertId=number,
        night=night,
        value=message.value,
        key=message.key,
        timestamp=message.timestamp,
        headers=message.headers,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
    )
