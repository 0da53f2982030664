"""Read back what stands on the bus: decoded records of one topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stream import codec
from stream.bus import Bus, Message

__all__ = ["alert_identity", "decoded_messages", "records"]


def decoded_messages(bus: Bus, topic: str) -> Iterator[tuple[Message, dict[str, Any]]]:
    """Yield each committed message of a topic with its decoded record, in the order of time and position."""
    messages = sorted(bus.read(topic), key=lambda message: (message.timestamp, message.partition, message.offset))
    for message in messages:
        yield message, codec.decode(message.value).record


def alert_identity(message: Message) -> tuple[int, int]:
    """Return the alert's id and night (YYYYMMDD), from the headers or, where it has none, from the packet."""
    if "alertId" in message.headers and "night" in message.headers:
        return int(message.headers["alertId"]), int(message.headers["night"])
    record = codec.decode(message.value).record
    return record["diaSourceId"], record["night"]


def records(bus: Bus, topic: str) -> list[dict[str, Any]]:
    """Return the decoded records of a topic in the order of time."""
    return [record for _, record in decoded_messages(bus, topic)]
