"""The light curve of a known object, freed of its own light: its sources, the templates of their nights, the warps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.templates.airmass_cells import Telescope, cell_at_source
from workers.templates.cell import TemplateCell
from workers.templates.contamination import amount_of, input_shares, template_variance
from workers.templates.curve_correction import CorrectedCurve, CurvePoints, TemplateLight, correct_curve
from workers.templates.leave_out import Warps
from workers.templates.own_light import forgiving, psf_variance_of
from workers.templates.store import Manifest, TemplateStore
from workers.templates.veto import RISE_DAYS, TAIL_DAYS

__all__ = ["BandCurve", "corrected_curves", "span_of"]

Rows = NDArray[Any]
_WarpsOf = Callable[[Manifest], Warps]


@dataclass(frozen=True)
class BandCurve:
    """The corrected points of one band."""

    band: str
    sources: Rows
    """The diaSource rows of the points, by time."""
    templateId: tuple[str, ...]
    """Of the cell behind each point."""
    exact: tuple[bool, ...]
    """Whether the kept warps told what its template holds, and not the light curve and the weights."""
    shared: NDArray[np.float64]
    """Error of what each point's template took off, which points of one template share, nJy."""
    curve: CorrectedCurve
    absent: int
    """Sources of the band that are left out: the template version that served their night was removed, or has no cell
    there."""


def span_of(sources: Rows) -> tuple[float, float]:
    """Return when an object may have shone (MJD TAI): 90 days before its first to 300 days after its last source."""
    mjd = sources["midpointMjdTai"].astype(float)
    return float(mjd.min()) - RISE_DAYS, float(mjd.max()) + TAIL_DAYS


def corrected_curves(
    sources: Rows,
    place: tuple[float, float],
    span: tuple[float, float],
    store: TemplateStore,
    warps_of: _WarpsOf,
    telescope: Telescope | None = None,
) -> list[BandCurve]:
    """Return the corrected light curve of an object at `place` (degrees ICRS) in each band, by band.

    `sources` are all of its diaSource rows, compared with the template version that served their night; those outside
    of `span` (begin, end; MJD TAI) are where it had no flux. `telescope` tells which of a cell's airmass bins it was.
    Raises DataError where no source has a template.
    """
    found = []
    for band in sorted({str(name) for name in sources["band"]}):
        rows = sources[(sources["band"] == band) & np.isfinite(sources["psfFlux"]) & (sources["psfFluxErr"] > 0)]
        rows = rows[np.argsort(rows["midpointMjdTai"], kind="stable")]
        times = rows["midpointMjdTai"].astype(float).tolist()
        cells = [_cell_behind(mjd, band, place, (store, warps_of), telescope) for mjd in times]
        known = np.array([cell is not None for cell in cells], bool)
        inside = (rows["midpointMjdTai"] >= span[0]) & (rows["midpointMjdTai"] <= span[1])
        if (known & inside).any():
            there = [cell for cell in cells if cell is not None]
            found.append(_band_curve(band, rows[known], there, place, span, int((~known).sum())))
    if not found:
        raise DataError(
            f"no template version kept in {store.root} has a cell at {place[0]} {place[1]} for any of the object's "
            "sources; `skydelta templates versions` and `coverage` show what there is"
        )
    return found


_Behind = tuple[TemplateCell, Warps]


def _cell_behind(
    mjd: float,
    band: str,
    place: tuple[float, float],
    templates: tuple[TemplateStore, _WarpsOf],
    telescope: Telescope | None,
) -> _Behind | None:
    store, warps_of = templates
    name = store.serving(mjd)
    manifest = store.manifest(name) if name is not None and store.holds(name) else None  # it may have been removed
    if manifest is None:
        return None
    record = manifest.record(band, manifest.grid.cell_at(*place))
    if record is None:
        return None
    return cell_at_source(store, manifest, record, telescope, (*place, mjd)), warps_of(manifest)


def _band_curve(
    band: str, rows: Rows, cells: list[_Behind], place: tuple[float, float], span: tuple[float, float], absent: int
) -> BandCurve:
    lights, places = _lights(rows, cells, place, span)
    mjd = rows["midpointMjdTai"].astype(float)
    points = CurvePoints(
        visit=rows["visit"].astype(np.int64),
        mjd=mjd,
        flux=rows["psfFlux"].astype(float),
        fluxErr=rows["psfFluxErr"].astype(float),
        template=places,
        active=(mjd >= span[0]) & (mjd <= span[1]),
    )
    curve = correct_curve(points, lights, *span)
    mine = places[curve.points]
    return BandCurve(
        band=band,
        sources=rows[curve.points],
        templateId=tuple(cells[k][0].plan.templateId for k in curve.points),
        exact=tuple(lights[k].amount is not None for k in mine),
        shared=curve.offsetErr[mine],
        curve=curve,
        absent=absent,
    )


def _lights(
    rows: Rows, cells: list[_Behind], place: tuple[float, float], span: tuple[float, float]
) -> tuple[list[TemplateLight], NDArray[np.int64]]:
    """Return what the templates hold, and which is each point's: one each with warps, for its PSF tells how much.

    Without warps there is one for all points of a template.
    """
    lights: list[TemplateLight] = []
    places, whole = np.zeros(len(rows), np.int64), dict[str, int]()
    for number, (row, (cell, warps)) in enumerate(zip(rows, cells, strict=True)):
        name = cell.plan.templateId
        if name not in whole:
            lights.append(_light(cell, warps, place, span, psf_variance_of(row)))
            places[number] = len(lights) - 1
            if lights[-1].amount is None:
                whole[name] = places[number]
        else:
            places[number] = whole[name]
    return lights, places


def _light(
    cell: TemplateCell, warps: Warps, place: tuple[float, float], span: tuple[float, float], psf: float | None
) -> TemplateLight:
    """Return what a template may hold of the object: exact where no input, or all warps, of its time are there."""
    x, y = (float(one) for one in cell.plan.grid.cell_wcs(cell.plan.cell).sky_to_pixel(*place))
    shares = input_shares(cell, x, y)
    mjd = np.array([item.midpointMjdTai for item in cell.plan.inputs])
    out = tuple(np.flatnonzero((shares > 0) & (mjd >= span[0]) & (mjd <= span[1])).tolist())
    variance = template_variance(cell, x, y, psf)
    amount = amount_of(cell, x, y, out, forgiving(warps), psf_variance=psf) if out else None
    return TemplateLight(
        visit=np.array([item.visit for item in cell.plan.inputs], np.int64),
        mjd=mjd,
        shares=shares,
        variance=variance,
        amount=0.0 if not out else None if amount is None else amount.flux,
        rest=variance if amount is None else amount.rest,
        out=out,
    )
