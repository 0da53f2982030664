"""Size and ellipticity of PSF stamps: moments under a Gaussian weight that takes the stamp's own shape.

Adaptive moments, those of the Gaussian that fits the stamp best: see `gaussian_weight`. They converge for any profile
with wings and barely see the stamp's rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.gaussian_weight import fit_weight

__all__ = ["Shapes", "adaptive_moments", "weights_of"]

_Float = NDArray[np.float64]

TOLERANCE = 1e-7
"""Of the moments, between two turns."""
REACH = 6.3
"""Sigma, of the ellipse whose pixels count: wings further out have a weight below 3e-9."""


@dataclass(frozen=True)
class Shapes:
    """Second moments of m stamps, float64 (m,); NaN where the iteration found no shape."""

    size: _Float
    """T = Mxx + Myy, pixels^2; 2 sigma^2 for a Gaussian."""
    e1: _Float
    """(Mxx - Myy) / T."""
    e2: _Float
    """2 Mxy / T."""


def adaptive_moments(stamps: NDArray[np.floating], guess: float = 3.0, tolerance: float = TOLERANCE) -> Shapes:
    """Return the shapes of stamps (m, n, n) near whose middle pixel the source lies; `guess` of Mxx, pixels^2.

    `tolerance`: relative change of the moments at which the iteration ends.
    """
    weights = weights_of(stamps, guess, tolerance, REACH, float(stamps.shape[1] // 2))
    total = weights[:, 2] + weights[:, 3]
    return Shapes(total, (weights[:, 2] - weights[:, 3]) / total, 2.0 * weights[:, 4] / total)


def weights_of(stamps: NDArray[np.floating], guess: float, tolerance: float, reach: float, max_shift: float) -> _Float:
    """Return the weights (x, y, xx, yy, xy, amplitude) of `fit_weight`, float64 (m, 6), from the stamps' middles.

    NaN where it found none. `guess` of xx and yy, pixels^2; the other arguments as there.
    """
    middle = float(stamps.shape[1] // 2)
    weights = np.tile([middle, middle, guess, guess, 0.0, 0.0], (len(stamps), 1))
    _fit_all(np.ascontiguousarray(stamps, dtype=float), weights, reach, max_shift, tolerance)
    return weights


@njit(cache=True, nogil=True)
def _fit_all(
    stamps: Any, weights: Any, reach: float, max_shift: float, tolerance: float
) -> None:  # pragma: no cover - compiled
    """Fit every stamp, all of whose pixels can be used."""
    usable, owner, sums = np.ones(stamps.shape[1:], np.bool_), np.zeros((1, 1), np.int32), np.empty(9)
    for k in range(stamps.shape[0]):
        _, failed = fit_weight(stamps[k], usable, owner, 0, weights[k], reach, max_shift, tolerance, sums)
        if failed:
            weights[k] = np.nan
