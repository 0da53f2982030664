"""Run an archived night again, in topics and a database of its own, and compare its alerts with the archived ones."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import ConfigurationError, DataError, SchemaError
from stream import codec
from stream.bus import Bus, Message, Outgoing
from stream.topics import Topics
from workers.connect import database_name, open_archive, open_database, open_topics
from workers.records import alert_identity
from workers.survey.config import Survey

__all__ = ["Comparison", "archived_alerts", "bus_alerts", "compare", "prepare", "publish_night"]

Alerts = Mapping[int, bytes]
"""Message values by alert id."""


@dataclass(frozen=True)
class Comparison:
    """The packets of a replay against those of the archived night, byte for byte."""

    same: int
    missing: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    different: dict[int, list[str]] = field(default_factory=dict)
    """Names of the fields that differ, by alert id."""

    @property
    def identical(self) -> bool:
        """Whether the replay gave the archived packets, no more and no less."""
        return not (self.missing or self.extra or self.different)


def prepare(survey: Survey, bus: Bus, night: int, prefix: str) -> tuple[Topics, list[list[Message]]]:
    """Return the replay's topics and the night's messages; its database starts as the live one was then.

    Messages that were published together come together, in the order of the topic `visits`, which is that of the live
    night. Raises ConfigurationError for a prefix in use, DataError for a night the bus has no exposures of.
    """
    if not prefix:
        raise ConfigurationError("a replay needs --into PREFIX, so that it never touches the live topics")
    live = open_topics(survey, bus)
    if any(topic.startswith(prefix + live.prefix) for topic in bus.topics()):
        raise ConfigurationError(f"topics under {prefix!r} exist already; choose another prefix")
    target = open_database(survey, prefix)
    if sum(target.counts().values()):
        raise ConfigurationError(f"{database_name(survey, prefix)} exists already; choose another prefix")
    line = _line_of(bus, live, night)
    begin = min((record["midpointMjdTai"] for _, record in line if "midpointMjdTai" in record), default=None)
    if begin is None:
        raise DataError(f"the bus holds no exposures of night {night}; ingest them from the archive first")
    source = open_database(survey)
    source.copy_before(begin, target)  # all that was observed before, however lately
    target.close()
    source.close()
    return open_topics(survey, bus, prefix), _with_exposures(bus, live, night, line)


def _line_of(bus: Bus, live: Topics, night: int) -> list[tuple[Message, dict[str, Any]]]:
    """Announcements and ticks of a night, in their order."""
    found = []
    for message in bus.read(live.name("visits")):
        record = _record(message, ("visit", "tick"))
        if record is not None and record["night"] == night:
            found.append((message, record))
    return found


def _with_exposures(
    bus: Bus, live: Topics, night: int, line: Sequence[tuple[Message, dict[str, Any]]]
) -> list[list[Message]]:
    """Put to each announcement the exposure that was published with it."""
    waiting: dict[tuple[int, int, str], deque[Message]] = defaultdict(deque)
    for message in bus.read(live.name("exposures")):
        record = _record(message, ("exposure",))
        if record is not None and record["night"] == night:
            waiting[record["visit"], record["detector"], record["sha256"]].append(message)
    groups = []
    for message, record in line:
        exposures = waiting.get((record.get("visit", 0), record.get("detector", 0), record.get("sha256", "")))
        groups.append([message, exposures.popleft()] if exposures else [message])
    return groups


def _record(message: Message, families: Sequence[str]) -> dict[str, Any] | None:
    try:
        decoded = codec.decode(message.value)
    except SchemaError:
        return None  # the night made a dead letter of it
    return decoded.record if decoded.family in families else None


def publish_night(
    bus: Bus,
    live: Topics,
    replay: Topics,
    groups: Sequence[Sequence[Message]],
    speed: float | None,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Publish messages with their original timestamps, paced by event time over `speed`; None: at once."""
    names = {live.name(topic): replay.name(topic) for topic in ("visits", "exposures")}
    latest = groups[0][0].timestamp
    for group in groups:
        ahead = group[0].timestamp - latest
        if speed is not None and ahead > 0:
            wait(ahead / 1000.0 / speed)
        latest = max(latest, group[0].timestamp)
        bus.publish([Outgoing(names[m.topic], m.key, m.value, m.timestamp, m.headers) for m in group])


def archived_alerts(survey: Survey, bus: Bus, night: int) -> dict[int, bytes]:
    """Return a night's packets from the archive, or from the bus where no archive worker ran."""
    archive = open_archive(survey)
    if night in archive.nights():
        return {alert.alertId: alert.value for alert in archive.night(night)}
    return bus_alerts(bus, open_topics(survey, bus), night)


def bus_alerts(bus: Bus, topics: Topics, night: int) -> dict[int, bytes]:
    """Return a night's packets on the bus; raises DataError where one is there twice with different bytes."""
    found: dict[int, bytes] = {}
    for message in bus.read(topics.name("alerts")):
        number, taken = alert_identity(message)
        if taken == night and found.setdefault(number, message.value) != message.value:
            raise DataError(f"alert {number} is on {topics.name('alerts')} twice, with different bytes")
    return found


def compare(old: Alerts, new: Alerts) -> Comparison:
    """Compare the packets of a night, as archived, with those of its replay."""
    different = {}
    for number in sorted(old.keys() & new.keys()):
        if old[number] != new[number]:
            one, two = (codec.decode(value).record for value in (old[number], new[number]))
            different[number] = [name for name in one if repr(one[name]) != repr(two[name])] or ["(the schema)"]
    same = len(old.keys() & new.keys()) - len(different)
    return Comparison(same, sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys()), different)
