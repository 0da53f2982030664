"""Change points: exact likelihood ratios, honest sizes, dates within a night, and none where nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal

from schemas.errors import DataError
from workers.calibrate.change_points import ScanSettings, find_changes
from workers.calibrate.step_scan import Scan, night_noise, offsets, projection
from workers.simulate.calibration_year import CalibrationYear, Event, nightly_levels

FRAME_ERROR = 0.014
"""ADU, of one frame's level: a detector of 3k x 3k with 30 columns of overscan and 4 ADU of read noise."""


def year_of_levels(year: CalibrationYear, error: float = FRAME_ERROR):
    times, values, errors, off = nightly_levels(year, 4, error)
    return times, np.vstack([values, values.mean(axis=0)]), np.vstack([errors, errors[:1] / 2]), off


def nights(seed: int, series: int = 1, count: int = 120):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.choice(np.arange(1.3 * count), count, replace=False))
    errors = np.broadcast_to(1.0 / np.sqrt(rng.integers(5, 21, count)), (series, count)).copy()
    return times, rng.standard_normal((series, count)) * errors, errors


def test_scores_are_likelihood_ratios() -> None:
    """Against dense Gaussian likelihoods with the offset's size maximised and the constant's prior very wide."""
    times, values, errors = nights(1, count=40)
    relative = errors[0]
    scan = Scan(projection(times, relative, 60.0, 4.0), values)
    distance = np.sqrt(5) * np.abs(times[:, None] - times) / 60.0
    covariance = np.diag(relative**2) + 16 * (1 + distance + distance**2 / 3) * np.exp(-distance) + 1e5
    for span in ((17, 40), (2, 40), (20, 21), (20, 28)):
        offset = offsets([span], 40)[:, 0]
        inverse = np.linalg.inv(covariance)
        size = (offset @ inverse @ values[0]) / (offset @ inverse @ offset)
        ratio = multivariate_normal.logpdf(values[0] - size * offset, cov=covariance)
        ratio -= multivariate_normal.logpdf(values[0], cov=covariance)
        assert scan.span_scores([span])[0, 0] ** 2 / 2 == pytest.approx(ratio, rel=1e-3, abs=1e-4)


def test_scans_and_single_scores_agree() -> None:
    times, values, errors = nights(2, series=3, count=30)
    scan = Scan(projection(times, errors[0], 60.0, 4.0), values)
    for length, z in scan.scores(6):
        for first in np.flatnonzero(np.any(z != 0, axis=0)):
            end = 30 if length == 0 else first + length
            np.testing.assert_allclose(z[:, first], scan.span_scores([(int(first), int(end))])[:, 0], atol=1e-6)


def test_scores_of_noise_are_normal() -> None:
    """Heteroscedastic nights with gaps, and drift drawn from the model: a step's score has mean 0 and width 1."""
    times, values, errors = nights(3, series=4000, count=80)
    matrix = projection(times, errors[0], 60.0, 4.0)
    distance = np.sqrt(5) * np.abs(times[:, None] - times) / 60.0
    drift = 16 * (1 + distance + distance**2 / 3) * np.exp(-distance) + 1e-9 * np.eye(80)
    values = values + np.random.default_rng(4).standard_normal((4000, 80)) @ np.linalg.cholesky(drift).T
    for span in ((40, 80), (30, 37), (11, 12)):
        z = Scan(matrix, values).span_scores([span])[:, 0]
        assert kstest(z, "norm").pvalue > 0.001
        assert z.std() == pytest.approx(1.0, abs=0.04)


def test_noise_knows_no_level_drift_or_step() -> None:
    _, values, errors = nights(5, series=300, count=300)
    relative = errors[0] / np.median(errors[0])
    values += 7.0 + np.sin(np.arange(300) / 60.0) + (np.arange(300) > 150) * 5.0
    noise = night_noise(values, relative) / np.median(errors[0])
    assert noise.mean() == pytest.approx(1.0, abs=0.01)
    assert noise.std() < 0.07


def test_clean_years_stay_whole() -> None:
    for seed in range(15):
        times, values, errors, off = year_of_levels(CalibrationYear(seed=seed))
        found = find_changes(times, values, errors)
        assert found.changes == ()
        assert {jump.night for jump in found.jumps} <= set(np.flatnonzero(off))


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{}, {"season": 0.05}, {"wander": 0.002}, {"missing": 0.4}])
def test_hundreds_of_clean_years_stay_whole(changed: dict[str, float]) -> None:
    for seed in range(250):
        times, values, errors, off = year_of_levels(CalibrationYear(seed=10_000 + seed, **changed))
        found = find_changes(times, values, errors)
        assert found.changes == ()
        assert {jump.night for jump in found.jumps} <= set(np.flatnonzero(off))


@pytest.mark.parametrize(("effect", "size"), [("level", 0.03), ("level", -0.05), ("amplifier", 0.03)])
def test_steps_are_dated_within_a_night(effect, size: float) -> None:
    for seed in range(12):
        day = int(np.random.default_rng(seed).integers(10, 355))
        event = Event(day, effect, size, amplifier=1)
        times, values, errors, _ = year_of_levels(CalibrationYear(seed=500 + seed, events=(event,)))
        found = find_changes(times, values, errors).changes
        assert len(found) == 1
        assert abs(found[0].first - np.searchsorted(times, day)) <= 1
        assert found[0].earliest <= found[0].first <= found[0].latest


