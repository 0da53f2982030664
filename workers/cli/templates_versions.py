"""`skydelta templates versions` and `prune`: what there is, and the removal of what no night needs any more."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from schemas.errors import ConfigurationError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.clock import mjd_of
from workers.survey.config import Survey
from workers.templates.prune import outdated, prune, removable, size_of
from workers.templates.store import Manifest, TemplateStore

__all__ = ["list_versions", "prune_templates"]


@click.command("versions")
@survey_option
@json_option
def list_versions(survey: Survey, as_json: bool) -> None:
    """List the versions: day of the job, window, cells, and the megabytes that no other version shares."""
    store = TemplateStore(survey.templates)
    rows = [_version(store, found) for name in store.versions() if (found := store.manifest(name)) is not None]
    if as_json:
        print_json({"versions": rows})
        return
    columns = ("version", "day MJD", "begin", "end", "cells", "MB", "current")
    print_table(columns, [_line(row) for row in rows])


def _version(store: TemplateStore, found: Manifest) -> dict[str, Any]:
    return {
        "version": found.version,
        "day": found.day,
        "begin": found.begin,
        "end": found.end,
        "cells": len(found.cells) + len(found.bins),
        "bytes": size_of(store, [found.version]),
        "current": found.version == store.current(),
    }


def _line(row: dict[str, Any]) -> tuple[Any, ...]:
    day = "-" if row["day"] is None else f"{row['day']:.0f}"
    window = f"{row['begin']:.1f}", f"{row['end']:.1f}"
    return row["version"], day, *window, row["cells"], f"{row['bytes'] / 1e6:.1f}", "*" * row["current"]


@click.command("prune")
@click.argument("versions", nargs=-1)
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    help="All versions that no night from this day on is compared with, and what jobs left unfinished.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@survey_option
@json_option
def prune_templates(
    survey: Survey, versions: tuple[str, ...], before: datetime | None, dry_run: bool, as_json: bool
) -> None:
    """Remove old VERSIONS, and the kept warps that are then of no use; never the current one.

    A replay of a night that was compared with one is then refused, and `templates correct` leaves its points out and
    says so: nothing else is taken in its place.
    """
    if bool(versions) == (before is not None):
        raise ConfigurationError("name versions (`skydelta templates versions` lists them), or a day with --before")
    store = TemplateStore(survey.templates)
    chosen = removable(store, versions) if before is None else outdated(store, mjd_of(before))
    size = size_of(store, chosen)
    warps = 0 if dry_run else prune(store, chosen, survey.config.templates.keep_warps_days)
    if as_json:
        print_json({"versions": list(chosen), "bytes": size, "warps": warps, "removed": not dry_run})
        return
    for name in chosen:
        click.echo(name)
    what = "would be removed" if dry_run else f"removed, and {warps} files of warps"
    click.echo(f"{len(chosen)} versions of {size / 1e6:.1f} MB of their own {what}", err=True)
