"""Large objects: a galaxy's profile, followed outward beyond every threshold, so that its halo does not pass for sky.

An object is large when the faint quartile of whole blocks of bins stands above the sky: stars, however many, leave the
faint quartile alone. Its shape is that of its outline; its profile is Sersic's (1968) with free index and slope, fitted
together with a quadratic sky out to some radii, by variable projection (Golub & Pereyra 1973, SIAM J. Numer. Anal. 10,
413).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from workers.imaging.background_bins import SIDE, middles

__all__ = ["BLOCK", "LargeObject", "faint_quartiles", "find_large", "fit_profile"]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]

BLOCK = 9
"""Bins along a side."""
_QUARTILE = 0.6745
"""Of a Gaussian, sigma below its mean."""
_ABOVE = 5.0
"""Sigma of a block's quartile that makes an object, besides `_FAINTEST`."""
_FAINTEST = 0.25
"""Of the sky's noise per pixel: brightness of the outline."""
_CONCENTRATED = 5.0
"""Brightness of the middle over that of the outline, at least: waves of the sky have less."""
_LEAST_BLOCKS = 9
_MOST = 6
"""Objects."""
_FULL = 0.4
"""Share of the image beyond which what stands out is the sky."""
_OUT = 5.0
"""Radii out to which the profile is fitted."""
_TOO_BRIGHT = 10.0
"""Of the sky's noise per pixel: the middle, whose shape is another, is left out of the fit."""
_INNER = 0.3
_LEAST_FITTED = 50
"""Blocks."""
_SIGNIFICANT = 5.0
_INDICES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 6.0, 8.0)
_SLOPES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0)
_SOFT = 0.03
"""Error of the profile, relative: no galaxy is quite an ellipse."""


@dataclass(frozen=True)
class LargeObject:
    """An ellipse with a profile."""

    x: float
    """Centre, pixels."""
    y: float
    radius: float
    """Semi-major axis of the outline, pixels."""
    ratio: float
    """Of the axes."""
    angle: float
    """Of the major axis, radians from x to y."""
    edge: float = 0.0
    """Brightness at the outline, in the image's unit."""
    index: float = 1.0
    """Sersic's n."""
    slope: float = 3.0
    """-d ln I / d ln r at the outline."""

    def radii(self, y: _Float, x: _Float) -> _Float:
        """Return the elliptical radius in units of the outline's, for rows `y` and columns `x` (pixels)."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        dy, dx = (y - self.y)[:, None], (x - self.x)[None, :]
        return np.asarray(np.hypot(dx * c + dy * s, (dy * c - dx * s) / self.ratio) / self.radius)

    def light(self, radii: _Float) -> _Float:
        """Return the brightness at `radii`, no brighter than at a tenth of the outline's radius."""
        return np.asarray(self.edge * _sersic(radii, self.index, self.slope))


def _sersic(radii: _Float, index: float, slope: float) -> _Float:
    return np.asarray(np.exp(-slope * index * (np.maximum(radii, 0.1) ** (1.0 / index) - 1.0)))


