"""What goes in: the window, the refusal of science visits, the choice of epochs and their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import ConfigurationError, DataError
from tests.templates.synthetic import CONFIG, Sky
from workers.imaging.wcs import SkyWcs
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry
from workers.templates.selection import input_weight, select_inputs
from workers.templates.window import inside_window, refuse_inside_window

WCS = SkyWcs.tangent(10.0, 0.0, (50.0, 50.0), 1.0)
INFO = Sky(np.zeros(0), np.zeros(0), np.zeros(0)).expose(7, 60500.0).info


def entry(visit, fwhm=2.0, variance=4.0, mjd=60100.0, detector=0):
    return CalexpEntry(
        Path("x.fits"), visit, detector, "r", mjd, "0", "0", WCS, (100, 100), fwhm, variance, zero_point=1.0
    )


@given(st.lists(st.floats(59000.0, 61000.0), max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_window_lets_in_what_is_inside_and_nothing_else(times):
    kept = inside_window([entry(k, mjd=mjd) for k, mjd in enumerate(times)], CONFIG)
    assert [one.midpointMjdTai for one in kept] == [t for t in times if CONFIG.begin <= t <= CONFIG.end]


@pytest.mark.parametrize(("mjd", "word"), [(60100.0, "inside"), (60365.0, "inside"), (59999.9, "before")])
def test_a_science_visit_not_after_the_window_is_refused(mjd, word):
    with pytest.raises(DataError, match=rf"7:0.*{word} the template window.*templates\.end"):
        refuse_inside_window(replace(INFO, midpointMjdTai=mjd), CONFIG.window)


@given(st.floats(60365.0, 70000.0, exclude_min=True))
@settings(max_examples=20, deadline=None)
def test_a_science_visit_after_the_window_passes(mjd):
    refuse_inside_window(replace(INFO, midpointMjdTai=mjd), CONFIG.window)


@given(st.floats(50000.0, 70000.0), st.floats(0.0, 400.0), st.floats(1.0, 900.0))
@settings(max_examples=50, deadline=None)
def test_a_window_that_moves_ends_a_gap_before_the_day_and_is_the_same_all_day(mjd, gap, length):
    moving = TemplatesConfig(pixel_scale=1.0, gap_days=gap, window_days=length)
    begin, end = moving.at(mjd).window
    assert mjd - end >= gap - 1e-6
    assert mjd - end < gap + 1.0 + 1e-6
    assert end - begin == pytest.approx(length)
    assert moving.at(np.floor(mjd)).window == (begin, end)
    assert CONFIG.at(mjd) is CONFIG


def test_a_window_has_both_ends_or_none():
    with pytest.raises(ValidationError, match="go together"):
        TemplatesConfig(begin=60000.0, pixel_scale=1.0)
    with pytest.raises(ConfigurationError, match="moves"):
        _ = TemplatesConfig(pixel_scale=1.0).window


def test_the_weight_is_the_inverse_variance_of_a_faint_stars_flux():
    base = input_weight(entry(1))
    assert input_weight(entry(1, fwhm=4.0)) == pytest.approx(base / 4)
    assert input_weight(entry(1, variance=8.0)) == pytest.approx(base / 2)


def test_bad_seeing_is_left_out():
    config = CONFIG.model_copy(update={"max_fwhm_arcsec": 2.5})
    chosen = select_inputs([(entry(k, fwhm=2.0 + 0.2 * k), 1.0) for k in range(6)], config)
    assert [one.visit for one in chosen] == [0, 1, 2]


def test_the_best_visits_stay_and_come_in_order_of_time():
    config = CONFIG.model_copy(update={"max_epochs": 3})
    candidates = [(entry(k, variance=1.0 + k, mjd=60200.0 - k), 1.0) for k in range(8)]
    assert [one.visit for one in select_inputs(candidates, config)] == [2, 1, 0]
    partly = [(one, 0.1 if one.visit == 0 else 1.0) for one, _ in candidates]
    assert [one.visit for one in select_inputs(partly, config)] == [3, 2, 1]


def test_both_detectors_of_a_visit_count_as_one_epoch():
    candidates = [(entry(visit, detector=detector), 0.5) for visit in (1, 2) for detector in (0, 1)]
    assert select_inputs(candidates, CONFIG) == ()
    assert len(select_inputs([*candidates, (entry(3), 0.3)], CONFIG)) == 5


def test_an_exposure_that_covers_nothing_is_no_epoch():
    assert select_inputs([(entry(k), 0.0 if k else 1.0) for k in range(5)], CONFIG) == ()
