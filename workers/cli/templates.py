"""`skydelta templates`: plan, build, verify and show templates from prior-year data."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from schemas.errors import ConfigurationError, DataError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.cli.templates_correct import correct_curves
from workers.cli.templates_versions import list_versions, prune_templates
from workers.clock import mjd_of, mjd_tai_now
from workers.connect import open_database
from workers.imaging.fits import write_atomically
from workers.imaging.tracts import CellId
from workers.survey.config import Survey, TemplatesConfig
from workers.templates.airmass_cells import telescope_of
from workers.templates.calexps import index_calexps
from workers.templates.cell import CellRecord
from workers.templates.coverage import FEW_EPOCHS, coverage_of
from workers.templates.coverage_report import coverage_files, coverage_tree
from workers.templates.pipeline import JobProgress, Known, TemplateJob, planned, run_job
from workers.templates.provenance import PixelOrigin, pixel_origins
from workers.templates.rebuild import Rebuilt, rebuild, spread_sample
from workers.templates.store import Manifest, TemplateStore
from workers.templates.veto import known_vetoes
from workers.templates.window import inside_window

__all__ = ["command"]

_QUIET = 30.0
"""Seconds between two lines of progress where they do not go to a terminal."""


@click.group()
def command() -> None:
    """Plan, build and show templates. Only epochs inside the window of survey.toml ever enter one."""


_date_option = click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Day of the job, for a window that moves (no templates.begin and end in survey.toml).  [default: today]",
)


def _config_of(survey: Survey, date: datetime | None) -> TemplatesConfig:
    """Return the configuration with the window of the day."""
    config = survey.config.templates
    if date is None:
        return config.at(mjd_tai_now())
    if config.begin is not None:
        raise ConfigurationError("--date is for a window that moves; this one stands still (templates.begin and end)")
    return config.at(mjd_of(date))


def _known(survey: Survey) -> Known | None:
    """Return what looks up the vetoes of known transients; None where they are not wanted, or no night was yet."""
    config, database = survey.config.templates, survey.config.database
    if not config.veto_known or (database.kind == "sqlite" and not survey.path(database.path).exists()):
        return None
    catalogue = open_database(survey)
    return lambda grid, cells, fwhm: known_vetoes(
        catalogue, grid, cells, fwhm_arcsec=fwhm, window_days=config.window_days
    )


for _one in (correct_curves, list_versions, prune_templates):
    command.add_command(_one)


@command.command("plan")
@survey_option
@_date_option
@json_option
def plan_templates(survey: Survey, date: datetime | None, as_json: bool) -> None:
    """Show which cells would be built from which epochs, without building."""
    config = _config_of(survey, date)
    entries = index_calexps(survey.archive / "calexps")
    plans, left = planned(entries, config, _known(survey), telescope_of(survey.camera, config))
    inside = len(inside_window(entries, config))
    if as_json:
        cells = [
            {"band": p.band, "cell": str(p.cell), "bin": p.bin, "templateId": p.templateId, "epochs": len(p.inputs)}
            for p in plans
        ]
        out = [{"band": band, "reason": reason.value, "count": count} for (band, reason), count in sorted(left.items())]
        print_json({"calexps": len(entries), "insideWindow": inside, "cells": cells, "leftOut": out})
        return
    click.echo(f"{inside} of {len(entries)} calibrated exposures lie in MJD TAI {list(config.window)}")
    epochs = Counter((p.band + ("-" if p.bin else "") + p.bin, len(p.inputs)) for p in plans)
    print_table(("band", "epochs", "cells"), [(*key, count) for key, count in sorted(epochs.items())])
    if left:
        rows = [(band, reason.value, count) for (band, reason), count in sorted(left.items())]
        print_table(("band", "left out of cells", "times"), rows)


@command.command("build")
@survey_option
@_date_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@json_option
def build_templates(survey: Survey, date: datetime | None, workers: int, as_json: bool) -> None:
    """Build a version from archive/calexps and make it current; unchanged cells are kept.

    Inputs are warped first, each once and for good; cells are made of the kept warps. A job that was interrupted goes
    on where it was.
    """
    started = time.monotonic()
    config = _config_of(survey, date)
    job = run_job(
        survey.archive / "calexps",
        TemplateStore(survey.templates),
        config,
        workers=workers,
        progress=JobProgress(_reporter("warps"), _reporter("cells")),
        known=_known(survey),
        telescope=telescope_of(survey.camera, config),
    )
    seconds = time.monotonic() - started
    _show(job.manifest, as_json, job=job)
    click.echo(
        f"{job.built} cells built, {job.kept} unchanged, {job.empty} without data; {job.warped} inputs warped, "
        f"{job.pruned} old files of warps removed; {seconds:.1f} s",
        err=True,
    )


def _reporter(what: str) -> Callable[[int, int], None]:
    """Return what shows how far a stage is and how long it will take yet: in place, or as a line now and then."""
    first: tuple[int, float] | None = None
    told = time.monotonic()
    terminal = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        nonlocal first, told
        now = time.monotonic()
        if first is None:
            first = done, now
        if not terminal and done < total and now - told < _QUIET:
            return
        told = now
        rate = (now - first[1]) / max(done - first[0], 1)
        left = f", {_duration(rate * (total - done))} left" if done > first[0] and done < total else ""
        line = f"{done}/{total} {what}{left}"
        click.echo(f"\r{line:<60}" if terminal else line, err=True, nl=done == total or not terminal)

    return progress


def _duration(seconds: float) -> str:
    """Return a time as a person says it."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole / 3600:.1f} h"


