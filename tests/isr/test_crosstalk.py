"""Crosstalk: what amplifiers hear is taken off, whichever way they are read, and loud aggressors leave a flag."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from tests.calibrate.simulated_frames import Bench
from workers.imaging.masks import MaskPlane
from workers.isr import crosstalk, overscan
from workers.isr.crosstalk import coefficients_of, heard
from workers.simulate.electronics import crosstalk_matrix


def brute_force(blocks: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as the electronics do it."""
    result = blocks.copy()
    victims, _, lags = table.shape
    for victim in range(victims):
        for aggressor in range(victims):
            for lag in range(lags):
                for x in range(lag, blocks.shape[2]):
                    result[victim, :, x] += table[victim, aggressor, lag] * blocks[aggressor, :, x - lag]
    return result


@settings(max_examples=30, deadline=None)
@given(amplifiers=st.integers(2, 5), lags=st.integers(1, 3), size=st.floats(1e-5, 2e-3), seed=st.integers(0, 2**32 - 1))
def test_what_was_heard_is_found_again(amplifiers, lags, size, seed):
    rng = np.random.default_rng(seed)
    table = rng.uniform(-size, size, (amplifiers, amplifiers, lags))
    table[np.arange(amplifiers), np.arange(amplifiers), 0] = 0.0
    blocks = rng.uniform(0, 60000, (amplifiers, 3, 20))
    measured = brute_force(blocks, table)
    taken = heard(measured.astype(np.float32), coefficients_of(table, 0 * table))
    second_order = (amplifiers * lags * size) ** 2 if lags > 1 else 0.0
    np.testing.assert_allclose(measured - taken, blocks, atol=60000 * (3e-7 + second_order))


def scene(rng: np.random.Generator) -> np.ndarray:
    image = np.full((320, 320), 200.0)
    for row, column in rng.integers(10, 310, (12, 2)):
        image[row - 4 : row + 5, column - 4 : column + 5] = rng.uniform(2e4, 8e4)
    return image


def master_of(bench: Bench, lags: int = 2, error: float = 0.0):
    table = crosstalk_matrix(bench.config, 0)[:, :, :lags]
    return bench.calibration("crosstalk", tables={"coefficients": table, "error": np.full(table.shape, error)})


def test_raw_frames_are_freed_of_it_whatever_the_flips():
    image = scene(np.random.default_rng(2))
    off, on = (
        Bench(amplifiers=(4, 2), crosstalk=size, read_noise=0.3, bias_drift=0.0, gain=1.5) for size in (0.0, 8e-4)
    )
    quiet = off.state(off.raw(image, 1), steps=(overscan.apply,)).image
    loud = on.state(on.raw(image, 1), steps=(overscan.apply,)).image
    freed = on.state(on.raw(image, 1), master_of(on), steps=(overscan.apply, crosstalk.apply)).image
    assert np.abs(loud - quiet).max() > 40
    # what is left is whole counts
    assert np.abs(freed - quiet).max() < 2.5
    bright = image > 2e4
    share = [np.abs((part - quiet)[bright].mean()) / quiet[bright].mean() for part in (loud, freed)]
    assert share[1] < 2e-6 < 1e-4 < share[0]


def test_victims_of_loud_aggressors_are_flagged_and_no_others():
    bench = Bench(crosstalk=5e-4)
    image = np.full((320, 320), 100.0)
    image[20, 30], image[40, 50] = 80000.0, 40000.0
    state = bench.state(bench.raw(image, 1), master_of(bench, 1), steps=(overscan.apply, crosstalk.apply))
    flagged = np.argwhere(state.mask & int(MaskPlane.CROSSTALK)).tolist()
    # read at the same time: mirrored in x, in y, and in both
    assert flagged == [[20, 319 - 30], [319 - 20, 30], [319 - 20, 319 - 30]]
    assert state.metrics["crosstalkFlaggedFraction"] == 3 / 320**2
    state = bench.state(bench.raw(image, 1), master_of(bench, 2), steps=(overscan.apply, crosstalk.apply))
    assert state.mask[20, 31] == int(MaskPlane.CROSSTALK)


def test_errors_of_the_coefficients_are_in_the_variance():
    bench = Bench(crosstalk=5e-4)
    image = np.full((320, 320), 100.0)
    image[20, 30] = 75000.0
    master = master_of(bench, 1, error=2e-4)
    state = bench.state(bench.raw(image, 1), master, steps=(overscan.apply, crosstalk.apply))
    signal = state.image[20, 30]
    exact = bench.state(bench.raw(image, 1), master_of(bench, 1), steps=(overscan.apply, crosstalk.apply))
    added = state.variance - exact.variance
    assert added[20, 319 - 30] == pytest.approx((2e-4 * signal) ** 2, rel=0.01)
    assert np.count_nonzero(added) == 4
    bare = bench.state(bench.raw(image, 1), master_of(bench, 1), steps=(overscan.apply,))
    np.testing.assert_array_equal(exact.variance, bare.variance)


def test_amplifiers_that_differ_in_shape_are_refused():
    bench = Bench(crosstalk=5e-4)
    state = bench.state(bench.raw(np.full((320, 320), 100.0), 1), master_of(bench), steps=(overscan.apply,))
    whole = bench.detector.amplifiers
    cut = whole[0].model_copy(update={"data": "[9:100,1:160]", "position": "[1:92,1:160]"})
    state.detector = bench.detector.model_copy(update={"amplifiers": (cut, *whole[1:])})
    state.need = lambda kind: SimpleNamespace(tables=master_of(bench).tables)  # type: ignore[assignment,method-assign]
    with pytest.raises(ConfigurationError, match="take 'crosstalk' out"):
        crosstalk.apply(state)
