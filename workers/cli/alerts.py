"""`skydelta alerts`: follow, show and save alerts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from schemas.errors import DataError
from stream import codec
from stream.shutdown import stop_on_signals
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_bus, open_topics
from workers.records import records
from workers.survey.config import Survey

__all__ = ["command"]

COLUMNS = ("alertId", "diaObjectId", "mjd", "ra", "dec", "band", "flux nJy", "S/N", "reliability", "history")


def _row(packet: dict[str, Any]) -> tuple[Any, ...]:
    source = packet["diaSource"]
    history = len(packet["prvDiaSources"] or ())
    place = (round(source["midpointMjdTai"], 5), round(source["ra"], 6), round(source["dec"], 6))
    numbers = ("none" if source[name] is None else source[name] for name in ("psfFlux", "snr", "reliability"))
    return (str(packet["diaSourceId"]), str(source["diaObjectId"]), *map(str, place), source["band"], *numbers, history)


def _packets(survey: Survey, prefix: str) -> list[dict[str, Any]]:
    bus = open_bus(survey)
    return records(bus, open_topics(survey, bus, prefix).name("alerts"))


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
    packets = _packets(survey, prefix)
    shown = packets[-limit:] if limit else packets
    _print(shown, as_json)
    seen = {packet["diaSourceId"] for packet in packets}
    with stop_on_signals() as stop:
        while follow and not stop.is_set():
            time.sleep(1.0)
            fresh = [packet for packet in _packets(survey, prefix) if packet["diaSourceId"] not in seen]
            seen.update(packet["diaSourceId"] for packet in fresh)
            _print(fresh, as_json)


def _print(packets: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for packet in packets:
            print_json(packet)
    elif packets:
        print_table(COLUMNS, [_row(packet) for packet in packets])


@command.command()
@click.argument("number", metavar="ALERT_ID", type=int)
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for the three cutouts.")
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def show(survey: Survey, number: int, output: Path | None, prefix: str, as_json: bool) -> None:
    """Show one alert whole; -o writes its cutouts as FITS."""
    packet = next((p for p in _packets(survey, prefix) if p["diaSourceId"] == number), None)
    if packet is None:
        raise DataError(f"there is no alert {number} on the bus; `skydelta alerts tail` lists them")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
            if packet[name] is not None:
                (output / f"{number}_{name}.fits").write_bytes(packet[name])
    if as_json:
        print_json(packet)
        return
    source = {name: value for name, value in packet["diaSource"].items() if value is not None}
    for title, record in (("diaSource", source), ("diaObject", packet["diaObject"]), ("template", packet["template"])):
        plain = {name: value for name, value in (record or {}).items() if value is not None and name != "bands"}
        print_table((title, ""), [(name, value) for name, value in plain.items()])
    rest = ("instrument", "night", "calibrations", "codeVersion", "modelVersion")
    print_table(("packet", ""), [(name, packet[name]) for name in rest])
    print_table(("stage", "seconds"), [(time["stage"], time["seconds"]) for time in packet["stageTimes"]])


@command.command()
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@survey_option
@click.option("--night", type=int, help="Only this night, YYYYMMDD.")
@click.option("--prefix", default="", help="Of a replay.")
def save(survey: Survey, output: Path, night: int | None, prefix: str) -> None:
    """Save alerts to one Avro object container file, which any Avro reader opens."""
    packets = [p for p in _packets(survey, prefix) if night is None or p["night"] == night]
    codec.write_container(output, "alert", packets)
    click.echo(f"{output}: {len(packets)} alerts")
