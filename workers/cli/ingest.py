"""`skydelta ingest`: raw files into the night."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import click

from schemas.errors import DataError
from stream.shutdown import stop_on_signals
from workers.cli.options import json_option, print_json, survey_option
from workers.ingest.open import open_ingest
from workers.ingest.worker import Ingest, Ingested
from workers.survey.config import Survey

__all__ = ["command"]

_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fits.fz")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@survey_option
@click.option(
    "--watch", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Ingest what appears here."
)
@click.option("--interval", default=1.0, show_default=True, help="Seconds between looks at the watched folder.")
@json_option
def command(survey: Survey, files: tuple[Path, ...], watch: Path | None, interval: float, as_json: bool) -> None:
    """Announce raw FILES to the night, in the order of their times.

    A file that can't be read becomes a dead letter; one with bytes seen before changes nothing.
    """
    if not files and watch is None:
        raise click.UsageError("name files, or a folder with --watch")
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        raise DataError(f"no such file: {', '.join(missing)}; nothing was ingested")
    ingest = open_ingest(survey)
    done = ingest.files(files)
    _say(done, as_json)
    if watch is not None:
        _watch(ingest, watch, interval, as_json)
    if any(item.outcome == "dead letter" for item in done):
        sys.exit(DataError.exit_code)


def _say(done: list[Ingested], as_json: bool) -> None:
    if as_json:
        print_json([{**vars(item), "info": vars(item.info) if item.info else None} for item in done])
        return
    for item in done:
        if item.outcome != "announced":
            click.echo(f"{item.path}: {item.outcome}: {item.reason}", err=True)
    counts = Counter(item.outcome for item in done)
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "nothing to do")


def _watch(ingest: Ingest, folder: Path, interval: float, as_json: bool) -> None:
    """Ingest each file once its size has not changed between two looks."""
    seen: set[Path] = set()
    sizes: dict[Path, int] = {}
    with stop_on_signals() as stop:
        while not stop.is_set():
            found = {p: p.stat().st_size for p in sorted(folder.iterdir()) if p.name.lower().endswith(_ENDINGS)}
            ready = [path for path, size in found.items() if path not in seen and sizes.get(path) == size]
            if ready:
                _say(ingest.files(ready), as_json)
                seen.update(ready)
            sizes = found
            time.sleep(interval)
