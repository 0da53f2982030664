"""Whether a match of stars could be chance: the test that a wrong solution does not pass.

A match is accepted where all of these hold:

1. chance: unrelated stars would reach so many pairs, anywhere among all offsets and rotations tried, with a probability
   below `MAX_CHANCE`. Pairs by chance are Poisson; their mean is what the density of predicted stars within the radius
   gives, or what a ring around it holds, where the field is clustered. Three pairs are not counted: an affine map fits
   any three. Only pairs whose difference in magnitude agrees with the others' are counted;
2. magnitudes: most pairs agree in the difference measured - predicted, within `MAGNITUDES`;
3. bright stars: of the predicted stars on the image as bright as the brighter half of the matched ones, a share is
   found; a chance match finds few;
4. the map is nearly the identity: a shear or a scale beyond what a telescope does is none;
5. spread: the pairs reach over the image as the sources do, not a corner or a line of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evidence", "refusal", "weigh"]

_Float = NDArray[np.float64]

MAX_CHANCE = 1e-6
"""Expected number of chance matches per detector: one in a million refused detectors is taken for solved."""
MAGNITUDES = 1.0
"""Pairs further than this from the median difference are not counted."""
LEAST_AGREEING = 0.6
LEAST_FOUND = 0.25
MAX_SCALE, MAX_SHEAR = 0.01, 0.02
"""Of the map: change of scale; difference of the axes' scales and of their angles."""
LEAST_SPREAD = 0.25
"""Along the narrowest direction: rms of the pairs about their centre over that of all sources."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one match, from which `refusal` decides."""

    pairs: int
    agreeing: int
    """Pairs whose magnitudes agree."""
    chance: float
    """Natural logarithm of the expected number of chance matches as good, over all trials."""
    found: float
    """Share of the bright predicted stars that are matched."""
    scale: float
    shear: float
    spread: float


def weigh(
    matrix: _Float,
    measured: _Float,
    predicted: _Float,
    magnitudes: _Float,
    bright: tuple[int, int],
    counts: tuple[float, float],
    trials: float,
) -> Evidence:
    """Return the evidence for a match.

    `matrix` 2 x 2 of its map; `measured` (n, 2) pixels of the pairs and `predicted` (m, 2) of all sources, for the
    spread; `magnitudes` (n,), measured - predicted; `bright`: matched and all stars of point 3; `counts`: pairs that
    chance gives within the radius, by density and by the ring; `trials`: how many offsets and rotations were tried.
    """
    pairs = len(magnitudes)
    agreeing = int(np.count_nonzero(np.abs(magnitudes - np.median(magnitudes)) < MAGNITUDES)) if pairs else 0
    mean = max(*counts, 1e-6)
    counted = agreeing - 3
    log_tail = counted * math.log(mean / counted) + counted - mean if counted > mean else 0.0
    singular = np.linalg.svd(matrix, compute_uv=False)
    return Evidence(
        pairs,
        agreeing,
        min(log_tail, 0.0) + math.log(max(trials, 1.0)),
        bright[0] / bright[1] if bright[1] else 1.0,
        abs(math.sqrt(float(np.prod(singular))) - 1.0),
        float(singular[0] / singular[1] - 1.0),
        _spread(measured, predicted),
    )


def _spread(pairs: _Float, sources: _Float) -> float:
    """Return the least rms of the pairs along any direction over the rms of all sources along their narrowest."""
    if len(pairs) < 3:
        return 0.0
    least = np.linalg.eigvalsh(np.cov(pairs.T))[0]
    whole = np.linalg.eigvalsh(np.cov(sources.T))[0]
    return float(np.sqrt(max(least, 0.0) / max(whole, 1e-12)))


def refusal(evidence: Evidence) -> str | None:
    """Return why the match is refused, or None where it passes every test of this module."""
    if evidence.chance > math.log(MAX_CHANCE):
        return f"{evidence.agreeing} pairs, as chance would"
    if evidence.agreeing < LEAST_AGREEING * evidence.pairs:
        return f"only {evidence.agreeing} of {evidence.pairs} pairs agree in magnitude"
    if evidence.found < LEAST_FOUND:
        return f"only {evidence.found:.0%} of the bright stars predicted are there"
    if evidence.scale > MAX_SCALE or evidence.shear > MAX_SHEAR:
        return f"its map has a scale off by {evidence.scale:.2%} and a shear of {evidence.shear:.2%}"
    if evidence.spread < LEAST_SPREAD:
        return f"its {evidence.pairs} pairs lie along a line or in a corner"
    return None
