"""The map of a visit: a polynomial that all detectors share, and what each of them is off by itself.

The second is an affine map per detector with a Gaussian prior. For each prior width the affine maps are integrated out
of the normal equations, the orders of the shared polynomial compete as in `wcs_correction`, and the width with the most
evidence is taken: so all detectors together tell how far one may be off, and one with few stars is not moved further.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.imaging.wcs_correction import Correction, Normal, fit_normal

__all__ = ["VisitMap", "fit_visit_map"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

WIDTHS = (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Pixels: prior widths of a detector's offset, and of its linear terms on positions scaled to [-1, 1]."""
FLOOR = 0.005
"""Pixels: added in quadrature to each centroid's error."""
CLIP = 4.0
"""Sigma of the distance beyond which a star leaves the fit."""
FIRST_EXCESS = 0.1
TURNS = 6


@dataclass(frozen=True)
class VisitMap:
    """predicted - measured on the plane of the visit, pixels."""

    shared: Correction
    own: _Float
    """(d, 3, 2): per detector, coefficients of 1, u, v."""
    own_covariance: _Float
    """(d, 3, 3), per axis."""
    kept: NDArray[np.bool_]
    rms: float
    """Of the kept stars, weighted, pixels per coordinate."""


@dataclass(frozen=True)
class _Blocks:
    """Sums over the stars of each detector."""

    normal: _Float
    """(d, 3, 3)."""
    cross: _Float
    """(d, 3, 15)."""
    right: _Float
    """(d, 3, 2)."""


def fit_visit_map(
    design: _Float, local: _Float, target: _Float, error: _Float, owner: _Index, number: int, corners: _Float
) -> VisitMap:
    """Fit `target`, predicted - measured pixels (n, 2), of stars with centroid `error` (n,) on detectors `owner` (n,).

    `design` (n, 15): monomials by `wcs_correction.Design`, `corners` (c, 15) where the error is told; `local` (n, 3):
    1, u, v on the star's detector, [-1, 1]; `number` of detectors. Outliers are clipped as in `wcs_fit`.
    """
    variance = np.square(error) + FLOOR**2
    weights, kept = 1.0 / (variance + FIRST_EXCESS**2), np.ones(len(target), bool)
    for turn in range(TURNS):
        used = np.flatnonzero(kept)
        shared, own, covariance = _solve(
            design[used], local[used], target[used], weights[used], owner[used], number, corners
        )
        residual = target - design @ shared.solution - (local[:, :, None] * own[owner]).sum(axis=1)
        square = np.square(residual).sum(axis=1)
        lever = ((local[:, None, :] @ covariance[owner])[:, 0] * local).sum(axis=1)
        lever += ((design @ shared.covariance) * design).sum(axis=1)
        free = 1.0 - np.minimum(lever * weights, 0.9) * kept
        typical = float(np.median((square / free)[kept])) / (2.0 * np.log(2.0))
        weights = 1.0 / (variance + max(0.0, typical - float(np.median(variance[kept]))))
        keep = square * weights < CLIP**2 * np.where(kept, free, 1.0 + lever * weights)
        if np.array_equal(keep, kept) and turn > 1:
            break
        kept = keep
    share = weights[kept] / weights[kept].sum()
    rms = float(np.sqrt((share * square[kept]).sum() / 2.0))
    return VisitMap(shared, own, covariance, kept, rms)


def _solve(
    design: _Float, local: _Float, target: _Float, weights: _Float, owner: _Index, number: int, corners: _Float
) -> tuple[Correction, _Float, _Float]:
    """Return the shared polynomial, and each detector's map (d, 3, 2) with its covariance (d, 3, 3)."""
    heavy = local * weights[:, None]
    blocks = _Blocks(np.zeros((number, 3, 3)), np.zeros((number, 3, design.shape[1])), np.zeros((number, 3, 2)))
    for k in range(number):
        mine = owner == k
        blocks.normal[k] = heavy[mine].T @ local[mine]
        blocks.cross[k] = heavy[mine].T @ design[mine]
        blocks.right[k] = heavy[mine].T @ target[mine]
    weighted = design * weights[:, None]
    whole = Normal(
        weighted.T @ design, weighted.T @ target, float((weights[:, None] * target**2).sum()), 2 * len(target)
    )
    found: list[tuple[float, Correction, _Float]] = []
    for width in WIDTHS:
        inverse = np.asarray(np.linalg.inv(blocks.normal + np.eye(3) * width**-2), float)
        turned = blocks.cross.transpose(0, 2, 1) @ inverse
        left = Normal(
            whole.matrix - (turned @ blocks.cross).sum(axis=0),
            whole.right - (turned @ blocks.right).sum(axis=0),
            whole.square - float((blocks.right * (inverse @ blocks.right)).sum()),
            whole.count,
        )
        shared, evidence = fit_normal(left, corners)
        # two axes: each determinant counts twice by one half
        evidence += float(np.linalg.slogdet(inverse)[1].sum()) - 6.0 * number * float(np.log(width))
        found.append((evidence, shared, inverse))
    _, shared, inverse = max(found, key=lambda item: item[0])
    return shared, inverse @ (blocks.right - blocks.cross @ shared.solution), inverse
