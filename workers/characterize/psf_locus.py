"""Which sources are stars: of all shapes, the one that most share where they lie on the detector.

Size and ellipticity of stars change smoothly over the detector; those of galaxies, blends and cosmic rays are all
different. The search starts from the source that has most likes near it and follows the likes over the detector with
polynomials, so that a seeing that changes by more than the width of the locus does not tear it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.imaging.psf import polynomial_terms

__all__ = ["FLOOR", "stellar_locus"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FLOOR = 0.012
"""Of ln T, and half of it of the ellipticity: shapes differ by so much at any S/N."""
NOISE = 2.5
"""The error of ln T of a source of S/N one; the ellipticity's is half as large."""
NEAR = 0.4
"""Of the detector's side: sources further apart don't vouch for each other."""
DRIFT = (0.35, 0.12)
"""Change of ln T and of the ellipticity over the detector's side that two stars are granted."""
CLIP = 4.0
"""Robust sigma."""
WIDEST = (0.3, 0.15, 0.15)
"""Of the features, whatever the S/N: what is further off is no star, or tells nothing."""
VOTERS = 600
"""Brightest sources that are compared with each other."""
DEGREES = ((30, 2), (10, 1), (0, 0))
"""Fewest members for each degree of the locus."""
ROUNDS = 6


def stellar_locus(features: _Float, snr: _Float, x: _Float, y: _Float, floor: float = FLOOR) -> _Bool:
    """Tell which of n sources, brightest first, are stars.

    `features` (n, 3) of ln T (T in pixels^2), e1 and e2; `snr` (n,); `x` and `y` (n,) scaled to [-1, 1] over the
    detector; `floor` the scatter of ln T among bright stars.
    """
    error = _errors(snr, floor)
    member = _likes(features, error, x, y)
    for turn in range(ROUNDS):
        degree = min(turn, next(degree for fewest, degree in DEGREES if np.count_nonzero(member) >= fewest))
        terms = polynomial_terms(x, y, degree)
        weight = 1.0 / error[member]
        fit = [
            np.linalg.lstsq(terms[member] * weight[:, [i]], features[member, i] * weight[:, i], rcond=None)[0]
            for i in range(3)
        ]
        off = features - terms @ np.stack(fit, axis=1)
        pull = off / error
        spread = np.maximum(1.4826 * np.median(np.abs(pull[member]), axis=0), 1.0 if turn > 1 else 2.0)
        fresh = (np.abs(pull) < CLIP * spread).all(axis=1) & (np.abs(off) < WIDEST).all(axis=1)
        if not fresh.any() or (turn > 2 and (fresh == member).all()):
            break
        member = fresh
    return np.asarray(member)


def _errors(snr: _Float, floor: float) -> _Float:
    """Return the expected scatter of the features among stars, (n, 3)."""
    return np.asarray(np.hypot(floor, NOISE / np.maximum(snr, 1.0))[:, None] * np.array([1.0, 0.5, 0.5]))


def _likes(features: _Float, error: _Float, x: _Float, y: _Float) -> _Bool:
    """Return the sources that are like the one that most are like; the smaller where two have as many."""
    top = slice(0, VOTERS)
    apart = 0.5 * np.hypot(x[top, None] - x[None, :], y[top, None] - y[None, :])
    like = apart < NEAR
    for i, drift in ((0, DRIFT[0]), (1, DRIFT[1]), (2, DRIFT[1])):
        reach = 2.0 * np.hypot(error[top, i, None], error[None, :, i]) + drift * apart
        like &= np.abs(features[top, i, None] - features[None, :, i]) < reach
    votes = like.sum(axis=1)
    first = int(np.lexsort((features[top, 0], -votes))[0])
    return np.asarray(like[first])
