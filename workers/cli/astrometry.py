"""`skydelta astrometry`: the detectors of a visit solved jointly."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from schemas.errors import DataError
from workers.characterize.visit_files import field_of, solve_exposures
from workers.cli.options import json_option, print_json, survey_option
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure, write_exposure
from workers.imaging.reference_store import Reference, open_reference
from workers.survey.characterize_config import AstrometryConfig
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("calexps", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder; else in place.")
@json_option
def command(survey: Survey, calexps: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Solve CALEXPS (FITS that `skydelta isr` wrote) visit by visit, all detectors of a visit jointly.

    They share one pointing, rotation, scale and low-order map, so that a few stars are enough for a detector. Stars are
    measured again with the PSF in each file. The new WCS is written to the same file, or to a file of the same name in
    the folder -o; a detector that can't be solved keeps its file and is told.
    """
    reference = open_reference(survey.path(survey.config.reference.path))
    visits: dict[tuple[int, str], list[tuple[Path, Exposure]]] = defaultdict(list)
    for path in calexps:
        exposure = read_exposure(path)
        visits[exposure.info.visit, exposure.info.band].append((path, exposure))
    rows: list[dict[str, Any]] = []
    for members in visits.values():
        rows += _solve(members, reference, survey.config.characterize.astrometry, output)
    if as_json:
        print_json(rows)
    for row in rows:
        if row["error"] is not None:
            click.echo(f"{row['calexp']}: {row['error']}", err=True)
        elif not as_json:
            click.echo(f"{row['path']} rms={row['rms']:.4f} arcsec stars={row['stars']}")
    failed = [row for row in rows if row["error"] is not None]
    if failed:
        raise DataError(f"{len(failed)} of {len(rows)} detectors could not be solved")


def _solve(
    members: list[tuple[Path, Exposure]], reference: Reference, config: AstrometryConfig, output: Path | None
) -> list[dict[str, Any]]:
    """Solve one visit and write its files."""
    exposures = [exposure for _, exposure in members]
    ra, dec, radius = field_of(exposures)
    scale = max(exposure.need_wcs().pixel_scale(0.0, 0.0) for exposure in exposures)
    stars = reference.within(ra, dec, radius + 2.0 * config.search_radius_pixels * scale / 3600.0)
    try:
        solved = solve_exposures(exposures, stars.at(exposures[0].info.midpointMjdTai), config)
    except DataError as error:
        solved = [error] * len(exposures)
    rows = []
    for (path, _), found in zip(members, solved, strict=True):
        row: dict[str, Any] = {"calexp": str(path), "path": None, "rms": None, "stars": None, "error": None}
        if isinstance(found, DataError):
            row["error"] = str(found)
        else:
            target = path if output is None else output / path.name
            write_exposure(target, found)
            row.update(path=str(target), rms=found.metrics["astrometricRms"], stars=int(found.metrics["nMatched"]))
        rows.append(row)
    return rows
