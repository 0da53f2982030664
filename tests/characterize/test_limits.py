"""Limits name what was wrong with an exposure; without limits nothing stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.characterize.limits import OUTCOMES, find_fault
from workers.survey.characterize_config import LimitsConfig

GOOD = {
    "nPsfStars": 80.0,
    "seeingArcsec": 1.2,
    "psfEllipticity": 0.05,
    "astrometricRms": 0.02,
    "skyMagnitude": 21.0,
    "transparency": 0.97,
    "zeroPointScatter": 0.01,
    "limitingMagnitude": 21.5,
}
LIMITS = LimitsConfig(
    min_psf_stars=20,
    max_seeing_arcsec=2.5,
    max_ellipticity=0.2,
    max_astrometric_rms_arcsec=0.1,
    min_sky_magnitude=18.0,
    min_transparency=0.5,
    max_zero_point_scatter=0.05,
    min_limiting_magnitude=20.0,
)
BAD = {
    "few_stars": ("nPsfStars", 19.0),
    "bad_seeing": ("seeingArcsec", 2.6),
    "bad_shape": ("psfEllipticity", 0.3),
    "bad_astrometry": ("astrometricRms", 0.2),
    "bright_sky": ("skyMagnitude", 17.0),
    "cloudy": ("transparency", 0.3),
    "bad_photometry": ("zeroPointScatter", 0.2),
    "shallow": ("limitingMagnitude", 19.0),
}


def test_every_limit_has_an_outcome_of_its_own() -> None:
    assert tuple(BAD) == OUTCOMES
    assert len(LimitsConfig.model_fields) == len(OUTCOMES)


@pytest.mark.parametrize("outcome", BAD)
def test_what_is_beyond_a_limit_is_named_with_both_numbers(outcome: str) -> None:
    name, value = BAD[outcome]
    assert find_fault(GOOD, LIMITS) is None
    fault = find_fault({**GOOD, name: value}, LIMITS)
    assert fault is not None
    assert fault.outcome == outcome
    assert f"{value:.4g} is" in fault.text
    assert "[characterize.limits]" in fault.text


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.floats()))
def test_without_limits_nothing_stops_and_what_is_not_known_is_not_judged(metrics: dict[str, float]) -> None:
    assert find_fault(metrics, LimitsConfig()) is None
    unknown = {name: float("nan") for name in metrics}
    assert find_fault(unknown, LIMITS) is None
