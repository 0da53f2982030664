"""Run an archived night again, in topics and a database of its own, and compare its alerts with the archived ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import ConfigurationError, DataError, SchemaError
from stream import codec
from stream.bus import Bus, Message, Outgoing
from stream.topics import Topics
from workers.connect import database_path, open_database, open_topics
from workers.records import decoded_messages
from workers.survey.config import Survey

__all__ = ["Comparison", "compare", "prepare", "publish_night", "without_clock"]

Packet = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Alert ids of a replay against those of the archived night; wall-clock fields are left out."""

    same: int
    missing: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    different: dict[int, list[str]] = field(default_factory=dict)
    """Names of the fields that differ, by alert id."""

    @property
    def identical(self) -> bool:
        """Whether the replay gave the archived alerts, no more and no less."""
        return not (self.missing or self.extra or self.different)


def prepare(survey: Survey, bus: Bus, night: int, prefix: str) -> tuple[Topics, list[Message]]:
    """Return the replay's topics and the night's messages in their order; its database starts as the night began.

    Raises ConfigurationError for a prefix in use, DataError for a night the bus has no exposures of.
    """
    if not prefix:
        raise ConfigurationError("a replay needs --into PREFIX, so that it never touches the live topics")
    live = open_topics(survey, bus)
    if any(topic.startswith(prefix + live.prefix) for topic in bus.topics()):
        raise ConfigurationError(f"topics under {prefix!r} exist already; choose another prefix")
    if Path(database_path(survey, prefix)).exists():
        raise ConfigurationError(f"{database_path(survey, prefix)} exists already; choose another prefix")
    messages = _night_messages(bus, live, night)
    if not messages:
        raise DataError(f"the bus holds no exposures of night {night}; ingest them from the archive first")
    begin = min(record["midpointMjdTai"] for _, record in messages)
    open_database(survey).copy_before(begin - 0.5, Path(database_path(survey, prefix)))
    return open_topics(survey, bus, prefix), [message for message, _ in messages]


def _night_messages(bus: Bus, live: Topics, night: int) -> list[tuple[Message, Packet]]:
    """Announcements and exposures of a night; an announcement goes before its exposure, in the order of times."""
    found = []
    for rank, topic in enumerate(("scored", "exposures")):
        for message in bus.read(live.name(topic)):
            try:
                decoded = codec.decode(message.value)
            except SchemaError:
                continue  # the night made a dead letter of it
            if decoded.family in ("visit", "exposure") and decoded.record["night"] == night:
                order = (message.timestamp, decoded.record["visit"], decoded.record["detector"], rank)
                found.append((order, message, decoded.record))
    found.sort(key=lambda item: item[0])
    return [(message, record) for _, message, record in found]


def publish_night(
    bus: Bus,
    live: Topics,
    replay: Topics,
    messages: list[Message],
    speed: float | None,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Publish messages with their original timestamps, paced by event time over `speed`; None: at once."""
    names = {live.name(topic): replay.name(topic) for topic in ("scored", "exposures")}
    previous = messages[0].timestamp
    for message in messages:
        if speed is not None and message.timestamp > previous:
            wait((message.timestamp - previous) / 1000.0 / speed)
        previous = message.timestamp
        out = Outgoing(names[message.topic], message.key, message.value, message.timestamp, message.headers)
        bus.publish([out])


def compare(bus: Bus, live: Topics, replay: Topics, night: int) -> Comparison:
    """Compare the alerts of a night, as archived on the bus, with those of its replay."""
    old, new = (
        {p["diaSourceId"]: p for _, p in decoded_messages(bus, topics.name("alerts")) if p["night"] == night}
        for topics in (live, replay)
    )
    different = {}
    for number in sorted(old.keys() & new.keys()):
        one, two = without_clock(old[number]), without_clock(new[number])
        names = [name for name in one if one[name] != two[name]]
        if names:
            different[number] = names
    same = len(old.keys() & new.keys()) - len(different)
    return Comparison(same, sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys()), different)


def without_clock(packet: Packet) -> Packet:
    """Return a packet without what the wall clock wrote: `timeProcessedMjdTai` of sources, and stage times."""
    plain = {name: value for name, value in packet.items() if name != "stageTimes"}
    plain["diaSource"] = _timeless(packet["diaSource"])
    for name in ("prvDiaSources", "prvDiaForcedSources"):
        plain[name] = [_timeless(row) for row in packet[name] or ()]
    return plain


def _timeless(row: Packet) -> Packet:
    return {name: value for name, value in row.items() if name != "timeProcessedMjdTai"}
