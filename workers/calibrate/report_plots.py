"""Pictures of calibrations: a master with its amplifiers' borders, curves, histograms and matrices, as SVG text."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.quality.pictures import COLOURS
from workers.survey.camera import Detector, parse_section

__all__ = ["Curve", "Marker", "curves_svg", "heat_map_svg", "histogram_svg", "master_svg", "shrunk"]

_Float = NDArray[np.float64]

_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 10, 18, 34
_TEXT = 'font-size="10" fill="currentColor"'
_NO_DATA = (90, 110, 160)
_LEGEND = 8
_DASHES = ("", "5 3", "2 2", "7 2 2 2")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) of one name; `errors` gives bars; joined by a line or not. NaN points are left out."""

    name: str
    x: Sequence[float] | NDArray[np.floating]
    y: Sequence[float] | NDArray[np.floating]
    errors: Sequence[float] | NDArray[np.floating] | None = None
    joined: bool = True


@dataclass(frozen=True)
class Marker:
    """A vertical line with a text that shows when pointed at."""

    x: float
    text: str
    jump: bool = False
    """A jump day: a short mark on the axis instead of a line through the picture."""


def shrunk(image: NDArray[np.floating], largest: int = 360) -> _Float:
    """Return block means of the finite pixels, float64, at most `largest` on a side; NaN where a block has none."""
    step = max(math.ceil(max(image.shape) / largest), 1)
    rows, columns = (np.arange(0, size, step) for size in image.shape)
    good = np.isfinite(image)
    total = np.add.reduceat(np.add.reduceat(np.where(good, image, 0.0).astype(float), rows, axis=0), columns, axis=1)
    count = np.add.reduceat(np.add.reduceat(good.astype(float), rows, axis=0), columns, axis=1)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def master_svg(image: NDArray[np.floating], detector: Detector, unit: str, width: int = 380) -> str:
    """Return the picture of a master (height, width), y up, with amplifier borders and names, and its own scale.

    The scale runs over the middle 98 % of the block means; below the picture it is written out.
    """
    small = shrunk(image)
    good = small[np.isfinite(small)]
    low, high = _grey_range(good)
    zoom = width / detector.width
    height = detector.height * zoom
    parts = [
        f'<image href="{_png_uri(small, low, high)}" width="{width}" height="{height:.1f}" '
        'image-rendering="pixelated" preserveAspectRatio="none"/>'
    ]
    for amplifier in detector.amplifiers:
        rows, columns = parse_section(amplifier.position)
        x, y = columns.start * zoom, height - rows.stop * zoom
        size = (f"{(columns.stop - columns.start) * zoom:.1f}", f"{(rows.stop - rows.start) * zoom:.1f}")
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{size[0]}" height="{size[1]}" fill="none" stroke="#e69f00" '
            f'stroke-width="0.8"/><text x="{x + 4:.1f}" y="{y + 12:.1f}" font-size="11" fill="#e69f00" '
            'stroke="#000" stroke-width="3" paint-order="stroke">'
            f"{escape(amplifier.name)}</text>"
        )
    parts += _grey_scale(low, high, unit, width, height)
    return _svg(parts, width, math.ceil(height) + 30)


def _grey_range(good: _Float) -> tuple[float, float]:
    """Return the middle 98 % of the values; all of them where those are one number."""
    if good.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(good, [1.0, 99.0]))
    if not high > low:
        low, high = float(good.min()), float(good.max())
    return low, high if high > low else low + max(abs(low) * 1e-3, 1e-9)


def _grey_scale(low: float, high: float, unit: str, width: int, top: float) -> list[str]:
    steps = 32
    wide = 0.4 * width / steps
    parts = [
        f'<rect x="{0.3 * width + i * wide:.2f}" y="{top + 8:.1f}" width="{wide + 0.3:.2f}" height="9" '
        f'fill="rgb({g},{g},{g})"/>'
        for i, g in enumerate(np.linspace(0, 255, steps).astype(int))
    ]
    right = f"{_number(high)} {unit}".strip()
    return [
        *parts,
        f'<text x="{0.3 * width - 5:.1f}" y="{top + 16:.1f}" text-anchor="end" {_TEXT}>{_number(low)}</text>',
        f'<text x="{0.7 * width + 5:.1f}" y="{top + 16:.1f}" {_TEXT}>{escape(right)}</text>',
    ]


