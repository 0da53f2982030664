"""Season-aligned windows: the Sun's place, seasons that tile the time, and no input nearer than the gap."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import get_sun
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.templates.supernovae import DECLINE, make_field, run, shape
from workers.imaging.wcs import SkyWcs
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry
from workers.templates.season import last_conjunction, season_before
from workers.templates.selection import Reason, choose_inputs, select_inputs
from workers.templates.window import cell_window, inside_window

ALIGNED = TemplatesConfig(pixel_scale=1.0, season_aligned=True, min_epochs=1, min_selected=2000, max_epochs=2000)
MOVING = TemplatesConfig(pixel_scale=1.0)
FIRST, LAST = 60310, 62137
"""Five years."""
WCS = SkyWcs.tangent(10.0, 0.0, (50.0, 50.0), 1.0)
DAILY = tuple(
    (CalexpEntry(Path("x"), k, 0, "r", FIRST - 800.5 + k, "0", "0", WCS, (9, 9), 1.0, 1.0, 1.0), 1.0)
    for k in range(LAST - FIRST + 900)
)
"""A visit every day, of the day of the job too."""
ras, days = st.floats(0.0, 360.0), st.floats(FIRST, LAST)


@given(ras, days)
@settings(max_examples=60, deadline=None)
def test_at_a_conjunction_the_sun_has_that_right_ascension(ra, mjd):
    when = last_conjunction(ra, mjd)
    assert mjd - 365.30 < when <= mjd + 1e-6
    sun = get_sun(Time(when, format="mjd", scale="tai"))
    # 0.05 degrees: the time is good to 0.05 days
    assert abs((sun.ra.deg - ra + 180.0) % 360.0 - 180.0) < 0.05


@given(ras, days)
@settings(max_examples=60, deadline=None)
def test_seasons_tile_the_time(ra, mjd):
    begin, end = season_before(ra, mjd)
    assert end - begin in (365.0, 366.0)
    assert begin < end <= mjd
    assert all(season_before(ra, end + later) == (begin, end) for later in (1.0, 100.0, 365.0))
    assert season_before(ra, begin + 1.0)[1] == begin
    assert season_before(ra, end + 367.0)[0] == end


@given(ras, days, st.floats(0.0, 180.0))
@settings(max_examples=100, deadline=None)
def test_a_cells_window_ends_the_gap_before_the_day_and_lies_in_the_surveys(ra, mjd, gap):
    config = ALIGNED.model_copy(update={"gap_days": gap}).at(mjd)
    begin, end = cell_window(config, ra)
    assert end <= np.floor(mjd) - gap + 1e-9
    assert end < last_conjunction(ra, np.floor(mjd))
    assert config.window[0] <= begin <= end <= config.window[1]
    assert cell_window(ALIGNED.model_copy(update={"gap_days": gap}).at(np.floor(mjd)), ra) == (begin, end)


@pytest.mark.parametrize("ra", [0.0, 45.0, 123.4, 180.0, 270.0, 359.99])
def test_on_no_day_of_five_years_is_an_input_nearer_than_the_gap_or_of_the_current_season(ra):
    lengths, latest = [], -np.inf
    for day in range(FIRST, LAST, 7):
        config = ALIGNED.at(day + 0.3)
        begin, end = cell_window(config, ra)
        times = np.array([entry.midpointMjdTai for entry, _ in DAILY])
        times = times[(times >= begin) & (times <= end)]
        assert times.max() <= day - config.gap_days
        assert times.max() < last_conjunction(ra, day)
        assert end >= latest  # time does not go backwards
        latest = end
        lengths.append(len(times))
    assert min(lengths) >= 365 - 60 - 1
    assert np.mean(np.isin(lengths, (365, 366))) == pytest.approx(1 - 60 / 365, abs=0.03)


@given(ras, days)
@settings(max_examples=5, deadline=None)
def test_what_is_chosen_lies_in_the_cells_window(ra, mjd):
    config = ALIGNED.at(mjd)
    chosen = choose_inputs(DAILY, config, ra)
    begin, end = cell_window(config, ra)
    inside = [entry for entry, _ in DAILY if begin <= entry.midpointMjdTai <= end]
    assert list(chosen.inputs) == inside
    assert set(inside) <= set(inside_window([entry for entry, _ in DAILY], config))
    assert chosen.counts() == {Reason.WINDOW: len(DAILY) - len(inside)}


def test_just_after_conjunction_the_season_that_ended_comes_in_but_for_the_gap():
    conjunction = last_conjunction(150.0, LAST)
    before, after = ALIGNED.at(conjunction - 2.0), ALIGNED.at(conjunction + 2.0)
    assert cell_window(before, 150.0)[1] == pytest.approx(conjunction - 365.256, abs=1.0)
    assert cell_window(after, 150.0) == pytest.approx((conjunction - 365.256, conjunction - 60.0), abs=3.0)
    whole = cell_window(ALIGNED.at(conjunction + 61.0), 150.0)
    assert whole == pytest.approx((conjunction - 365.256, conjunction), abs=1.0)
    assert cell_window(ALIGNED.at(conjunction + 300.0), 150.0) == whole


def test_a_season_goes_with_a_window_that_moves_a_short_gap_and_a_place():
    with pytest.raises(ValidationError, match="leave begin and end out"):
        TemplatesConfig(pixel_scale=1.0, begin=1.0, end=2.0, season_aligned=True)
    with pytest.raises(ValidationError, match="seasons would be left empty"):
        TemplatesConfig(pixel_scale=1.0, gap_days=200.0, season_aligned=True)
    with pytest.raises(ValueError, match="right ascension"):
        select_inputs([], ALIGNED.at(FIRST))
    assert cell_window(MOVING.at(FIRST), None) == MOVING.at(FIRST).window


def test_the_sun_passes_the_right_ascension_of_regulus_on_august_23():
    # RA 152.09 degrees; the conjunction in longitude is a day earlier
    when = date.fromordinal(int(last_conjunction(152.093, 61041.0)) + 678576)
    assert abs((when - date(2025, 8, 23)).days) <= 1


@pytest.fixture(scope="module")
def found():
    recipes = {
        "gap": (MOVING, None),
        "no gap": (MOVING.model_copy(update={"gap_days": 0.0}), None),
        "veto": (MOVING, 30.0),
        "aligned": (ALIGNED.model_copy(update={"min_epochs": 3}), None),
    }
    return run(recipes, fields=12, count=100, seed=7)


def test_supernovae_are_not_in_the_template_of_their_first_detection(found):
    assert len(found["gap"].first) > 500
    assert np.mean(found["gap"].first > 0.02) < 0.005
    assert np.mean(found["no gap"].first > 0.02) > 0.05


def test_supernovae_are_in_no_template_of_their_season_where_it_is_aligned_or_they_are_left_out(found):
    assert not (found["aligned"].season > 0.02).any()
    assert np.mean(found["veto"].season > 0.02) < 0.005
    # why the moving window needs them left out: it follows the supernova as long as it is visible
    assert np.mean(found["gap"].season > 0.02) > 0.05
    assert np.mean(found["no gap"].season > 0.02) > np.mean(found["gap"].season > 0.02) + 0.3


def test_the_simulated_supernova_rises_peaks_and_fades():
    days = np.linspace(-30.0, 300.0, 3301)
    flux = shape(days)
    assert days[flux.argmax()] == pytest.approx(0.0, abs=0.1)
    assert flux.max() == pytest.approx(1.0)
    assert not flux[days < -18.5].any()
    assert (np.diff(flux[(days > -18.5) & (days < -0.1)]) > 0).all()
    assert (np.diff(flux[days > 0]) < 0).all()
    assert -2.5 * np.log10(shape(np.array([15.0])))[0] == pytest.approx(DECLINE[3, 1])
    field = make_field(np.random.default_rng(1))
    assert len(field.entries) == 72
