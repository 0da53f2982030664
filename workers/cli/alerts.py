"""`skydelta alerts`: follow, show and save alerts."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import schemas
from schemas.errors import DataError
from stream import codec
from stream.bus import Bus, Message
from stream.shutdown import stop_on_signals
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_archive, open_bus, open_topics
from workers.records import alert_identity
from workers.survey.config import Survey

if TYPE_CHECKING:
    from workers.archive.alert import ArchivedAlert
    from workers.archive.store import AlertArchive

__all__ = ["command"]

COLUMNS = ("alertId", "diaObjectId", "mjd", "ra", "dec", "band", "flux nJy", "S/N", "reliability", "history")


@click.group()
def command() -> None:
    """Follow, show and save alerts."""


@command.command()
@survey_option
@click.option("--limit", type=click.IntRange(1), help="Stop after so many.")
@click.option("--follow/--no-follow", default=False, help="Wait for more.")
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def tail(survey: Survey, limit: int | None, follow: bool, prefix: str, as_json: bool) -> None:
    """Print alerts, the latest last."""
    bus = open_bus(survey)
    reading = _Reading(bus, open_topics(survey, bus, prefix).name("alerts"))
    messages = sorted(heapq.nlargest(limit, reading.fresh(), key=_time) if limit else reading.fresh(), key=_time)
    _print(messages, as_json)
    with stop_on_signals() as stop:
        while follow and not stop.is_set():
            time.sleep(1.0)
            if reading.grown():
                _print(sorted(reading.fresh(), key=_time), as_json)


class _Reading:
    """A topic read on from where the last reading ended."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self.bus, self.topic = bus, topic
        self.next: dict[int, int] = {}
        self.kept: dict[tuple[str, int], int] = {}

    def fresh(self) -> Iterator[Message]:
        """Yield the messages that were not given before."""
        for message in self.bus.read(self.topic):
            if message.offset >= self.next.get(message.partition, 0):
                self.next[message.partition] = message.offset + 1
                yield message

    def grown(self) -> bool:
        """Tell whether the topic keeps another number of messages than at the last call."""
        before, self.kept = self.kept, self.bus.lag("nobody", [self.topic])  # a group that never read
        return self.kept != before


def _time(message: Message) -> tuple[int, int, int]:
    return message.timestamp, message.partition, message.offset


def _print(messages: list[Message], as_json: bool) -> None:
    packets = [codec.decode(message.value).record for message in messages]
    if as_json:
        for packet in packets:
            print_json(packet)
    elif packets:
        print_table(COLUMNS, [_row(packet) for packet in packets])


def _row(packet: dict[str, Any]) -> tuple[Any, ...]:
    source = packet["diaSource"]
    history = len(packet["prvDiaSources"] or ())
    place = (round(source["midpointMjdTai"], 5), round(source["ra"], 6), round(source["dec"], 6))
    numbers = ("none" if source[name] is None else source[name] for name in ("psfFlux", "snr", "reliability"))
    return (str(packet["diaSourceId"]), str(source["diaObjectId"]), *map(str, place), source["band"], *numbers, history)


@command.command()
@click.argument("number", metavar="ALERT_ID", type=int)
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the three cutouts.")
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def show(survey: Survey, number: int, output: Path | None, prefix: str, as_json: bool) -> None:
    """Show one alert whole; -o writes its cutouts as FITS."""
    alert = open_archive(survey, prefix).get(number) or _on_bus(survey, prefix, number)
    packet, headers = codec.decode(alert.value).record, _plain_headers(alert.headers)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
            if packet[name] is not None:
                (output / f"{number}_{name}.fits").write_bytes(packet[name])
    if as_json:
        print_json({**packet, "headers": headers})
        return
    for title in ("diaSource", "diaObject"):
        _print_record(title, packet[title])
    _print_record("template", packet["template"])
    rest = ("instrument", "night", "calibrations", "codeVersion", "modelVersion")
    rows = [(name, packet[name]) for name in rest]
    print_table(("packet", ""), [*rows, ("timeProcessedMjdTai", headers.get("timeProcessedMjdTai", "unknown"))])
    print_table(("stage", "seconds"), _stages(packet, headers))


def _on_bus(survey: Survey, prefix: str, number: int) -> ArchivedAlert:
    """Return an alert that the archive does not have (yet)."""
    from workers.archive.worker import archived

    bus = open_bus(survey)
    for message in bus.read(open_topics(survey, bus, prefix).name("alerts")):
        if alert_identity(message)[0] == number:
            return archived(message)
    raise DataError(f"there is no alert {number}, in the archive or on the bus; `skydelta alerts tail` lists them")


