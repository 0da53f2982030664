"""Which parts of the sky to draw so that all cells are seen: projections, separate fields, grid lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units
from astropy_healpix import HEALPix
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from workers.templates.coverage import CellPlaces, unit_vectors

__all__ = ["GridLine", "Project", "View", "fields_of", "grid_lines", "round_step", "views_of"]

_Float = NDArray[np.float64]
_Int = NDArray[np.int64]
Project = Callable[[ArrayLike, ArrayLike], tuple[_Float, _Float]]
"""Degrees ICRS to x (RA grows to the left) and y of the map, in degrees at its centre."""

_WHOLE_SKY = 30.0
"""Cells farther than this (degrees) from their mean direction are drawn on a map of the whole sky."""
_LINK = 2.5
"""Degrees between cells of one field, at most, to within a pixel of nside 64."""
_MOST_FIELDS = 4
_MARGIN = 0.06
_LONGEST = 3.0
"""Ratio of the sides of a map, at most."""


@dataclass(frozen=True, eq=False)
class View:
    """One map: cells, projection and limits."""

    title: str
    members: _Int
    """Indices of the cells on it."""
    project: Project
    low: tuple[float, float]
    """Left and bottom, degrees of the map."""
    high: tuple[float, float]
    centre: tuple[float, float]
    """(ra, dec), degrees ICRS."""
    whole_sky: bool = False
    marks: tuple[tuple[str, float, float], ...] = ()
    """Numbers of the fields that have a map of their own, with ra and dec."""


def views_of(places: CellPlaces, width: float) -> list[View]:
    """Return the maps to draw, each at most `width` picture pixels wide: all cells, then fields too small to be seen.

    Fields follow, the greatest four of them, where there are several and a cell would be under two pixels.
    """
    everything = np.arange(len(places.ra))
    whole = _view("", everything, places)
    fields = fields_of(places)
    side = math.sqrt(float(np.median(places.area)))
    seen = side * width >= 2.0 * max(whole.high[0] - whole.low[0], whole.high[1] - whole.low[1])
    if seen or (len(fields) == 1 and not whole.whole_sky):
        return [whole]
    parts, marks = [], []
    for number, members in enumerate(fields[:_MOST_FIELDS], 1):
        view = _view(f"field {number} of {len(fields)}, {_counted(len(members), 'cell')}", members, places)
        if not view.whole_sky:
            marks.append((str(number), *view.centre))
            parts.append(view)
    overview = View(
        f"{_counted(len(everything), 'cell')} in {_counted(len(fields), 'field')}, marks larger than cells",
        everything,
        whole.project,
        whole.low,
        whole.high,
        whole.centre,
        whole.whole_sky,
        tuple(marks),
    )
    return [overview, *parts]


def fields_of(places: CellPlaces) -> list[_Int]:
    """Return the indices of the cells of each separate field, the field of most cells first."""
    sky = HEALPix(nside=64, order="nested")
    pixels, member = np.unique(
        sky.lonlat_to_healpix(places.ra * units.deg, places.dec * units.deg), return_inverse=True
    )
    lon, lat = sky.healpix_to_lonlat(pixels)
    tree = cKDTree(unit_vectors(lon.deg, lat.deg))
    pairs = tree.query_pairs(2.0 * math.sin(math.radians(_LINK) / 2.0), output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(pixels), len(pixels)))
    count, labels = connected_components(links, directed=False)
    of_cell = labels[member]
    groups = [np.flatnonzero(of_cell == label) for label in range(count)]
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _view(title: str, members: _Int, places: CellPlaces) -> View:
    points = unit_vectors(places.ra[members], places.dec[members])
    mean = points.mean(axis=0)
    length = float(np.linalg.norm(mean))
    reach = 180.0 if length < 1e-3 else math.degrees(math.acos(min(1.0, float((points @ mean).min()) / length)))
    dec = math.degrees(math.asin(mean[2] / length)) if length > 1e-3 else 0.0
    ra = math.degrees(math.atan2(mean[1], mean[0])) % 360.0
    if reach > _WHOLE_SKY:
        ra = round(ra / 30.0) % 12 * 30.0 if math.hypot(mean[0], mean[1]) > 0.1 else 180.0
        reach_x, reach_y = 2.0 * math.sqrt(2.0), math.sqrt(2.0)
        x, y = math.degrees(reach_x), math.degrees(reach_y)
        return View(title, members, _mollweide(ra), (-x, -y), (x, y), (ra, 0.0), whole_sky=True)
    project = _equal_area(ra, dec)
    low, high = _limits(*project(places.corners[members, :, 0], places.corners[members, :, 1]))
    return View(title, members, project, low, high, (ra, dec))


def _limits(x: _Float, y: _Float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return lower left and upper right, with a margin, of a map that is never too long and narrow."""
    low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
    span, middle = high - low, 0.5 * (low + high)
    span = np.maximum(span * (1.0 + 2.0 * _MARGIN), span.max() * (1.0 + 2.0 * _MARGIN) / _LONGEST)
    low, high = middle - 0.5 * span, middle + 0.5 * span
    return (float(low[0]), float(low[1])), (float(high[0]), float(high[1]))


