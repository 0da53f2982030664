"""The polynomial between a header's WCS and the truth, and how sure of it the stars make us.

Polynomials of order 1 to 4 compete; the coefficients from order 2 on have a Gaussian prior whose width is one of
several. Each competitor counts by its evidence (MacKay 1992, Neural Computation 4, 415: the probability of the data
with coefficients and noise level integrated out), and the answer is their mean. So few stars give an affine map unless
they clearly show more, many stars give whatever the header lacks, and nothing jumps in between. The spread among the
competitors is part of the error told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Correction", "Design", "Normal", "fit_correction", "fit_normal"]

_Float = NDArray[np.float64]

WIDTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Pixels: prior widths of a coefficient of order 2 or more, on positions scaled to [-1, 1]."""
FLAT = 1e-8
"""Inverse variance, per square pixel, of the prior of offset and linear terms."""
TRUST = 4.0
"""Degrees of freedom with which the errors given count as knowledge of the noise, before any residual is seen."""
TERMS = {1: 3, 2: 6, 3: 10, 4: 15}
"""Coefficients per axis of each order."""
HIGHEST = 4


@dataclass(frozen=True)
class Design:
    """The monomials of positions scaled to [-1, 1] over a detector of `shape` (height, width)."""

    shape: tuple[int, int]

    def __call__(self, points: _Float) -> _Float:
        """Return the monomials up to order 4, float64 (n, 15), of pixel positions (n, 2)."""
        height, width = self.shape
        u, v = 2.0 * points[:, 0] / width - 1.0, 2.0 * points[:, 1] / height - 1.0
        columns = last = [np.ones(len(points))]
        for _ in range(HIGHEST):  # in the order of `polynomial_terms`, by products instead of powers
            last = [*(column * u for column in last), last[-1] * v]
            columns = columns + last
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Correction:
    """predicted - measured, pixels, as a polynomial of the measured position."""

    solution: _Float
    """(15, 2), in the order of `Design`."""
    order: int
    """Of the most probable competitor."""
    covariance: _Float
    """(15, 15), per axis, of the most probable competitor."""
    edge_error: float
    """Expected error at the worst corner, pixels per coordinate."""


@dataclass(frozen=True)
class Normal:
    """Normal equations of `count` measured numbers, two per star."""

    matrix: _Float
    """(15, 15)."""
    right: _Float
    """(15, 2)."""
    square: float
    """Weighted sum of the squared targets."""
    count: int


def fit_correction(design: _Float, target: _Float, weights: _Float, corners: _Float) -> Correction:
    """Fit `target`, predicted - measured pixels (n, 2), with `weights` (n,), inverse variances per coordinate.

    `design` (n, 15) and `corners` (c, 15) are monomials by `Design`.
    """
    weighted = design * weights[:, None]
    square = float((weights[:, None] * target**2).sum())
    return fit_normal(Normal(design.T @ weighted, weighted.T @ target, square, 2 * len(target)), corners)[0]


def fit_normal(normal: Normal, corners: _Float) -> tuple[Correction, float]:
    """Return the mean of the competitors, and the logarithm of their summed evidence, up to a constant."""
    parts = [_compete(normal, order) for order in TERMS]
    evidence, solutions, covariances = (np.concatenate(column) for column in zip(*parts, strict=True))
    best = int(np.argmax(evidence))
    share = np.exp(evidence - evidence[best])
    total = float(evidence[best] + np.log(share.sum()))
    share /= share.sum()
    solution = np.tensordot(share, solutions, 1)
    apart = np.square(corners @ (solutions - solution)).mean(axis=2)
    own = ((corners @ covariances) * corners).sum(axis=2)
    variance = share @ (own + apart)
    order = [order for order, part in zip(TERMS, parts, strict=True) for _ in part[0]][best]
    return Correction(solution, order, covariances[best], float(np.sqrt(max(variance.max(), 0.0)))), total


def _compete(normal: Normal, order: int) -> tuple[_Float, _Float, _Float]:
    """Return log evidence (w,), coefficients (w, 15, 2), covariances (w, 15, 15) of an order for each prior width."""
    terms, most = TERMS[order], TERMS[HIGHEST]
    widths = np.array(WIDTHS if order > 1 else (1.0,))
    degree = np.repeat(np.arange(order + 1), np.arange(order + 1) + 1)
    prior = np.where(degree > 1, widths[:, None] ** -2.0, FLAT)
    matrix = normal.matrix[:terms, :terms] + prior[:, :, None] * np.eye(terms)
    inverse = np.linalg.inv(matrix)
    part = inverse @ normal.right[:terms]
    misfit = np.maximum(normal.square - (normal.right[:terms] * part).sum(axis=(1, 2)), 0.0)
    freedom = TRUST + max(normal.count - 6, 0)
    # two axes: each determinant counts twice by one half
    determinants = np.linalg.slogdet(matrix)[1] - np.log(prior[:, 3:]).sum(axis=1)
    evidence = -0.5 * freedom * np.log(TRUST + misfit) - determinants
    solution, covariance = np.zeros((len(widths), most, 2)), np.zeros((len(widths), most, most))
    solution[:, :terms] = part
    covariance[:, :terms, :terms] = inverse * ((TRUST + misfit) / freedom)[:, None, None]
    return evidence, solution, covariance
