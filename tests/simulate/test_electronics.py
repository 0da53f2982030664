"""Simulated electronics and charge transfer: each does what its setting says, and nothing when it is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nbinom

from workers.simulate.camera import make_camera
from workers.simulate.charge_transfer import clocked_out, remembered_offset, transferred, trapped
from workers.simulate.detector import detector_pattern
from workers.simulate.electronics import cross_talked, crosstalk_matrix, nonlinear_response, response_shapes
from workers.simulate.readout import read_out
from workers.simulate.settings import TINY, DetectorSettings
from workers.survey.camera import parse_section


def survey(**detector: object):
    design = {"width": 96, "height": 64, "count": 1, "read_noise": 0.001, "bias_drift": 0.0} | detector
    return replace(TINY, detectors=DetectorSettings(**design))


def test_transfers_are_those_of_the_negative_binomial():
    """A packet needs n successes at 1 - f each: how many clocks it is late is negative binomial."""
    fraction, prescan, length = 2e-2, 3, 30
    lines = np.zeros((1, length))
    lines[0, 20] = 1e5
    out = transferred(lines, fraction, prescan, 12)
    expected = 1e5 * nbinom.pmf(np.arange(12), prescan + 21, 1 - fraction)
    np.testing.assert_allclose(out[0, prescan + 20 : prescan + 32], expected, rtol=1e-9)
    assert not out[0, : prescan + 20].any()


def test_charge_is_kept_in_both_directions():
    design = DetectorSettings(serial_cti=1e-3, parallel_cti=2e-3, prescan=5, overscan=20, parallel_overscan=20)
    charge = np.random.default_rng(1).uniform(0, 5e4, (40, 30))
    out = clocked_out(charge, design)
    assert out.shape == (60, 55)
    assert out.sum() == pytest.approx(charge.sum(), rel=1e-12)
    assert not out[:, :5].any()
    assert 0 < out[40:].sum() < 0.1 * charge.sum()


def test_a_trap_keeps_charge_only_for_a_while():
    lines = np.zeros((1, 60))
    lines[0, 10] = 5000.0
    out = trapped(lines, 50.0, 1000.0, 3.0)
    assert 5000 - out[0, 10] == pytest.approx(50 * 5000 / 6000)
    np.testing.assert_allclose(out[0, 12:20] / out[0, 11:19], np.exp(-1 / 3), rtol=1e-9)
    assert out.sum() == pytest.approx(5000.0, abs=1e-4)


def test_the_amplifiers_memory_falls_off_from_the_largest_signal():
    lines = np.zeros((1, 30))
    lines[0, 5], lines[0, 8] = 10000.0, 100.0
    out = remembered_offset(lines, 1e-3, 4.0) - lines
    np.testing.assert_allclose(out[0, 6:], 10.0 * np.exp(-np.arange(1, 25) / 4.0), rtol=1e-9)


def test_response_loses_at_full_well_what_the_setting_says():
    config = survey(amplifiers=(8, 2), nonlinearity=0.04)
    shapes = response_shapes(config, 0)
    full = 56000.0
    lost = [1 - nonlinear_response(np.array([full]), shape, full)[0] / full for shape in shapes]
    assert np.mean(lost) == pytest.approx(0.04, rel=0.1)
    assert 0.02 < min(lost) < max(lost) < 0.06
    signal = np.linspace(-50, full, 5000)
    for shape in shapes:
        assert np.all(np.diff(nonlinear_response(signal, shape, full)) > 0)


def test_the_matrix_has_no_self_at_lag_zero_and_only_self_beyond():
    matrix = crosstalk_matrix(survey(amplifiers=(4, 2), crosstalk=3e-4), 0)
    own = np.eye(8, dtype=bool)
    assert not matrix[:, :, 0][own].any()
    assert not matrix[:, :, 1][~own].any()
    assert np.mean(np.abs(matrix[:, :, 0][~own])) == pytest.approx(3e-4, rel=0.2)
    blocks = np.zeros((8, 2, 10))
    blocks[3, 1, 4] = 1e4
    heard = cross_talked(blocks, matrix) - blocks
    np.testing.assert_allclose(heard[:, 1, 4], 1e4 * matrix[:, 3, 0])
    assert heard[3, 1, 5] == pytest.approx(1e4 * matrix[3, 3, 1])
    assert np.count_nonzero(heard) == 8


def test_readout_applies_them_in_the_order_of_the_hardware():
    config = survey(nonlinearity=0.03, crosstalk=5e-4, serial_cti=1e-5, parallel_cti=1e-5, parallel_overscan=4)
    electrons = np.random.default_rng(2).uniform(0, 8e4, (64, 96))
    raw = read_out(config, 1, 0, electrons)[0].astype(float)
    plain = survey(parallel_overscan=4)
    clean = read_out(plain, 1, 0, 0 * electrons)[0].astype(float)
    amplifiers, design = make_camera(config).detector(0).amplifiers, config.detectors
    shapes, blocks = response_shapes(config, 0), []
    for amplifier, shape in zip(amplifiers, shapes, strict=True):
        part = electrons[parse_section(amplifier.position)]
        part = part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        counts = clocked_out(part, design) / amplifier.gain
        blocks.append(nonlinear_response(counts, shape, design.full_well / amplifier.gain))
    expected = cross_talked(np.array(blocks), crosstalk_matrix(config, 0))
    found = (raw - clean).reshape(2, 36, 2, 80).swapaxes(1, 2).reshape(4, 36, 80)
    assert np.abs(found - expected).max() < 1.01
    assert detector_pattern(config, 0).bias.shape == (64, 96)


@pytest.mark.parametrize("name", ["nonlinearity", "crosstalk", "serial_cti", "parallel_cti"])
def test_each_effect_changes_the_counts_and_not_the_noise(name):
    electrons = np.random.default_rng(3).uniform(0, 8e4, (64, 96))
    off = read_out(survey(), 1, 0, electrons)[0].astype(float)
    on = read_out(survey(**{name: 0.02}), 1, 0, electrons)[0].astype(float)
    assert np.abs(on - off).max() > 50
    again = read_out(survey(**{name: 0.02}), 1, 0, electrons)[0]
    np.testing.assert_array_equal(on, again)
    dark = [read_out(config, 1, 0, 0 * electrons)[0] for config in (survey(), survey(**{name: 0.02}))]
    np.testing.assert_array_equal(*dark)
