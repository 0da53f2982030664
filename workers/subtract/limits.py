"""Circuit breakers: a subtraction beyond these limits ends as a named outcome, not as ten thousand alerts."""

from __future__ import annotations

from collections.abc import Mapping

from workers.limits import Bound, Fault
from workers.limits import find_fault as _find
from workers.survey.config import SubtractLimitsConfig

__all__ = ["OUTCOMES", "find_fault"]

_BOUNDS = (
    Bound("noisy_difference", "scoreNoise", "max_score_noise", "scatter of the score on empty sky"),
    Bound("star_residuals", "starResidual", "max_star_residual", "what is left of stars, relative"),
    Bound("pedestal", "skyPedestal", "max_sky_pedestal", "mean score of sky sources, sigma"),
    Bound("too_many_sources", "sourceExcess", "max_source_density", "sources beyond the first 100, per million pixels"),
)
OUTCOMES = tuple(bound.outcome for bound in _BOUNDS)
"""In the order in which they are looked for."""


def find_fault(metrics: Mapping[str, float], limits: SubtractLimitsConfig) -> Fault | None:
    """Return the first limit that a subtraction's metrics don't keep, None where all are kept."""
    return _find(metrics, limits, _BOUNDS, "subtract.limits")
