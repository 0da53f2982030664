"""`skydelta calibrate`: masters from raw frames, and the classifier from injections."""

from __future__ import annotations

from pathlib import Path

import click

from schemas.errors import DataError
from workers.calibrate.worker import KINDS, make_masters
from workers.cli.options import json_option, print_json, survey_option
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("kind", type=click.Choice([*KINDS, "classifier"]))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option("--valid-from", type=float, help="MJD TAI; default: half a day before the first frame.")
@json_option
def command(survey: Survey, kind: str, files: tuple[Path, ...], valid_from: float | None, as_json: bool) -> None:
    """Make masters of KIND from raw FILES, one per detector (and band for flats), or train the classifier.

    `defects` needs no files: it looks at the masters. `classifier` takes calibrated exposures (FITS that `skydelta isr`
    wrote) taken after the template window; sources are injected into them.
    """
    if kind == "classifier":
        _train(survey, files, as_json)
        return
    if kind != "defects" and not files:
        raise click.UsageError(f"name the raw {kind} frames")
    made = make_masters(kind, files, survey, lambda text: click.echo(text, err=True), valid_from=valid_from)
    if as_json:
        print_json([{"id": one.id, "inputs": one.inputs, "metadata": dict(one.metadata)} for one in made])
    else:
        click.echo("\n".join(one.id for one in made))


def _train(survey: Survey, files: tuple[Path, ...], as_json: bool) -> None:
    from workers.score.training import train_classifier

    paths = list(files) or sorted((survey.archive / "calexps").glob("*/*.fits"))
    if not paths:
        raise DataError(f"no calibrated exposures to train on; run `skydelta isr` into {survey.archive / 'calexps'}")
    classifier = train_classifier(survey, paths, lambda text: click.echo(text, err=True))
    card = classifier.card
    print_json(card) if as_json else click.echo(f"{classifier.version} threshold {classifier.threshold:.3f}")