def _png_uri(image: _Float, low: float, high: float) -> str:
    good = np.isfinite(image)
    grey = (255 * np.clip((np.where(good, image, low) - low) / (high - low), 0.0, 1.0)).astype(np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    rgb[~good] = _NO_DATA
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb[::-1])).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curves_svg(
    curves: Sequence[Curve],
    labels: tuple[str, str],
    markers: Sequence[Marker] = (),
    size: tuple[int, int] = (520, 230),
    rows: tuple[float, float] | None = None,
) -> str:
    """Return curves over labelled axes (x label, y label), `markers` on x; empty where there is no point.

    `rows` fixes the range of y: points beyond it stand at its edge.
    """
    points = [(curve, *_finite(curve)) for curve in curves]
    points = [one for one in points if len(one[1])]
    if not points:
        return ""
    x = _axis(np.concatenate([xs for _, xs, _, _ in points]), _LEFT, size[0] - _RIGHT)
    spread = [ys + sign * es for _, _, ys, es in points for sign in (-1.0, 1.0)]
    y = _axis(np.array(rows) if rows else np.concatenate(spread), size[1] - _BOTTOM, _TOP)
    parts = [*_frame(x, y, labels, size), *_markers(markers, x, size)]
    for number, (curve, xs, ys, es) in enumerate(points):
        colour = COLOURS[number % len(COLOURS)]
        dash = _DASHES[number // len(COLOURS) % len(_DASHES)]
        parts += _drawn(curve, x, y, (xs, ys, es), f'stroke="{colour}" stroke-dasharray="{dash}"', colour)
    if len(points) > 1 or points[0][0].name:
        parts += _legend([curve.name for curve, *_ in points], size[0])
    return _svg(parts, *size)


def _finite(curve: Curve) -> tuple[_Float, _Float, _Float]:
    xs, ys = np.asarray(curve.x, float), np.asarray(curve.y, float)
    es = np.zeros_like(ys) if curve.errors is None else np.asarray(curve.errors, float)
    good = np.isfinite(xs) & np.isfinite(ys)
    return xs[good], ys[good], np.where(np.isfinite(es), es, 0.0)[good]


def _drawn(
    curve: Curve, x: _Scale, y: _Scale, points: tuple[_Float, _Float, _Float], stroke: str, colour: str
) -> list[str]:
    xs, ys, es = points
    inside = np.clip(ys, y.low, y.high)
    parts = []
    if curve.joined and len(xs) > 1:
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(xs, inside, strict=True))
        parts.append(
            f'<path d="M{path}" fill="none" {stroke} stroke-width="1.2"><title>{escape(curve.name)}</title></path>'
        )
    if curve.errors is not None:
        bars = "".join(
            f"M{x(a):.1f} {y(max(b - e, y.low)):.1f}V{y(min(b + e, y.high)):.1f}"
            for a, b, e in zip(xs, inside, es, strict=True)
        )
        parts.append(f'<path d="{bars}" fill="none" stroke="{colour}" stroke-width="0.6" stroke-opacity="0.6"/>')
    if not curve.joined or len(xs) == 1:
        dots = "".join(f"M{x(a) - 1.6:.1f} {y(b):.1f}h3.2" for a, b in zip(xs, inside, strict=True))
        parts.append(f'<path d="{dots}" fill="none" stroke="{colour}" stroke-width="3.2"/>')
    return parts


def _markers(markers: Sequence[Marker], x: _Scale, size: tuple[int, int]) -> list[str]:
    bottom = size[1] - _BOTTOM
    parts = []
    for marker in markers:
        if not x.low <= marker.x <= x.high:
            continue
        place = x(marker.x)
        drawn = f"M{place:.1f} {bottom}v-9m-3 5l3 -5l3 5" if marker.jump else f"M{place:.1f} {_TOP}V{bottom}"
        colour, dash = ("#d55e00", "") if marker.jump else ("#777", "4 3")
        parts.append(
            f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="1.4" stroke-dasharray="{dash}">'
            f"<title>{escape(marker.text)}</title></path>"
        )
    return parts


def _legend(names: Sequence[str], width: int) -> list[str]:
    """Return the names in their colours on the first line, as many as there is room for."""
    parts, place = [], float(_LEFT)
    for number, name in enumerate(names):
        if number == _LEGEND or place > width - 60:
            parts.append(f'<text x="{place:.0f}" y="11" {_TEXT}>… {len(names) - number} more</text>')
            break
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<text x="{place:.0f}" y="11" font-size="10" fill="{colour}">{escape(name)}</text>')
        place += 6.2 * len(name) + 12.0
    return parts