def faint_quartiles(rest: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[_Float, _Float]:
    """Return the level of each block by its bins' faint quartile, and its error; (0, infinite) where too few count.

    `rest` and `weight` (one over the variance; 0: unknown) are bins.
    """
    rows, columns = (side // BLOCK for side in rest.shape)
    cut = slice(0, rows * BLOCK), slice(0, columns * BLOCK)
    some = weight[::4, ::4][weight[::4, ::4] > 0]
    noise = float(np.median(some)) ** -0.5 if len(some) else np.inf
    values = np.where(weight[cut] > 0, rest[cut], np.float32(np.inf))
    blocks = values.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(rows, columns, BLOCK * BLOCK)
    ordered = np.sort(blocks, axis=2)
    count = np.isfinite(ordered).sum(axis=2)
    place = np.maximum((count - 1) // 4, 0)
    level = np.take_along_axis(ordered, place[:, :, None], axis=2)[:, :, 0] + _QUARTILE * noise
    good = count >= BLOCK * BLOCK // 4
    return np.where(good, level, 0.0), np.where(good, 1.36 * noise / np.sqrt(np.maximum(count, 1)), np.inf)


def find_large(level: _Float, error: _Float, noise: float) -> list[LargeObject]:
    """Return the large objects, largest first, without profiles, from blocks' `level` above the sky and its `error`.

    `noise` is the sky's per pixel.
    """
    limit = np.maximum(_FAINTEST * noise, _ABOVE * error)
    labels, count = ndimage.label((level > limit) & np.isfinite(error))
    if count == 0:
        return []
    index = np.arange(1, count + 1)
    area = ndimage.sum_labels(np.ones_like(level), labels, index)
    peak = ndimage.maximum(level, labels, index)
    large = index[(area >= _LEAST_BLOCKS) & (peak > _CONCENTRATED * _FAINTEST * noise)]
    if np.isin(labels, large).sum() > _FULL * labels.size:
        return []
    order = sorted(large, key=lambda label: -area[label - 1])[:_MOST]
    return [_outline(labels == label, level) for label in order]


def _outline(inside: _Bool, level: _Float) -> LargeObject:
    """Return the ellipse of the region's second moments (those of a full ellipse: a quarter of the axis squared)."""
    side = BLOCK * SIDE
    y, x = np.nonzero(ndimage.binary_fill_holes(inside))
    bright = np.argmax(np.where(inside, level, -np.inf))
    middle = np.array(np.unravel_index(bright, level.shape), float)
    # the outline's middle, unless the image's edge cuts it
    if y.min() > 0 and x.min() > 0 and y.max() < level.shape[0] - 1 and x.max() < level.shape[1] - 1:
        middle = np.array([y.mean(), x.mean()])
    dy, dx = y - middle[0], x - middle[1]
    moments = np.array([[np.mean(dx * dx), np.mean(dx * dy)], [np.mean(dx * dy), np.mean(dy * dy)]]) + np.eye(2) / 12.0
    values, vectors = np.linalg.eigh(moments)
    major = 2.0 * math.sqrt(values[1])
    angle = math.atan2(vectors[1, 1], vectors[0, 1])
    at = side * (middle + 0.5) - 0.5
    ratio = max(math.sqrt(values[0] / values[1]), 0.1)
    return LargeObject(x=float(at[1]), y=float(at[0]), radius=side * major, ratio=ratio, angle=angle)


def fit_profile(target: LargeObject, level: _Float, error: _Float, noise: float) -> LargeObject:
    """Return `target` with the profile that fits best to the blocks' `level`; unchanged where none is significant."""
    side = BLOCK * SIDE
    rows, columns = middles(level.shape, side)
    radii = target.radii(rows, columns)
    used = (radii > _INNER) & (radii < _OUT) & np.isfinite(error) & (level < _TOO_BRIGHT * noise)
    if np.count_nonzero(used) < _LEAST_FITTED:
        return target
    v, u = (plane[used] / level.size**0.5 / side for plane in np.broadcast_arrays(rows[:, None], columns[None, :]))
    sigma = np.hypot(error[used], _SOFT * np.maximum(level[used], 0.0))
    projection = _Projection(radii[used], level[used], sigma, np.stack([np.ones_like(u), u, v, u * u, u * v, v * v]))
    start = max(((n, s) for n in _INDICES for s in _SLOPES), key=lambda pair: projection.gain(*pair)[0])
    found = optimize.minimize(
        lambda p: -projection.gain(*_within(p))[0], np.log(start), method="Nelder-Mead", options={"maxiter": 80}
    )
    index, slope = _within(found.x)
    gain, edge = projection.gain(index, slope)
    return replace(target, edge=edge, index=index, slope=slope) if gain > _SIGNIFICANT**2 else target


def _within(logarithms: _Float) -> tuple[float, float]:
    """Return index and slope from their logarithms, kept within the grid."""
    index = min(max(math.exp(logarithms[0]), _INDICES[0]), _INDICES[-1])
    return index, min(max(math.exp(logarithms[1]), _SLOPES[0]), _SLOPES[-1])


class _Projection:
    """A profile on top of a sky whose coefficients are eliminated."""

    def __init__(self, radii: _Float, level: _Float, sigma: _Float, sky: _Float) -> None:
        self._radii, self._sigma = radii, sigma
        self._base = np.linalg.qr((sky / sigma).T)[0]
        self._data = self._without_sky(level / sigma)

    def gain(self, index: float, slope: float) -> tuple[float, float]:
        """Return the gain in chi² and the brightness at the outline."""
        template = self._without_sky(_sersic(self._radii, index, slope) / self._sigma)
        norm, along = float(template @ template), float(template @ self._data)
        return (along * along / norm, along / norm) if along > 0.0 and norm > 0.0 else (0.0, 0.0)

    def _without_sky(self, values: _Float) -> _Float:
        return np.asarray(values - self._base @ (self._base.T @ values))
