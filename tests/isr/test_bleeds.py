"""Bleed trails of a known field: every pixel that charge ran into, and no star that merely stands there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.calibrations import CalibrationSet
from workers.imaging.masks import MaskPlane
from workers.isr import bleeds
from workers.isr.bleeds import mark_bleeds
from workers.isr.saturated_runs import saturated_runs
from workers.isr.saturation import grown
from workers.isr.state import IsrState
from workers.simulate.charge import bleed
from workers.survey.isr_config import IsrConfig

SIZE, SKY, READ_NOISE, FULL = 500, 300.0, 6.0, 80000.0
SATURATED, BLEED = int(MaskPlane.SATURATED), int(MaskPlane.BLEED)
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)
Star = tuple[float, float, float]
FIELD: list[Star] = [(250.3, 250.0, 3e7), (390.0, 90.7, 8e6), (120.2, 400.4, 2.5e6)]
"""x, y and electrons of stars that saturate; the first two bleed far."""


def stars(wanted: list[Star], ratio: float = 1.0) -> np.ndarray:
    """Electrons of Moffat stars (FWHM 3.4 pixels, 1/`ratio` along the columns) on the sky."""
    image = np.full((SIZE, SIZE), SKY)
    for x, y, flux in wanted:
        image += flux * 1.5 / np.pi / 9.0 * (1 + ((X - x) ** 2 + ((Y - y) * ratio) ** 2) / 9.0) ** -2.5
    return image


def normal_stars(count: int = 60, seed: int = 3) -> list[Star]:
    """Unsaturated ones, up to 200,000 electrons, away from the bright ones."""
    rng = np.random.default_rng(seed)
    found: list[Star] = []
    while len(found) < count:
        x, y = rng.uniform(12, SIZE - 12, 2)
        if all(np.hypot(x - other[0], y - other[1]) > 40 for other in FIELD):
            found.append((x, y, 10 ** rng.uniform(3, 5.3)))
    return found


def observed(electrons: np.ndarray, level: float = FULL, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask with SATURATED as the saturation step sets it, and variance."""
    rng = np.random.default_rng(seed)
    image = rng.poisson(electrons) + rng.normal(0, READ_NOISE, electrons.shape)
    mask = np.zeros(image.shape, np.int32)
    mask[grown(np.nonzero(image >= 0.97 * level), (SIZE, SIZE))] |= SATURATED
    return image.astype(np.float32), mask, (np.maximum(image, 0) + READ_NOISE**2).astype(np.float32)


def marked(electrons: np.ndarray, level: float = FULL, **options: Any) -> np.ndarray:
    image, mask, variance = observed(electrons, level)
    count = mark_bleeds(image, mask, variance, np.array([0, SIZE]), **options)
    assert count == np.count_nonzero(mask & BLEED)
    return mask


def with_tails(electrons: np.ndarray, bled: np.ndarray, start: float, scale: float) -> np.ndarray:
    """Electrons that faint ends of the trails add: `start` next to the saturated end, falling by e in `scale` rows."""
    tails = np.zeros_like(bled)
    for column in np.flatnonzero((bled - electrons > 1000).any(axis=0)):
        rows = np.flatnonzero(bled[:, column] >= FULL)
        below, above = np.arange(rows[0]), np.arange(rows[-1] + 1, SIZE)
        tails[below, column] = start * np.exp(-(rows[0] - 1 - below) / scale)
        tails[above, column] = start * np.exp(-(above - rows[-1] - 1) / scale)
    return tails


def test_all_that_ran_is_flagged_and_no_normal_star() -> None:
    truth = stars(FIELD + normal_stars())
    bled = bleed(truth, FULL)
    mask = marked(bled)
    ran = bled - truth > 1
    assert ran.sum() > 250
    assert np.all(mask[ran] & (SATURATED | BLEED))
    far = ran & (np.abs(Y - 250) > 15) & (np.abs(X - 250) < 20)
    assert far.sum() > 100
    assert np.all(mask[far] & BLEED)
    for x, y, _ in normal_stars():
        assert mask[round(y), round(x)] == 0
    beside = (mask & BLEED != 0) & (mask & SATURATED == 0) & ~ran
    assert beside.sum() < 2.5 * ran.sum()  # the columns added on each side, and ends rounded up to blocks


