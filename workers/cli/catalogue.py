"""`skydelta catalogue`: every source of calibrated exposures, as FITS tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from schemas.errors import DataError
from workers.characterize.catalogue import THRESHOLD, measure_sources
from workers.characterize.catalogue_file import catalogue_name, write_catalogue
from workers.cli.options import json_option, print_json
from workers.imaging.fits import read_exposure

__all__ = ["command"]


@click.command()
@click.argument("calexps", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder; else beside each CALEXP."
)
@click.option("--threshold", default=THRESHOLD, show_default=True, type=click.FloatRange(3.0), help="Sigma.")
@json_option
def command(calexps: tuple[Path, ...], output: Path | None, threshold: float, as_json: bool) -> None:
    """Measure every source of CALEXPS (FITS that `skydelta isr` wrote) into catalogues.

    Positions, PSF, aperture and Kron fluxes, moments, extendedness, blends and flags: one FITS table per exposure, with
    units. A file that can't be measured is named, and the others are done.
    """
    done = []
    failed = 0
    for path in calexps:
        try:
            done.append(_catalogued(path, output, threshold))
        except DataError as error:
            failed += 1
            click.echo(f"{path}: {error}", err=True)
    if as_json:
        print_json(done)
    else:
        for line in done:
            click.echo(
                f"{line['catalogue']} {line['sources']} sources, {line['extended']} extended, "
                f"{line['blended']} blended, {line['flagged']} without a good PSF flux"
            )
    if failed:
        raise DataError(f"{failed} of {len(calexps)} exposures could not be catalogued")


def _catalogued(path: Path, output: Path | None, threshold: float) -> dict[str, Any]:
    """Measure one file, write its catalogue and return what is told of it."""
    exposure = read_exposure(path)
    rows = measure_sources(exposure, threshold=threshold)
    target = (output or path.parent) / catalogue_name(exposure.info)
    write_catalogue(target, rows, exposure, threshold)
    return {
        "calexp": str(path),
        "catalogue": str(target),
        "visit": exposure.info.visit,
        "detector": exposure.info.detector,
        "band": exposure.info.band,
        "sources": len(rows),
        "extended": int(np.count_nonzero(rows["extendedness"] > 0.5)),
        "blended": int(np.count_nonzero(rows["nBlend"] > 1)),
        "flagged": int(np.count_nonzero(rows["psfFlux_flag"])),
    }