def test_sizes_are_honest() -> None:
    """The size of a step over its error, at the true size: mean 0 and width 1."""
    pulls = []
    for seed in range(40):
        event = Event(60, "amplifier", 0.05, amplifier=1)
        year = CalibrationYear(seed=900 + seed, days=120, events=(event,), season=0.01, wander=0.0)
        times, values, errors, _ = year_of_levels(year)
        [change] = find_changes(times, values, errors).changes
        [told] = [evidence for evidence in change.evidence if evidence.series == 1]
        pulls.append((told.size - 0.05) / told.error)
    assert np.mean(pulls) == pytest.approx(0.0, abs=3 / np.sqrt(40))
    assert np.std(pulls) == pytest.approx(1.0, abs=0.35)


def test_several_changes_near_each_other() -> None:
    times, values, errors = nights(6, series=2, count=200)
    values[0, 50:] += 3.0
    values[1, 58:] -= 3.0
    values[0, 130:] -= 2.0
    found = find_changes(times, values, errors)
    assert [change.first for change in found.changes] == [50, 58, 130]
    assert [change.evidence[0].series for change in found.changes] == [0, 1, 0]
    assert [np.sign(change.evidence[0].size) for change in found.changes] == [1, -1, -1]


def test_a_bad_night_is_a_jump_and_no_change() -> None:
    times, values, errors = nights(7, count=150)
    values[0, [0, 40, 41, 90, 93, 149]] += [9, 9, 9, 12, 11, 9]
    found = find_changes(times, values, errors)
    assert found.changes == ()
    assert [jump.night for jump in found.jumps] == [0, 40, 41, 90, 93, 149]


def test_an_excursion_of_a_week_is_a_period_of_its_own() -> None:
    times, values, errors = nights(8, count=150)
    values[0, 60:67] += 2.5
    found = find_changes(times, values, errors)
    assert [change.first for change in found.changes] == [60, 67]
    assert found.changes[0].evidence[0].size == -found.changes[1].evidence[0].size
    assert found.jumps == ()


def test_two_nights_on_either_side_are_needed() -> None:
    times, values, errors = nights(9, count=100)
    last = values.copy()
    last[0, 99:] += 8.0
    assert [jump.night for jump in find_changes(times, last, errors).jumps] == [99]
    last[0, 98:99] += 8.0
    found = find_changes(times, last, errors)
    assert [change.first for change in found.changes] == [98]
    assert found.jumps == ()


def test_many_series_show_together_what_none_shows_alone() -> None:
    times, values, errors = nights(10, series=64, count=200)
    values[:, 120:] += np.random.default_rng(11).choice([-0.3, 0.3], 64)[:, None]
    assert find_changes(times, values, errors).changes == ()
    [change] = find_changes(times, values, errors, together=True).changes
    assert abs(change.first - 120) <= 1
    assert change.evidence[0].series == -1
    assert change.evidence[0].size == pytest.approx(0.3, rel=0.15)
    for seed in range(20, 26):
        assert find_changes(*nights(seed, series=64, count=200), together=True).changes == ()


def test_correlated_series_are_no_change() -> None:
    """Noise that all series share makes the sum of squares wide: it must not pass for a change."""
    for seed in range(8):
        times, values, errors = nights(30 + seed, series=64, count=200)
        common = np.random.default_rng(seed).standard_normal(200) * errors[0]
        assert find_changes(times, 0.6 * values + 0.8 * common, errors, together=True).changes == ()


@given(
    st.integers(0, 50), st.floats(0.01, 1e4), st.floats(-1e4, 1e4), st.integers(10, 50), st.sampled_from([-4.0, 5.0])
)
@settings(max_examples=12, deadline=None)
def test_units_and_the_direction_of_time_do_not_matter(seed, scale, zero, first, size) -> None:
    times, values, errors = nights(seed, count=60)
    values[0, first:] += size
    plain = find_changes(times, values, errors)
    scaled = find_changes(3.0 + times, scale * values + zero, scale * errors)
    assert [c.first for c in scaled.changes] == [c.first for c in plain.changes] == [first]
    assert scaled.changes[0].evidence[0].size == pytest.approx(scale * plain.changes[0].evidence[0].size, rel=1e-3)
    mirrored = find_changes(-times[::-1], values[:, ::-1], errors[:, ::-1])
    assert [c.first for c in mirrored.changes] == [60 - first]


def test_missing_values() -> None:
    times, values, errors = nights(12, series=2, count=100)
    values[1, 60:] += 3.0
    values[0, 20:30], values[1, 70] = np.nan, np.nan
    values[:, 80], errors[:, 80] = np.nan, np.nan
    assert [change.first for change in find_changes(times, values, errors).changes] == [60]


def test_a_constant_series_and_few_nights_have_no_change() -> None:
    times, values, errors = nights(13, count=50)
    assert find_changes(times, np.ones_like(values), errors).changes == ()
    assert find_changes(times[:4], values[:, :4] + [0, 0, 99, 99], errors[:, :4]).changes == ()


def test_what_is_refused() -> None:
    times, values, errors = nights(14, count=20)
    with pytest.raises(DataError, match="one value and error per night"):
        find_changes(times[:-1], values, errors)
    with pytest.raises(DataError, match="in order of time"):
        find_changes(times[::-1], values, errors)
    with pytest.raises(DataError, match="must be positive"):
        find_changes(times, values, 0 * errors)


def test_the_threshold_follows_the_wanted_false_alarms() -> None:
    times, values, errors = nights(15, count=200)
    values[0, 100:] += 0.9
    assert find_changes(times, values, errors, ScanSettings(false_alarms=1e-12)).changes == ()
    assert len(find_changes(times, values, errors, ScanSettings(false_alarms=0.5)).changes) == 1
