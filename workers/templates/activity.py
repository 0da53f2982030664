"""When a transient shone, from its own light curve: how probable it is that an input of a template holds its light.

A generic transient (rise as t², smooth peak, decline that slows) of any time scale, explosion time and brightness is
compared with all that is known of the object; what is asked for is summed over all that could be. Brightnesses are
distributed as those of sources everywhere in space, dN ~ F^-2.5 dF.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FURTHEST", "Points", "Shining", "light_of", "shining"]

_Float = NDArray[np.float64]
_RISE = 18.0
"""Days from explosion to peak at time scale 1: 17.4 (Hayden et al. 2010, ApJ 712, 350) to 19.5 (Riess et al. 1999)."""
_DECLINE = np.array([(0, 0.0), (6, 0.08), (30, 1.2), (60, 2.5), (150, 4.6), (400, 8.2), (1500, 24.0)])
"""Days after peak and magnitudes below it, of a middling supernova."""
_SCALES = np.geomspace(0.8, 5.0, 14)
"""Of time: from fast and near to slow or far."""
_LATE = 1.5
"""Power with which slow ones are rarer."""
FURTHEST, _STEP = 300.0, 2.0
"""Days before the first detection at which an explosion is still thought of, and the grid's step at scale 1."""
_SHAPE_ERROR, _FLOOR = 0.07, 0.003
"""Of a point's flux, and of the brightest one's: shapes differ from object to object by so much."""
_UNSEEN = 0.7
"""Of the limit of a visit that did not detect it: how far it may have been from 0."""
_TABLE_STEP, _TABLE_END = 0.1, 1500.0
_UNLIKE = 25.0
"""Least chi² above the degrees of freedom, in their scatter, beyond which an object is like no such transient."""


def _table() -> _Float:
    days = np.arange(0.0, _TABLE_END, _TABLE_STEP)
    part = np.minimum(days / _RISE, 1.0)
    falling = 10.0 ** (-0.4 * np.interp(days - _RISE, _DECLINE[:, 0], _DECLINE[:, 1]))
    return np.asarray(np.where(days < _RISE, part**2 * (3.0 - 2.0 * part), falling))


_LIGHT = _table()
_BEFORE = np.concatenate([np.arange(FURTHEST, 0.0, -_STEP * scale) for scale in _SCALES])
_GRID_SCALE = np.repeat(_SCALES, [len(np.arange(FURTHEST, 0.0, -_STEP * scale)) for scale in _SCALES])
"""The transients thought of: days from the explosion to the first detection, and scale of time."""


def light_of(days: ArrayLike) -> _Float:
    """Return flux over peak flux, `days` after the explosion at time scale 1; 0 before it."""
    place = np.clip(np.asarray(days, float) * (1.0 / _TABLE_STEP), 0.0, len(_LIGHT) - 1.0)
    return _LIGHT[place.astype(np.intp)]


@dataclass(frozen=True)
class Points:
    """An object's light curve in one band: MJD TAI, nJy; of the object alone, so corrected where that was needed."""

    mjd: _Float
    flux: _Float
    fluxErr: _Float


@dataclass(frozen=True)
class Shining:
    """Transients that could be this one, and how well each goes with what is known of it."""

    explosion: _Float
    """MJD, (k,)."""
    scale: _Float
    """Of time, (k,)."""
    power: _Float
    """sum(s² / e²) over the points, s the light over its peak's: inverse variance of the peak flux, (k,)."""
    product: _Float
    """sum(s f / e²), (k,)."""
    square: float
    """sum(f² / e²)."""
    brightest: float
    """Of the points, without their sign, nJy."""
    count: int
    """Of points."""

    def light(self, mjd: ArrayLike) -> _Float:
        """Return the light over its peak's at each time, (k, times)."""
        return light_of((np.asarray(mjd, float)[None, :] - self.explosion[:, None]) / self.scale[:, None])

    def and_epochs(self, mjd: ArrayLike, flux: _Float, covariance: _Float) -> Shining:
        """Return what remains likely given fluxes measured in inputs, with their covariance (nJy, nJy²)."""
        light, shape = self.light(mjd), (_SHAPE_ERROR * flux) ** 2 + (_FLOOR * self.brightest) ** 2
        inverse = np.linalg.inv(covariance + np.diag(shape))
        weighted = light @ inverse
        return Shining(
            self.explosion,
            self.scale,
            self.power + np.einsum("ki,ki->k", weighted, light),
            self.product + weighted @ flux,
            self.square + float(flux @ inverse @ flux),
            self.brightest,
            self.count + len(flux),
        )

    def weights(self) -> _Float:
        """Return how probable each is, (k,), unit sum."""
        peak = self.peak
        possible = peak > 0
        if not possible.any():
            return np.full(len(peak), 1.0 / len(peak))
        peak = np.where(possible, peak, 1.0)
        logs = 0.5 * self.product * peak - 0.5 * np.log(np.maximum(self.power, 1e-300)) - 2.5 * np.log(peak)
        logs = np.where(possible, logs - _LATE * np.log(self.scale), -np.inf)
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def like_none(self) -> bool:
        """Say whether the object is like no transient that is thought of: a variable, or one that lasts for years."""
        best = self.square - float(np.max(self.product**2 / np.maximum(self.power, 1e-300)))
        free = max(self.count - 3, 1)
        return bool(best - free > _UNLIKE * np.sqrt(2.0 * free))

    @property
    def peak(self) -> _Float:
        """Peak flux that each would have, nJy, (k,)."""
        return np.asarray(self.product / np.maximum(self.power, 1e-300))

    def chances(self, mjd: ArrayLike, least: float) -> _Float:
        """Return, for each time, how probable it is that it shone with more than `least` nJy then.

        1 where the points are negative on the whole: they don't say when it shone, but that a template holds its light.
        """
        if not (self.product > 0).any():
            return np.ones(np.shape(mjd))
        return np.asarray(self.weights() @ (self.peak[:, None] * self.light(mjd) > least))

    def chance(self, mjd: ArrayLike, shares: _Float, least: float) -> float:
        """Return how probable it is that a template holds more than `least` nJy of its light.

        `shares` are the inputs' of the weight; 1 where the points are negative on the whole.
        """
        if not (self.product > 0).any():
            return 1.0
        return float(self.weights() @ (self.peak * (self.light(mjd) @ shares) > least))


def shining(points: Points, first: float, unseen: Points | None = None) -> Shining:
    """Return which transients could be the one of a light curve whose first detection is at MJD `first`.

    `points` has one row at least; `unseen` are visits before `first` that didn't detect it, with their limits (5 sigma)
    as flux: it was at 0 then, give or take `_UNSEEN` limits, for its own light in the template may have hidden it.
    """
    top = float(np.abs(points.flux).max())
    error = np.hypot(points.fluxErr, _SHAPE_ERROR * np.abs(points.flux)) + _FLOOR * top
    mjd, flux, inverse = points.mjd, points.flux, error**-2.0
    if unseen is not None:
        late = unseen.mjd > first - FURTHEST
        mjd, flux = np.append(mjd, unseen.mjd[late]), np.append(flux, np.zeros(np.count_nonzero(late)))
        inverse = np.append(inverse, (_UNSEEN * unseen.flux[late]) ** -2.0)
    explosion, scale = first - _BEFORE, _GRID_SCALE
    light = light_of((mjd[None, :] - explosion[:, None]) / scale[:, None])
    return Shining(
        explosion, scale, light**2 @ inverse, light @ (flux * inverse), float(flux**2 @ inverse), top, len(points.mjd)
    )
