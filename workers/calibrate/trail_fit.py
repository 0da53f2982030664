"""Deferred charge of one amplifier in one direction: the model of `workers.isr.deferred_charge` fitted to trails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from workers.isr.deferred_charge import late_shares

__all__ = ["TrailFit", "Trails", "fit_trails"]

_Float = NDArray[np.float64]
_PENALTY = 15.0
"""By how much each further parameter must lower chi²."""
_SYSTEMATIC = 0.005
"""Of the trail: its shape is not known better than that, for the signal's level and linearity are not."""
_BACK = 13
"""Pixels before the edge whose charge can reach the overscan."""
_DECAYS = (1.5, 8.0)
_LOWEST = {"share": (0.0,), "offset": (0.0, 0.5), "trap": (0.0, 30.0, 0.3)}
_HIGHEST = {"share": (0.5,), "offset": (0.05, 50.0), "trap": (0.3, 3.0e5, 30.0)}
_SCALE = {"share": (1.0e-3,), "offset": (1.0e-4, 3.0), "trap": (1.0e-2, 1.0e3, 2.0)}


@dataclass(frozen=True)
class Trails:
    """Mean charge in the overscan's pixels next to the data, electrons."""

    signal: _Float
    """In the last data pixel (frames,)."""
    deferred: _Float
    """(frames, pixels), less its mean over `base`."""
    error: _Float
    lags: NDArray[np.intp]
    """Distance of each pixel from the last data pixel (pixels,)."""
    base: NDArray[np.intp]
    """Distances of the pixels that made the zero level."""
    transfers: int
    """Of the last data pixel."""


@dataclass(frozen=True)
class TrailFit:
    """Parameters as in the tables of kind ``cti``; 0 where a part was not needed."""

    fraction: float
    error: float
    offset: tuple[float, float]
    trap: tuple[float, float, float]
    chi2: float
    """Per degree of freedom."""


def fit_trails(trails: Trails, *, offset: bool) -> TrailFit:
    """Return the simplest model that describes the trails: losses of transfers, then also an offset, a trap, or both.

    A part is taken in where it lowers chi² by 15 per parameter; `offset` says whether one can be there (only along
    rows). Each pixel's own zero level is free where the frames differ in signal by a factor of two. A fraction below 3
    sigma is 0.
    """
    candidates = [_candidate(trails, parts, start) for parts in _models(offset) for start in _starts(trails, parts)]
    parts, found = min(candidates, key=lambda one: 2.0 * one[1].cost + _PENALTY * len(one[1].x))
    return _fitted(trails, parts, found.x, found.jac, 2.0 * float(found.cost))


def _candidate(trails: Trails, parts: tuple[str, ...], start: _Float) -> tuple[tuple[str, ...], Any]:
    low, high, scale = (np.concatenate([limit[part] for part in parts]) for limit in (_LOWEST, _HIGHEST, _SCALE))
    begin = np.clip(start, low + 1e-12, high - 1e-12)
    return parts, least_squares(_residuals, begin, bounds=(low, high), x_scale=scale, args=(trails, parts))


def _models(offset: bool) -> Iterator[tuple[str, ...]]:
    yield ("share",)
    yield ("share", "trap")
    if offset:
        yield ("share", "offset")
        yield ("share", "offset", "trap")


def _starts(trails: Trails, parts: tuple[str, ...]) -> Iterator[_Float]:
    first = float(np.sum(trails.deferred[:, 0] * trails.signal) / np.sum(trails.signal**2))
    share = max(first, 1.0e-9)
    if len(parts) == 1:
        yield np.array([share])
        return
    for decay in _DECAYS:
        start = [0.7 * share]
        if "offset" in parts:
            start += [0.3 * share, decay]
        if "trap" in parts:
            start += [0.3 * share, 0.3 * float(trails.signal.max()), 13.0 / decay]
        yield np.array(start)


def _expected(trails: Trails, parts: tuple[str, ...], x: _Float) -> _Float:
    """Model of `deferred` (frames, pixels); `x` begins with the share that the last pixel loses in all transfers."""
    lags = np.concatenate([trails.lags, trails.base]).astype(float)
    signal = trails.signal[:, None]
    charge = signal * _late(x[0] / trails.transfers, trails.transfers, lags)
    place = 1
    if "offset" in parts:
        charge = charge + signal * x[place] * np.exp(-lags / x[place + 1])
        place += 2
    if "trap" in parts:
        ratio, half, decay = x[place : place + 3]
        held = ratio * half * signal / (signal + half)
        charge = charge + held * (1.0 - np.exp(-1.0 / decay)) * np.exp(-(lags - 1.0) / decay)
    count = len(trails.lags)
    return np.asarray(charge[:, :count] - charge[:, count:].mean(axis=1, keepdims=True))


def _late(fraction: float, transfers: int, lags: _Float) -> _Float:
    """Share of an even signal that comes `lags` pixels after the last one: of that one, the one before, and so on."""
    shares = late_shares(fraction, transfers - np.arange(min(_BACK, transfers)))
    late = np.zeros(len(lags))
    for index in np.flatnonzero(lags < len(shares)):
        late[index] = np.diagonal(shares, -int(lags[index])).sum()
    return late


def _residuals(x: _Float, trails: Trails, parts: tuple[str, ...]) -> _Float:
    sigma = np.hypot(trails.error, _SYSTEMATIC * trails.deferred)
    residual = trails.deferred - _expected(trails, parts, x)
    if trails.signal.max() > 2.0 * trails.signal.min():
        weight = sigma**-2
        residual = residual - (residual * weight).sum(axis=0) / weight.sum(axis=0)
    return np.asarray((residual / sigma).ravel())


def _fitted(trails: Trails, parts: tuple[str, ...], x: _Float, jacobian: _Float, chi2: float) -> TrailFit:
    freedom = max(trails.deferred.size - len(x) - len(trails.lags), 1)
    covariance = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True) * max(1.0, chi2 / freedom)
    fraction, error = float(x[0]) / trails.transfers, float(np.sqrt(covariance[0, 0])) / trails.transfers
    offset, trap = (0.0, 1.0), (0.0, 1.0, 1.0)
    place = 1
    if "offset" in parts:
        offset = float(x[place]), float(x[place + 1])
        place += 2
    if "trap" in parts:
        trap = float(x[place] * x[place + 1]), float(x[place + 1]), float(x[place + 2])
    return TrailFit(fraction if fraction > 3.0 * error else 0.0, error, offset, trap, chi2 / freedom)
