"""Deferred charge from the overscans of simulated flats, and what is left of the trails after correction."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from tests.calibrate.simulated_frames import Bench
from workers.calibrate.charge_transfer import edge_means, solve
from workers.calibrate.trail_fit import Trails, fit_trails
from workers.isr import bias, deferred_charge, gain, overscan
from workers.isr.deferred_charge import late_shares
from workers.simulate.charge_transfer import remembered_offset, transferred, trapped
from workers.simulate.electronics import crosstalk_matrix
from workers.survey.camera import camera_from_dict

STEPS = ("overscan", "saturation", "bias")
SIZE = 320


def flats(bench: Bench, seed: int, count: int = 12):
    rng = np.random.default_rng(seed)
    levels = np.linspace(6000.0, 75000.0, count)
    raws = [bench.raw(rng.poisson(np.full((SIZE, SIZE), level)) * 1.0, n, 1.0) for n, level in enumerate(levels)]
    return bench.frames("cti", raws, bench.bias())


def test_fractions_from_raw_flats_and_trails_after_correction():
    bench = Bench(serial_cti=1e-5, parallel_cti=2e-5, parallel_overscan=16)
    solution = solve(flats(bench, 1), STEPS)
    tables = solution.tables
    for name, truth in (("serial", 1e-5), ("parallel", 2e-5)):
        pulls = (tables[name] - truth) / tables[f"{name}Error"]
        assert np.abs(pulls).max() < 4
        np.testing.assert_allclose(tables[name], truth, rtol=0.05)
    assert not tables["offset"][:, 0].any()
    assert not tables["serialTrap"][:, 0].any()
    # trails behind a bright square in each amplifier, over many frames so that they show at all
    image = np.full((SIZE, SIZE), 200.0)
    for row in (100, 180):
        for column in (100, 180):
            image[row : row + 40, column : column + 40] = 80000.0
    master = bench.calibration("cti", tables=tables)
    trails = []
    for steps in (
        (overscan.apply, bias.apply, gain.apply),
        (overscan.apply, bias.apply, gain.apply, deferred_charge.apply),
    ):
        states = [bench.state(bench.raw(image, n), bench.bias(), master, steps=steps) for n in range(100, 104)]
        parts = [[s.part(a, s.image) for a in bench.detector.amplifiers] for s in states]
        behind = [p[100:140, 140] - p[100:140, 145:155].mean(axis=1) for one in parts for p in one]
        above = [p[140, 100:140] - p[145:155, 100:140].mean(axis=0) for one in parts for p in one]
        trails.append((np.mean(behind), np.mean(above)))
    for axis in (0, 1):
        assert abs(trails[1][axis]) < trails[0][axis] / 20 + 0.4
        assert trails[0][axis] > 60


def test_a_perfect_detector_needs_no_correction():
    solution = solve(flats(Bench(parallel_overscan=16), 2), STEPS)
    for name in ("serial", "parallel"):
        assert np.all(solution.tables[name] < 4 * solution.tables[f"{name}Error"])
        assert np.all(solution.tables[f"{name}Error"] < 3e-7)
        assert not solution.tables[f"{name}Trap"][:, 0].any()
    assert not solution.tables["offset"][:, 0].any()
    assert solution.metadata["serialChi2"] == pytest.approx(1.0, abs=0.4)


def test_without_a_parallel_overscan_only_the_rows_are_known():
    solution = solve(flats(Bench(serial_cti=1e-5), 3), STEPS)
    assert solution.metadata["parallelMeasured"] == 0
    assert not solution.tables["parallel"].any()
    np.testing.assert_allclose(solution.tables["serial"], 1e-5, rtol=0.05)


def test_memory_that_crosstalk_corrects_is_not_taken_for_deferred_charge():
    bench = Bench(serial_cti=5e-6, crosstalk=5e-4)
    remembered = np.diagonal(crosstalk_matrix(bench.config, 0))[1:].T
    frames = flats(bench, 4)
    assert np.all(solve(frames, STEPS).tables["serial"] > 6e-6)
    # other amplifiers are heard in the data too, all at one level: two parts in a thousand
    np.testing.assert_allclose(solve(frames, STEPS, remembered=remembered).tables["serial"], 5e-6, rtol=0.05)


def trails_of(rng: np.random.Generator, fraction: float, offset=(0.0, 1.0), trap=(0.0, 1.0, 1.0)) -> Trails:
    """Mean overscans of flats of 2000 rows that went through the whole readout."""
    levels, prescan, length, over = np.geomspace(1000, 80000, 14), 10, 200, 40
    out = transferred(np.repeat(levels[:, None], length, axis=1), fraction, prescan, over)
    out = trapped(out, *trap) if trap[0] else out
    out = remembered_offset(out, *offset) if offset[0] else out
    mean = out[:, prescan + length :]
    noise = 6.0 / np.sqrt(2000)
    noisy = mean + rng.normal(0, noise, mean.shape)
    base = np.arange(24, 40)
    deferred = (noisy - noisy[:, base].mean(axis=1, keepdims=True))[:, :24]
    error = np.full(deferred.shape, noise * np.sqrt(1 + 1 / 16))
    signal = out[:, prescan + length - 1]
    return Trails(signal, deferred, error, np.arange(24) + 1, base + 1, prescan + length)


@pytest.mark.parametrize(
    ("offset", "trap"),
    [((0.0, 1.0), (0.0, 1.0, 1.0)), ((2e-4, 6.0), (0.0, 1.0, 1.0)), ((0.0, 1.0), (60.0, 3000.0, 3.0))],
)
def test_offset_and_trap_are_found_where_they_are_and_only_there(offset, trap):
    trails = trails_of(np.random.default_rng(5), 2e-6, offset, trap)
    fit = fit_trails(trails, offset=True)
    assert (fit.offset[0] > 0, fit.trap[0] > 0) == (offset[0] > 0, trap[0] > 0)
    assert fit.fraction == pytest.approx(2e-6, rel=0.06)
    if offset[0]:
        assert fit.offset == pytest.approx(offset, rel=0.05)
    if trap[0]:
        assert fit.trap[0] == pytest.approx(trap[0], rel=0.1)
        assert fit.trap[2] == pytest.approx(trap[2], rel=0.1)
    assert fit.chi2 == pytest.approx(1.0, abs=0.3)


def test_errors_of_the_fraction_are_those_of_many_trials():
    rng, pulls = np.random.default_rng(6), []
    for _ in range(30):
        fit = fit_trails(trails_of(rng, 1e-6), offset=False)
        pulls.append((fit.fraction - 1e-6) / fit.error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(30)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.3)


def test_the_model_of_the_fit_is_that_of_the_readout():
    """An even line of 40 pixels, clock by clock, against the shares that the fit adds up."""
    out = transferred(np.full((1, 40), 1000.0), 1e-3, 7, 6)[0, 47:]
    transfers = 47 - np.arange(13)
    shares = late_shares(1e-3, transfers)
    expected = [1000 * sum(shares[k + i, i] for i in range(13) if k + i < len(shares)) for k in range(1, 5)]
    np.testing.assert_allclose(out[:4], expected, rtol=1e-4, atol=1e-4)


def test_particles_in_the_overscan_are_clipped():
    rng = np.random.default_rng(7)
    strip = rng.normal(5, 3, (400, 10))
    strip[rng.integers(0, 400, 30), rng.integers(0, 10, 30)] += 3000
    mean, error = edge_means(strip)
    assert np.abs((mean - 5) / error).max() < 4
    np.testing.assert_allclose(error, 3 / 20, rtol=0.15)


def test_an_overscan_away_from_the_data_and_dark_frames_are_refused():
    bench = Bench()
    dark = bench.raw(np.random.default_rng(8).poisson(50.0, (SIZE, SIZE)).astype(float), 1, 1.0)
    with pytest.raises(DataError, match="no flat has more than 500 electrons"):
        solve(bench.frames("cti", [dark], bench.bias()), STEPS)
    tree = bench.camera.model_dump(exclude_none=True)
    for amplifier in tree["detectors"][0]["amplifiers"]:
        begin, end = amplifier["overscan"][1:].split(",")[0].split(":")
        amplifier["overscan"] = amplifier["overscan"].replace(f"[{begin}:{end}", f"[{int(begin) + 4}:{end}")
    bench.camera = camera_from_dict(tree)
    with pytest.raises(ConfigurationError, match=r"isr\.overscan\.skip"):
        solve(bench.frames("cti", [bench.raw(np.full((SIZE, SIZE), 9e3), 1, 1.0)]), STEPS[:2])
