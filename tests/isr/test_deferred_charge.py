"""Deferred charge: recursions against a readout that is simulated clock by clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from tests.calibrate.simulated_frames import Bench
from workers.isr import bias, deferred_charge, gain, overscan
from workers.isr.deferred_charge import late_shares, prescan_of, refill_trap, remove_offset, restore
from workers.simulate.camera import make_camera
from workers.simulate.charge_transfer import remembered_offset, transferred, trapped


def spiky(seed: int, shape: tuple[int, int] = (6, 120)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.2, rng.uniform(0, 80000, shape), rng.normal(20, 10, shape))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    fraction=st.floats(1e-7, 3e-4),
    prescan=st.integers(0, 60),
    length=st.integers(2, 150),
)
def test_losses_of_transfers_are_undone(seed, fraction, prescan, length):
    charge = np.abs(spiky(seed, (4, length)))
    out = transferred(charge, fraction, prescan, 30)
    np.testing.assert_allclose(out.sum(axis=1), charge.sum(axis=1), rtol=1e-9)
    lines = out[:, prescan : prescan + length].T.astype(np.float32)
    restore(lines, fraction, prescan)
    np.testing.assert_allclose(lines.T, charge, atol=0.03)


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(1e-7, 1e-3), transfers=st.integers(1, 600))
def test_no_charge_is_lost(fraction, transfers):
    shares = late_shares(fraction, np.array([transfers]))
    assert np.all(shares >= 0)
    assert shares.sum() == pytest.approx(1.0, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    capacity=st.floats(1, 500),
    filling=st.floats(2.0, 100.0),
    decay=st.floats(0.3, 20.0),
)
def test_a_trap_is_refilled(seed, capacity, filling, decay):
    charge = spiky(seed)
    half = capacity * filling
    lines = trapped(charge, capacity, half, decay).T.astype(np.float32)
    refill_trap(lines, capacity, half, decay)
    np.testing.assert_allclose(lines.T, charge, atol=0.05 + 1e-6 * half)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), amplitude=st.floats(1e-6, 1e-2), decay=st.floats(0.5, 50.0))
def test_the_amplifiers_memory_is_taken_off(seed, amplitude, decay):
    charge = spiky(seed)
    lines = remembered_offset(charge, amplitude, decay).T.astype(np.float32)
    remove_offset(lines, amplitude, decay)
    np.testing.assert_allclose(lines.T, charge, atol=0.05)


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        ({"amplifiers": (4, 2)}, (0, 8)),
        ({"amplifiers": (2, 2), "hdu_per_amplifier": True, "parallel_overscan": 6}, (0, 8)),
        ({"amplifiers": (1, 2), "prescan": 20, "parallel_overscan": 6}, (0, 20)),
        ({"amplifiers": (2, 1), "prescan": 0}, (0, 0)),
    ],
)
def test_pixels_before_the_data_are_counted(design, expected):
    detector = make_camera(Bench(**design).config).detector(0)
    assert {prescan_of(amplifier, detector) for amplifier in detector.amplifiers} == {expected}


def cti_of(bench: Bench, **changes: np.ndarray):
    design, count = bench.config.detectors, len(bench.detector.amplifiers)
    tables = {
        "serial": np.full(count, design.serial_cti),
        "parallel": np.full(count, design.parallel_cti),
        "serialError": np.zeros(count),
        "parallelError": np.zeros(count),
        "offset": np.tile([0.0, 1.0], (count, 1)),
        "serialTrap": np.tile([0.0, 1.0, 1.0], (count, 1)),
        "parallelTrap": np.tile([0.0, 1.0, 1.0], (count, 1)),
    }
    return bench.calibration("cti", tables=tables | changes)


STEPS = (overscan.apply, bias.apply, gain.apply, deferred_charge.apply)


def test_raw_frames_get_their_charge_back_whatever_the_flips():
    bench = Bench(serial_cti=3e-5, parallel_cti=2e-5, parallel_overscan=12, overscan=40, read_noise=0.3, bias_drift=0.0)
    image = np.full((320, 320), 300.0)
    image[100:110, 40:50] = image[100:110, 270:280] = image[200:210, 60:70] = image[260:270, 200:210] = 70000.0
    raw = bench.raw(image, 1)
    before = bench.state(raw, bench.bias(), steps=STEPS[:3]).image
    after = bench.state(raw, bench.bias(), cti_of(bench), steps=STEPS).image
    assert np.abs(before - image).max() > 150
    # whole counts, and a little charge in the overscan that is its level
    assert np.abs(after - image).max() < 3.0
    lost = [(part - image)[image > 1000].mean() for part in (before, after)]
    assert abs(lost[1]) < 0.01 * abs(lost[0])


def test_the_variance_tells_the_noise_of_the_result():
    fraction, prescan = 1.2e-4, 8
    lines = np.random.default_rng(4).normal(0, 5, (300, 20000)).astype(np.float32)
    restore(lines, fraction, prescan)
    gained = (1 - fraction) ** (-2.0 * (np.arange(300) + prescan + 1))
    pulls = (np.var(lines, axis=1) / 25 / gained - 1) / np.sqrt(2 / 20000)
    assert abs(pulls.mean()) < 4 / np.sqrt(300)
    assert pulls.std() == pytest.approx(1.0, abs=0.15)
    assert gained[-1] > 1.07
    bench = Bench(serial_cti=fraction, parallel_cti=1e-4, read_noise=8.0)
    raw = bench.raw(np.full((320, 320), 20.0), 1)
    state = bench.state(raw, bench.bias(), cti_of(bench), steps=STEPS)
    before = bench.state(raw, bench.bias(), steps=STEPS[:-1])
    for amplifier in bench.detector.amplifiers:
        noise2, rows = amplifier.read_noise**2, (1 - 1e-4) ** (-2.0 * (np.arange(160) + 1))
        expected = noise2 * (gained[:160] + rows[:, None] - 2)
        gain = state.part(amplifier, state.variance - before.variance)
        np.testing.assert_allclose(gain, expected, rtol=1e-3, atol=1e-3)


def test_the_error_of_the_fraction_is_in_the_variance():
    bench = Bench(serial_cti=1e-5, bias_drift=0.0, read_noise=1.0)
    image = np.full((320, 320), 100.0)
    image[50, 100] = 80000.0
    master = cti_of(bench, serialError=np.full(4, 1e-6))
    state = bench.state(bench.raw(image, 1), bench.bias(), master, steps=STEPS)
    expected = (1e-6 * (100 + 8 + 1) * (state.image[50, 100] - state.image[50, 99])) ** 2
    assert state.variance[50, 100] == pytest.approx(expected, rel=0.05)
    assert state.variance[50, 101] == pytest.approx(expected, rel=0.05)
    assert state.variance[50, 103] < 0.01 * expected


def test_before_the_gain_it_is_too_early():
    bench = Bench()
    with pytest.raises(ConfigurationError, match="'deferred_charge' works in electron"):
        bench.state(bench.raw(np.full((320, 320), 500.0), 1), steps=(deferred_charge.apply,))
