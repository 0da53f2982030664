"""Templates in airmass bins: which inputs go together, and which bin an exposure takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.templates.airmass_year import AIR, LATITUDE, excess, season, sky
from workers.imaging.refraction import ARCSEC, lever_vectors
from workers.templates.airmass import BinRules, bin_for, split_inputs

CONTRAST = 4e-7
"""Of n - 1: 0.0825 arcsec per unit of the vectors."""
RULES = BinRules(CONTRAST)
EAST, UP, WEST = [1.5, 0.0], [0.0, 0.0], [-1.5, 0.0]


def groups(rng, counts, centres, width=0.1):
    return np.concatenate([np.array(c) + rng.normal(0.0, width, (n, 2)) for n, c in zip(counts, centres, strict=True)])


def test_inputs_at_three_places_make_three_bins_in_the_order_of_the_inputs():
    vectors = groups(np.random.default_rng(1), (5, 8, 6), (WEST, UP, EAST))
    bins = split_inputs(vectors, np.ones(19), np.arange(19), RULES)
    assert [one.rows for one in bins] == [tuple(range(5)), tuple(range(5, 13)), tuple(range(13, 19))]
    np.testing.assert_allclose(bins[1].vector, vectors[5:13].mean(axis=0))
    shuffled = np.random.default_rng(2).permutation(19)
    again = split_inputs(vectors[shuffled], np.ones(19), np.arange(19), RULES)
    assert sorted(tuple(sorted(shuffled[list(one.rows)])) for one in again) == [one.rows for one in bins]


def test_two_places_make_two_bins_and_one_place_none():
    rng = np.random.default_rng(3)
    assert len(split_inputs(groups(rng, (5, 5), (WEST, EAST)), np.ones(10), np.arange(10), RULES)) == 2
    assert split_inputs(groups(rng, (10,), (UP,)), np.ones(10), np.arange(10), RULES) == ()


def test_a_place_with_too_few_visits_makes_no_bin():
    vectors = groups(np.random.default_rng(4), (6, 2), (UP, EAST))
    assert [one.rows for one in split_inputs(vectors, np.ones(8), np.arange(8), RULES)] == [tuple(range(6))]
    vectors = groups(np.random.default_rng(4), (6, 4), (UP, EAST))
    doubled = [0, 1, 2, 3, 4, 5, 6, 6, 7, 7]  # two detectors each of two visits
    assert len(split_inputs(vectors, np.ones(10), doubled, RULES)) == 1
    assert split_inputs(vectors[:2], np.ones(2), np.arange(2), RULES) == ()


def test_inputs_without_a_site_are_in_no_bin():
    vectors = groups(np.random.default_rng(5), (5, 5), (WEST, EAST))
    vectors[3] = np.nan
    bins = split_inputs(vectors, np.ones(10), np.arange(10), RULES)
    assert [one.rows for one in bins] == [(0, 1, 2, 4), (5, 6, 7, 8, 9)]
    assert split_inputs(np.full((10, 2), np.nan), np.ones(10), np.arange(10), RULES) == ()


@given(st.integers(0, 10**6), st.integers(3, 45), st.floats(0.02, 0.2), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_no_bin_breaks_a_rule(seed, count, spread, epochs):
    rng = np.random.default_rng(seed)
    vectors, weights = rng.uniform(-2.0, 2.0, (count, 2)), rng.uniform(0.1, 2.0, count)
    rules = BinRules(CONTRAST, spread, epochs)
    bins = split_inputs(vectors, weights, np.arange(count), rules)
    inside = [row for one in bins for row in one.rows]
    assert len(bins) <= 3
    assert len(set(inside)) == len(inside)
    for one in bins:
        rows = list(one.rows)
        mean = np.average(vectors[rows], axis=0, weights=weights[rows])
        np.testing.assert_allclose(one.vector, mean)
        assert len(rows) >= epochs
        assert ARCSEC * CONTRAST * np.hypot(*(vectors[rows] - mean).T).max() <= spread + 1e-12


def test_an_exposure_takes_the_nearest_bin_or_the_whole_cell():
    vectors = groups(np.random.default_rng(6), (6, 6), (WEST, EAST))
    bins, whole = split_inputs(vectors, np.ones(12), np.arange(12), RULES), vectors.mean(axis=0)
    assert bin_for(WEST, bins, whole, RULES) is bins[0]
    assert bin_for([2.0, 1.0], bins, whole, RULES) is bins[1]
    assert bin_for([0.2, 0.3], bins, whole, RULES) is None  # within max_spread of the whole
    assert bin_for([0.0, 5.0], bins, [0.0, 4.0], RULES) is None
    assert bin_for(WEST, (), whole, RULES) is None
    assert bin_for([np.nan, np.nan], bins, whole, RULES) is None
    assert bin_for(WEST, bins[1:], whole, RULES) is None


def test_the_contrast_may_be_of_a_red_star():
    vectors = groups(np.random.default_rng(7), (6, 6), (WEST, EAST))
    assert len(split_inputs(vectors, np.ones(12), np.arange(12), BinRules(-CONTRAST))) == 2


@pytest.mark.parametrize("band", ["u", "g"])
def test_bins_leave_less_of_a_blue_star(band):
    rng = np.random.default_rng(8)
    found = [season(rng, band, dec, spread=0.04) for dec in (-60.0, -30.0, 0.0)]
    whole, binned = (np.concatenate([one[k] for one in found]) for k in (0, 1))
    assert np.sqrt(np.mean(binned**2)) < 0.7 * np.sqrt(np.mean(whole**2))
    assert (binned <= whole + 1e-12).all()
    assert np.percentile(binned, 95) < 0.75 * np.percentile(whole, 95)
    assert excess(band, 12000.0) > 0.0


def test_the_simulated_sky_turns_the_right_way():
    """A field that rises has its zenith in the west."""
    zenith, angle = sky(-10.0, [-3.0, 0.0, 3.0])
    vectors = lever_vectors(zenith, angle, AIR)
    assert vectors[0, 0] < 0.0 < vectors[2, 0]
    assert zenith[1] == pytest.approx(abs(LATITUDE + 10.0))
    assert vectors[1, 1] == pytest.approx(-np.tan(np.radians(20.24)), rel=0.01)
