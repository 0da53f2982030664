"""The coverage of one band as a picture: maps of depth and of epochs, cells as quadrilaterals, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from workers.imaging.tracts import Tessellation
from workers.templates.cell import CellRecord
from workers.templates.coverage import CellPlaces, ab_magnitude, cell_places
from workers.templates.coverage_views import GridLine, View, grid_lines, round_step, views_of

__all__ = ["coverage_svg"]

_Float = NDArray[np.float64]

_WIDTH = 400.0
"""Of a map; its height follows, up to the same."""
_LEFT, _TOP, _BOTTOM, _PANEL = 66.0, 28.0, 40.0, 560.0
"""Round a map: room for declinations, title, right ascensions; and from one map to the next, with its colour bar."""
_HEADING = 30.0
_SQUARE = 4.0
"""Side of the marks that stand for cells that would be smaller than half of it."""
_TITLED = 400
"""Cells on a map up to which each says what it is when pointed at."""
_LEVELS = 48
_VIRIDIS = (
    *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137)),
    *((53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37)),
)
"""Matplotlib's viridis (CC0) at ten even steps: lightness grows evenly, and it is safe for the colour-blind."""
_NO_VALUE = "#b0b0b0"
_TEXT = 'font-size="11" fill="#222"'
_HALO = 'paint-order="stroke" stroke="#fff" stroke-width="3"'


@dataclass(frozen=True, eq=False)
class _Quantity:
    """What the colours say: one value a cell, and the range of the colour bar."""

    title: str
    unit: str
    values: _Float
    low: float
    high: float
    whole: bool
    """Numbers that count something."""

    def levels(self, values: _Float) -> NDArray[np.int64]:
        """Return the colour of each value, -1 for NaN."""
        good = np.isfinite(values)
        part = (np.where(good, values, self.low) - self.low) / (self.high - self.low)
        return np.where(good, np.clip(part * _LEVELS, 0, _LEVELS - 1).astype(np.int64), -1)

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        if not math.isfinite(value):
            return f"no {self.title}"
        return f"{value:.0f} {self.unit}" if self.whole else f"{value:.2f} {self.unit}"


@dataclass(frozen=True)
class _Frame:
    """Where a map is in the picture; x and y of the map in degrees."""

    view: View
    scale: float
    """Picture pixels per degree."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        low, high = self.view.low, self.view.high
        return (high[0] - low[0]) * self.scale, (high[1] - low[1]) * self.scale

    def place(self, x: _Float, y: _Float) -> tuple[_Float, _Float]:
        """Return picture pixels from the map's upper left corner."""
        return (x - self.view.low[0]) * self.scale, (self.view.high[1] - y) * self.scale


def coverage_svg(grid: Tessellation, records: Sequence[CellRecord], title: str) -> str:
    """Return the picture of one band's cells (at least one): depth on the left, epochs on the right.

    One row of maps for the whole, and one for each field too small to be seen there. A file of its own or part of a
    page.
    """
    places = cell_places(grid, records)
    depth = _quantity("depth", "AB mag", ab_magnitude([record.depth for record in records]), whole=False)
    epochs = _quantity("epochs", "epochs", np.array([record.nEpochs for record in records], float), whole=True)
    names = [f"{record.cell.label}" for record in records]
    parts, top = [], _HEADING
    for view in views_of(places, _WIDTH):
        frame = _frame_of(view)
        for column, quantity in enumerate((depth, epochs)):
            inner = _panel(frame, places, quantity, (depth, epochs), names)
            parts.append(f'<g transform="translate({column * _PANEL:.0f} {top:.0f})">{inner}</g>')
        top += _TOP + frame.size[1] + _BOTTOM
    width, height = 2.0 * _PANEL, top
    heading = f'<text x="12" y="20" font-size="15" font-weight="600" fill="#222">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="system-ui, sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{heading}{"".join(parts)}</svg>'
    )


def _quantity(title: str, unit: str, values: _Float, whole: bool) -> _Quantity:
    good = values[np.isfinite(values)]
    if not good.size:
        return _Quantity(title, unit, values, 0.0, 1.0, whole)
    low, high = (float(value) for value in np.percentile(good, [1.0, 99.0]))
    if whole:
        low, high = math.floor(low), math.ceil(high)
    least = 1.0 if whole else 0.1  # noise is not to look like structure
    if high - low < least:
        low, high = 0.5 * (low + high - least), 0.5 * (low + high + least)
    return _Quantity(title, unit, values, low, high, whole)


def _frame_of(view: View) -> _Frame:
    spans = [high - low for low, high in zip(view.low, view.high, strict=True)]
    return _Frame(view, _WIDTH / max(spans))