@command.command("rebuild")
@survey_option
@click.option("--version", help="Default: the current one.")
@click.option("--cell", metavar="TRACT/X_Y", help="This cell only.")
@click.option("--band", help="This band only.")
@click.option("--sample", type=click.IntRange(1), help="So many cells, spread over the version.")
@json_option
def rebuild_templates(
    survey: Survey, version: str | None, cell: str | None, band: str | None, sample: int | None, as_json: bool
) -> None:
    """Make cells again from their own tables of inputs, and compare the bytes; nothing is written.

    Inputs are the kept warps or, where these are gone, the calibrated exposures of archive/calexps.
    """
    store = TemplateStore(survey.templates)
    manifest = _manifest_of(store, survey, version)
    wanted = None if cell is None else _cell_named(cell)
    everything = (*manifest.cells, *manifest.bins)
    cells = [one for one in everything if band in (None, one.band) and wanted in (None, one.cell)]
    if not cells:
        raise DataError(f"version {manifest.version} has no such cell; `skydelta templates show` lists them")
    calexps = index_calexps(survey.archive / "calexps")
    chosen = spread_sample(cells, sample or len(cells))
    done: list[Rebuilt] = []
    progress = _reporter("cells")
    for one in rebuild(store, manifest, chosen, calexps):
        done.append(one)
        progress(len(done), len(chosen))
    _show_rebuilt(manifest.version, done, as_json)


def _show_rebuilt(version: str, done: list[Rebuilt], as_json: bool) -> None:
    """Print what became of the cells; raises DataError, which names the first fault, where one is not the same."""
    faults = [one for one in done if one.fault is not None]
    same, warped = len(done) - len(faults), sum(one.warped for one in done)
    if as_json:
        listed = [
            {"band": one.record.band, "cell": one.record.cell.label, "bin": one.record.bin, "fault": one.fault}
            for one in faults
        ]
        inputs = {"kept": sum(one.kept for one in done), "warpedAgain": warped}
        print_json({"version": version, "cells": len(done), "identical": same, "inputs": inputs, "faults": listed})
    else:
        click.echo(
            f"version {version}: {same} of {len(done)} cells are the same to the byte; {warped} inputs warped again"
        )
    if faults:
        raise DataError(f"cell {faults[0].label} is not what its inputs give: {faults[0].fault}")


def _cell_named(text: str) -> CellId:
    """Return the cell that ``<tract>/<cellX>_<cellY>`` names."""
    try:
        tract, place = text.split("/")
        column, row = place.split("_")
        return CellId(int(tract), int(column), int(row))
    except ValueError as error:
        raise ConfigurationError(f"--cell {text}: a cell is named TRACT/X_Y, as in 6814/72_57") from error


def _manifest_of(store: TemplateStore, survey: Survey, version: str | None) -> Manifest:
    manifest = store.manifest(version)
    if manifest is None:
        raise ConfigurationError(f"there is no template in {survey.templates}; run `skydelta templates build`")
    return manifest


