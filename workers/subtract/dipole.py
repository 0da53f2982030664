"""Dipoles: a positive and a negative lobe within about a PSF, the mark of misalignment or of fast proper motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.subtract.dipole_fit import Fit

__all__ = ["Prior", "dipole_probability", "pair_lobes"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Rows = NDArray[Any]
_MIN_RATIO = 0.3
"""Of the weaker lobe's strength to the stronger one's."""
_DETECTED = 4.0
"""Errors that a change of flux must have to be the cause of a source."""
_DECADES = 3.0 * np.log(10.0)


@dataclass(frozen=True)
class Prior:
    """What is known of sources before a look at their pixels; lengths in pixels."""

    fwhm: float
    registration: float = 0.05
    """Rms per axis of the distance between a star's places in two images that are well registered."""
    constancy: float = 0.05
    """Rms of ln(F_s / F_t) of the stars that dipoles are made of."""
    separation: float = 1.5
    """Largest one of a dipole, in units of the FWHM; also the reach of a point source round its star."""
    smallest: float = 0.02
    """Share of a star's flux below which a change isn't told from errors of the match."""

    def separations(self, square: _Float) -> _Float:
        """Return the density, per pixel^2, of a dipole's separation of so many pixels^2.

        Log-uniform from about twice the registration error to the largest separation.
        """
        scale, far = 2.0 * self.registration, self.separation * self.fwhm
        near = np.square(-np.expm1(-square / (2.0 * scale**2)))
        end = 1.0 / (1.0 + np.exp(np.clip(20.0 * (np.sqrt(square) / far - 1.0), -50.0, 50.0)))
        return np.asarray(near * end / (2.0 * np.pi * np.maximum(square, 1e-12) * np.log(far / scale)))

    def changes(self, flux: _Float, error: _Float, star: _Float) -> _Float:
        """Return the density, per unit of flux, of a real change of flux: log-uniform over three decades each way."""
        least = np.maximum(_DETECTED * error, self.smallest * np.abs(star))
        short = np.maximum(least - np.abs(flux), 0.0) / np.maximum(error, 0.25 * least)
        short = np.minimum(short, 30.0)
        return np.asarray(np.exp(-0.5 * np.square(short)) / (2.0 * _DECADES * np.maximum(np.abs(flux), least)))


def dipole_probability(dipole: Fit, transient: Fit, prior: Prior, noise: _Float) -> _Float:
    """Return the posterior probability, float64 (m,), that a source is a dipole and not a point source.

    Three hypotheses: (b) a star of constant flux at two places; (a1) a star that is well registered and changes its
    flux; (a2) a point source anywhere beside a star that is well registered. The integrals over the parameters are
    Laplace's; `dipole` serves both b and a1, which differ in their priors alone. b has the prior 1/2, a1 and a2 1/4
    each. `noise` (m,) divides the differences of chi2: the reduced chi2 of the better model, at least 1.
    """
    same, same_volume = dipole.covariance
    free, free_volume = transient.covariance
    star = dipole.parameters[:, 0]
    change = dipole.parameters[:, 10] - star
    error = np.sqrt(np.maximum(same[:, 10, 10] + same[:, 0, 0] - 2.0 * same[:, 0, 10], 0.0))
    shift = dipole.parameters[:, 11:13] - dipole.parameters[:, 1:3]
    spread = same[:, 11:13, 11:13] + same[:, 1:3, 1:3] - same[:, 11:13, 1:3] - same[:, 1:3, 11:13]
    separation = np.square(shift).sum(axis=1) + np.einsum("mii->m", spread)
    constant = np.square(error) + np.square(prior.constancy * star)
    moved = _log_normal(change[:, None], constant[:, None, None]) + _log(prior.separations(separation))
    varied = _log_normal(shift, spread + prior.registration**2 * np.eye(2)) + _log(prior.changes(change, error, star))
    flux, error = transient.parameters[:, 10], np.sqrt(free[:, 10, 10])
    area = np.pi * (prior.separation * prior.fwhm) ** 2
    # (2 pi)^1 of the two parameters more, over 2 pi sigma^2 of the prior of the misregistration
    added = _log(prior.changes(flux, error, star)) - np.log(area * prior.registration**2)
    added += 0.5 * (free_volume - same_volume) - 0.5 * (transient.chi2 - dipole.chi2) / noise
    return np.asarray(1.0 / (1.0 + 0.5 * (_ratio(varied - moved) + _ratio(added - moved))))


def _log(density: _Float) -> _Float:
    return np.asarray(np.log(np.maximum(density, 1e-300)))


def _ratio(logarithm: _Float) -> _Float:
    return np.asarray(np.exp(np.clip(logarithm, -300.0, 300.0)))


def _log_normal(value: _Float, covariance: _Float) -> _Float:
    """Return the logarithm of the normal density of values (m, k) with covariance (m, k, k), NaN where singular."""
    determinant = np.linalg.det(covariance)
    sound = determinant > 0.0
    safe = np.where(sound[:, None, None], covariance, np.eye(value.shape[1]))
    square = np.einsum("mi,mi->m", value, np.linalg.solve(safe, value[:, :, None])[:, :, 0])
    norm = value.shape[1] * np.log(2.0 * np.pi) + np.log(np.where(sound, determinant, np.nan))
    return np.asarray(-0.5 * (square + norm))


def pair_lobes(peaks: _Rows, radius: float) -> tuple[_Index, _Index]:
    """Return (stronger, weaker) indices of opposite peaks within `radius` pixels; each peak is in one pair at most.

    `peaks` are PEAK_DTYPE rows, strongest first.
    """
    if len(peaks) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    points = np.column_stack([peaks["x"], peaks["y"]])
    close = cKDTree(points).query_pairs(radius, output_type="ndarray")
    score = peaks["score"]
    opposite = score[close[:, 0]] * score[close[:, 1]] < 0.0
    strength = np.abs(score[close]).min(axis=1) / np.maximum(np.abs(score[close]).max(axis=1), 1e-30)
    close = np.sort(close[opposite & (strength >= _MIN_RATIO)], axis=1)
    used: set[int] = set()
    pairs = []
    for stronger, weaker in close[np.lexsort((close[:, 1], close[:, 0]))].tolist():
        if stronger not in used and weaker not in used:
            used |= {stronger, weaker}
            pairs.append((stronger, weaker))
    table = np.array(pairs, np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]
