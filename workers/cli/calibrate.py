"""`skydelta calibrate`: masters from raw frames, which one an exposure gets and why, and the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from schemas.errors import DataError
from workers.calibrate.show import explain
from workers.calibrate.worker import KINDS, make_masters
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.imaging.calibrations import Calibration
from workers.survey.config import Survey

__all__ = ["command"]

_ABOUT = {
    "bias": "Master bias: mean of zero-second frames.",
    "dark": "Master dark: ADU per second.",
    "flat": "Master flat per band and lamp: response with median 1.",
    "defects": "Map of hot, cold and odd pixels and columns, from dark and flat.",
}


@click.group()
def command() -> None:
    """Make masters, show which one an exposure gets and why, or train the classifier."""


def _maker(kind: str) -> click.Command:
    @command.command(kind, help=_ABOUT[kind] + " FILES: raw frames; without, those of the archive.")
    @click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
    @survey_option
    @click.option("--valid-from", type=float, help="MJD TAI; default: half a day before the first frame.")
    @json_option
    def make(survey: Survey, files: tuple[Path, ...], valid_from: float | None, as_json: bool) -> None:
        made = make_masters(kind, files, survey, _tell, valid_from=valid_from)
        if as_json:
            print_json([_described(one) for one in made])
        else:
            click.echo("\n".join(one.id for one in made))

    return make


for _kind in KINDS:
    _maker(_kind)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _described(one: Calibration) -> dict[str, Any]:
    return {"id": one.id, "inputs": one.inputs, "metadata": dict(one.metadata)}


@command.command()
@click.argument("raw", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@json_option
def show(survey: Survey, raw: Path, as_json: bool) -> None:
    """Show which masters the exposure in RAW would get, and why not the others."""
    rows = explain(raw, survey)
    if as_json:
        print_json([vars(row) for row in rows])
    else:
        print_table(("kind", "", "master", "valid (MJD TAI)", "why"), [row.cells() for row in rows])
    missing = sorted({row.kind for row in rows} - {row.kind for row in rows if row.chosen})
    if missing:
        raise DataError(f"{raw.name} would get no {', '.join(missing)}: see the reasons above, or `skydelta calibrate`")


@command.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@json_option
def classifier(survey: Survey, files: tuple[Path, ...], as_json: bool) -> None:
    """Train the classifier on injections into calibrated exposures (FITS that `skydelta isr` wrote).

    FILES are exposures taken after the template window; without, those of the archive.
    """
    from workers.score.training import train_classifier

    paths = list(files) or sorted((survey.archive / "calexps").glob("*/*.fits"))
    if not paths:
        raise DataError(f"no calibrated exposures to train on; run `skydelta isr` into {survey.archive / 'calexps'}")
    trained = train_classifier(survey, paths, _tell)
    card = trained.card
    print_json(card) if as_json else click.echo(f"{trained.version} threshold {trained.threshold:.3f}")
