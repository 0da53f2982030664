"""Size and ellipticity of PSF stamps: moments under a Gaussian weight that takes the stamp's own shape.

Adaptive moments (Bernstein & Jarvis 2002, AJ 123, 583, section 3.1; Hirata & Seljak 2003, MNRAS 343, 459): of all
Gaussians the one that fits the stamp best. They converge for any profile with wings and barely see the stamp's rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Shapes", "adaptive_moments"]

_Float = NDArray[np.float64]

ROUNDS = 60
TOLERANCE = 1e-7
"""Of the size, between two rounds."""
SMALLEST = 0.05
"""Pixels^2: second moments are kept above, so that noise can't collapse the weight."""


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

    `tolerance`: relative change of the size at which the iteration ends.
    """
    state = np.tile([0.0, 0.0, guess, guess, 0.0], (len(stamps), 1))  # x, y, Mxx, Myy, Mxy
    _iterate(np.ascontiguousarray(stamps, dtype=float), state, ROUNDS, tolerance, SMALLEST)
    total = state[:, 2] + state[:, 3]
    return Shapes(total, (state[:, 2] - state[:, 3]) / total, 2.0 * state[:, 4] / total)


@njit(cache=True, nogil=True)
def _iterate(
    stamps: Any, state: Any, rounds: int, tolerance: float, smallest: float
) -> None:  # pragma: no cover - compiled
    """Replace each row of `state` by centroid and second moments under the weight that has the same."""
    n = stamps.shape[1]
    half = n // 2
    for source in range(stamps.shape[0]):
        x0, y0, xx, yy, xy = state[source]
        for _ in range(rounds):
            determinant = xx * yy - xy * xy
            total, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                dy = i - half - y0
                for j in range(n):
                    dx = j - half - x0
                    distance = (yy * dx * dx + xx * dy * dy - 2.0 * xy * dx * dy) / determinant
                    if distance < 40.0:
                        weight = stamps[source, i, j] * np.exp(-0.5 * distance)
                        total += weight
                        sx += weight * dx
                        sy += weight * dy
                        sxx += weight * dx * dx
                        syy += weight * dy * dy
                        sxy += weight * dx * dy
            if not total > 0.0:
                state[source, 2:] = np.nan
                break
            before = xx + yy
            # a Gaussian's weighted centroid moves half the way, its weighted moments are half its own
            x0, y0 = x0 + 2.0 * sx / total, y0 + 2.0 * sy / total
            xx, yy = max(2.0 * sxx / total, smallest), max(2.0 * syy / total, smallest)
            bound = 0.98 * np.sqrt(xx * yy)
            xy = min(max(2.0 * sxy / total, -bound), bound)
            state[source] = (x0, y0, xx, yy, xy)
            if abs(x0) > half or abs(y0) > half or xx + yy > n * n:
                state[source, 2:] = np.nan
                break
            if abs(xx + yy - before) < tolerance * before:
                break
