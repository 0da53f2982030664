"""Which exposures are too bad to go on, and what their outcome is called."""

from __future__ import annotations

from collections.abc import Mapping

from workers.limits import Bound, Fault
from workers.limits import find_fault as _find
from workers.survey.characterize_config import LimitsConfig

__all__ = ["OUTCOMES", "Fault", "find_fault"]

_BOUNDS = (
    Bound("few_stars", "nPsfStars", "min_psf_stars", "PSF stars"),
    Bound("bad_seeing", "seeingArcsec", "max_seeing_arcsec", "seeing, arcsec"),
    Bound("bad_shape", "psfEllipticity", "max_ellipticity", "ellipticity of the PSF"),
    Bound("bad_astrometry", "astrometricRms", "max_astrometric_rms_arcsec", "astrometric rms, arcsec"),
    Bound("bright_sky", "skyMagnitude", "min_sky_magnitude", "sky, AB mag per square arcsec"),
    Bound("cloudy", "transparency", "min_transparency", "transparency"),
    Bound("bad_photometry", "zeroPointScatter", "max_zero_point_scatter", "scatter of the zero point, relative"),
    Bound("shallow", "limitingMagnitude", "min_limiting_magnitude", "5-sigma limit, AB mag"),
)
OUTCOMES = tuple(bound.outcome for bound in _BOUNDS)
"""In the order in which they are looked for."""


def find_fault(metrics: Mapping[str, float], limits: LimitsConfig) -> Fault | None:
    """Return the first limit that an exposure's metrics don't keep, None where all are kept."""
    return _find(metrics, limits, _BOUNDS, "characterize.limits")
