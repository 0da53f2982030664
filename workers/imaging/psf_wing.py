"""The PSF beyond its stamp: the light of bright stars far out, stacked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PsfWing", "measure_wing"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

MOST = 40
"""Brightest stars that are stacked."""
FEWEST = 3
RING_STEP = 1.25
"""Outer over inner radius of a ring."""
SIGNIFICANT = 2.0
"""Sigma, of a ring that the power law is fitted to."""
STEEPEST, FLATTEST, USUAL = -6.0, -1.5, -3.0
"""Bounds of the power, and what is taken where no two rings tell."""


@dataclass(frozen=True)
class PsfWing:
    """Light per pixel at some distance from a star, in units of the star's PSF flux."""

    radius: _Float
    """Pixels, (k,), rising: mean radius of each ring."""
    profile: _Float
    """Per pixel, (k,); may be negative where the sky is too high."""
    error: _Float
    """Of the profile, (k,)."""
    scale: float
    """Of the power law, per pixel, at the first radius."""
    power: float
    """profile = scale (radius / first radius)^power."""
    nStars: int

    def at(self, radius: ArrayLike) -> _Float:
        """Return the power law at distances of any shape, pixels, not below the first radius."""
        return np.asarray(self.scale * np.power(np.asarray(radius, float) / self.radius[0], self.power))


def measure_wing(
    image: NDArray[np.floating],
    usable: _Bool,
    segments: NDArray[np.integer],
    x: _Float,
    y: _Float,
    flux: _Float,
    *,
    inner: float,
    outer: float = 60.0,
) -> PsfWing | None:
    """Stack the rings from `inner` to `outer` pixels round stars at (x, y), 0-based pixels, of PSF fluxes `flux` (n,).

    `image` background-subtracted; `segments` of `Detections`: pixels of other sources are left out. None with fewer
    than 3 stars, or where the first ring shows nothing.
    """
    rows = np.argsort(-flux, kind="stable")[:MOST]
    rows = rows[flux[rows] > 0.0]
    edges = inner * RING_STEP ** np.arange(np.floor(np.log(outer / inner) / np.log(RING_STEP)) + 1)
    if len(rows) < FEWEST or len(edges) < 2:
        return None
    values = np.stack([_rings(image, usable, segments, x[i], y[i], edges) for i in rows]) / flux[rows, None]
    weight = np.where(np.isfinite(values), np.square(flux[rows, None]), 0.0)
    values = np.nan_to_num(values)
    for _ in range(3):
        total = np.maximum(weight.sum(axis=0), 1e-300)
        profile = (weight * values).sum(axis=0) / total
        pull = np.abs(values - profile) * np.sqrt(weight)
        spread = 1.4826 * np.median(pull, axis=0)  # every star's ring has the same noise before it is scaled
        weight = np.where(pull <= 4.0 * spread, weight, 0.0)
    error = spread / np.sqrt(np.maximum(weight.sum(axis=0), 1e-300))
    if not profile[0] > SIGNIFICANT * error[0]:
        return None
    radius = np.sqrt(0.5 * (np.square(edges[:-1]) + np.square(edges[1:])))
    return PsfWing(radius, profile, error, *_power_law(radius, profile, error), len(rows))


def _rings(
    image: NDArray[np.floating], usable: _Bool, segments: NDArray[np.integer], x: float, y: float, edges: _Float
) -> _Float:
    """Return the median of the free pixels in each ring; NaN where fewer than a third of them are free."""
    height, width = image.shape
    reach, column, row = int(np.ceil(edges[-1])), round(float(x)), round(float(y))
    part = (
        slice(max(row - reach, 0), min(row + reach + 1, height)),
        slice(max(column - reach, 0), min(column + reach + 1, width)),
    )
    own = segments[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    free = usable[part] & ((segments[part] == 0) | (segments[part] == own))
    rows, columns = np.ogrid[part[0], part[1]]
    ring = np.searchsorted(edges, np.hypot(columns - x, rows - y), side="right") - 1
    found = np.full(len(edges) - 1, np.nan)
    for index in range(len(found)):
        pixels = image[part][(ring == index) & free]
        if len(pixels) > np.pi * (edges[index + 1] ** 2 - edges[index] ** 2) / 3.0:
            found[index] = np.median(pixels)
    return found


def _power_law(radius: _Float, profile: _Float, error: _Float) -> tuple[float, float]:
    """Return the value at the first radius and the power, from the rings up to the first that shows nothing."""
    seen = np.cumprod(profile > SIGNIFICANT * error).astype(bool)
    distance, light = np.log(radius[seen] / radius[0]), np.log(profile[seen])
    weight = profile[seen] / np.maximum(error[seen], 1e-3 * profile[seen])
    if len(light) < 2:
        return float(profile[0]), USUAL
    power, level = np.polyfit(distance, light, 1, w=weight)
    return float(np.exp(level)), float(np.clip(power, STEEPEST, FLATTEST))
