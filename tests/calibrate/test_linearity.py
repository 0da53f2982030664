"""Linearity from simulated flats: a lamp that wobbles can't bend the curve, and bad sequences are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from tests.calibrate.simulated_frames import Bench
from workers.calibrate.linearity import Levels as LevelTable
from workers.calibrate.linearity import curves, measure_levels, solve, turnoff_of
from workers.calibrate.linearity_fit import fit_response
from workers.isr.linearity import curve_of, linearise
from workers.simulate.detector import flat_field
from workers.simulate.electronics import nonlinear_response, response_shapes

FULL = 57000.0
STEPS = ("overscan", "saturation", "bias")


def exposures(rng: np.random.Generator, count: int, faint: float, full: float) -> np.ndarray:
    """A third of them faint, in random order."""
    low = count * 35 // 100
    levels = np.concatenate([np.geomspace(faint, 0.05 * full, low), np.linspace(0.05 * full, full, count - low)])
    return rng.permutation(levels)


def bend(curve, shape: np.ndarray, full: float) -> float:
    """Largest departure from a straight line after correction, 50 ADU up to the curve's top."""
    signal = np.geomspace(50, 0.97 * full, 400)
    measured = nonlinear_response(signal, shape, full)
    signal, measured = signal[measured < curve.top], measured[measured < curve.top]
    image = measured[None, :].astype(np.float32)
    linearise(image, np.ones_like(image), curve, (slice(0, 1), slice(0, image.size)))
    rate = image[0] / signal
    return float(np.ptp(rate) / (rate.max() + rate.min()))


def test_raw_flats_of_a_lamp_that_scatters_by_a_third_of_a_percent():
    bench, rng = Bench(nonlinearity=0.03), np.random.default_rng(11)
    flat = flat_field(bench.config, 0, "r")
    raws = []
    for number, level in enumerate(exposures(rng, 100, 60.0, 84000.0)):
        light = level * (1 + 0.003 * rng.standard_normal())
        raws.append(bench.raw(rng.poisson(light * flat).astype(float), number, level / 1000))
    solution = solve(bench.frames("linearity", raws, bench.bias()), STEPS)
    assert solution.metadata["lampScatter"] == pytest.approx(0.003, rel=0.3)
    assert solution.metadata["nonlinearity"] > 0.025
    for index, (amplifier, shape) in enumerate(
        zip(bench.detector.amplifiers, response_shapes(bench.config, 0), strict=True)
    ):
        full = bench.full_well / amplifier.gain
        curve = curve_of(*(solution.tables[name][index] for name in ("knots", "correction", "error")))
        assert bend(curve, shape, full) < 1.0e-3
        assert curve.top == solution.tables["turnoff"][index] > 0.9 * full


def levels_of(
    seed: int, *, count: int = 100, scatter: float = 0.003, drift: float = 0.0, shuffled: bool = True, zones: int = 4
) -> tuple[LevelTable, np.ndarray, np.ndarray]:
    """Levels of four amplifiers of 50 000 pixels with 5 % vignetting, their shapes, and the lamp's flux."""
    rng = np.random.default_rng(seed)
    seconds = exposures(rng, count, 45.0, 55000.0) / 1000
    if not shuffled:
        seconds = np.sort(seconds)
        seconds[::6] = 20.0
    wobble = 1 + scatter * rng.standard_normal(count) + drift * np.sin(np.linspace(0, 2.5, count))
    shapes = 0.03 * np.array([0.6, 0.25, 0.15]) * (1 + 0.2 * rng.standard_normal((4, 3)))
    light = 1 + 0.03 * rng.standard_normal((4, 1)) + (np.linspace(0.05, -0.05, zones) if zones > 1 else 0)
    true = (1000 * seconds * wobble)[:, None, None] * light
    level = np.stack([nonlinear_response(true[:, a], shapes[a], FULL) for a in range(4)], axis=1)
    error = np.hypot(np.sqrt(level / 1.5 + 16) / np.sqrt(50000 / zones), 0.03)
    return LevelTable(level + error * rng.standard_normal(level.shape), error, seconds), shapes, wobble


def fitted(levels: LevelTable):
    fit = fit_response(levels.level, levels.error, levels.exposure)
    tables = curves(fit, levels, 16, list("ABCD"))
    return fit, [curve_of(*(tables[name][a] for name in ("knots", "correction", "error"))) for a in range(4)], tables


def test_residuals_over_many_sequences():
    worst = []
    for seed in range(6):
        levels, shapes, _ = levels_of(seed)
        worst.append(max(bend(curve, shape, FULL) for curve, shape in zip(fitted(levels)[1], shapes, strict=True)))
    assert np.median(worst) < 0.7e-3
    assert max(worst) < 1.5e-3


def test_the_errors_are_those_of_the_corrections():
    pulls = []
    for seed in range(9):
        levels, shapes, _ = levels_of(seed, count=90)
        fit, _, tables = fitted(levels)
        # amplifiers share the lamp, so only one of each sequence is independent
        knots, correction, error = (tables[name][0] for name in ("knots", "correction", "error"))
        signal = np.linspace(0, 1.1 * FULL, 100001)
        measured = nonlinear_response(signal, shapes[0], FULL)
        level, sigma = levels.level[:, 0].ravel(), levels.error[:, 0].ravel()
        low = level <= 0.03 * fit.top[0]
        weights = 1 / ((sigma[low] / level[low]) ** 2 + fit.lampScatter**2)
        rho = [np.log(np.interp(at, measured, signal) / at) for at in (knots[1:], level[low])]
        truth = rho[0] - np.average(rho[1], weights=weights)
        pulls.append((np.log1p(correction[1:] / knots[1:]) - truth) / (error[1:] / knots[1:]))
    # the knots of a sequence go up and down together: nine numbers, not 135
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.7
    assert np.max(np.abs(pulls)) < 4.5


