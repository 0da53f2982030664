"""The light of sources too faint to be seen one by one, from the histogram of the bins that show none.

Noise is symmetric; unseen sources lift some bins. A Gaussian of known width convolved with an exponential
(exponentially modified; Grushka 1972, Anal. Chem. 44, 1733) in a share of the bins, fitted to the histogram, tells
where the bins without a source lie: the analysis of confusion, P(D), of Scheuer (1957, Proc. Camb. Phil. Soc. 53, 764)
in its simplest form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

__all__ = ["unseen_light"]

_Float = NDArray[np.float64]

_SCALES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Sigma of a bin: mean light of the sources in it. Fainter ones are as good as sky."""
_STEP = 0.05
_LOWEST = -3.5
_SHARE_OF_THRESHOLD = 0.85
"""Up to there the histogram is fitted: nearer, masks that follow wings and skirts have eaten from it."""
_SIGNIFICANT = 8.0
"""Log-likelihood that makes the share of lit bins real."""
_LEAST = 2000
"""Bins."""
_FAR = 1.0
"""Sigma of a bin: beyond it the level itself is wrong."""


def unseen_light(signal: NDArray[np.floating], threshold: float) -> float:
    """Return by how much zero lies above the bins of `signal` (their S/N) without a source; 0 if not significant.

    `threshold` is that above which bins are left out as sources.
    """
    lowest, count = int(_LOWEST / _STEP), int((_SHARE_OF_THRESHOLD * threshold - _LOWEST) / _STEP)
    edges = np.asarray(_STEP * (np.arange(count + 1) + lowest), np.float64)
    place = np.floor(signal / _STEP).astype(np.int64) - lowest
    number = np.bincount(place[(place >= 0) & (place < count)], minlength=count).astype(float)
    if number.sum() < _LEAST:
        return 0.0
    bare = _fit(edges, number, 1.0, 0.0)
    if bare[0] - _fit(edges, number, _SCALES[len(_SCALES) // 2], 0.95)[0] < 0.25 * _SIGNIFICANT:
        return 0.0  # no scale is much better than another where there is nothing
    lit = min((_fit(edges, number, scale, 0.95) for scale in _SCALES), key=lambda fit: fit[0])
    return max(-lit[1], 0.0) if bare[0] - lit[0] > _SIGNIFICANT and abs(lit[1]) < _FAR else 0.0


def _fit(edges: _Float, number: _Float, scale: float, most: float) -> tuple[float, float, float]:
    """Return minus the log-likelihood, the level of the bare bins and the share of lit ones (at most `most`)."""

    def cost(p: _Float) -> float:
        below = _below(edges - p[0], scale, p[1])
        share = np.maximum(np.diff(below), 1e-12) / (below[-1] - below[0])
        return -float(number @ np.log(share))

    found = optimize.minimize(cost, (0.0, 0.5 * most), method="L-BFGS-B", bounds=((-_FAR, _FAR), (0.0, most)))
    return float(found.fun), float(found.x[0]), float(found.x[1])


def _below(x: _Float, scale: float, share: float) -> _Float:
    """Return the distribution function at `x` (sigma)."""
    tail = np.exp(0.5 / scale**2 - x / scale + special.log_ndtr(x - 1.0 / scale))
    return np.asarray(special.ndtr(x) - share * tail)
