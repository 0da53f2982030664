"""`skydelta templates correct`: the light curve of a known object, freed of its own light in the templates."""

from __future__ import annotations

from functools import cache
from typing import Any

import click
import numpy as np

from schemas.errors import ConfigurationError, DataError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_database
from workers.database import Database
from workers.imaging.tracts import Tessellation
from workers.survey.config import Survey
from workers.templates.airmass_cells import telescope_of
from workers.templates.curves import BandCurve, corrected_curves, span_of
from workers.templates.leave_out import Warps
from workers.templates.store import Manifest, TemplateStore
from workers.templates.warps import WarpStore

__all__ = ["correct_curves"]


@click.command("correct")
@click.argument("ra", type=float, required=False)
@click.argument("dec", type=float, required=False)
@click.option("--object", "number", type=int, help="diaObjectId, instead of RA and DEC.")
@click.option("--radius", default=1.5, show_default=True, help="Arcsec round RA and DEC.")
@click.option("--begin", type=float, help="MJD TAI; the object had no light before.  [default: first source - 90 d]")
@click.option("--end", type=float, help="MJD TAI; the object had no light after.  [default: last source + 300 d]")
@click.option("--prefix", default="", help="Of a replay.")
@survey_option
@json_option
def correct_curves(
    survey: Survey,
    ra: float | None,
    dec: float | None,
    number: int | None,
    radius: float,
    begin: float | None,
    end: float | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Correct an object's light curve for its own light in the templates.

    With the kept warps of the inputs exactly; where they are gone, by the inputs' weights and the curve itself. Errors
    are correlated: points of one template share its offset (--json gives the covariance). A negative declination goes
    behind ``--``.
    """
    database = open_database(survey, prefix)
    row = _object(database, ra, dec, number, radius)
    place = float(row["ra"]), float(row["dec"])
    sources = database.sources_of(int(row["diaObjectId"]))
    first, last = span_of(sources)
    span = (first if begin is None else begin, last if end is None else end)
    store = TemplateStore(survey.templates)

    @cache
    def warps_on(grid: Tessellation) -> Warps:
        return WarpStore(store.warps, grid).block

    def warps_of(manifest: Manifest) -> Warps:
        return warps_on(manifest.grid)

    curves = corrected_curves(
        sources, place, span, store, warps_of, telescope_of(survey.camera, survey.config.templates)
    )
    if as_json:
        head = {"diaObjectId": int(row["diaObjectId"]), "ra": place[0], "dec": place[1], "activeMjdTai": list(span)}
        print_json(head | {"bands": [_tree(curve) for curve in curves]})
        return
    columns = ("MJD TAI", "band", "psfFlux", "psfFluxErr", "corrected", "error", "shared error", "told by", "template")
    print_table(columns, [line for curve in curves for line in _lines(curve)])
    for curve in curves:
        if curve.absent:
            click.echo(f"{curve.band}: {curve.absent} sources are left out, whose template is not kept", err=True)


def _object(database: Database, ra: float | None, dec: float | None, number: int | None, radius: float) -> Any:
    """Return the OBJECT_DTYPE row that is asked for."""
    if number is not None and ra is None:
        rows = database.object(number)
        if len(rows) == 0:
            raise DataError(f"the database knows no object {number}; `skydelta alerts tail` lists objects")
        return rows[0]
    if number is not None or ra is None or dec is None or not (0.0 <= ra < 360.0 and -90.0 <= dec <= 90.0):
        raise ConfigurationError("name an object: RA and DEC, degrees ICRS, or --object ID")
    rows = database.objects_near(np.array([ra]), np.array([dec]), radius)
    east = (rows["ra"] - ra + 180.0) % 360.0 - 180.0
    apart = 3600.0 * np.hypot(east * np.cos(np.radians(dec)), rows["dec"] - dec)
    if not (apart <= radius).any():
        raise DataError(f"the database knows no object within {radius} arcsec of {ra} {dec}; try a larger --radius")
    return rows[int(np.argmin(apart))]


def _lines(band: BandCurve) -> list[tuple[Any, ...]]:
    curve = band.curve
    values = zip(band.sources, curve.flux, curve.errors, band.shared, band.exact, band.templateId, strict=True)
    return [
        (
            f"{row['midpointMjdTai']:.5f}",
            band.band,
            float(row["psfFlux"]),
            float(row["psfFluxErr"]),
            float(flux),
            float(error),
            float(shared),
            "warps" if exact else "weights",
            name,
        )
        for row, flux, error, shared, exact, name in values
    ]


def _tree(band: BandCurve) -> dict[str, Any]:
    rows, curve = band.sources, band.curve
    return {
        "band": band.band,
        "leftOut": band.absent,
        "diaSourceId": rows["diaSourceId"].tolist(),
        "midpointMjdTai": rows["midpointMjdTai"].tolist(),
        "templateId": list(band.templateId),
        "exact": list(band.exact),
        "psfFlux": rows["psfFlux"].astype(float).tolist(),
        "psfFluxErr": rows["psfFluxErr"].astype(float).tolist(),
        "psfFluxCorrected": curve.flux.tolist(),
        "psfFluxCorrectedErr": curve.errors.tolist(),
        "covariance": curve.covariance.tolist(),
    }
