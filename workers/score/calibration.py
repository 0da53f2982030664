"""From log-odds to probabilities that mean what they say, and the threshold and figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "figures_by_snr", "fit_platt", "operating_threshold"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_SNR_EDGES = (0.0, 6.0, 8.0, 12.0, 20.0, 50.0, np.inf)


@dataclass(frozen=True)
class Calibration:
    """reliability = 1 / (1 + exp(-(slope * margin + intercept + log prior odds))).

    slope * margin + intercept is the log likelihood ratio of real to bogus, whatever the mix of the stream.
    """

    slope: float
    intercept: float
    realFraction: float
    """Prior: the share of real sources in the stream of detections."""

    def log_odds(self, margin: _Float) -> _Float:
        """Return the log posterior odds of margins (n,)."""
        prior = np.log(self.realFraction / (1.0 - self.realFraction))
        return np.asarray(self.slope * margin + self.intercept + prior)

    def reliability(self, margin: _Float) -> _Float:
        """Return the probability to be real of margins (n,)."""
        return probability(self.log_odds(margin))


def probability(log_odds: _Float) -> _Float:
    """Return 1 / (1 + exp(-log_odds)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)))


def fit_platt(margin: _Float, real: _Bool, weight: _Float) -> tuple[float, float]:
    """Return (slope, intercept) of the weighted logistic fit (Platt 1999, with his smoothed targets).

    Weights that give both classes the same total make slope * margin + intercept a log likelihood ratio.
    """
    positive, negative = int(real.sum()), int((~real).sum())
    target = np.where(real, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    design = np.column_stack([margin, np.ones_like(margin)])
    solution = np.array([1.0, 0.0])
    best = _loss(design @ solution, target, weight)
    for _ in range(50):
        chance = probability(design @ solution)
        slope = design.T @ (weight * (chance - target))
        curvature = (design * (weight * chance * (1.0 - chance))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > 1e-4 and _loss(design @ (solution - size * step), target, weight) > best:
            size *= 0.5
        solution = solution - size * step
        best = _loss(design @ solution, target, weight)
        if np.abs(size * step).max() < 1e-8:
            break
    return float(solution[0]), float(solution[1])


def _loss(log_odds: _Float, target: _Float, weight: _Float) -> float:
    """Return the weighted cross entropy."""
    return float((weight * (np.logaddexp(0.0, log_odds) - target * log_odds)).sum())


def operating_threshold(log_odds: _Float, injected: _Bool, weight: _Float, real_fraction: float) -> float:
    """Return the reliability at which purity and completeness balance: the largest harmonic mean of the two.

    Completeness is that of the injections; purity follows from it, from the share of bogus sources above the threshold
    and from the share of real ones in the stream. Of equally good thresholds the middle one is taken.
    """
    levels = np.unique(log_odds)
    middles = 0.5 * (levels[1:] + levels[:-1])
    if not len(middles):
        return 0.5
    completeness = _share_above(log_odds[injected], weight[injected], middles)
    found = real_fraction * completeness
    false = (1.0 - real_fraction) * _share_above(log_odds[~injected], weight[~injected], middles)
    balance = 2.0 * found / (found + false + real_fraction)
    best = np.flatnonzero(balance >= balance.max() - 1e-12)
    return float(probability(middles[best[len(best) // 2]]))


def _share_above(values: _Float, weight: _Float, levels: _Float) -> _Float:
    """Return the weighted fraction of `values` above each of `levels`."""
    order = np.argsort(values, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    return np.asarray(1.0 - below[np.searchsorted(values[order], levels, side="right")] / below[-1])


def figures_by_snr(
    accepted: _Bool, injected: _Bool, snr: NDArray[np.floating], real_fraction: float
) -> list[dict[str, Any]]:
    """Return counts, completeness, share of bogus that passes and purity per S/N bin and, first, over all.

    The purity of a bin takes the stream's overall share of real sources; null where a bin lacks a class.
    """
    edges = [(0.0, np.inf), *pairwise(_SNR_EDGES)]
    return [
        _figures(accepted, injected, (snr >= low) & (snr < high), (low, high), real_fraction) for low, high in edges
    ]


def _figures(
    accepted: _Bool, injected: _Bool, inside: _Bool, limits: tuple[float, float], real_fraction: float
) -> dict[str, Any]:
    real, bogus = inside & injected, inside & ~injected
    complete = float(accepted[real].mean()) if real.any() else None
    false = float(accepted[bogus].mean()) if bogus.any() else None
    purity = None
    if complete is not None and false is not None:
        passed = real_fraction * complete + (1.0 - real_fraction) * false
        purity = real_fraction * complete / passed if passed > 0.0 else None
    return {
        "snrFrom": limits[0],
        "snrTo": limits[1] if np.isfinite(limits[1]) else None,
        "nReal": int(real.sum()),
        "nBogus": int(bogus.sum()),
        "completeness": complete,
        "falsePositiveRate": false,
        "purity": purity,
    }
