"""How bright a pixel can be beside two others: what the PSF allows, whatever the sources and their places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["REACH", "SHAPES", "Bounds", "bounds_for", "moffat"]

_Float = NDArray[np.float64]

REACH = 4
"""Pixels: the farthest neighbour that bounds a pixel."""
SHAPES = (2.5, 4.0, np.inf)
"""Moffat's beta of the profiles that must all obey the bounds; infinite is the Gaussian."""
_RING = 16
_STEP = 0.25
"""Pixels between the places where a star is tried: the bounds change by less than a thousandth from place to place."""
_FAINTEST = 1.0e-4
"""Of the peak: farther out in the wings nothing is asked."""
_TILTS = np.exp(np.linspace(-2.5, 2.5, 41))


@dataclass(frozen=True)
class Bounds:
    """For each pair of opposite neighbours, the least weights with which it outshines the pixel between, for any star.

    With all three above the pedestal, pixel <= before[k, m - 1, n - 1] * (neighbour m pixels back) + after[k, m - 1,
    n - 1] * (neighbour n pixels on); k is 0 along rows and columns and 1 along diagonals. The rule is linear: it
    holds for every blend, galaxy or diffraction spike that the PSF has smoothed. The simplest case, the two nearest
    neighbours and a star on the pixel, is the test of Lupton's photo (as in LSST's findCosmicRays).
    """

    before: _Float
    """Shape (2, REACH, REACH); infinite where no weights suffice."""
    after: _Float
    ring: NDArray[np.int64]
    """(y, x) steps to the pixels whose fainter half is the pedestal, shape (16, 2)."""


@lru_cache(maxsize=64)
def bounds_for(fwhm: float) -> Bounds:
    """Return the bounds for stars of `fwhm` pixels (in the image, so the pixel's own width is in it) or wider.

    The pedestal is the mean of the fainter half of a ring as wide as the star. Each pair's weights are those of the
    least noise among those that suffice for a star at any place and of each profile.
    """
    ring = _ring(float(np.clip(np.round(fwhm), 4.0, 8.0)))
    steps = int(np.ceil((1.5 * fwhm + 3.0) / _STEP))
    grid = _STEP * np.arange(-steps, steps + 1)
    place = np.stack([each.ravel() for each in np.meshgrid(grid, grid, indexing="ij")])
    before, after = np.empty((2, 2, REACH, REACH))
    for kind, step in enumerate(((0, 1), (1, 1))):
        ratios = np.concatenate([_ratios(place, ring, step, fwhm, shape) for shape in SHAPES], axis=1)
        for back in range(REACH):
            for on in range(REACH):
                pair = ratios[REACH - 1 - back], ratios[REACH + on]
                before[kind, back, on], after[kind, back, on] = _weights(*pair)
    return Bounds(before, after, ring)


def moffat(distance: _Float, fwhm: float, shape: float) -> _Float:
    """Return Moffat's profile (1969, A&A 3, 455) of peak 1 and beta `shape`, or its limit, the Gaussian."""
    if np.isinf(shape):
        return np.asarray(2.0 ** (-((2.0 * distance / fwhm) ** 2)))
    return np.asarray((1.0 + 4.0 * (2.0 ** (1.0 / shape) - 1.0) * (distance / fwhm) ** 2) ** -shape)


def _ring(radius: float) -> NDArray[np.int64]:
    angle = 2.0 * np.pi * np.arange(_RING) / _RING
    return np.rint(radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)).astype(np.int64)


def _ratios(place: _Float, ring: NDArray[np.int64], step: tuple[int, int], fwhm: float, shape: float) -> _Float:
    """Return neighbour over pixel, both above the pedestal, for each star, shape (2 REACH, stars): far back first."""

    def seen(y: float, x: float) -> _Float:
        return moffat(np.hypot(y - place[0], x - place[1]), fwhm, shape)

    around = np.sort([seen(*pixel) for pixel in ring], axis=0)
    pedestal = around[: _RING // 2].mean(axis=0)
    middle = seen(0, 0) - pedestal
    lit = middle > _FAINTEST
    gaps = [gap for gap in range(-REACH, REACH + 1) if gap]
    return np.array([(seen(gap * step[0], gap * step[1]) - pedestal)[lit] / middle[lit] for gap in gaps])


def _weights(back: _Float, on: _Float) -> tuple[float, float]:
    """Return the weights a, b of least a² + b² with a back + b on >= 1 everywhere; infinite where there are none."""
    least = np.array([(back + tilt * on).min() for tilt in _TILTS])
    enough = least > 0
    if not enough.any():
        return np.inf, np.inf
    weight = 1.0 / least[enough]
    best = int(np.argmin(weight**2 * (1.0 + _TILTS[enough] ** 2)))
    return float(weight[best]), float(weight[best] * _TILTS[enough][best])
