"""Crosstalk coefficients of one victim from pixels in which others are bright: joint, clipped least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Samples", "fit_victim", "fit_within"]

_Float = NDArray[np.float64]
_CLIP = 2.0
_ROUNDS = 6
_CUT = 0.7737
"""Variance of a unit Gaussian cut at 2 sigma, and the part of a small shift that its mean shows."""


@dataclass(frozen=True)
class Samples:
    """Pixels of all frames in which some amplifier is bright; all counts over the local background, ADU."""

    signal: NDArray[np.float32]
    """(amplifiers, pixels)"""
    usable: NDArray[np.bool_]
    """(amplifiers, pixels): may be a victim."""
    noise: NDArray[np.float32]
    """(amplifiers, pixels): of a pixel of this frame without sources."""
    cluster: NDArray[np.int64]
    """(pixels,): number of the patch of sky; what disturbs one pixel disturbs its patch."""


def fit_victim(samples: Samples, victim: int, thresholds: _Float) -> tuple[_Float, _Float]:
    """Return coefficients and errors, float64 (amplifiers,) each; 0 for the victim itself.

    Pixels count where an aggressor is above its threshold (ADU, (amplifiers,)). All aggressors are solved for at once,
    for one bright star is often read together with another. Own sources of the victim are clipped at 2 sigma about the
    model, beginning from the medians of ratios. Errors are the larger of the formal ones and those from the scatter
    between patches of sky (clusters as in Liang & Zeger 1986, Biometrika 73, 13).
    """
    others = np.delete(np.arange(len(samples.signal)), victim)
    bright = (samples.signal[others] > thresholds[others][:, None]).any(axis=0)
    rows = np.flatnonzero(bright & samples.usable[victim])
    design = samples.signal[others][:, rows].T.astype(float)
    weight = 1.0 / samples.noise[victim, rows].astype(float)
    own = samples.signal[victim, rows]
    start = _median_ratios(own, design, thresholds[others])
    result = np.zeros((2, len(samples.signal)))
    result[:, others] = _clipped(design * weight[:, None], own * weight, samples.cluster[rows], start)
    return result[0], result[1]


def fit_within(design: _Float, target: _Float) -> tuple[_Float, _Float]:
    """Return coefficients and errors (unknowns,) of ``target = design @ coefficients``, clipped at 2 sigma."""
    return _clipped(design, target, np.arange(len(target)), np.zeros(design.shape[1]))


def _median_ratios(victim: NDArray[np.float32], design: _Float, thresholds: _Float) -> _Float:
    """A first guess that own sources hardly move: the median of victim over aggressor where that one leads."""
    guess = np.zeros(design.shape[1])
    leader = design.argmax(axis=1)
    for index in range(design.shape[1]):
        own = (leader == index) & (design[:, index] > thresholds[index])
        if own.sum() >= 20:
            guess[index] = float(np.median(victim[own] / design[own, index]))
    return guess


def _clipped(design: _Float, target: _Float, cluster: NDArray[np.int64], start: _Float) -> tuple[_Float, _Float]:
    solution: _Float = start
    kept, inverse = np.ones(len(target), bool), np.zeros((len(start),) * 2)
    sigma = 1.0
    for _ in range(_ROUNDS):
        residual = target - design @ solution
        sigma = 1.4826 * float(np.median(np.abs(residual)))
        kept = np.abs(residual) <= _CLIP * sigma
        inverse = np.asarray(np.linalg.pinv(design[kept].T @ design[kept], hermitian=True))
        # bounds about the last solution hold back a part of each step
        solution = np.asarray(solution + inverse @ (design[kept].T @ residual[kept]) / _CUT)
    residual = target - design @ solution
    formal = np.diag(inverse) * sigma**2 / _CUT
    patches = _clustered(design[kept], residual[kept], cluster[kept], inverse) / _CUT**2
    return solution, np.sqrt(np.maximum(formal, patches))


def _clustered(design: _Float, residual: _Float, cluster: NDArray[np.int64], inverse: _Float) -> _Float:
    """Variance of each unknown from the sums of residuals by cluster."""
    names, number = np.unique(cluster, return_inverse=True)
    scores = np.stack([np.bincount(number, weights=column * residual) for column in design.T], axis=1)
    count = len(names)
    middle = scores.T @ scores * (count / max(count - 1, 1))
    return np.asarray(np.diag(inverse @ middle @ inverse))
