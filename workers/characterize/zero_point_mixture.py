"""A level that outliers don't move: the posterior of a mixture of good stars and of outliers on either side.

A good star scatters about the level by its own error and by one scatter that all share. An outlier lies to either side
of it, with an exponential law of three lengths: blends and variables reach down to the level, where no clipping tells
them from good stars, and pull every clipped mean. How many outliers there are, on which side and how far, comes from
the stars. The posterior of the level is worked out on a grid, over scatter and share of outliers (Hogg, Bovy & Lang
2010, arXiv:1008.4686, section 3), so that its error holds for five stars as for thousands. Where the stars could mean
several levels, the error spans them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["RobustLevel", "robust_level"]

_Float = NDArray[np.float64]

LENGTHS = (0.06, 0.25, 1.0)
"""Relative, of the outliers' exponential laws."""
SIDES = np.array([0.08, 0.07, 0.33, 0.13, 0.27, 0.12])
"""Prior share of each law, above and below the level by turns: blends are brighter, and most outliers are blends."""
SIDES_STARS = 5.0
"""Outliers that this prior counts as."""
SHARES = np.array([0.01, 0.06, 0.15, 0.25, 0.4])
SHARE_PRIOR = np.log([0.3, 0.25, 0.2, 0.15, 0.1])
"""Of outliers among the stars, tried while the stars are too few to tell."""
MANY = 100
"""Stars from which on the share of outliers is what the stars say."""
TYPICAL_SCATTER, SCATTER_RANGE = 0.005, 0.8
"""Relative: what flat field and PSF leave, a log-normal prior of this median and width in e-folds."""
SCATTERS = np.log(np.geomspace(8e-4, 0.06, 7))
MAX_STARS = 1500
"""The others, those of the largest errors, add nothing to the level."""
SEARCHED, CANDIDATES = 200, 40
"""Stars and places in the search for levels."""
REACH = 5.0
"""Half of the final grid, in sigma of the level."""
LEVELS, PACES = 13, 5
"""Nodes of the grid in level and in scatter."""
RIVAL = 0.02
"""Evidence of another level, relative to the best one's, from which on the level is ambiguous."""


@dataclass(frozen=True)
class RobustLevel:
    """What the good stars agree on."""

    value: float
    error: float
    scatter: float
    """Of the good stars beyond their errors; the prior's where the stars are too few to tell."""
    outliers: float
    """Their share."""
    membership: _Float
    """Per star the probability that it is a good one, (n,)."""
    ambiguous: bool
    """Stars that agree on another level are almost as likely the good ones."""


@dataclass(frozen=True)
class _Peak:
    """One level with its neighbourhood integrated."""

    value: float
    error: float
    scatter: float
    share: float
    evidence: float
    """Natural logarithm."""


def robust_level(value: _Float, error: _Float) -> RobustLevel:
    """Return the level of `value` with its error; `error` of each, float64 (n,), n >= 1, both relative to about one.

    Values may lie anywhere; the level is found wherever most of the stars that agree lie.
    """
    rows = np.argsort(error, kind="stable")[:MAX_STARS]
    v, e = value[rows], error[rows]
    peaks = _peaks(v, e)
    sides, share = SIDES, None
    best = peaks[0]
    for _ in range(2):
        sides, found = _outlier_laws(v, e, best, sides)
        share = found if len(v) >= MANY else None
        scatters = np.log(best.scatter) + np.linspace(-1.0, 1.0, PACES)
        best = _integrated(v, e, best.value, max(6.0 * best.error, 1e-6), sides, share, scatters)
    good, bad = _densities(value - best.value, np.square(error) + best.scatter**2, sides)
    good = (1.0 - best.share) * good
    rivals = [(np.exp(min(peak.evidence - peaks[0].evidence, 0.0)), peak) for peak in peaks[1:]]
    total = 1.0 + sum(weight for weight, _ in rivals)
    spread = sum(weight * ((peak.value - best.value) ** 2 + peak.error**2) for weight, peak in rivals)
    return RobustLevel(
        best.value,
        float(np.sqrt((best.error**2 + spread) / total)),
        best.scatter,
        best.share,
        np.asarray(good / (good + best.share * bad + 1e-300)),
        bool(total > 1.0 + RIVAL),
    )


def _densities(deviation: _Float, variance: _Float, sides: _Float) -> tuple[_Float, _Float]:
    """Return the probability densities of a good star and of an outlier, of the shapes broadcast together.

    An outlier's law is exp(-|x| / t) / t times the chance that the star's noise leaves it on its side: of unit
    integral for any noise, and t is never less than the noise.
    """
    laws = _laws(deviation, variance)
    sigma = np.sqrt(variance)
    good = np.exp(-0.5 * np.square(deviation / sigma)) / (np.sqrt(2.0 * np.pi) * sigma)
    return good, np.asarray(sum(weight * law for weight, law in zip(sides, laws, strict=True)))