def test_neighbour_columns_are_flagged_as_asked() -> None:
    bled = bleed(stars(FIELD), FULL)
    widths = [np.count_nonzero(marked(bled, grow=grow)[285] & BLEED) for grow in (0, 1, 3)]
    assert widths[0] >= 1
    assert widths == [widths[0], widths[0] + 2, widths[0] + 6]


@pytest.mark.parametrize(("start", "scale"), [(3000.0, 25.0), (400.0, 40.0)])
def test_faint_ends_are_followed_into_the_noise(start: float, scale: float) -> None:
    truth = stars(FIELD[:1])
    bled = bleed(truth, FULL)
    tails = with_tails(truth, bled, start, scale)
    mask = marked(bled + tails)
    sigma = np.sqrt(truth + READ_NOISE**2)
    bright = (tails > 2.0 * sigma) & (np.abs(tails / truth) > 0.7)
    assert bright.sum() > 100
    assert (mask[bright] != 0).mean() > 0.97
    trail_columns = (tails > 1).any(axis=0)
    flagged = mask & BLEED != 0
    assert np.abs(Y[flagged] - 250).max() < 60 + 6 * scale  # it stops where the tail does
    assert np.count_nonzero(flagged.any(axis=0)) <= np.count_nonzero(trail_columns) + 2


@pytest.mark.parametrize("ratio", [1.0, 0.8, 1.25])
def test_a_saturated_star_without_a_trail_has_none(ratio: float) -> None:
    truth = np.minimum(stars(FIELD, ratio), FULL)
    mask = marked(truth)
    assert np.count_nonzero(mask & SATURATED) > 150
    assert not np.any(mask & BLEED)


def test_blooming_below_the_saturation_level_is_found() -> None:
    """The wells bloom at 60,000 electrons, the core alone reaches the level that is called saturated."""
    truth = stars([(250.3, 250.0, 3e7), *normal_stars(30)])
    bloomed = np.where((np.abs(X - 250) < 4) & (np.abs(Y - 250) > 9), np.maximum(bleed(truth, 40000.0), truth), truth)
    mask = marked(np.minimum(bloomed, FULL))
    ran = (bloomed - truth > 1000) & (np.abs(Y - 250) > 25)
    assert ran.sum() > 100
    assert (mask[ran] & BLEED != 0).mean() > 0.95
    assert not any(mask[round(y), round(x)] for x, y, _ in normal_stars(30))


def test_a_star_above_a_saturated_one_is_left_alone() -> None:
    for distance in (16.0, 22.0, 30.0, 45.0):
        truth = np.minimum(stars([(250.0, 250.0, 8e6), (250.0, 250.0 + distance, 2e5)]), FULL)
        mask = marked(truth)
        assert mask[round(250 + distance), 250] == 0


def test_a_star_in_the_way_of_a_trail_ends_it() -> None:
    truth = stars(FIELD[:1])
    bled = bleed(truth, FULL)
    end = int(np.flatnonzero(bled[:, 250] >= FULL)[-1])
    crowded = bleed(stars([*FIELD[:1], (250.0, end + 40.0, 3e5)]), FULL)
    mask = marked(crowded + with_tails(truth, bled, 500.0, 20.0))
    assert mask[end + 10, 250] & BLEED
    assert not mask[end + 40, 250] & BLEED


def test_the_brightest_take_the_whole_column() -> None:
    truth = stars([(250.0, 250.0, 1.2e8), *normal_stars(10)])
    bled = bleed(truth, FULL)
    assert np.count_nonzero(bled[:, 250] >= FULL) > 0.25 * SIZE
    mask = marked(bled)
    assert np.all(mask[:, 250] & (BLEED | SATURATED))
    assert np.all(mask[:40, 250] & BLEED)
    image, mask, variance = observed(bled)
    mark_bleeds(image, mask, variance, np.array([0, 250, SIZE]), full_column=0.99)
    assert not mask[5, 250] & BLEED


