"""`skydelta photometry`: colour terms of the camera's bands."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from workers.characterize.color_terms import save_color_terms
from workers.characterize.nightly_terms import refit
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.imaging.reference_store import open_reference
from workers.survey.config import Survey

__all__ = ["command"]


@click.group()
def command() -> None:
    """Fit the colour terms of the camera's bands."""


@command.command("color-terms")
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@survey_option
@click.option("--nights", default=0, show_default=True, type=click.IntRange(0), help="Latest nights; 0: all.")
@click.option("--dry-run", is_flag=True, help="Fit and show; write nothing.")
@json_option
def color_terms(survey: Survey, folder: Path | None, nights: int, dry_run: bool, as_json: bool) -> None:
    """Fit a colour term per band to the stars of the calibrated exposures in FOLDER (default archive/calexps).

    They are written to calibrations/color-terms.json, which the next exposures' zero points use.
    """

    def progress(done: int, total: int) -> None:
        click.echo(f"\r{done}/{total} exposures", err=True, nl=done == total)

    reference = open_reference(survey.path(survey.config.reference.path))
    colors = survey.config.characterize.photometry.colors
    terms = refit(folder or survey.archive / "calexps", reference, colors, nights=nights, progress=progress)
    path = survey.color_terms
    if not dry_run:
        save_color_terms(path, terms)
    if as_json:
        print_json({band: asdict(term) for band, term in terms.items()})
        return
    columns = ("band", "color", "slope", "error", "pivot", "stars", "nights")
    print_table(columns, [(band, t.color, t.slope, t.error, t.pivot, t.nStars, t.nights) for band, t in terms.items()])
    if not dry_run:
        click.echo(f"written to {path}", err=True)
