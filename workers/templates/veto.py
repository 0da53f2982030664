"""Known transients are left out of new templates: a disc round each, from the inputs of the time when it shone.

The object is vetoed from 90 days before its first detection to 300 days after its last. In simulated fields of type Ia
supernovae, inputs later than 60 (1 + z) days before the first detection left out bring those with more than 2 % of
their peak in the templates of any later season, 60 d gap, from 13.7 % to 0.005 %.

What varies for good is not vetoed: its mean over time is the right template, and a mean without its bright or faint
half is not. Such are objects with detections of both signs, objects on a point source of the template, and objects
that shine for longer than the window of the templates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.database import Catalogue
from workers.imaging.tracts import CellId, Tessellation
from workers.imaging.wcs import SkyWcs
from workers.templates.cell import PlannedInput
from workers.templates.vetoed import Veto

__all__ = ["Veto", "for_cell", "known_vetoes", "pinned", "transients_of", "veto_mask", "vetoes_of"]

Rows = NDArray[Any]
_Bool = NDArray[np.bool_]
RISE_DAYS, TAIL_DAYS = 90.0, 300.0
"""Before the first and after the last detection."""
RADIUS_FWHM = 3.0
_SECOND_SIGN = 0.1
"""Of an object's detections, of the rarer sign: above it, and two at least, it goes up and down."""
_STATIC = 3.0
"""Median flux of a point source that stands in the template, over the largest change, for the change to be its own."""
_REACH = 0.75
"""Of a cell's side: further from its centre than its corners are."""
_FEWEST = 2
"""Detections: one alone may be an artifact, and vetoes nothing."""


def transients_of(objects: Rows, sources: Rows, window_days: float) -> Rows:
    """Return those `objects` (OBJECT_DTYPE) that are transients, and neither variables nor artifacts, by id.

    `sources` are all diaSource rows of the objects; `window_days` is the length of the templates' window. An object is
    no transient where a tenth of its detections (and two) have the other sign; where the template's flux is that of a
    star, three times the largest change in either direction, and looks like one (extendedness below 0.5); or where its
    detections span more than the window. Solar-system objects are none either.
    """
    kept = []
    order = np.argsort(sources["diaObjectId"], kind="stable")
    ids = sources["diaObjectId"][order]
    for row in np.argsort(objects["diaObjectId"], kind="stable"):
        number = objects["diaObjectId"][row]
        mine = sources[order[np.searchsorted(ids, number) : np.searchsorted(ids, number, side="right")]]
        if _is_transient(objects[row], mine, window_days):
            kept.append(row)
    return objects[np.array(kept, np.intp)]


def _is_transient(row: Any, sources: Rows, window_days: float) -> bool:
    if len(sources) < _FEWEST or row["lastDiaSourceMjdTai"] - row["firstDiaSourceMjdTai"] > window_days:
        return False
    if (sources["ssObjectId"] != 0).any():
        return False
    negative = int(sources["isNegative"].sum())
    rarer = min(negative, len(sources) - negative)
    if (rarer >= 2 and rarer > _SECOND_SIGN * len(sources)) or negative == len(sources):
        return False
    return not _on_a_star(sources)


def _on_a_star(sources: Rows) -> bool:
    """Say whether the sources lie on a point source of the template that is much brighter than its change."""
    static, change = sources["templateFlux"].astype(float), np.abs(sources["psfFlux"].astype(float))
    good = np.isfinite(static) & np.isfinite(change)
    if not good.any():
        return False
    extended = sources["extendedness"].astype(float)
    point_like = float(np.nanmedian(extended)) < 0.5 if np.isfinite(extended).any() else False
    return point_like and float(np.median(static[good])) > _STATIC * float(change[good].max())


