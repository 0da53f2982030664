"""`skydelta drill`: break a night in every way that is promised to be harmless, here or on your own cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from workers.cli.options import json_option, print_json, print_table
from workers.drill.faults import FAULTS
from workers.drill.report import COLUMNS, FAILED
from workers.drill.run import run_drill
from workers.drill.settings import SIZES, Commands, DrillSettings

__all__ = ["command"]

_ALL = "all"


@click.command(epilog="Faults: " + "; ".join(f"{name}: {fault.what}" for name, fault in FAULTS.items()) + ".")
@click.argument("faults", nargs=-1, required=True, type=click.Choice([_ALL, *FAULTS]), metavar="FAULT...|all")
@click.option(
    "--folder", default="skydelta-drill", show_default=True, type=click.Path(path_type=Path), help="Kept for the next."
)
@click.option("--kafka", default="", metavar="HOST:PORT", help="Also on this Kafka; topics begin with drill-.")
@click.option("--postgres", default="", metavar="URL", help="Also on this PostgreSQL; schemas begin with drill_.")
@click.option("--kills", default=100, show_default=True, type=click.IntRange(1), help="Of the fault kill.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of the sky and of the times.")
@click.option("--size", default="tiny", show_default=True, type=click.Choice(list(SIZES)), help="Of the survey.")
@click.option("--session-timeout", default=2.0, show_default=True, help="Seconds; Kafka's own minimum is often 6.")
@click.option("--limit", default=600.0, show_default=True, help="Seconds that one night may take.")
@click.option("--kafka-kill", default="", metavar="COMMAND", help="Kills a broker as kill -9 does.")
@click.option("--kafka-start", default="", metavar="COMMAND", help="Starts it again.")
@click.option("--postgres-kill", default="", metavar="COMMAND", help="Kills the server as kill -9 does.")
@click.option("--postgres-start", default="", metavar="COMMAND", help="Starts it again.")
@click.option("--small-disk", type=click.Path(path_type=Path, exists=True), help="A folder that may be filled.")
@click.option("--kafka-disk", type=click.Path(path_type=Path, exists=True), help="On the broker's disk; filled.")
@click.option("--postgres-disk", type=click.Path(path_type=Path, exists=True), help="On the server's disk; filled.")
@json_option
def command(
    faults: tuple[str, ...],
    as_json: bool,
    kafka_kill: str,
    kafka_start: str,
    postgres_kill: str,
    postgres_start: str,
    kafka_disk: Path | None,
    postgres_disk: Path | None,
    session_timeout: float,
    **values: object,
) -> None:
    """Run a small simulated night undisturbed, then once more for each fault, and compare.

    Every alert must be there exactly once with the same bytes, every exposure ended the same way, the same rows in the
    database. Exit code 0 only if every fault passed (a skipped one counts as passed).
    """
    settings = DrillSettings(
        **values,  # type: ignore[arg-type]
        session_timeout=session_timeout,
        broker=Commands(kafka_kill, kafka_start),
        server=Commands(postgres_kill, postgres_start),
        broker_disk=kafka_disk,
        server_disk=postgres_disk,
    )
    begin = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - begin:6.1f} s] {text}", err=True)

    found = run_drill(settings, list(FAULTS) if _ALL in faults else list(dict.fromkeys(faults)), say)
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        print_table(COLUMNS, [one.row() for one in found])
    sys.exit(1 if any(one.verdict == FAILED for one in found) else 0)
