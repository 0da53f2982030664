"""Linearisation: the curve undoes the detector's response, keeps noise honest, and says where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from tests.calibrate.simulated_frames import Bench
from workers.imaging.masks import MaskPlane
from workers.isr import gain, linearity, overscan
from workers.isr.linearity import curve_of, linearise
from workers.simulate.electronics import nonlinear_response, response_shapes

FULL = 56000.0
SHAPE = np.array([0.02, 0.01, 0.005])


def knots_of(shape: np.ndarray, top: float = 0.97 * FULL, count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Knots (measured) and corrections of the true inverse."""
    signal = np.linspace(0, 1.1 * top, 40001)
    measured = nonlinear_response(signal, shape, FULL)
    knots = top * (np.arange(count) / (count - 1)) ** 2
    return knots, np.interp(knots, measured, signal) - knots


def linearised(measured: np.ndarray, curve: linearity.Curve) -> tuple[np.ndarray, np.ndarray]:
    image, variance = measured.astype(np.float32), np.ones(measured.shape, np.float32)
    linearise(image, variance, curve, (slice(0, image.shape[0]), slice(0, image.shape[1])))
    return image.astype(float), variance.astype(float)


def test_the_response_is_undone_to_a_ten_thousandth():
    knots, correction = knots_of(SHAPE)
    signal = np.geomspace(20, 0.95 * FULL, 4000).reshape(40, 100)
    measured = nonlinear_response(signal, SHAPE, FULL)
    assert np.max(np.abs(measured / signal - 1)) > 0.02
    image, _ = linearised(measured, curve_of(knots, correction, 0 * knots))
    assert np.max(np.abs(image / signal - 1)) < 1e-4


@settings(max_examples=50, deadline=None)
@example(rises=[1.0, 0.5, 1.5, 0.5], top=10793.0)
@given(rises=st.lists(st.floats(0.5, 1.5), min_size=4, max_size=20), top=st.floats(5000, 65000))
def test_linearised_counts_rise_with_the_measured_ones_and_keep_their_knots(rises, top):
    knots = top * (np.arange(len(rises) + 1) / len(rises)) ** 2
    linear = np.append(0.0, np.cumsum(np.diff(knots) * rises))
    curve = curve_of(knots, linear - knots, 0 * knots)
    measured = np.linspace(-30, 1.1 * top, 3000)[None, :]
    image, variance = linearised(measured, curve)
    assert np.all(np.diff(image[0]) >= 0)  # where a curve ends flat, single precision holds no rise
    assert np.all(np.diff(image[0, measured[0] > top + 20]) > 0)
    # straight lines between the table's entries: off by what eight ADU bend
    np.testing.assert_allclose(linearised(knots[None, :], curve)[0][0], linear, rtol=2e-3, atol=4.0)
    slope = np.gradient(image[0], measured[0])
    assert np.median(np.abs(np.sqrt(variance[0]) - slope)) < 0.02


def test_noise_about_zero_keeps_its_mean_and_its_variance_is_that_of_the_result():
    shape = np.array([0.15, 0.0, 0.0])
    knots, correction = knots_of(shape, 0.8 * FULL)
    curve = curve_of(knots, correction, 0 * knots)
    rng = np.random.default_rng(1)
    for level, exact in ((0.0, 0.05), (20000.0, 0.5)):
        clean = nonlinear_response(np.full((1, 1), level), shape, FULL)
        image, variance = linearised(clean + rng.normal(0, 5, (400, 500)), curve)
        assert image.mean() == pytest.approx(level, abs=exact)
        assert image.std() == pytest.approx(5 * np.sqrt(variance.mean()), rel=0.01)


def test_the_error_of_the_curve_is_in_the_variance():
    knots, correction = knots_of(SHAPE)
    error = 0.001 * knots
    curve = curve_of(knots, correction, error)
    _, without = linearised(np.full((2, 2), 30000.0), curve_of(knots, correction, 0 * knots))
    _, variance = linearised(np.full((2, 2), 30000.0), curve)
    np.testing.assert_allclose(variance - without, 30.0**2, rtol=0.01)


def test_the_step_takes_each_amplifiers_curve_and_flags_what_lies_above():
    bench = Bench(nonlinearity=0.04, read_noise=0.01, bias_drift=0.0)
    y, x = np.mgrid[:320, :320]
    electrons = 1000.0 + 240.0 * x + 20.0 * (y % 32)
    shapes = response_shapes(bench.config, 0)
    tables = {"knots": [], "correction": []}
    for amplifier, shape in zip(bench.detector.amplifiers, shapes, strict=True):
        full = bench.full_well / amplifier.gain
        signal = np.linspace(0, full, 20001)
        measured = nonlinear_response(signal, shape, full)
        knots = 0.8 * full * (np.arange(16) / 15.0) ** 2
        tables["knots"].append(knots)
        tables["correction"].append(np.interp(knots, measured, signal) - knots)
    tables = {name: np.array(rows) for name, rows in tables.items()}
    tables["error"] = 0 * tables["knots"]
    master = bench.calibration("linearity", tables=tables)
    state = bench.state(bench.raw(electrons, 1), master, steps=(overscan.apply, linearity.apply, gain.apply))
    known = (state.mask & int(MaskPlane.SUSPECT)) == 0
    truth = electrons + bench.pattern.bias * gain_map(bench)
    np.testing.assert_allclose(state.image[known], truth[known], rtol=2e-4, atol=2.0)
    above = electrons > 0.85 * bench.full_well
    assert not known[above].any()
    assert known[electrons < 0.79 * bench.full_well].all()
    assert state.metrics["aboveLinearityFraction"] == pytest.approx(1 - known.mean())


def gain_map(bench: Bench) -> np.ndarray:
    gains = np.ones((320, 320))
    state = bench.state(bench.raw(gains, 1), steps=())
    for amplifier in bench.detector.amplifiers:
        state.part(amplifier, gains)[:] = amplifier.gain
    return gains


@pytest.mark.parametrize(
    ("knots", "correction"),
    [([0, 100, 200], [0, 0, -150]), ([10, 100, 200], [0, 0, 0]), ([0, 200, 100], [0, 0, 0])],
)
def test_a_damaged_curve_is_refused(knots, correction):
    with pytest.raises(ConfigurationError, match="skydelta calibrate linearity"):
        curve_of(np.array(knots, float), np.array(correction, float), np.zeros(3))


def test_after_the_gain_it_is_too_late():
    bench = Bench()
    with pytest.raises(ConfigurationError, match="'linearity' works in adu"):
        bench.state(bench.raw(np.full((320, 320), 500.0), 1), steps=(gain.apply, linearity.apply))