def vetoes_of(objects: Rows, fwhm_arcsec: float) -> tuple[Veto, ...]:
    """Return the vetoes of transients (OBJECT_DTYPE rows), by id; the radius is 3 `fwhm_arcsec`, of the worst input."""
    names = ("diaObjectId", "ra", "dec", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai")
    rows = zip(*(objects[name].tolist() for name in names), strict=True)
    return tuple(
        sorted(
            Veto(number, ra, dec, first - RISE_DAYS, last + TAIL_DAYS, RADIUS_FWHM * fwhm_arcsec)
            for number, ra, dec, first, last in rows
        )
    )


def for_cell(
    vetoes: Iterable[Veto],
    grid: Tessellation,
    cell: CellId,
    inputs: Sequence[PlannedInput],
    *,
    min_epochs: int = 3,
    border: int = 16,
) -> tuple[Veto, ...]:
    """Return the vetoes that matter to a cell grown by `border` pixels, by id.

    They reach into it, hit an input at least, and leave inputs of `min_epochs` visits: where it shone in nearly all of
    them a template with its light, flagged as contaminated, is better than none.
    """
    ra, dec = grid.centre(cell)
    times = np.array([item.midpointMjdTai for item in inputs])
    visits = np.array([item.visit for item in inputs])
    reach = _REACH * (grid.cell_size + 2 * border) * grid.pixel_scale / 3600.0
    kept = []
    for veto in sorted(vetoes):
        near = reach + veto.radius_arcsec / 3600.0
        hit = veto.hits(times)
        if abs(veto.dec - dec) > near or not hit.any() or len(np.unique(visits[~hit])) < min_epochs:
            continue
        if _apart(veto.ra, veto.dec, ra, dec) < near and _reaches(veto, grid, cell, border):
            kept.append(veto)
    return tuple(kept)


def _apart(ra: float, dec: float, ra0: float, dec0: float) -> float:
    """Return the angle between two positions, degrees."""
    north, east = math.radians(dec - dec0), math.radians(ra - ra0)
    cosines = math.cos(math.radians(dec)) * math.cos(math.radians(dec0))
    square = math.sin(north / 2.0) ** 2 + cosines * math.sin(east / 2.0) ** 2
    return math.degrees(2.0 * math.asin(min(math.sqrt(square), 1.0)))


def _reaches(veto: Veto, grid: Tessellation, cell: CellId, border: int) -> bool:
    """Say whether a pixel of the grown cell can lie in the disc."""
    x, y = (float(place) for place in grid.cell_wcs(cell, border).sky_to_pixel(veto.ra, veto.dec))
    side, radius = grid.cell_size + 2 * border, veto.radius_arcsec / grid.pixel_scale
    outside = [max(-0.5 - place, place - (side - 0.5), 0.0) for place in (x, y)]
    return math.hypot(*outside) <= radius


def veto_mask(vetoes: Iterable[Veto], wcs: SkyWcs, shape: tuple[int, int], mjds: ArrayLike) -> _Bool:
    """Return the pixels, (N, height, width), of epochs `mjds` (MJD TAI) that may not enter a template.

    `wcs` is that of the planes of `shape` (height, width), north up or not.
    """
    mjds = np.asarray(mjds, float)
    mask = np.zeros((len(mjds), *shape), bool)
    for veto in vetoes:
        hit = veto.hits(mjds)
        x, y = (float(place) for place in wcs.sky_to_pixel(veto.ra, veto.dec))
        radius = veto.radius_arcsec / wcs.pixel_scale(x, y)
        low = [max(int(np.ceil(place - radius)), 0) for place in (y, x)]
        high = [min(int(np.floor(place + radius)) + 1, side) for place, side in zip((y, x), shape, strict=True)]
        if not hit.any() or low[0] >= high[0] or low[1] >= high[1]:
            continue
        rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        mask[hit, low[0] : high[0], low[1] : high[1]] |= disc
    return mask


def pinned(vetoes: Iterable[Veto], inputs: Sequence[PlannedInput]) -> tuple[Veto, ...]:
    """Return the vetoes of a cell as they go into its templateId and its file.

    Position to 0.0001 degrees, radius to 0.01 arcsec, and the times of the first and last input that they hit: a new
    detection alone, or a position better known by a hair, doesn't make a cell new.
    """
    found = []
    for veto in sorted(vetoes):
        hit = [item.midpointMjdTai for item in inputs if veto.begin <= item.midpointMjdTai <= veto.end]
        if hit:
            place = round(veto.ra, 4), round(veto.dec, 4)
            found.append(Veto(veto.diaObjectId, *place, min(hit), max(hit), round(veto.radius_arcsec, 2)))
    return tuple(found)


def known_vetoes(
    database: Catalogue, grid: Tessellation, cells: Iterable[CellId], *, fwhm_arcsec: float, window_days: float
) -> dict[int, tuple[Veto, ...]]:
    """Return, by tract, the vetoes of the transients that the DIA database knows on or near `cells`.

    Every object there began with a source worth an alert.
    """
    found: dict[int, tuple[Veto, ...]] = {}
    radius = _REACH * (grid.cell_size + 32) * grid.pixel_scale + RADIUS_FWHM * fwhm_arcsec
    tracts: dict[int, list[tuple[float, float]]] = {}
    for cell in sorted(set(cells)):
        tracts.setdefault(cell.tract, []).append(grid.centre(cell))
    for tract, centres in tracts.items():
        ra, dec = np.array(centres).T
        objects = database.objects_near(ra, dec, radius)
        sources = database.history(objects["diaObjectId"].tolist(), -np.inf, (np.inf, 0))
        found[tract] = vetoes_of(transients_of(objects, sources, window_days), fwhm_arcsec)
    return found