def _panel(
    frame: _Frame, places: CellPlaces, quantity: _Quantity, told: Sequence[_Quantity], names: Sequence[str]
) -> str:
    width, height = frame.size
    cells = _cells(frame, places, quantity, told, names)
    lines, labels = _grid(frame)
    marks = [_mark(frame, *mark) for mark in frame.view.marks]
    title = ": ".join(part for part in (quantity.title, frame.view.title) if part)
    return (
        f'<text x="{_LEFT}" y="{_TOP - 8}" font-size="12" fill="#222">{escape(title)}</text>'
        f'<g transform="translate({_LEFT} {_TOP})">'
        f'<svg width="{width:.1f}" height="{height:.1f}" overflow="hidden">{cells}{lines}{"".join(marks)}</svg>'
        f"{_border(frame)}{labels}{_colour_bar(quantity, width, height)}</g>"
    )


def _border(frame: _Frame) -> str:
    width, height = frame.size
    if frame.view.whole_sky:
        shape = f'<ellipse cx="{width / 2:.1f}" cy="{height / 2:.1f}" rx="{width / 2:.1f}" ry="{height / 2:.1f}"'
        return f'{shape} fill="none" stroke="#222"/>'
    middle = f'text-anchor="middle" {_TEXT}'
    return (
        f'<rect width="{width:.1f}" height="{height:.1f}" fill="none" stroke="#222"/>'
        f'<text x="{width / 2:.0f}" y="{height + 30:.0f}" {middle}>RA (ICRS)</text>'
        f'<text transform="translate(-54 {height / 2:.0f}) rotate(-90)" {middle}>Dec</text>'
    )


def _cells(
    frame: _Frame, places: CellPlaces, quantity: _Quantity, told: Sequence[_Quantity], names: Sequence[str]
) -> str:
    members = frame.view.members
    side = math.sqrt(float(np.median(places.area[members]))) * frame.scale
    if frame.view.whole_sky or side < 0.5 * _SQUARE:
        return _squares(frame, places, quantity)
    order = members[np.argsort(places.owned[members], kind="stable")]  # cells that another tract owns lie below
    ra, dec = places.corners[order, :, 0], places.corners[order, :, 1]
    x, y = frame.place(*frame.view.project(ra, dec))
    corners = np.round(np.stack([x, y], axis=-1), 1)
    levels = quantity.levels(quantity.values[order])
    edge = "#fff" if side > 12.0 else ""
    if len(order) > _TITLED:
        owned = places.owned[order]
        groups = [(layer, level) for layer in (False, True) for level in np.unique(levels[owned == layer])]
        chosen = [(corners[(owned == layer) & (levels == level)], int(level), "") for layer, level in groups]
    else:
        texts = [f"{names[i]}: {', '.join(one.text(one.values[i]) for one in told)}" for i in order]
        chosen = [(corners[k : k + 1], int(levels[k]), text) for k, text in enumerate(texts)]
    return "".join(_path(quads, level, edge, text) for quads, level, text in chosen)


def _path(quads: _Float, level: int, edge: str, text: str) -> str:
    """Return quadrilaterals (n, 4, 2) of one colour; the thin line of that colour closes the seams between them."""
    drawn = "".join(f"M{' '.join(f'{value:.5g}' for value in quad.ravel())}Z" for quad in quads)
    colour = _colour(level)
    title = f"<title>{escape(text)}</title>" if text else ""
    return f'<path d="{drawn}" fill="{colour}" stroke="{edge or colour}" stroke-width="0.4">{title}</path>'


