"""The fringe step: amplitudes with honest errors, sky left alone, nothing where there is nothing to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibrations import CalibrationSet, make_calibration
from workers.imaging.fringe_fit import FringeFit, fit_fringes
from workers.imaging.masks import MaskPlane
from workers.isr import fringe
from workers.isr.fringe import subtract_fringes
from workers.isr.state import IsrState
from workers.simulate.cadence import plan_visits
from workers.simulate.exposure import expected_light
from workers.simulate.fringe import fringe_light, fringe_pattern, line_strength
from workers.simulate.optics import sky_electrons
from workers.simulate.scene import make_scene
from workers.simulate.settings import TINY, DetectorSettings, SkySettings
from workers.survey.isr_config import FringeConfig, IsrConfig

SIZE = 320
SURVEY = replace(
    TINY,
    bands=("z",),
    sky=SkySettings(stars=12.0, galaxies=6.0),
    detectors=DetectorSettings(width=SIZE, height=SIZE, count=1, fringe=0.03),
)


def pattern() -> NDArray[np.float32]:
    return fringe_pattern(SURVEY, 0).astype(np.float32)


def free(shape: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.bool_]:
    return np.zeros(shape, bool)


@pytest.mark.parametrize("amplitude", [0.0, 40.0])
def test_pulls_on_bare_sky_with_a_gradient(amplitude: float) -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    sky = (450.0 + 0.1 * x - 0.05 * y).astype(np.float32)
    pulls = []
    for seed in range(100):
        noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE), np.float32) * np.float32(22.0)
        fit = fit_fringes(sky + noise + np.float32(amplitude) * pattern(), free(), [pattern()])
        pulls.append((fit.amplitude[0] - amplitude) / np.sqrt(fit.covariance[0, 0]))
    assert abs(np.mean(pulls)) < 4.0 / np.sqrt(100)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    optimal = 22.0 / np.sqrt(np.sum(pattern().astype(float) ** 2))
    assert np.sqrt(fit.covariance[0, 0]) < 1.5 * optimal  # little is lost by the high-pass and the bins
    assert fit.scatter == pytest.approx(22.0 / 4.0, rel=0.05)


def test_pulls_without_fringes_among_stars_and_galaxies() -> None:
    pulls = []
    for seed in range(40):
        survey = replace(SURVEY, seed=seed, detectors=replace(SURVEY.detectors, fringe=0.0))
        visit = next(visit for visit in plan_visits(survey) if visit.kind == "science")
        rng = np.random.default_rng(seed)
        light = expected_light(survey, visit, 0, make_scene(survey, visit, 0))
        fit = fit_fringes((rng.poisson(light) + rng.normal(0, 6, light.shape)).astype(np.float32), free(), [pattern()])
        pulls.append(fit.amplitude[0] / np.sqrt(fit.covariance[0, 0]))
    assert abs(np.mean(pulls)) < 4.0 / np.sqrt(40)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.35)


def test_amplitudes_among_stars_and_galaxies_are_right() -> None:
    pulls = []
    for visit in [visit for visit in plan_visits(SURVEY) if visit.kind == "science"]:
        rng = np.random.default_rng(visit.number)
        light = expected_light(SURVEY, visit, 0, make_scene(SURVEY, visit, 0))
        fit = fit_fringes((rng.poisson(light) + rng.normal(0, 6, light.shape)).astype(np.float32), free(), [pattern()])
        truth = 0.03 * sky_electrons(SURVEY, visit) * line_strength(SURVEY, visit)
        assert fit.amplitude[0] == pytest.approx(truth, rel=0.05)
        pulls.append((fit.amplitude[0] - truth) / np.sqrt(fit.covariance[0, 0]))
    assert np.sqrt(np.mean(np.square(pulls))) < 2.0


def test_two_patterns_are_told_apart() -> None:
    other = np.ascontiguousarray(pattern().T[::-1])
    pulls = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(400.0, 20.0, (SIZE, SIZE))
        fit = fit_fringes(noise + 15.0 * pattern() - 9.0 * other, free(), [pattern(), other])
        error = fit.amplitude - [15.0, -9.0]
        pulls.append(error @ np.linalg.inv(fit.covariance) @ error)
    assert np.mean(pulls) == pytest.approx(2.0, abs=1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-50.0, 50.0), st.floats(0.1, 1e4), st.floats(-1e3, 1e3))
def test_the_fit_is_linear_and_blind_to_the_sky_level(seed: int, extra: float, factor: float, level: float) -> None:
    rng = np.random.default_rng(seed)
    model = np.sin(np.mgrid[:96, :130][1] / 5.0)
    image = rng.normal(0.0, 3.0, model.shape)
    one = fit_fringes(image, free((96, 130)), [model]).amplitude[0]
    two = fit_fringes(image + extra * model, free((96, 130)), [model]).amplitude[0]
    assert two == pytest.approx(one + extra, abs=0.05)
    three = fit_fringes(factor * (image + level), free((96, 130)), [model]).amplitude[0]
    assert three == pytest.approx(factor * one, abs=2e-3 * factor * max(1.0, abs(level) / 100.0))


def test_blocked_pixels_don_t_matter_and_too_few_are_refused() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(400.0, 20.0, (SIZE, SIZE)) + 20.0 * pattern()
    blocked = free()
    blocked[100:150, 30:250] = True
    blocked[rng.random(blocked.shape) < 0.05] = True
    spoiled = np.where(blocked, np.nan, image)
    fit = fit_fringes(spoiled, blocked, [pattern()])
    assert fit.amplitude[0] == pytest.approx(20.0, abs=4.0 * np.sqrt(fit.covariance[0, 0]))
    np.testing.assert_array_equal(
        fit_fringes(np.where(blocked, 1e9, image), blocked, [pattern()]).amplitude, fit.amplitude
    )
    with pytest.raises(DataError, match="bare sky"):
        fit_fringes(image, ~free(), [pattern()])


def test_the_variance_takes_what_is_not_known() -> None:
    rng = np.random.default_rng(5)
    shape = (40, 50)
    first, second = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    noise = rng.uniform(0, 1e-3, shape).astype(np.float32)
    covariance = np.array([[0.5, -0.1], [-0.1, 0.3]])
    image, variance = np.full(shape, 10.0, np.float32), np.full(shape, 4.0, np.float32)
    subtract_fringes(image, variance, [first, second], FringeFit(np.array([3.0, -2.0]), covariance, 1.0), noise)
    np.testing.assert_allclose(image, 10.0 - 3.0 * first + 2.0 * second, rtol=1e-5, atol=1e-5)
    expected = 4.0 + 9.0 * noise + 0.5 * first**2 + 0.3 * second**2 - 0.2 * first * second
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def bench(instrument: Any, options: FringeConfig, amplitude: float, with_master: bool = True) -> IsrState:
    """The bench of a small camera; the master's first column is BAD."""
    shape = (96, 128)
    y, x = np.mgrid[: shape[0], : shape[1]]
    model = (0.02 * np.sin((x + 0.5 * y) / 4.0)).astype(np.float32)
    mask = np.zeros(shape, np.int32)
    mask[:, 0] = int(MaskPlane.BAD)
    raw = instrument.raw(np.full(shape, 300.0))
    detector = instrument.camera.detectors[0]
    master = make_calibration(
        "fringe",
        instrument="cam",
        detector=0,
        band="r",
        layout=detector.layout,
        image=model,
        variance=np.full(shape, 1e-8),
        mask=mask,
    )
    image = np.random.default_rng(1).normal(900.0, 30.0, shape) + amplitude * model
    return IsrState(
        raw,
        instrument.camera,
        detector,
        CalibrationSet({"fringe": master} if with_master else {}),
        IsrConfig(fringe=options),
        image.astype(np.float32),
        np.zeros(shape, np.int32),
        np.full(shape, 900.0, np.float32),
        unit="electron",
    )