def test_amplifiers_end_whole_columns() -> None:
    truth = stars([(250.0, 400.0, 6e7)])
    image, mask, variance = observed(bleed(truth, FULL))
    mark_bleeds(image, mask, variance, np.array([0, 250, SIZE]), full_column=0.2)
    assert np.all(mask[250:, 250] & (BLEED | SATURATED))
    assert not np.any(mask[:200, 250] & BLEED)


def test_hot_pixels_and_cosmic_rays_have_no_trail() -> None:
    truth = stars(normal_stars())
    rng = np.random.default_rng(4)
    rows, columns = rng.integers(5, SIZE - 5, (2, 200))
    truth[rows, columns] = 2 * FULL
    truth[100, 200:212] = 2 * FULL
    mask = marked(np.minimum(truth, FULL))
    assert np.count_nonzero(mask & SATURATED) > 1500
    assert np.count_nonzero(mask & BLEED) == 0


def test_without_a_variance_the_noise_of_the_image_is_taken() -> None:
    truth = stars(FIELD)
    bled = bleed(truth, FULL)
    image, mask, variance = observed(bled)
    other = mask.copy()
    mark_bleeds(image, mask, variance, np.array([0, SIZE]))
    mark_bleeds(image, other, np.zeros_like(variance), np.array([0, SIZE]))
    assert np.count_nonzero((mask ^ other) & BLEED) < 0.3 * np.count_nonzero(mask & BLEED)


def test_nothing_saturated_and_everything_saturated() -> None:
    image, mask, variance = observed(np.full((SIZE, SIZE), SKY))
    assert mark_bleeds(image, mask, variance, np.array([0, SIZE])) == 0
    assert not mask.any()
    mask[:] = SATURATED
    mark_bleeds(image, mask, variance, np.array([0, SIZE]))
    assert np.all(mask & SATURATED)


def grouped(flags: np.ndarray) -> np.ndarray:
    """Group number of each flagged pixel by `saturated_runs`, -1 elsewhere."""
    runs = saturated_runs(np.where(flags, SATURATED, 0).astype(np.int32), SATURATED)
    labels = np.full(flags.shape, -1)
    for star, column, first, last in zip(runs.star, runs.column, runs.first, runs.last, strict=True):
        assert np.all(labels[first : last + 1, column] == -1)
        labels[first : last + 1, column] = star
    return labels


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(1, 15), st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_runs_that_touch_are_one_star(seed: int, share: float, height: int, width: int) -> None:
    from scipy.ndimage import label

    flags = np.random.default_rng(seed).random((height, width)) < share
    ours, (theirs, count) = grouped(flags), label(flags, np.ones((3, 3), int))
    np.testing.assert_array_equal(ours >= 0, flags)
    pairs = set(zip(ours[flags].tolist(), theirs[flags].tolist(), strict=True))
    assert len(pairs) == count == len({one for one, _ in pairs})


def test_the_step_counts_what_it_flags(instrument: Any) -> None:
    raw = instrument.raw(np.full((96, 128), 100.0))
    image = np.full((96, 128), 200.0, np.float32)
    image[20:80, 30:33] = 50000.0
    image[45:55, 26:37] = 50000.0
    mask = np.where(image > 40000, SATURATED, 0).astype(np.int32)
    variance = np.full((96, 128), 200.0, np.float32)
    detector = instrument.camera.detectors[0]
    state = IsrState(raw, instrument.camera, detector, CalibrationSet(), IsrConfig(), image, mask, variance)
    bleeds.apply(state)
    assert np.all(state.mask[20:40, 30:33] & BLEED)
    assert state.metrics["bleedFraction"] == np.count_nonzero(state.mask & BLEED) / state.mask.size
    np.testing.assert_array_equal(bleeds.amplifier_lines(detector), [0, 48, 96])