def _equal_area(ra: float, dec: float) -> Project:
    """Return Lambert's azimuthal equal-area projection about a position (Calabretta & Greisen 2002, ZEA), RA left."""
    north = unit_vectors(ra + 180.0, 90.0 - dec) if dec >= 0 else unit_vectors(ra, 90.0 + dec)
    centre, east = unit_vectors(ra, dec), unit_vectors(ra + 90.0, 0.0)

    def project(lon: ArrayLike, lat: ArrayLike) -> tuple[_Float, _Float]:
        points = unit_vectors(lon, lat)
        stretch = np.degrees(np.sqrt(2.0 / np.maximum(1.0 + points @ centre, 1e-9)))
        return -stretch * (points @ east), stretch * (points @ north)

    return project


def _mollweide(ra: float) -> Project:
    """Return Mollweide's projection of the whole sky about (`ra`, 0) (Calabretta & Greisen 2002, MOL), RA left."""

    def project(lon: ArrayLike, lat: ArrayLike) -> tuple[_Float, _Float]:
        lon, lat = np.broadcast_arrays(np.asarray(lon, float), np.asarray(lat, float))
        east = np.radians((lon - ra + 180.0) % 360.0 - 180.0)
        sine = np.pi * np.sin(np.radians(lat))
        angle = np.arcsin(np.clip(sine / np.pi, -1.0, 1.0)) * 0.9
        for _ in range(30):
            slope = np.maximum(2.0 + 2.0 * np.cos(2.0 * angle), 1e-6)
            angle = np.clip(angle - (2.0 * angle + np.sin(2.0 * angle) - sine) / slope, -np.pi / 2, np.pi / 2)
        x = -2.0 * math.sqrt(2.0) / np.pi * east * np.cos(angle)
        return np.degrees(x), np.degrees(math.sqrt(2.0) * np.sin(angle))

    return project


@dataclass(frozen=True, eq=False)
class GridLine:
    """A meridian or a parallel on a map."""

    label: str
    meridian: bool
    x: _Float
    y: _Float


def grid_lines(view: View) -> list[GridLine]:
    """Return the lines of RA and Dec on a map, three to six each way, with their values in degrees."""
    if view.whole_sky:
        return _whole_sky_lines(view)
    ra, dec = view.centre
    width, height = (high - low for low, high in zip(view.low, view.high, strict=True))
    reach = math.hypot(width, height)
    bottom, top = max(dec - reach, -90.0), min(dec + reach, 90.0)
    half = _ra_reach(dec, reach)
    step_ra = round_step(min(width / math.cos(math.radians(min(abs(dec), 89.9))), 180.0) / 6.0)
    step_dec = round_step(max(height, 0.5 * width) / 6.0)
    around = np.linspace(ra - half, ra + half, 121)
    along = np.linspace(bottom, top, 61)
    meridians = _multiples(ra - half, ra + half, step_ra)
    if half == 180.0:  # the whole circle: its two ends are one meridian
        meridians = [value for value in meridians if value < ra + half - 1e-9]
    parallels = [value for value in _multiples(bottom, top, step_dec) if abs(value) < 90.0]
    return [
        *(GridLine(_degrees(value % 360.0, step_ra), True, *view.project(value, along)) for value in meridians),
        *(GridLine(_degrees(value, step_dec, "+"), False, *view.project(around, value)) for value in parallels),
    ]


def _ra_reach(dec: float, reach: float) -> float:
    """Return how far in RA (degrees) a circle of `reach` degrees extends; 180 where it holds a pole."""
    if abs(dec) + reach >= 90.0:
        return 180.0
    return min(math.degrees(math.asin(math.sin(math.radians(reach)) / math.cos(math.radians(dec)))) * 1.05, 180.0)


def _whole_sky_lines(view: View) -> list[GridLine]:
    ra = view.centre[0]
    lines = []
    for value in range(-180, 181, 60):
        edge = min(max(float(value), -179.999), 179.999)  # both ends, not the same one twice
        label = "" if abs(value) == 180 else f"{(ra + value) % 360.0:.0f}°"
        lines.append(GridLine(label, True, *view.project(ra + edge, np.linspace(-90.0, 90.0, 91))))
    around = np.linspace(ra - 179.999, ra + 179.999, 91)
    lines.extend(
        GridLine(f"{dec:+d}°" if dec else "0°", False, *view.project(around, dec)) for dec in (-60, -30, 0, 30, 60)
    )
    return lines


def round_step(raw: float, factors: Sequence[float] = (1.0, 2.0, 5.0, 10.0)) -> float:
    """Return the least round number not below `raw`; above ten degrees, a divisor of the circle."""
    if raw > 10.0:
        return next((step for step in (15.0, 30.0, 45.0, 60.0) if step >= raw), 90.0)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in factors if factor * power >= raw * (1.0 - 1e-9))


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _degrees(value: float, step: float, sign: str = "") -> str:
    decimals = max(-math.floor(math.log10(step) + 1e-9), 0)
    return f"{value:{sign if abs(value) > 1e-9 else ''}.{decimals}f}°"
