"""The crosstalk matrix from simulated spots: to 1e-5, with honest errors, whatever shines on the victims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from schemas.errors import ConfigurationError, DataError
from tests.calibrate.simulated_frames import Bench
from workers.calibrate.crosstalk import bright_samples, solve
from workers.calibrate.crosstalk_fit import fit_victim
from workers.isr import crosstalk, overscan
from workers.simulate.electronics import cross_talked, crosstalk_matrix

STEPS = ("overscan", "saturation", "bias")
SIZE = 320


def spots(rng: np.random.Generator, bright: int = 8, faint: int = 10, radius: float = 8.0) -> np.ndarray:
    """Discs near full well, faint stars and a little sky, electrons."""
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.zeros((SIZE, SIZE))
    for row, column in rng.integers(12, SIZE - 12, (bright, 2)):
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = rng.uniform(60000, 84000)
    image = gaussian_filter(image, 1.0) + 60.0
    for row, column, flux in rng.uniform((5, 5, 1.5), (SIZE - 5, SIZE - 5, 4.0), (faint, 3)):
        image += 10**flux * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4.0)
    return image


def frames_of(bench: Bench, seed: int, count: int, lit: int = 0):
    rng = np.random.default_rng(seed)
    raws = [bench.raw(rng.poisson(spots(rng)).astype(float), n, 60.0, "science") for n in range(count)]
    lamp = [bench.raw(rng.poisson(np.full((SIZE, SIZE), 6e4)) * 1.0, 500 + n, 5.0, "flat") for n in range(lit)]
    return bench.frames("crosstalk", raws + lamp, bench.bias())


def test_coefficients_from_raw_frames_and_what_is_left_after_correction():
    bench = Bench(crosstalk=5e-4)
    solution = solve(frames_of(bench, 1, 24), STEPS)
    truth = crosstalk_matrix(bench.config, 0)[:, :, :1]
    table, error = solution.tables["coefficients"], solution.tables["error"]
    between = ~np.eye(4, dtype=bool)
    assert np.abs(table - truth)[between].max() < 1.0e-5
    assert np.all(table[~between] == 0)
    pulls = (table - truth)[between] / error[between]
    assert np.abs(pulls).max() < 4
    assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.6
    assert np.all(solution.tables["pixels"] > 1000)
    # another frame, corrected with what was measured
    image = np.full((SIZE, SIZE), 100.0)
    image[60:100, 60:100] = 80000.0
    raw = bench.raw(image, 900, 60.0, "science")
    master = bench.calibration("crosstalk", tables=solution.tables)
    before = bench.state(raw, steps=(overscan.apply,)).image - bench.pattern.bias
    after = bench.state(raw, master, steps=(overscan.apply, crosstalk.apply)).image - bench.pattern.bias
    signal = before[62:98, 62:98].mean()
    for rows, columns in ((slice(62, 98), slice(222, 258)), (slice(222, 258), slice(62, 98))):
        level = [
            np.median(part[105:155, columns] if rows.start < 160 else part[165:215, columns])
            for part in (before, after)
        ]
        left = [
            abs(part[rows, columns].mean() - sky) / signal for part, sky in zip((before, after), level, strict=True)
        ]
        assert left[1] < 2.5e-5 < 1e-4 < left[0]


def test_what_an_amplifier_remembers_of_itself_is_seen_in_its_overscan():
    bench = Bench(crosstalk=5e-4)
    solution = solve(frames_of(bench, 2, 10, lit=4), STEPS, lags=2)
    truth = np.diagonal(crosstalk_matrix(bench.config, 0)[:, :, 1])
    table, error = (np.diagonal(solution.tables[name][:, :, 1]) for name in ("coefficients", "error"))
    assert np.abs(table - truth).max() < 2e-5
    assert np.abs((table - truth) / error).max() < 4
    assert np.all(solution.tables["coefficients"][:, :, 1][~np.eye(4, dtype=bool)] == 0)


def test_no_crosstalk_gives_no_coefficients():
    solution = solve(frames_of(Bench(), 3, 8), STEPS)
    assert np.count_nonzero(solution.tables["coefficients"]) <= 1
    assert np.abs(solution.tables["coefficients"]).max() < 4e-5
    assert solution.metadata["significant"] <= 1


def test_two_aggressors_bright_together_are_told_apart():
    rng = np.random.default_rng(4)
    blocks = np.zeros((3, 128, 128))
    for number in range(40):
        row, column = rng.integers(4, 124, 2)
        place = np.s_[row - 3 : row + 4, column - 3 : column + 4]
        for aggressor in (1, 2) if number % 2 else (1 + number // 2 % 2,):
            blocks[(aggressor, *place)] = rng.uniform(20000, 60000)
    table = np.zeros((3, 3, 1))
    table[0, 1], table[0, 2] = 8e-4, -3e-4
    measured = cross_talked(blocks, table) + rng.normal(100, 4, blocks.shape)
    samples = bright_samples((measured.astype(np.float32), np.zeros(blocks.shape, bool)), 30000.0)
    found, error = fit_victim(samples, 0, np.full(3, 10000.0))
    assert np.abs((found - table[0, :, 0])[1:] / error[1:]).max() < 4
    assert error[1:].max() < 1e-5


def test_bright_pixels_that_the_victim_has_itself_are_no_crosstalk():
    rng = np.random.default_rng(5)
    blocks = np.zeros((2, 192, 192))
    for _ in range(25):
        row, column = rng.integers(8, 184, 2)
        blocks[0, row - 3 : row + 4, column - 3 : column + 4] = rng.uniform(40000, 60000)
        if rng.random() < 0.3:  # a star of the victim's own beside it
            blocks[1, row - 2 : row + 3, column : column + 5] += 10 ** rng.uniform(1.5, 4.5)
    table = np.zeros((2, 2, 1))
    table[1, 0] = 2e-4
    measured = cross_talked(blocks, table) + rng.normal(100, 4, blocks.shape)
    samples = bright_samples((measured.astype(np.float32), np.zeros(blocks.shape, bool)), 30000.0)
    found, error = fit_victim(samples, 1, np.full(2, 30000.0))
    assert found[0] == pytest.approx(2e-4, abs=1e-5)
    assert abs(found[0] - 2e-4) < 4 * error[0]


def test_an_amplifier_that_nothing_bright_fell_on_is_named():
    bench, rng = Bench(crosstalk=5e-4), np.random.default_rng(6)
    image = rng.poisson(np.full((SIZE, SIZE), 60.0)).astype(float)
    image[40:60, 40:60] = 70000.0
    frames = bench.frames("crosstalk", [bench.raw(image, 1, 60.0, "science")], bench.bias())
    with pytest.raises(DataError, match="amplifiers A1, A2, A3: fewer than 20 pixels"):
        solve(frames, STEPS)


def test_one_amplifier_has_nobody_to_hear():
    bench = Bench(amplifiers=(1, 1))
    frames = bench.frames("crosstalk", [bench.raw(np.full((SIZE, SIZE), 60.0), 1, 60.0, "science")], bench.bias())
    with pytest.raises(ConfigurationError, match="take 'crosstalk' out"):
        solve(frames, STEPS)
