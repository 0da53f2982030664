from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workers.simulate.exposure import make_frame
from workers.simulate.optics import electrons_per_njy, psf_field
from workers.simulate.reference import reference_catalogue
from workers.simulate.render import paint
from workers.simulate.settings import DEMO, TINY
from workers.simulate.sky import make_sky
from workers.simulate.truth import exposure_truth, object_table, template_fluxes


def test_stated_errors_are_those_of_psf_photometry(quiet, clean, live_frames):
    """Optimal PSF fluxes at the true positions, all else subtracted: pulls against fluxErr have width 1."""
    pulls, ratios = [], []
    for visit, frame in live_frames:
        image, _ = clean(quiet, visit, frame)
        table = exposure_truth(quiet, visit, 0, frame)
        table = table[~table["onDefect"] & ~table["nearSaturated"] & (table["kind"] == "transient")]
        psf, scale = psf_field(quiet, visit, 0), electrons_per_njy(quiet, visit)
        sources = frame.scene.sources
        for row in table:
            x, y = round(row["x"]), round(row["y"])
            if not (12 <= x < 628 and 12 <= y < 628):
                continue
            index = int(np.argmin(np.hypot(sources.x - row["x"], sources.y - row["y"])))
            one = {f: getattr(sources, f)[index : index + 1] for f in ("x", "y", "profile", "shape", "trail")}
            one["x"], one["y"] = one["x"] - x + 12, one["y"] - y + 12
            stamp = paint(replace(sources, electrons=np.array([1e6]), **one), psf, (25, 25)) / 1e6
            place = np.s_[y - 12 : y + 13, x - 12 : x + 13]
            difference = image[place] - frame.light[place] + stamp * row["flux"] * scale
            flux = np.sum(stamp * difference) / np.sum(stamp**2) / scale
            pulls.append((flux - row["fluxChange"]) / row["fluxErr"])
            ratios.append(np.sum(stamp**2) * psf.noise_area(row["x"], row["y"])[0])
    # the analytic noise area is the mean over sub-pixel shifts; under the best seeing they differ by 6 %
    np.testing.assert_allclose(ratios, 1.0, atol=0.08)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
    assert len(pulls) > 100
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(len(pulls))
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("detector", [0, 1])
def test_the_demo_night_has_what_the_demo_measures(choose, detector):
    visit = choose(DEMO, "live")[0]
    table = exposure_truth(DEMO, visit, detector, make_frame(DEMO, visit, detector))
    snr = np.abs(np.asarray(table["snr"]))
    transient = np.asarray(table["kind"]) == "transient"
    assert 25 <= (snr > 5).sum() <= 60
    assert (transient & (snr >= 8)).sum() >= 10
    assert (transient & (snr >= 3) & (snr < 8)).sum() >= 3
    assert snr[transient].max() > 30
    assert (table["snr"] < -5).sum() >= 2
    assert (table["kind"] == "asteroid").sum() >= 1
    assert np.isfinite(np.asarray(table["hostOffset"])[np.asarray(table["hostId"]) > 0]).all()


def test_flux_change_is_against_the_mean_of_the_archive(choose):
    stars, transients = template_fluxes(TINY, "r")
    visit = choose(TINY, "live")[0]
    table = exposure_truth(TINY, visit, 0, make_frame(TINY, visit, 0))
    sky = make_sky(TINY)
    means = dict(zip(sky.stars["id"], stars, strict=True)) | dict(zip(sky.transients["id"], transients, strict=True))
    for row in table:
        mean = means.get(row["id"], 0.0)
        assert row["fluxChange"] == pytest.approx(row["flux"] - mean, rel=1e-9, abs=1e-6)
    constant = sky.stars["variability"] == 0
    np.testing.assert_allclose(stars[constant], sky.stars["flux"][constant, 0])


def test_most_transients_are_new_and_some_were_there_before():
    _, before = template_fluxes(DEMO, "r")
    live = np.asarray(make_sky(DEMO).transients["flux"][:, 0])
    fraction = np.mean(before > 0.01 * live)
    assert 0.03 < fraction < 0.3


def test_asteroids_move_and_transients_stay(choose):
    first, last = choose(DEMO, "live")[0], choose(DEMO, "live")[-1]
    tables = [exposure_truth(DEMO, visit, 0, make_frame(DEMO, visit, 0)) for visit in (first, last)]
    minutes = (last.begin - first.begin) * 1440.0
    for kind, low, high in (("asteroid", 0.3, 0.9), ("transient", 0.0, 1e-9)):
        one, two = ({row["id"]: row for row in table if row["kind"] == kind} for table in tables)
        both = sorted(set(one) & set(two))
        assert both
        for key in both:
            east = (two[key]["ra"] - one[key]["ra"]) * np.cos(np.radians(one[key]["dec"]))
            rate = np.hypot(east, two[key]["dec"] - one[key]["dec"]) * 3600.0 / minutes
            assert low - 1e-6 <= rate <= high + 1e-6


def test_calibration_frames_have_an_empty_table(choose):
    visit = choose(TINY, "bias")[0]
    assert len(exposure_truth(TINY, visit, 0, make_frame(TINY, visit, 0))) == 0


def test_object_table_and_reference_catalogue_agree():
    objects, reference = object_table(DEMO), reference_catalogue(DEMO)
    assert set(objects["kind"]) == {"star", "variable", "galaxy", "transient"}
    truth = {row["id"]: row for row in objects}
    rows = [truth[key] for key in reference["id"]]
    dec = np.array([row["dec"] for row in rows])
    shifts = np.concatenate(
        [
            (np.array([row["ra"] for row in rows]) - reference["ra"]) * np.cos(np.radians(dec)),
            dec - reference["dec"],
        ]
    )
    assert np.std(shifts) * 3.6e6 == pytest.approx(10.0, rel=0.1)
    pulls = (reference["flux_r"] - np.array([row["flux_r"] for row in rows])) / reference["flux_r_err"]
    assert abs(np.mean(pulls)) < 0.15
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)


def test_more_of_one_population_leaves_the_others_as_they_are():
    more = make_sky(replace(DEMO, sky=replace(DEMO.sky, transients=1.0, asteroids=0.5)))
    less = make_sky(DEMO)
    assert np.array_equal(more.stars, less.stars)
    assert np.array_equal(more.galaxies, less.galaxies)
    hostless = less.transients["hostId"] == 0
    same = more.transients[: len(less.transients)]
    assert np.array_equal(same["flux"], less.transients["flux"])
    assert np.mean(same["ra"][hostless] == less.transients["ra"][hostless]) > 0.9