def test_the_step_takes_the_fringes_off_and_says_how_much(instrument: Any) -> None:
    state = bench(instrument, FringeConfig(bands=("r",), bin=2, reach=60), 2500.0)
    before, image = state.image.copy(), state.image
    fringe.apply(state)
    amplitude, error = state.metrics["fringeAmplitude"], state.metrics["fringeAmplitudeErr"]
    assert amplitude == pytest.approx(2500.0, abs=4 * error)
    assert 5.0 < error < 80.0
    assert state.metrics["fringeResidual"] == pytest.approx(1.0, abs=0.1)
    assert (state.mask[:, 0] == int(MaskPlane.BAD)).all()
    assert state.image is image
    model = state.calibrations.by_kind["fringe"].image
    np.testing.assert_allclose(before - state.image, amplitude * model, atol=1e-3)
    np.testing.assert_allclose(state.variance, 900.0 + amplitude**2 * 1e-8 + error**2 * model**2, rtol=1e-5)


def test_in_other_bands_nothing_happens(instrument: Any) -> None:
    for options in (FringeConfig(), FringeConfig(bands=("z", "y"))):
        state = bench(instrument, options, 2500.0, with_master=False)
        before = state.image.copy()
        fringe.apply(state)
        np.testing.assert_array_equal(state.image, before)
        assert state.metrics == {}


def test_a_missing_master_or_counts_in_adu_are_errors(instrument: Any) -> None:
    state = bench(instrument, FringeConfig(bands=("r",)), 0.0, with_master=False)
    with pytest.raises(ConfigurationError, match="needs a fringe"):
        fringe.apply(state)
    state.unit = "adu"
    with pytest.raises(ConfigurationError, match="after 'gain'"):
        fringe.apply(state)


def test_the_simulated_fringes_are_part_of_the_sky() -> None:
    visit = next(visit for visit in plan_visits(SURVEY) if visit.kind == "science")
    scene = make_scene(SURVEY, visit, 0)
    plain = replace(SURVEY, detectors=replace(SURVEY.detectors, fringe=0.0))
    extra = expected_light(SURVEY, visit, 0, scene) - expected_light(plain, visit, 0, scene)
    np.testing.assert_allclose(extra, fringe_light(SURVEY, visit, 0), atol=1e-6)
    assert abs(extra.mean()) < 1e-6 * sky_electrons(SURVEY, visit)
    assert np.abs(pattern()).max() == pytest.approx(1.0, abs=0.3)
    flat = next(visit for visit in plan_visits(SURVEY) if visit.role == "flat")
    assert np.ptp(expected_light(SURVEY, flat, 0, None)) == 0.0