def _squares(frame: _Frame, places: CellPlaces, quantity: _Quantity) -> str:
    """Return squares on a fixed grid wherever a cell has its centre, each with the median of its cells."""
    members = frame.view.members
    x, y = frame.place(*frame.view.project(places.ra[members], places.dec[members]))
    keys = np.stack([np.floor(y / _SQUARE), np.floor(x / _SQUARE)], axis=1).astype(np.int64)
    values = np.nan_to_num(quantity.values[members], nan=-np.inf)
    order = np.lexsort((values, keys[:, 1], keys[:, 0]))
    squares, first, counts = np.unique(keys[order], axis=0, return_index=True, return_counts=True)
    levels = quantity.levels(values[order][first + counts // 2])
    step = f"h{_SQUARE:g}v{_SQUARE:g}h-{_SQUARE:g}z"
    parts = []
    for level in np.unique(levels):
        drawn = "".join(f"M{column * _SQUARE:g} {row * _SQUARE:g}{step}" for row, column in squares[levels == level])
        parts.append(f'<path d="{drawn}" fill="{_colour(int(level))}"/>')
    return "".join(parts)


def _mark(frame: _Frame, text: str, ra: float, dec: float) -> str:
    x, y = frame.place(*frame.view.project(ra, dec))
    return f'<text x="{float(x) + 6:.1f}" y="{float(y) - 5:.1f}" {_TEXT} font-weight="700" {_HALO}>{text}</text>'


def _grid(frame: _Frame) -> tuple[str, str]:
    """Return the lines of RA and Dec, to be cut at the border, and their labels outside it."""
    lines, labels = [], []
    taken: list[tuple[float, float, str]] = []
    for line in grid_lines(frame.view):
        x, y = frame.place(line.x, line.y)
        drawn = _line_path(frame, x, y)
        if not drawn:
            continue
        lines.append(f'<path d="{drawn}" fill="none" stroke="#000" stroke-opacity="0.28" stroke-width="0.7"/>')
        place = _label_place(frame, line, x, y)
        if line.label and place is not None and all(_apart(place, other) for other in taken):
            taken.append(place)
            labels.append(f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" {place[2]} {_TEXT}>{line.label}</text>')
    return "".join(lines), "".join(labels)


def _line_path(frame: _Frame, x: _Float, y: _Float) -> str:
    """Return the path of the parts of a line that are on the map, or beside it by up to a fifth of its size."""
    width, height = frame.size
    near = (x > -0.2 * width) & (x < 1.2 * width) & (y > -0.2 * height) & (y < 1.2 * height)
    begins = near & ~np.concatenate([[False], near[:-1]])
    words = ("M" if begin else "L" for begin in begins[near])
    return "".join(f"{word}{a:.1f} {b:.1f}" for word, a, b in zip(words, x[near], y[near], strict=True))


def _apart(place: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    """Say whether two labels do not run into each other."""
    return abs(place[0] - other[0]) > 52.0 or abs(place[1] - other[1]) > 13.0


def _label_place(frame: _Frame, line: GridLine, x: _Float, y: _Float) -> tuple[float, float, str] | None:
    """Return (x, y, attributes) of a line's label: where it leaves the map, or on it; None where it isn't there."""
    width, height = frame.size
    if frame.view.whole_sky:
        return _label_on_sky(line, x, y)
    if line.meridian:
        bottom, top = _crossing(x, y - height, width), _crossing(x, y, width)
        if bottom is not None:
            return bottom, height + 14.0, 'text-anchor="middle"'
        return None if top is None else (top, 12.0, f'text-anchor="middle" {_HALO}')
    left = _crossing(y, x, height)
    if left is not None:
        return -5.0, left + 4.0, 'text-anchor="end"'
    inside = np.flatnonzero((x > 20) & (x < width - 20) & (y > 12) & (y < height - 4))
    if not len(inside):
        return None
    top_most = inside[np.argmin(y[inside])]  # a parallel round the pole
    return float(x[top_most]), float(y[top_most]) - 3.0, f'text-anchor="middle" {_HALO}'


def _label_on_sky(line: GridLine, x: _Float, y: _Float) -> tuple[float, float, str]:
    middle = len(x) // 2
    if line.meridian:
        return float(x[middle]) + 2.0, float(y[middle]) - 3.0, _HALO
    return float(x[-1]) - 4.0, float(y[-1]) + 4.0, 'text-anchor="end"'


def _crossing(along: _Float, across: _Float, length: float) -> float | None:
    """Return where a line crosses a border (`across` = 0) of this length, None where it does not."""
    for k in np.flatnonzero(np.sign(across[:-1]) != np.sign(across[1:])):
        part = across[k] / (across[k] - across[k + 1])
        place = float(along[k] + part * (along[k + 1] - along[k]))
        if 0.0 <= place <= length:
            return place
    return None


def _colour_bar(quantity: _Quantity, width: float, height: float) -> str:
    left, step = width + 14.0, height / _LEVELS
    parts = [
        f'<rect x="{left:.1f}" y="{height - (level + 1) * step:.2f}" width="12" height="{step + 0.3:.2f}" '
        f'fill="{_colour(level)}" shape-rendering="crispEdges"/>'
        for level in range(_LEVELS)
    ]
    parts.append(
        f'<rect x="{left:.1f}" width="12" height="{height:.1f}" fill="none" stroke="#222" stroke-width="0.6"/>'
    )
    raw = (quantity.high - quantity.low) / min(5.0, height / 24.0)
    spacing = max(round_step(raw), 1.0) if quantity.whole else round_step(raw)
    decimals = max(-math.floor(math.log10(spacing) + 1e-9), 0)
    first, last = math.ceil(quantity.low / spacing - 1e-6), math.floor(quantity.high / spacing + 1e-6)
    for number in range(first, last + 1):
        place = height * (quantity.high - number * spacing) / (quantity.high - quantity.low)
        text = f"{number * spacing:.{decimals}f}"
        parts.append(f'<path d="M{left + 12:.1f} {place:.1f}h4" stroke="#222"/>')
        parts.append(f'<text x="{left + 19:.1f}" y="{place + 4:.1f}" {_TEXT}>{text}</text>')
    middle = f"translate({left + 60:.1f} {height / 2:.1f}) rotate(-90)"
    parts.append(f'<text transform="{middle}" text-anchor="middle" {_TEXT}>{escape(quantity.unit)}</text>')
    return "".join(parts)


def _colour(level: int) -> str:
    """Return the colour of a level from 0 to 47; grey for -1."""
    if level < 0:
        return _NO_VALUE
    place = level / (_LEVELS - 1) * (len(_VIRIDIS) - 1)
    low = min(int(place), len(_VIRIDIS) - 2)
    pairs = zip(_VIRIDIS[low], _VIRIDIS[low + 1], strict=True)
    return "#" + "".join(f"{round(a + (place - low) * (b - a)):02x}" for a, b in pairs)
