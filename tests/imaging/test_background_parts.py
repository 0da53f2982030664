"""The parts of the background: bins, surface, sources, wings, unseen light, large objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.background_bins import bin_image, block_sums, middles, spread_blocks, stretch
from workers.imaging.background_objects import BLOCK, LargeObject, faint_quartiles, find_large, fit_profile
from workers.imaging.background_sources import find_sources, skirts
from workers.imaging.background_surface import Cells, fit_surface
from workers.imaging.background_unseen import unseen_light
from workers.imaging.background_wings import wing_light

NO_SHARES = np.zeros((0, 1, 1))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_bins_are_the_usable_pixels(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(1e4, 5.0, (height, width)).astype(np.float32)
    blocked = rng.random(image.shape) < 0.3
    image[rng.random(image.shape) < 0.05] = np.nan
    bins = bin_image(image, blocked)
    for j in range(bins.mean.shape[0]):
        for i in range(bins.mean.shape[1]):
            box = slice(4 * j, 4 * j + 4), slice(4 * i, 4 * i + 4)
            pixels = image[box][~blocked[box] & np.isfinite(image[box])].astype(float)
            if len(pixels) == 0 or len(pixels) < 0.25 * image[box].size:
                assert bins.count[j, i] == 0
                continue
            assert bins.count[j, i] == len(pixels)
            assert bins.mean[j, i] == pytest.approx(pixels.mean(), rel=1e-6)
            if len(pixels) > 1:
                assert bins.variance[j, i] == pytest.approx(pixels.var(ddof=1), rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 20))
def test_a_plane_is_stretched_to_itself(height, width, step):
    rows, columns = -(-height // step) + 1, -(-width // step) + 1  # nodes reach beyond the image
    y, x = middles((rows, columns), step)
    found = stretch(3.0 + 0.5 * y[:, None] - 0.25 * x[None, :], step, (height, width))
    expected = 3.0 + 0.5 * np.arange(height)[:, None] - 0.25 * np.arange(width)[None, :]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_blocks_add_up(height, width, size):
    plane = np.random.default_rng(height * 41 + width).random((height, width))
    sums = block_sums(plane, size)
    assert sums.sum() == pytest.approx(plane.sum())
    assert sums[-1, -1] == pytest.approx(plane[(len(sums) - 1) * size :, (sums.shape[1] - 1) * size :].sum())
    assert spread_blocks(sums, size, plane.shape).shape == plane.shape


def quadratic(rows, columns):
    v, u = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    return 500.0 + 30.0 * u - 20.0 * v + 15.0 * u * u - 10.0 * v * v + 8.0 * u * v


def test_a_quadratic_goes_on_across_a_hole_and_outliers_do_not_count():
    truth = quadratic(20, 24)
    rng = np.random.default_rng(1)
    value, weight = truth + 0.05 * rng.standard_normal(truth.shape), np.full(truth.shape, 400.0)
    weight[6:14, 8:16], value[6:14, 8:16] = 0.0, 1e9
    value[2, 3] += 100.0
    found = fit_surface(Cells(value, weight, NO_SHARES, np.ones(1), 64), (4096.0, 512.0), knot=256.0)
    assert found.wave == 4096.0
    assert np.abs(found.nodes(64) - truth).max() < 0.1


def test_the_surface_is_as_supple_as_the_cells_ask_for():
    y, x = middles((32, 32), 64)
    truth = 0.5 * np.sin(2 * np.pi * x[None, :] / 1000.0) * np.cos(2 * np.pi * y[:, None] / 1300.0)
    value = truth + 0.05 * np.random.default_rng(2).standard_normal(truth.shape)
    waves = (4096.0, 2048.0, 1024.0, 512.0)
    found = fit_surface(Cells(value, np.full(truth.shape, 400.0), NO_SHARES, np.ones(1), 64), waves, knot=256.0)
    assert found.wave == 512.0
    assert np.std(found.nodes(64) - truth) < 0.05


def test_steps_have_true_errors():
    """Steps of eight amplifiers on a curved sky: pulls of mean 0 and width 1, sum zero weighted by area."""
    rng = np.random.default_rng(3)
    owner = (np.arange(32) // 8)[None, :] + 4 * (np.arange(32) // 20)[:, None]  # of two sizes
    shares = np.array([(owner == number).astype(float) for number in range(8)])
    areas = shares.sum(axis=(1, 2))
    pulls = []
    for _ in range(40):
        steps = rng.normal(0.0, 0.5, 8)
        steps -= areas @ steps / areas.sum()
        value = quadratic(32, 32) + np.tensordot(steps, shares, axes=1) + 0.1 * rng.standard_normal((32, 32))
        found = fit_surface(Cells(value, np.full((32, 32), 100.0), shares, areas, 64), (4096.0,), knot=256.0)
        assert areas @ found.steps == pytest.approx(0.0, abs=1e-6)
        pulls.append((found.steps - steps) / found.errors)
    assert abs(np.mean(pulls)) < 0.15
    assert 0.8 < np.std(pulls) < 1.2


def test_sources_grow_and_skirts_hang_on_bright_middles():
    y, x = np.indices((108, 108))
    rest = (60.0 * np.exp(-np.hypot(y - 27, x - 27) / 6.0)).astype(np.float32)
    rest += (0.5 * np.exp(-0.5 * ((y - 81) ** 2 + (x - 81) ** 2) / 10.0**2)).astype(np.float32)  # a wave of the sky
    weight = np.ones(rest.shape, np.float32)
    free = ~find_sources(rest, 2.5, 1)
    assert find_sources(rest, 2.5, 2).sum() > (~free).sum() > (rest > 2.5).sum()
    found = skirts(rest, weight, free, size=9, threshold=3.0)
    assert found[20:36, 42:46].any()
    assert not found[54:, 54:].any()
    assert not found[~free].all()


def test_wings_are_calibrated_by_bright_stars():
    rng = np.random.default_rng(4)
    y, x = np.indices((128, 128)) * 8 + 3.5
    light, wings = np.zeros((128, 128)), np.zeros((128, 128))
    covered = np.zeros((128, 128), bool)
    for _ in range(150):
        flux = 1e4 * rng.uniform(0.001, 1.0) ** -1.0
        row, column = rng.integers(0, 128, 2)
        r2 = (y - y[row, column]) ** 2 + (x - x[row, column]) ** 2
        light[row, column] += flux
        wings += flux * 0.038 * (1.0 + r2 / 12.5) ** -2.5
        covered |= r2 < 12.0**2
    noise = 20.0 / 8.0
    rest, weight = wings + noise * rng.standard_normal(light.shape), np.where(covered, 0.0, noise**-2.0)
    found = wing_light(light, rest, weight)
    free = ~covered
    assert wings[free].mean() > 0.05
    assert found[free].mean() == pytest.approx(wings[free].mean(), rel=0.15)
    assert (wing_light(light, noise * rng.standard_normal(light.shape), weight) == 0.0).all()


@pytest.mark.parametrize(("share", "scale"), [(0.35, 0.5), (0.2, 1.0), (0.5, 0.35)])
def test_unseen_light_is_told_from_the_histogram(share, scale):
    rng = np.random.default_rng(5)
    lit = rng.random(300_000) < share
    signal = rng.standard_normal(len(lit)) + lit * rng.exponential(scale, len(lit))
    level = signal[np.abs(signal) < 2.5].mean()
    signal -= level
    assert unseen_light(signal[signal < 2.5], 2.5) == pytest.approx(level, abs=0.05)


def test_noise_alone_holds_no_unseen_light():
    for seed in range(5):
        signal = np.random.default_rng(seed).standard_normal(100_000)
        assert unseen_light(signal[signal < 2.5], 2.5) < 0.02
    assert unseen_light(np.zeros(100), 2.5) == 0.0


@pytest.mark.parametrize(("index", "slope"), [(4.0, 2.5), (1.0, 5.0)])
def test_a_galaxy_is_followed_beyond_its_outline(index, slope):
    rng = np.random.default_rng(6)
    shape = (64 * BLOCK, 64 * BLOCK)
    y, x = middles(shape, 4)
    true = LargeObject(1100.0, 1200.0, 250.0, 0.7, 0.6, 0.3, index, slope)
    light = true.light(true.radii(y, x))
    rest = (light + 0.25 * rng.standard_normal(shape) + 0.05 * np.linspace(-1, 1, shape[1])).astype(np.float32)
    level, error = faint_quartiles(rest, np.full(shape, 16.0, np.float32))
    (found,) = find_large(level, error, 1.0)
    assert np.hypot(found.x - true.x, found.y - true.y) < 20.0
    assert found.ratio == pytest.approx(0.7, abs=0.06)
    fitted = fit_profile(found, level, error, 1.0)
    ring = (true.radii(y, x) > 1.0) & (true.radii(y, x) < 3.0)
    assert np.abs(fitted.light(fitted.radii(y, x)) - light)[ring].mean() < 0.01


def test_noise_and_waves_are_no_large_objects():
    rng = np.random.default_rng(7)
    shape = (40 * BLOCK, 40 * BLOCK)
    y, x = middles(shape, 4)
    wave = 0.4 * np.sin(x[None, :] / 150.0) * np.sin(y[:, None] / 150.0)
    rest = (wave + 0.25 * rng.standard_normal(shape)).astype(np.float32)
    level, error = faint_quartiles(rest, np.full(shape, 16.0, np.float32))
    assert find_large(level, error, 1.0) == []
    bare = LargeObject(700.0, 700.0, 200.0, 1.0, 0.0)
    assert fit_profile(bare, np.zeros_like(level), error, 1.0) == bare