def histogram_svg(values: NDArray[np.floating], label: str, size: tuple[int, int] = (380, 170)) -> str:
    """Return the histogram of the finite values, middle 99.8 %, counts on a logarithmic scale; empty without any."""
    good = np.asarray(values[np.isfinite(values)], float)
    if good.size == 0:
        return ""
    low, high = np.percentile(good, [0.1, 99.9])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(good, low, high), bins=80, range=(low, high))
    x = _axis(np.array([low, high]), _LEFT, size[0] - _RIGHT)
    y = _axis(np.array([0.0, np.log10(max(int(counts.max()), 10))]), size[1] - _BOTTOM, _TOP)
    bottom = y(0.0)
    bars = "".join(
        f"M{x(a):.1f} {bottom:.1f}V{y(math.log10(n)):.1f}H{x(b):.1f}V{bottom:.1f}Z"
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        if n > 1
    )
    parts = [*_frame(x, y, (label, "log10 of pixels"), size), f'<path d="{bars}" fill="{COLOURS[0]}"/>']
    return _svg(parts, *size)


def heat_map_svg(matrix: NDArray[np.floating], names: Sequence[str], label: str, cell: int = 26) -> str:
    """Return a matrix (rows, columns) as coloured cells, row 0 on top; blue is below zero, red above, grey NaN."""
    rows, columns = matrix.shape
    cell = max(min(cell, 420 // max(rows, columns, 1)), 4)
    good = matrix[np.isfinite(matrix)]
    top = float(np.abs(good).max()) if good.size else 0.0
    parts = []
    for i in range(rows):
        for j in range(columns):
            value = float(matrix[i, j])
            title = f"{_name(names, i, rows)}, {_name(names, j, columns)}: {_number(value)}"
            parts.append(
                f'<rect x="{48 + j * cell}" y="{18 + i * cell}" width="{cell}" height="{cell}" '
                f'fill="{_diverging(value, top)}" stroke="#8883"><title>{escape(title)}</title></rect>'
            )
    every = max(math.ceil(14 / cell), 1)
    for i in range(0, rows, every):
        text = escape(_name(names, i, rows))
        parts.append(f'<text x="44" y="{18 + (i + 0.5) * cell + 3:.0f}" text-anchor="end" {_TEXT}>{text}</text>')
    for j in range(0, columns, max(math.ceil(26 / cell), 1)):
        text = escape(_name(names, j, columns))
        parts.append(f'<text x="{48 + (j + 0.5) * cell:.0f}" y="13" text-anchor="middle" {_TEXT}>{text}</text>')
    height = 18 + rows * cell + 20
    parts.append(f'<text x="48" y="{height - 6}" {_TEXT}>{escape(label)}, ±{_number(top)}</text>')
    return _svg(parts, max(48 + columns * cell + 8, 260), height)


def _name(names: Sequence[str], index: int, count: int) -> str:
    return names[index] if len(names) == count else str(index)


def _diverging(value: float, top: float) -> str:
    if not math.isfinite(value):
        return "#999"
    part = math.sqrt(min(abs(value) / top, 1.0)) if top > 0 else 0.0
    fade = round(255 * (1.0 - part))
    return f"rgb(255,{fade},{fade})" if value > 0 else f"rgb({fade},{fade},255)"


class _Scale:
    """A linear map from data to picture, with the range that is shown."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        """Return the place of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return three to seven round values."""
        raw = (self.high - self.low) / 5.0
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _axis(values: _Float, start: float, stop: float) -> _Scale:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low)
    if not margin > 1e-9 * max(abs(low), abs(high)):
        margin = 0.05 * max(abs(low), abs(high)) or 0.5
    return _Scale(low - margin, high + margin, start, stop)


def _frame(x: _Scale, y: _Scale, labels: tuple[str, str], size: tuple[int, int]) -> list[str]:
    width, height = size
    bottom = height - _BOTTOM
    parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{width - _RIGHT}" fill="none" stroke="currentColor"/>']
    for value in x.ticks():
        parts.append(f'<path d="M{x(value):.1f} {bottom}v4" stroke="currentColor"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 14}" text-anchor="middle" {_TEXT}>{_number(value)}</text>')
    for value in y.ticks():
        parts.append(f'<path d="M{_LEFT} {y(value):.1f}H{width - _RIGHT}" stroke="#8883"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 3:.1f}" text-anchor="end" {_TEXT}>{_number(value)}</text>')
    middle = 0.5 * (bottom + _TOP)
    centre = 0.5 * (width + _LEFT)
    parts.append(f'<text x="{centre:.0f}" y="{height - 5}" text-anchor="middle" {_TEXT}>{escape(labels[0])}</text>')
    parts.append(
        f'<text x="10" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 10 {middle:.0f})" {_TEXT}>'
        f"{escape(labels[1])}</text>"
    )
    return parts


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 and value == round(value) else f"{value:.4g}"


def _svg(parts: Sequence[str], width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'