def test_a_drift_is_told_from_the_response_by_exposures_that_come_back():
    levels, shapes, wobble = levels_of(3, scatter=0.0005, drift=0.02, shuffled=False, zones=1)
    fit, found, _ = fitted(levels)
    assert max(bend(curve, shape, FULL) for curve, shape in zip(found, shapes, strict=True)) < 1.5e-3
    difference = fit.lamp - np.log(wobble)
    assert np.std(difference) < 0.15 * np.std(np.log(wobble))


def test_jumps_of_the_lamp_and_a_spoilt_level_have_no_say():
    clean, shapes, _ = levels_of(4, count=120)
    level = clean.level.copy()
    level[[7, 30, 77]] *= np.array([0.9, 1.15, 0.97])[:, None, None]
    level[50, 2, 1] *= 1.05
    found = fitted(replace(clean, level=level))[1]
    reference = fitted(clean)[1]
    for a in range(4):
        assert bend(found[a], shapes[a], FULL) < bend(reference[a], shapes[a], FULL) + 0.5e-3


def test_a_photodiode_replaces_the_clock():
    bench, rng = Bench(nonlinearity=0.03, width=160, height=160), np.random.default_rng(5)
    raws = []
    for number, level in enumerate(exposures(rng, 30, 100.0, 80000.0)):
        light = level * (1 + 0.02 * rng.standard_normal())
        raw = bench.raw(rng.poisson(np.full((160, 160), light)).astype(float), number, level / 1000)
        raws.append(replace(raw, header={"PDIODE": light * 1e-9 * (1 + 2e-4 * rng.standard_normal())}))
    frames = bench.frames("linearity", raws, bench.bias())
    solution = solve(frames, STEPS, photodiode="PDIODE")
    assert solution.metadata["lampScatter"] < 6e-4
    for index, shape in enumerate(response_shapes(bench.config, 0)):
        curve = curve_of(*(solution.tables[name][index] for name in ("knots", "correction", "error")))
        assert bend(curve, shape, bench.full_well / bench.detector.amplifiers[index].gain) < 1.0e-3
    with pytest.raises(ConfigurationError, match="no header key 'PD'"):
        solve(frames, STEPS, photodiode="PD")
    broken = bench.frames("linearity", [replace(raws[0], header={"PDIODE": "dark"})], bench.bias())
    with pytest.raises(DataError, match="tells nothing of the response"):
        solve(broken, STEPS, photodiode="PDIODE")


def test_levels_beyond_the_turnoff_are_left_out():
    rng = np.random.default_rng(6)
    seconds = np.sort(exposures(rng, 60, 100.0, 70000.0)) / 1000
    true = 1000 * seconds * (1 + 0.002 * rng.standard_normal(60))
    level = np.where(true < 50000, true * (1 - 0.03 * true / 50000), 48500 + 0.3 * (true - 50000))
    top = turnoff_of(level, seconds)
    last = level[true < 50000].max()
    assert last * 0.98 < top < 49000
    straight = true * (1 - 0.03 * true / 50000)
    assert turnoff_of(straight, seconds) == straight.max()


def test_levels_are_those_of_the_light_whatever_hits_it():
    bench, rng = Bench(bias_drift=0.0), np.random.default_rng(7)
    raws = []
    for number, level in enumerate((3000.0, 20000.0, 30000.0, 40000.0)):
        electrons = rng.poisson(np.full((320, 320), level)).astype(float)
        electrons[rng.integers(0, 320, 150), rng.integers(0, 320, 150)] += 9000.0
        raws.append(bench.raw(electrons, number, level / 1000))
    levels = measure_levels(bench.frames("linearity", raws, bench.bias()), STEPS)
    gains = np.array([amplifier.gain for amplifier in bench.detector.amplifiers])
    truth = np.array([3000.0, 20000.0, 30000.0, 40000.0])[:, None] / gains
    # even light has one zone
    assert not np.isfinite(levels.level[:, :, 1:]).any()
    assert np.abs((levels.level - truth[:, :, None]) / levels.error)[:, :, 0].max() < 4
    assert np.all(levels.error[:, :, 0] < 0.01 * np.sqrt(truth) + 0.1)


def test_too_few_flats_are_refused():
    bench = Bench(width=160, height=160)
    rng = np.random.default_rng(8)
    raws = [bench.raw(rng.poisson(np.full((160, 160), 9000.0 + 900 * n)) * 1.0, n, 9 + 0.9 * n) for n in range(9)]
    with pytest.raises(DataError, match="tell no response; give at least 8"):
        solve(bench.frames("linearity", raws, bench.bias()), STEPS)
    full = [bench.raw(np.full((160, 160), 1e6) + n, n, 9.0 + n) for n in range(9)]
    with pytest.raises(DataError, match="every flat is saturated"):
        solve(bench.frames("linearity", full, bench.bias()), STEPS)
