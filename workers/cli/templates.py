"""`skydelta templates`: plan, build and show templates from prior-year data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from schemas.errors import ConfigurationError, DataError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.clock import mjd_tai_now
from workers.survey.config import Survey, TemplatesConfig
from workers.templates.calexps import index_calexps
from workers.templates.cell import CellRecord
from workers.templates.pipeline import build, plan
from workers.templates.provenance import PixelOrigin, pixel_origins
from workers.templates.store import Manifest, TemplateStore
from workers.templates.window import inside_window

__all__ = ["command"]

_MJD_ORDINAL = 678576
"""Of date.toordinal() on the day of MJD 0."""


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
    return config.at(float(date.toordinal() - _MJD_ORDINAL))


@command.command("plan")
@survey_option
@_date_option
@json_option
def plan_templates(survey: Survey, date: datetime | None, as_json: bool) -> None:
    """Show which cells would be built from which epochs, without building."""
    config = _config_of(survey, date)
    entries = index_calexps(survey.archive / "calexps")
    plans = plan(entries, config)
    inside = len(inside_window(entries, config))
    if as_json:
        cells = [
            {"band": p.band, "cell": str(p.cell), "templateId": p.templateId, "epochs": len(p.inputs)} for p in plans
        ]
        print_json({"calexps": len(entries), "insideWindow": inside, "cells": cells})
        return
    click.echo(f"{inside} of {len(entries)} calibrated exposures lie in MJD TAI {list(config.window)}")
    epochs = Counter((p.band, len(p.inputs)) for p in plans)
    print_table(("band", "epochs", "cells"), [(*key, count) for key, count in sorted(epochs.items())])


@command.command("build")
@survey_option
@_date_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@json_option
def build_templates(survey: Survey, date: datetime | None, workers: int, as_json: bool) -> None:
    """Build a version from archive/calexps and make it current; unchanged cells are kept."""

    def progress(done: int, total: int) -> None:
        click.echo(f"\r{done}/{total} cells", err=True, nl=done == total)

    store = TemplateStore(survey.templates)
    config = _config_of(survey, date)
    manifest = build(survey.archive / "calexps", store, config, workers=workers, progress=progress)
    _show(manifest, as_json)


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
    manifest = store.manifest(version)
    if manifest is None:
        raise ConfigurationError(f"there is no template in {survey.templates}; run `skydelta templates build`")
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


def _show(manifest: Manifest, as_json: bool, store: TemplateStore | None = None) -> None:
    if as_json:
        print_json({"version": manifest.version, "cells": [_cell(record, store) for record in manifest.cells]})
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
