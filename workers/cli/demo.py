"""`skydelta demo`: from nothing to alerts and a report in one command."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from schemas.errors import ConfigurationError
from workers.cli.options import json_option, print_json, print_table
from workers.cli.report import make_report
from workers.connect import database_name
from workers.demo import run_demo
from workers.quality.page import render
from workers.simulate.settings import PRESETS

__all__ = ["command"]


@click.command()
@click.argument("folder", default="skydelta-demo", type=click.Path(path_type=Path))
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="demo", show_default=True, help="Size of the survey."
)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Processes for the pixel stages.")
@click.option("--seed", type=int, help="Another sky, other noise.")
@click.option("--kafka", metavar="HOST:PORT", help="Run the night over this Kafka broker and not the embedded bus.")
@click.option("--prefix", default="", help="Of the topics on that broker.")
@json_option
def command(
    folder: Path, preset: str, workers: int, seed: int | None, kafka: str | None, prefix: str, as_json: bool
) -> None:
    """Simulate a survey in FOLDER, run it from raw pixels to alerts, and report.

    Prior-year archive, calibrations, templates, a classifier trained on injections, a live night: every step is the one
    a real survey runs. No server, no network.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty; give another folder, or remove it")
    begin = time.perf_counter()
    config = PRESETS[preset] if seed is None else replace(PRESETS[preset], seed=seed)
    bus = f'kind = "kafka"\nbootstrap = "{kafka}"\nprefix = "{prefix}"' if kafka else ""

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - begin:5.1f} s] {text}", err=True)

    run = run_demo(folder, config, workers, say, bus)
    say("write the report")
    files = {
        "survey": str(folder),
        "to read them": f"skydelta alerts tail -s {folder}",
        "database": database_name(run.survey),
    }
    report = make_report(run.survey, run.night, extra=files)
    page = folder / "report.html"
    page.write_text(render(report), encoding="utf-8")
    total = time.perf_counter() - begin
    if as_json:
        tables = [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in report.tables]
        print_json({**report.summary, "tables": tables, "seconds": {**run.seconds, "total": total}, "page": str(page)})
        return
    print_table(("", report.title), list(report.summary.items()))
    for table in report.tables:
        click.echo(f"\n{table.title}")
        print_table(table.columns, table.rows)
    click.echo(f"\nreport: {page}  ({total:.0f} s in all)")
