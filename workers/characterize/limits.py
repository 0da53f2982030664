"""Which exposures are too bad to go on, and what their outcome is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workers.survey.characterize_config import LimitsConfig

__all__ = ["OUTCOMES", "Fault", "find_fault"]


@dataclass(frozen=True)
class Fault:
    """Why an exposure stops here."""

    outcome: str
    """One of `OUTCOMES`."""
    text: str


@dataclass(frozen=True)
class _Bound:
    outcome: str
    metric: str
    limit: str
    """Key in ``[characterize.limits]``; above it where it begins with ``max``, else below it."""
    what: str


_BOUNDS = (
    _Bound("few_stars", "nPsfStars", "min_psf_stars", "PSF stars"),
    _Bound("bad_seeing", "seeingArcsec", "max_seeing_arcsec", "seeing, arcsec"),
    _Bound("bad_shape", "psfEllipticity", "max_ellipticity", "ellipticity of the PSF"),
    _Bound("bad_astrometry", "astrometricRms", "max_astrometric_rms_arcsec", "astrometric rms, arcsec"),
    _Bound("bright_sky", "skyMagnitude", "min_sky_magnitude", "sky, AB mag per square arcsec"),
    _Bound("cloudy", "transparency", "min_transparency", "transparency"),
    _Bound("bad_photometry", "zeroPointScatter", "max_zero_point_scatter", "scatter of the zero point, relative"),
    _Bound("shallow", "limitingMagnitude", "min_limiting_magnitude", "5-sigma limit, AB mag"),
)
OUTCOMES = tuple(bound.outcome for bound in _BOUNDS)
"""In the order in which they are looked for."""


def find_fault(metrics: Mapping[str, float], limits: LimitsConfig) -> Fault | None:
    """Return the first limit that an exposure's metrics don't keep, None where all are kept.

    A metric that is absent or NaN is not judged: transparency is not known without a nominal zero point.
    """
    for bound in _BOUNDS:
        limit, value = getattr(limits, bound.limit), metrics.get(bound.metric)
        if limit is None or value is None:
            continue
        above = bound.limit.startswith("max")
        if value > limit if above else value < limit:
            side = "above" if above else "below"
            text = f"{bound.what}: {value:.4g} is {side} {bound.limit} = {limit:g} of [characterize.limits]"
            return Fault(bound.outcome, text)
    return None