def _plain_headers(headers: Mapping[str, bytes]) -> dict[str, Any]:
    """Return headers as numbers, lists or text."""
    plain: dict[str, Any] = {}
    for name, value in headers.items():
        text = value.decode(errors="backslashreplace")
        try:
            plain[name] = json.loads(text)
        except ValueError:
            plain[name] = text
    return plain


def _print_record(title: str, record: dict[str, Any] | None) -> None:
    """Print what a record says: neither null nor not-a-number, and no band summaries."""
    known = {name: value for name, value in (record or {}).items() if value is not None and value == value}
    print_table((title, ""), [(name, value) for name, value in known.items() if name != "bands"])


def _stages(packet: dict[str, Any], headers: dict[str, Any]) -> list[tuple[str, float]]:
    """Return how long each stage took: by the headers, or by a packet that was made before they had it."""
    if "stageTimes" in headers:
        return [(stage, seconds) for stage, _, seconds in headers["stageTimes"]]
    return [(one["stage"], one["seconds"]) for one in packet["stageTimes"]]


@command.command()
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@survey_option
@click.option("--night", type=int, help="Only this night, YYYYMMDD.")
@click.option("--prefix", default="", help="Of a replay.")
def save(survey: Survey, output: Path, night: int | None, prefix: str) -> None:
    """Save alerts to one Avro object container file, which any Avro reader opens; in order of night and alertId."""
    from workers.archive.export import export

    count = export(output, map(_latest, _alerts(survey, prefix, night)), night or 0)
    click.echo(f"{output}: {count} alerts")


def _alerts(survey: Survey, prefix: str, night: int | None) -> Iterator[ArchivedAlert]:
    """Yield alerts by night and alertId: from the archive, and from the bus those that it does not have yet."""
    archive = open_archive(survey, prefix)
    waiting = _not_archived(survey, prefix, archive, night)
    nights = archive.nights() if night is None else {night: 0}
    for each in sorted({*nights, *waiting}):
        rest = sorted(waiting.get(each, {}).items())
        yield from heapq.merge(archive.night(each), (alert for _, alert in rest), key=lambda alert: alert.alertId)


def _not_archived(
    survey: Survey, prefix: str, archive: AlertArchive, night: int | None
) -> dict[int, dict[int, ArchivedAlert]]:
    """Return the alerts that are only on the bus, by night and alertId; where one is there twice, the first."""
    from workers.archive.worker import GROUP, archived

    bus = open_bus(survey)
    topic = open_topics(survey, bus, prefix).name("alerts")
    found: dict[int, dict[int, ArchivedAlert]] = {}
    if archive.nights() and not sum(bus.lag(prefix + GROUP, [topic]).values()):
        return found
    known: dict[int, dict[int, str]] = {}
    for message in bus.read(topic):
        number, taken = alert_identity(message)
        if taken not in known:
            known[taken] = archive.digests(taken)
        if night in (None, taken) and number not in known[taken]:
            found.setdefault(taken, {}).setdefault(number, archived(message))
    return found


def _latest(alert: ArchivedAlert) -> bytes:
    """Return the message in the latest schema: as it is, unless it is older."""
    schema = schemas.latest("alert")
    if int.from_bytes(alert.value[1:5], "big") == schema.id:
        return alert.value
    return codec.encode(schema.family, codec.decode(alert.value).record)


@command.command()
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def nights(survey: Survey, prefix: str, as_json: bool) -> None:
    """Show how many alerts, and bytes, the archive has of each night."""
    archive = open_archive(survey, prefix)
    sizes = archive.sizes()
    rows = [(night, count, sizes[night]) for night, count in archive.nights().items()]
    names = ("night", "alerts", "bytes")
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table(names, rows)


@command.command()
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def reindex(survey: Survey, prefix: str, as_json: bool) -> None:
    """Make the archive's index anew from its container files, after damage or after files were put back.

    The files alone hold alertId, night and all bytes of every alert. Stage times and processing time are in the
    index only; what it lost of them comes back when the alert is given again.
    """
    report = open_archive(survey, prefix).reindex()
    if as_json:
        print_json(vars(report))
        return
    click.echo(f"{report.alerts} alerts in {report.containers} files; {report.bare} without headers")
    troubles = {
        "of the old index are in no file": report.lost,
        "are there twice": report.doubled,
        "have other bytes than were written": report.changed,
    }
    for trouble, count in troubles.items():
        if count:
            click.echo(f"{count} alerts {trouble}", err=True)
    for name, size in report.damaged.items():
        click.echo(f"{name}: {size} bytes belong to no whole alert", err=True)
