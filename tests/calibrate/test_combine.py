"""The combiner: unbiased, as quiet as a mean can be, deaf to outliers; ccdproc as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.errors import DataError
from workers.calibrate.combine import clip_sigma, combine, frame_noise


def stack_of(frames: int, shape: tuple[int, int] = (60, 70), seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 5, (frames, *shape)).astype(np.float32)


@pytest.mark.parametrize("frames", [5, 10, 20, 40])
def test_clipping_costs_no_noise_and_no_bias(frames: int) -> None:
    stack = stack_of(frames, (150, 150))
    combined = combine(stack, noise=frame_noise(stack[0], stack[1]))
    pulls = (combined.mean - 100) / (5 / np.sqrt(frames))
    assert abs(pulls.mean()) < 4 / 150
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    assert 1 - combined.count.mean() / frames < 0.002
    assert combined.variance.mean() == pytest.approx(25 / frames, rel=0.03)


def test_outliers_are_dropped() -> None:
    clean = stack_of(15)
    dirty = clean.copy()
    rng = np.random.default_rng(2)
    rays = rng.random(dirty.shape) < 0.03
    dirty[rays] += rng.uniform(200, 5000, rays.sum()).astype(np.float32)
    combined = combine(dirty, noise=5.0)
    pulls = (combined.mean - 100) / np.sqrt(25 / combined.count)
    assert pulls.std() == pytest.approx(1.0, abs=0.03)
    assert abs(pulls.mean()) < 0.06
    assert np.max(np.abs(combined.mean - 100)) < 8


def test_several_equal_outliers_of_twenty_do_not_survive() -> None:
    stack = stack_of(20)
    stack[:4] += 1000
    assert np.max(np.abs(combine(stack, noise=5.0).mean - 100)) < 8
    assert np.all(combine(stack, noise=5.0).count <= 16)


def test_whole_counts_with_no_spread_are_not_clipped_away() -> None:
    stack = np.full((11, 20, 20), 300, np.float32)
    stack[:5] = 301  # the MAD about 300 is 0 in six of eleven
    combined = combine(stack, noise=frame_noise(stack[0], stack[10]))
    np.testing.assert_array_equal(combined.count, 11)
    np.testing.assert_allclose(combined.mean, 300 + 5 / 11, rtol=1e-6)


def test_nan_values_and_empty_pixels() -> None:
    stack = stack_of(5)
    stack[:4, 0, 0], stack[:, 1, 1] = np.nan, np.nan
    combined = combine(stack, noise=5.0)
    assert combined.count[0, 0] == 1
    assert combined.mean[0, 0] == stack[4, 0, 0]
    assert combined.variance[0, 0] == 25.0
    assert combined.count[1, 1] == 0
    assert np.isnan(combined.mean[1, 1])


@given(
    arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3), st.just(4)), elements=st.floats(-1e3, 1e3, width=32))
)
@settings(max_examples=60, deadline=None)
def test_without_clipping_it_is_the_mean(stack: np.ndarray) -> None:
    combined = combine(stack, noise=1e6)
    np.testing.assert_allclose(combined.mean, stack.mean(axis=0, dtype=float), rtol=1e-5, atol=1e-3)
    if len(stack) > 1:
        expected = stack.astype(float).var(axis=0, ddof=1) / len(stack)
        np.testing.assert_allclose(combined.variance, expected, rtol=1e-4, atol=1e-3)


@given(
    arrays(np.float32, st.tuples(st.integers(3, 12), st.just(2), st.just(3)), elements=st.floats(-1e3, 1e3, width=32))
)
@settings(max_examples=60, deadline=None)
def test_one_round_agrees_with_numpy(stack: np.ndarray) -> None:
    """Any order of frames gives the same, and what is kept lies within the clip of the final median and MAD."""
    combined = combine(stack, noise=0.5)
    again = combine(np.ascontiguousarray(stack[::-1]), noise=0.5)
    np.testing.assert_array_equal(combined.mean, again.mean)
    median = np.median(stack.astype(float), axis=0)
    mad = np.median(np.abs(stack - median), axis=0)
    reach = clip_sigma(len(stack)) * np.maximum(1.4826 * mad, 0.5)
    once = (np.abs(stack - median) <= reach).sum(axis=0)
    assert np.all(combined.count <= once)
    assert np.all(combined.count >= 2)


def test_agrees_with_ccdproc() -> None:
    ccdproc = pytest.importorskip("ccdproc")
    from astropy.nddata import CCDData
    from astropy.stats import mad_std

    stack = stack_of(12)
    stack[3, 10:20, 10:20] += 500
    frames = [CCDData(frame, unit="adu") for frame in stack]
    theirs = ccdproc.combine(
        frames,
        method="average",
        sigma_clip=True,
        sigma_clip_low_thresh=4,
        sigma_clip_high_thresh=4,
        sigma_clip_func=np.ma.median,
        sigma_clip_dev_func=mad_std,
    ).data
    ours = combine(stack, noise=1e-6).mean
    assert np.mean(np.abs(ours - theirs) < 1e-3) > 0.93  # they clip once, we until nothing more goes
    assert (ours - 100).std() < 1.02 * (theirs - 100).std()


def test_memory_mapped_stack(tmp_path) -> None:
    stack = stack_of(7)
    path = tmp_path / "stack"
    path.write_bytes(stack.tobytes())
    mapped = np.memmap(path, np.float32, mode="r", shape=stack.shape)
    np.testing.assert_array_equal(combine(mapped, noise=5.0).mean, combine(stack, noise=5.0).mean)


def test_frame_noise() -> None:
    stack = stack_of(2, (200, 200))
    assert frame_noise(stack[0], stack[1] + 50) == pytest.approx(5.0, rel=0.03)
    whole = np.zeros((50, 50))
    assert frame_noise(whole, whole) == pytest.approx(0.2887, abs=1e-3)
    with pytest.raises(DataError, match="no pixel in common"):
        frame_noise(np.full((2, 2), np.nan), np.zeros((2, 2)))
