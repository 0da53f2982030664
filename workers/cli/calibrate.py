"""`skydelta calibrate`: masters from raw frames, their periods and report, what an exposure gets, the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from schemas.errors import DataError
from workers.calibrate.plans import PERIOD_KINDS
from workers.calibrate.reporting import write_report
from workers.calibrate.show import explain
from workers.calibrate.watch import find_periods
from workers.calibrate.worker import DERIVED, KINDS, Made, make_masters
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.isr.masters import open_store
from workers.survey.config import Survey

__all__ = ["command"]

_ABOUT = {
    "bias": "Master bias: mean of zero-second frames.",
    "dark": "Master dark: ADU per second.",
    "flat": "Master flat per band and lamp: response with median 1.",
    "crosstalk": "Crosstalk between amplifiers, from science frames or flats with bright stars or spots.",
    "linearity": "Response to light, from flats of many exposure times.",
    "ptc": "Photon transfer curve: gain, read noise, turnoff, covariances, from pairs of flats.",
    "cti": "Charge left behind in transfers, from the overscan of flats.",
    "fringe": "Fringe pattern of a band, from dithered science frames.",
    "brighter_fatter": "Kernel of the brighter-fatter effect, from the photon transfer curve.",
    "defects": "Map of hot, cold and odd pixels and columns, from dark and flat.",
}
_Files = click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))


@click.group()
def command() -> None:
    """Make masters and find their periods, show which one an exposure gets and why, or train the classifier."""


def _maker(kind: str) -> None:
    about = _ABOUT[kind] + ("" if kind in DERIVED else " FILES: raw frames; without, those of the archive.")

    @command.command(kind.replace("_", "-"), help=about)
    @_Files
    @survey_option
    @click.option("--valid-from", type=float, help="MJD TAI; default: half a day before the first frame.")
    @json_option
    def make(
        survey: Survey, files: tuple[Path, ...], valid_from: float | None, as_json: bool, periods: bool = False
    ) -> None:
        made = make_masters(kind, files, survey, _tell, valid_from=valid_from, by_period=periods)
        if as_json:
            print_json([_described(one) for one in made])
        else:
            click.echo("\n".join(one.master.id for one in made if one.verdict.certified))
        _refuse([one for one in made if not one.verdict.certified], survey)

    if kind in PERIOD_KINDS:
        click.option("--periods", is_flag=True, help="One master per period that `periods` found.")(make)


for _kind in KINDS:
    _maker(_kind)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _described(one: Made) -> dict[str, Any]:
    master, verdict = one.master, one.verdict
    return {
        "id": master.id,
        "inputs": master.inputs,
        "validFrom": master.validFrom,
        "validTo": master.validTo,
        "metadata": dict(master.metadata),
        "certified": verdict.certified,
        "previous": verdict.previous,
        "reasons": verdict.reasons,
    }


def _refuse(refused: list[Made], survey: Survey) -> None:
    """Raise DataError naming the masters that were not certified, and what to do."""
    if not refused:
        return
    lines = [f"{one.master.id} (before: {one.verdict.previous}): {'; '.join(one.verdict.reasons)}" for one in refused]
    if not survey.config.calibrate.quarantine:
        _tell("differs from the master before:\n  " + "\n  ".join(lines))
        return
    raise DataError(
        "put into quarantine, the masters before stay in use:\n  "
        + "\n  ".join(lines)
        + "\nLook at `skydelta calibrate "
        "report`; if the detector has changed, `skydelta calibrate accept ID` or declare it in interventions.toml"
    )


@command.command()
@click.argument("name", metavar="ID")
@survey_option
def accept(survey: Survey, name: str) -> None:
    """Take the master ID out of quarantine: exposures from its beginning on will get it."""
    click.echo(open_store(survey).accept(name))


@command.command()
@click.argument("kind", type=click.Choice(PERIOD_KINDS))
@_Files
@survey_option
@json_option
def periods(survey: Survey, kind: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Measure the nights of KIND frames and find the periods in which the detectors stayed the same.

    FILES: raw frames; without, those of the archive. Nights add up from run to run.
    """
    plans = find_periods(kind, files, survey, _tell)
    if as_json:
        print_json([row for plan in plans for row in plan.rows()])
        return
    rows = [row for plan in plans for row in plan.rows()]
    print_table(("series", "from", "to", "nights", "left out", "why"), [tuple(row.values()) for row in rows])


@command.command()
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: calibrations/report.html.")
def report(survey: Survey, output: Path | None) -> None:
    """Write the report of all masters, their stability and periods as one HTML page with pictures."""
    click.echo(write_report(survey, output or survey.calibrations / "report.html"))


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
@_Files
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