@command.command("coverage")
@survey_option
@click.option("--version", help="Default: the current one.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: templates/coverage/VERSION]")
@click.option("--few", default=FEW_EPOCHS, show_default=True, type=click.IntRange(1), help="Count cells with fewer.")
@json_option
def show_coverage(survey: Survey, version: str | None, out: Path | None, few: int, as_json: bool) -> None:
    """Write what a version covers: report.html, and a picture and a MOC (FITS, JSON) for each band."""
    store = TemplateStore(survey.templates)
    manifest = _manifest_of(store, survey, version)
    earlier = [name for name in store.versions() if name < manifest.version]
    previous = store.manifest(earlier[-1]) if earlier else None
    coverage = coverage_of(manifest, mjd_tai_now(), few)
    folder = out or survey.templates / "coverage" / manifest.version
    files = coverage_files(manifest, coverage, previous, f"{survey.config.name}: templates")
    for name, data in files.items():
        write_atomically(folder / name, data)
    if as_json:
        paths = [str(folder / name) for name in sorted(files)]
        print_json({**coverage_tree(coverage, manifest, previous), "files": paths})
        return
    click.echo(f"version {manifest.version}, window MJD TAI [{manifest.begin}, {manifest.end}]")
    print_table(coverage.columns, coverage.rows())
    click.echo(str(folder / "report.html"))


@command.command("show")
@click.argument("ra", type=float, required=False)
@click.argument("dec", type=float, required=False)
@survey_option
@click.option("--version", help="Default: the current one.")
@json_option
def show_templates(survey: Survey, ra: float | None, dec: float | None, version: str | None, as_json: bool) -> None:
    """Show the cells of a version: epochs, depth, seeing, inputs.

    With RA and DEC (degrees ICRS): which visits, with what weights, made the pixel there, in each band. A negative
    declination goes behind ``--``.
    """
    store = TemplateStore(survey.templates)
    manifest = _manifest_of(store, survey, version)
    if ra is None:
        _show(manifest, as_json, store)
        return
    if dec is None or not (0.0 <= ra < 360.0 and -90.0 <= dec <= 90.0):
        raise ConfigurationError("RA and DEC are two numbers, degrees ICRS, 0 to 360 and -90 to 90")
    origins = pixel_origins(store, manifest, ra, dec)
    if as_json:
        print_json({"version": manifest.version, "pixels": [asdict(origin) for origin in origins]})
        return
    if not origins:
        raise DataError(f"version {manifest.version} has no template at {ra} {dec}; `skydelta templates show` lists it")
    for origin in origins:
        _show_origin(origin)


def _show_origin(origin: PixelOrigin) -> None:
    planes = ", ".join(origin.mask) or "no mask plane"
    place = f"cell {origin.cell} pixel ({origin.x}, {origin.y})"
    click.echo(f"{origin.band}  {origin.templateId}  {place}  {origin.flux:.2f} +- {origin.fluxErr:.2f} nJy  {planes}")
    rows = [(i.visit, i.detector, f"{i.midpointMjdTai:.5f}", f"{i.share:.4f}", i.sha256[:12]) for i in origin.inputs]
    print_table(("visit", "detector", "MJD TAI", "share", "raw sha256"), rows)


def _show(
    manifest: Manifest, as_json: bool, store: TemplateStore | None = None, job: TemplateJob | None = None
) -> None:
    if as_json:
        counts = {} if job is None else {key: number for key, number in vars(job).items() if key != "manifest"}
        cells = [_cell(record, store) for record in manifest.cells]
        bins = {"bins": [_cell(record, store) for record in manifest.bins]} if manifest.bins else {}
        print_json({"version": manifest.version, **({"job": counts} if counts else {}), "cells": cells, **bins})
        return
    click.echo(f"version {manifest.version}, window MJD TAI [{manifest.begin}, {manifest.end}]")
    columns = ("templateId", "band", "tract", "x", "y", "epochs", "first", "last", "depth nJy", "fwhm")
    print_table(columns, [_row(record) for record in manifest.cells])


def _row(record: CellRecord) -> tuple[Any, ...]:
    place = (record.templateId, record.band, record.tract, record.cellX, record.cellY, record.nEpochs)
    epochs = (f"{record.firstEpochMjdTai:.3f}", f"{record.lastEpochMjdTai:.3f}")
    return (*place, *epochs, float(record.depth), float(record.fwhm))


def _cell(record: CellRecord, store: TemplateStore | None) -> dict[str, Any]:
    cell = dict(vars(record))
    if store is not None:
        inputs = store.read(record).plan.inputs
        cell["inputs"] = [
            {"visit": i.visit, "detector": i.detector, "midpointMjdTai": i.midpointMjdTai, "weight": i.weight}
            | {"sha256": i.sha256}
            for i in inputs
        ]
    return cell
