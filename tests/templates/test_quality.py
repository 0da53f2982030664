"""Quality cuts: what each does, on what it reads, and that nothing is left out without a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.templates.synthetic import CONFIG, Sky
from workers.imaging.exposure import PhotoCalib
from workers.imaging.fits import write_exposure
from workers.imaging.wcs import SkyWcs
from workers.templates.calexps import CalexpEntry, CalexpQuality, read_entry
from workers.templates.selection import Reason, choose_inputs, input_weight, relative_transparency, select_inputs

WCS = SkyWcs.tangent(10.0, 0.0, (50.0, 50.0), 1.0)
EMPTY = Sky(np.zeros(0), np.zeros(0), np.zeros(0))
GOOD = CalexpQuality(
    transparency=0.9, throughput=1.0, psfError=0.01, ellipticity=0.05, psfStars=30, astrometricRms=0.02
)


def entry(visit, *, fwhm=2.0, variance=4.0, detector=0, mjd=60100.0, **quality):
    return CalexpEntry(
        Path("x"), visit, detector, "r", mjd, "0", "0", WCS, (9, 9), fwhm, variance, 1.0, CalexpQuality(**quality)
    )


def chosen(entries, **keys):
    return choose_inputs([(one, 1.0) for one in entries], CONFIG.model_copy(update=keys))


def visits(selection):
    return sorted(one.visit for one in selection.inputs)


@pytest.mark.parametrize(
    ("bad", "edge", "reason"),
    [
        ({"transparency": 0.74}, {"transparency": 0.75}, Reason.TRANSPARENCY),
        ({"psfError": 0.041}, {"psfError": 0.04}, Reason.PSF_ERROR),
        ({"ellipticity": 0.22}, {"ellipticity": 0.21}, Reason.ELLIPTICITY),
        ({"psfStars": 3.0}, {"psfStars": 4.0}, Reason.PSF_STARS),
        ({"astrometricRms": 0.21}, {"astrometricRms": 0.2}, Reason.ASTROMETRY),
    ],
)
def test_each_limit_leaves_out_what_is_beyond_it_and_nothing_without_the_metric(bad, edge, reason):
    entries = [replace(entry(k), quality=GOOD) for k in range(4)]
    for visit, change in ((4, bad), (5, edge)):
        entries.append(replace(entry(visit), quality=replace(GOOD, **change)))
    found = chosen([*entries, entry(6)])
    assert visits(found) == [0, 1, 2, 3, 5, 6]
    assert [(one.label, one.reason) for one in found.rejections] == [("4:0", reason)]


def test_a_limit_is_a_key_of_its_own():
    entries = [replace(entry(k), quality=replace(GOOD, astrometricRms=0.3 + 0.1 * k)) for k in range(4)]
    assert not chosen(entries).inputs
    assert visits(chosen(entries, max_astrometric_rms=0.31)) == [0, 1, 2, 3]


def test_without_a_known_clear_sky_the_clearer_visits_tell():
    through = [1.0, 1.02, 0.98, 0.7, 0.5, 0.76, 0.73, 1.01]
    found = chosen([entry(k, throughput=5e-3 * part) for k, part in enumerate(through)])
    assert visits(found) == [0, 1, 2, 5, 7]
    assert found.counts() == {Reason.TRANSPARENCY: 3}


def test_each_detector_has_its_own_clear_sky_where_it_has_visits():
    blue = [entry(k, detector=1, throughput=0.6) for k in range(4)]
    red = [entry(k, detector=2, throughput=1.0) for k in range(4, 8)]
    assert len(chosen(blue + red).inputs) == 8
    clear = relative_transparency([*red, blue[0]])
    assert clear["0:1"] == pytest.approx(0.6)
    assert clear["5:2"] == 1.0
    assert relative_transparency([entry(1), entry(2)]) == {}


def test_one_lucky_zero_point_does_not_make_all_others_cloudy():
    found = chosen([entry(k, throughput=2.0 if k == 0 else 1.0) for k in range(9)])
    assert len(found.inputs) == 9


def test_the_best_third_of_the_seeing_stays_but_the_least_number_at_least():
    entries = [entry(k, fwhm=2.0 + 0.01 * k) for k in range(90)]
    assert visits(chosen(entries, max_epochs=90)) == list(range(30))
    assert visits(chosen(entries[:20])) == list(range(12))
    assert visits(chosen(entries[:20], min_selected=6)) == list(range(7))
    assert visits(chosen(entries[:11])) == list(range(11))
    assert chosen(entries[:20]).counts() == {Reason.WORSE_SEEING: 8}


def test_of_the_best_seeing_the_deepest_stay():
    entries = [entry(k, fwhm=2.0 + 0.01 * k, variance=4.0 if k % 2 else 8.0) for k in range(90)]
    found = chosen(entries, max_epochs=10)
    assert visits(found) == list(range(1, 20, 2))
    assert found.counts() == {Reason.WORSE_SEEING: 60, Reason.LESS_WEIGHT: 20}


def test_visits_that_cover_little_do_not_use_up_the_number():
    corner = [(entry(k, fwhm=1.5 + 0.001 * k), 0.1) for k in range(20)]
    whole = [(entry(100 + k, fwhm=2.0 + 0.001 * k), 1.0) for k in range(20)]
    picked = [one.visit for one in select_inputs(corner + whole, CONFIG)]
    assert len(picked) == 20 + 10


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 2), st.floats(1.0, 12.0), st.floats(0.3, 1.0), st.floats(0.0, 1.0),
            st.floats(59990.0, 60375.0), st.floats(1.0, 9.0),
        ),
        max_size=40,
        unique_by=lambda row: row[:2],
    ),
    st.integers(1, 6), st.integers(1, 10), st.integers(1, 12), st.floats(0.05, 1.0), st.randoms(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_candidate_is_chosen_or_has_one_reason_in_any_order(rows, least, most, kept, fraction, rng):
    keys = {"min_epochs": least, "max_epochs": most, "min_selected": kept, "fwhm_fraction": fraction}
    config = CONFIG.model_copy(update=keys)
    candidates = [
        (entry(v, detector=d, fwhm=f, transparency=t, mjd=m, variance=n), part) for v, d, f, t, part, m, n in rows
    ]
    found = choose_inputs(candidates, config)
    labels = [one.label for one in found.inputs] + [one.label for one in found.rejections]
    assert sorted(labels) == sorted(one.label for one, _ in candidates)
    count = len({one.visit for one in found.inputs})
    assert count == 0 or least <= count <= max(most, least)
    for one in found.inputs:
        assert config.begin <= one.midpointMjdTai <= config.end
        assert one.fwhm <= config.max_fwhm_arcsec
        assert one.quality.transparency >= config.min_transparency
    assert sum(found.counts().values()) == len(found.rejections)
    rng.shuffle(candidates)
    assert choose_inputs(candidates, config) == found
    assert select_inputs(candidates, config) == found.inputs


def test_the_limits_come_from_the_exposures_metrics(tmp_path):
    exposure = EMPTY.expose(5, 60100.0)
    entry_of = {}
    extra = {"transparency": 0.5, "psfModelError": 0.01, "psfEllipticity": 0.1, "nPsfStars": 40.0}
    for name, more in (("bare", {}), ("full", {**extra, "astrometricRms": 1 / 30})):
        path = tmp_path / f"{name}.fits"
        write_exposure(path, exposure.with_metrics(**more))
        entry_of[name] = read_entry(path)
    rate = 1.0 / (2.0 * 30.0)
    assert entry_of["bare"].quality == CalexpQuality(throughput=pytest.approx(rate))
    assert entry_of["full"].quality == CalexpQuality(0.5, pytest.approx(rate), 0.01, 0.1, 40.0, 1 / 30)


def test_a_broken_metric_counts_as_none(tmp_path):
    path = tmp_path / "a.fits"
    write_exposure(path, EMPTY.expose(5, 60100.0).with_metrics(psfModelError=0.01))
    fits.setval(path, "HIERARCH METRIC psfModelError", value="nan")
    assert read_entry(path).quality.psfError is None


def test_the_weight_follows_the_noise_of_calibrated_fluxes(tmp_path):
    """Electrons keep their noise under a cloud of transparency 1/2, but each then stands for twice the flux."""
    found = []
    for visit, scale in ((1, 2.0), (2, 4.0)):
        path = tmp_path / f"{visit}.fits"
        write_exposure(path, EMPTY.expose(visit, 60100.0).replaced(photo=PhotoCalib(scale, 0.002, 100)))
        found.append(read_entry(path))
    assert found[0].variance == pytest.approx((2.0 * 5.0) ** 2)
    assert input_weight(found[1]) == pytest.approx(input_weight(found[0]) / 4)
    assert found[1].quality.throughput == pytest.approx(found[0].quality.throughput / 2)
