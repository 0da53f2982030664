"""The sources of one exposure: which have their own light in the template, how much, and their fluxes without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import RowGroups
from schemas.errors import DataError
from workers.imaging.tracts import CellId
from workers.templates.activity import Points
from workers.templates.airmass_cells import Telescope, cell_at_source
from workers.templates.cell import PlannedInput
from workers.templates.contamination import CLEAN, Contamination, Seen, contamination_of, in_reach
from workers.templates.leave_out import Warps
from workers.templates.store import Manifest, TemplateStore
from workers.templates.warp_file import WarpBlock

__all__ = ["OWN_LIGHT_COLUMNS", "forgiving", "points_of", "psf_variance_of", "with_own_light"]

Rows = NDArray[Any]
OWN_LIGHT_COLUMNS = ("templateFluxInWindow", "templateFluxInWindowErr", "psfFluxCorrected", "psfFluxCorrectedErr")
"""Of diaSource, besides templateContaminated; NaN where there is none."""


def forgiving(warps: Warps) -> Warps:
    """Return `warps` for which a damaged file is a missing one: the flag is then set by time alone."""

    def block(item: PlannedInput, cell: CellId) -> WarpBlock | None:
        try:
            return warps(item, cell)
        except DataError:
            return None

    return block


def with_own_light(
    sources: Rows,
    objects: Rows,
    previous: RowGroups,
    unseen: Callable[[int], Rows],
    where: tuple[TemplateStore, Manifest, Warps],
    last_epoch: float = np.inf,
    telescope: Telescope | None = None,
) -> Rows:
    """Return the diaSource rows of one exposure with templateContaminated and `OWN_LIGHT_COLUMNS` filled, a copy.

    `objects` are their objects as of the visit, `previous` the earlier sources of each, in all bands; `unseen` gives
    the diaNondetectionLimit rows of one (by its place). The template is that of a version's manifest, which the message
    of the exposure names, `last_epoch` (MJD TAI) its last input's: what is too old for an object costs nothing. Where
    the version has airmass bins `telescope` tells which was subtracted at a source's place; without it, and at the
    limit between two bins of a large exposure, another one may be looked at. Raises DataError where a cell's file is
    damaged.
    """
    store, manifest, warps = where
    filled = sources.copy()
    for name in OWN_LIGHT_COLUMNS:
        filled[name] = np.nan
    filled["templateContaminated"] = False
    first = objects["firstDiaSourceMjdTai"].astype(float)
    usable = np.isfinite(sources["psfFlux"]) & (sources["psfFluxErr"] > 0) & (sources["ssObjectId"] == 0)
    for place in np.flatnonzero(in_reach(first, last_epoch) & usable).tolist():
        record = manifest.record(str(sources["band"][place]), manifest.grid.cell_at(*_position(sources[place])))
        if record is None or not in_reach(first[place], record.lastEpochMjdTai):
            continue
        old = previous.part(place, place + 1).rows
        seen = _seen(sources[place], float(first[place]), old, unseen(place))
        cell = cell_at_source(store, manifest, record, telescope, (seen.ra, seen.dec, seen.mjd))
        _fill(filled, place, contamination_of(seen, cell, forgiving(warps)))
    return filled


def _fill(rows: Rows, place: int, found: Contamination) -> None:
    if found is CLEAN:
        return
    rows["templateContaminated"][place] = found.templateContaminated
    for name in OWN_LIGHT_COLUMNS:
        value = getattr(found, name)
        rows[name][place] = np.nan if value is None else value


def _position(row: Any) -> tuple[float, float]:
    return float(row["ra"]), float(row["dec"])


def psf_variance_of(row: Any) -> float | None:
    """Return the second moment along an axis of a source's PSF, arcsec², None where it is not known."""
    size = float(row["ixxPSF"]) * float(row["iyyPSF"]) - float(row["ixyPSF"]) ** 2
    return float(np.sqrt(size)) if size > 0 else None


def points_of(rows: Rows, band: str) -> Points:
    """Return the light curve of diaSource rows in one band, corrected where that was published."""
    mine = rows[(rows["band"] == band) & np.isfinite(rows["psfFlux"]) & (rows["psfFluxErr"] > 0)]
    known = np.isfinite(mine["psfFluxCorrected"]) & mine["templateContaminated"]
    flux = np.where(known, mine["psfFluxCorrected"], mine["psfFlux"]).astype(float)
    error = np.where(known, mine["psfFluxCorrectedErr"], mine["psfFluxErr"]).astype(float)
    return Points(mine["midpointMjdTai"].astype(float), flux, error)


def _seen(row: Any, first: float, old: Rows, limits: Rows) -> Seen:
    band = str(row["band"])
    early = limits[(limits["band"] == band) & (limits["midpointMjdTai"] < first) & (limits["psfLimit"] > 0)]
    return Seen(
        *_position(row),
        psfFlux=float(row["psfFlux"]),
        psfFluxErr=float(row["psfFluxErr"]),
        first=first,
        history=points_of(old, band),
        mjd=float(row["midpointMjdTai"]),
        unseen=Points(early["midpointMjdTai"].astype(float), early["psfLimit"].astype(float), np.zeros(len(early))),
        psf_variance=psf_variance_of(row),
    )
