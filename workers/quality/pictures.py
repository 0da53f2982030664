"""Pictures for pages: a stamp as PNG, a light curve and a histogram as SVG. Pure functions, no plotting library."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["light_curve_svg", "sky_map_svg", "stamp_png", "stamp_uri"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
"""Okabe and Ito's colour-blind-safe palette, one colour per band in order of name."""


def stamp_png(stamp: NDArray[np.floating], zoom: int = 4, symmetric: bool = False) -> bytes:
    """Return an 8-bit grey PNG of a stamp (height, width), y up; NaN is mid blue.

    The scale runs from the 2nd to the 99.5th percentile, or is symmetric about zero for a difference.
    """
    good = np.isfinite(stamp)
    values = stamp[good] if good.any() else np.zeros(1)
    low, high = np.percentile(values, [2.0, 99.5])
    if symmetric:
        high = max(abs(low), abs(high))
        low = -high
    grey = np.clip((np.where(good, stamp, low) - low) / max(high - low, 1e-30), 0.0, 1.0)
    rgb = np.repeat((255 * grey).astype(np.uint8)[:, :, None], 3, axis=2)
    rgb[~good] = (90, 110, 160)
    picture = np.kron(rgb[::-1], np.ones((zoom, zoom, 1), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def stamp_uri(stamp: NDArray[np.floating], symmetric: bool = False) -> str:
    """Return the PNG of a stamp as a data URI, to be put into a page."""
    return "data:image/png;base64," + base64.b64encode(stamp_png(stamp, symmetric=symmetric)).decode()


def light_curve_svg(
    times: Sequence[float],
    fluxes: Sequence[float],
    errors: Sequence[float],
    bands: Sequence[str],
    limits: Sequence[tuple[float, float]] = (),
    size: tuple[int, int] = (360, 150),
) -> str:
    """Return an SVG of difference flux (nJy) against time (MJD), one colour per band; `limits` are (time, 5 sigma).

    Empty where there is nothing to draw.
    """
    width, height = size
    left, bottom, top = 58, 24, 8
    all_times = [*times, *(time for time, _ in limits)]
    if not all_times:
        return ""
    all_values = [
        0.0,
        *(f + e for f, e in zip(fluxes, errors, strict=True)),
        *(f - e for f, e in zip(fluxes, errors, strict=True)),
    ]
    all_values += [limit for _, limit in limits]
    x = _Scale(all_times, left + 8, width - 10)
    y = _Scale(all_values, height - bottom, top)
    colours = {band: COLOURS[i % len(COLOURS)] for i, band in enumerate(sorted(set(bands)))}
    parts = [
        f'<line x1="{left}" y1="{y(0.0):.1f}" x2="{width}" y2="{y(0.0):.1f}" stroke="#aaa" stroke-dasharray="3 3"/>',
        f'<path d="M{left} {top}V{height - bottom}H{width}" fill="none" stroke="currentColor"/>',
    ]
    for time, limit in limits:
        parts.append(f'<path d="M{x(time) - 4:.1f} {y(limit):.1f}h8m-4 0v7m-2 -2l2 2l2 -2" fill="none" stroke="#888"/>')
    for time, flux, error, band in zip(times, fluxes, errors, bands, strict=True):
        title = f"{escape(band)} {time:.5f} {flux:.0f} nJy"
        parts.append(_point(x(time), (y(flux), y(flux - error), y(flux + error)), colours[band], title))
    parts += _axis_labels(all_times, all_values, (width, height), left, bottom, top)
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def _point(x: float, ys: tuple[float, float, float], colour: str, title: str) -> str:
    bar = f'<path d="M{x:.1f} {ys[1]:.1f}V{ys[2]:.1f}" stroke="{colour}"/>'
    return f'{bar}<circle cx="{x:.1f}" cy="{ys[0]:.1f}" r="3" fill="{colour}"><title>{title}</title></circle>'


def _axis_labels(
    times: Sequence[float], values: Sequence[float], size: tuple[int, int], left: int, bottom: int, top: int
) -> list[str]:
    width, height = size
    style = 'font-size="10" fill="currentColor"'
    return [
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end" {style}>{max(values):.3g}</text>',
        f'<text x="{left - 4}" y="{height - bottom}" text-anchor="end" {style}>{min(values):.3g}</text>',
        f'<text x="{left}" y="{height - 8}" {style}>{min(times):.4f}</text>',
        f'<text x="{width - 2}" y="{height - 8}" text-anchor="end" {style}>{max(times):.4f}</text>',
    ]


class _Scale:
    """A linear map from data to pixels with 5 % margin; a single value lands in the middle."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.5
        self.low, self.high, self.start, self.stop = low - margin, high + margin, start, stop

    def __call__(self, value: float) -> float:
        """Return the pixel coordinate of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def sky_map_svg(points: Mapping[str, Sequence[tuple[float, float]]], size: tuple[int, int] = (360, 300)) -> str:
    """Return an SVG map of named groups of positions (ra, dec in degrees), east to the left."""
    width, height = size
    every = [point for group in points.values() for point in group]
    if not every:
        return ""
    x = _Scale([ra for ra, _ in every], width - 10, 10)
    y = _Scale([dec for _, dec in every], height - 24, 20)
    parts = [f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" fill="none" stroke="currentColor"/>']
    for i, (name, group) in enumerate(points.items()):
        colour = COLOURS[i % len(COLOURS)]
        parts += [
            f'<circle cx="{x(ra):.1f}" cy="{y(dec):.1f}" r="2.5" fill="{colour}" fill-opacity="0.7"/>'
            for ra, dec in group
        ]
        label = f"{escape(name)} ({len(group)})"
        parts.append(f'<text x="{8 + 110 * i}" y="14" font-size="11" fill="{colour}">{label}</text>')
    low, high = min(ra for ra, _ in every), max(ra for ra, _ in every)
    caption = f"RA {high:.3f} … {low:.3f} deg, east left"
    parts.append(f'<text x="8" y="{height - 6}" font-size="10" fill="currentColor">{caption}</text>')
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'