def _laws(deviation: _Float, variance: _Float) -> list[_Float]:
    """Return the density of each law of outliers, above and below by turns."""
    above, size = ndtr(deviation / np.sqrt(variance)), np.abs(deviation)
    found = []
    for length in LENGTHS:
        reach = np.sqrt(length**2 + variance)
        law = np.exp(-size / reach) / reach
        found += [law * above, law * (1.0 - above)]
    return found


def _posterior(
    value: _Float, error: _Float, levels: _Float, scatters: _Float, sides: _Float, share: float | None
) -> tuple[_Float, _Float]:
    """Return the log posterior, (levels, log scatters, shares), and the shares."""
    variance = np.square(error)[:, None, None] + np.exp(2.0 * scatters)
    good, bad = _densities(value[:, None, None] - levels[:, None], variance, sides)
    prior = -0.5 * np.square((scatters - np.log(TYPICAL_SCATTER)) / SCATTER_RANGE)
    shares = SHARES if share is None else np.array([share])
    weight = SHARE_PRIOR if share is None else np.zeros(1)
    log = [
        np.log((1.0 - f) * good + f * bad + 1e-300).sum(axis=0) + prior + w for f, w in zip(shares, weight, strict=True)
    ]
    return np.stack(log, axis=-1), shares


def _peaks(value: _Float, error: _Float) -> list[_Peak]:
    """Return the levels that the stars could mean, the likeliest first; most often one."""
    v, e = value[:SEARCHED], error[:SEARCHED]
    places = np.sort(v)[np.unique(np.linspace(0, len(v) - 1, CANDIDATES).astype(int))]
    log = _posterior(v, e, places, SCATTERS, SIDES, None)[0]
    height = np.logaddexp.reduce(log.reshape(len(places), -1), axis=1)
    padded = np.concatenate([[-np.inf], height, [-np.inf]])
    tops = np.flatnonzero((height >= padded[:-2]) & (height >= padded[2:]))
    found: list[_Peak] = []
    for place in tops[np.argsort(-height[tops])]:
        if height[place] < height.max() - 12.0 or len(found) == 3:
            break
        peak = _integrated(v, e, float(places[place]), max(0.02, 3.0 * float(e[0])), SIDES, None)
        if all(abs(peak.value - other.value) > 3.0 * (peak.error + other.error) for other in found):
            found.append(peak)
    return sorted(found, key=lambda peak: -peak.evidence)


def _integrated(
    value: _Float,
    error: _Float,
    level: float,
    half: float,
    sides: _Float,
    share: float | None,
    scatters: _Float = SCATTERS,
) -> _Peak:
    """Integrate the posterior round `level`, on a grid that closes in on it from `half` and, in log, `scatters`."""
    sigma, scatter, shares = half, TYPICAL_SCATTER, SHARES
    weight, evidence = np.ones((1, 1, len(shares))), 0.0
    for _ in range(10):
        levels = level + np.linspace(-half, half, LEVELS)
        log, shares = _posterior(value, error, levels, scatters, sides, share)
        step, pace, top = levels[1] - levels[0], scatters[1] - scatters[0], float(log.max())
        weight = np.exp(log - top)
        evidence = top + float(np.log(weight.sum() * step * pace))
        weight /= weight.sum()
        level, sigma = _moments(levels, weight.sum(axis=(1, 2)))
        middle, width = _moments(scatters, weight.sum(axis=(0, 2)))
        scatter = float(np.exp(middle))
        if (REACH - 1.0) * sigma <= half <= (REACH + 2.0) * sigma:
            break
        half = float(np.clip(max(REACH * sigma, 1.2 * step), 0.1 * half, 2.0 * half))
        width = max(2.5 * width, 0.6 * pace)
        low = float(np.clip(middle - width, SCATTERS[0] - 1.0, SCATTERS[-1] + 1.5))
        scatters = np.linspace(low, float(np.clip(middle + width, low + 0.1, SCATTERS[-1] + 2.0)), PACES)
    return _Peak(level, sigma, scatter, float((weight.sum(axis=(0, 1)) * shares).sum()), evidence)


def _moments(at: _Float, weight: _Float) -> tuple[float, float]:
    """Return mean and standard deviation of `at` under weights of unit sum."""
    mean = float((weight * at).sum())
    return mean, float(np.sqrt((weight * np.square(at - mean)).sum()))


def _outlier_laws(value: _Float, error: _Float, peak: _Peak, sides: _Float) -> tuple[_Float, float]:
    """Return the share of each law among the outliers and that of outliers among the stars, by the EM algorithm."""
    deviation, variance = value - peak.value, np.square(error) + peak.scatter**2
    laws = np.stack(_laws(deviation, variance))
    good = _densities(deviation, variance, sides)[0]
    share = peak.share
    for _ in range(50):
        each = share * sides[:, None] * laws
        each /= (1.0 - share) * good + each.sum(axis=0) + 1e-300
        counts = each.sum(axis=1)
        sides = (counts + SIDES_STARS * SIDES) / (counts.sum() + SIDES_STARS)
        share = float((counts.sum() + 0.2) / (len(value) + 2.0))
    return sides, share
