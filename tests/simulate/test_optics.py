from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workers.imaging.wcs import SkyWcs
from workers.simulate.cadence import night_of, plan_visits, template_window
from workers.simulate.optics import boresight, header_wcs, psf_field, true_wcs
from workers.simulate.settings import DEMO, TINY


def _offset(one: SkyWcs, other: SkyWcs, x: float, y: float) -> np.ndarray:
    """arcsec (RA cos Dec, Dec) of `other` minus `one` at a pixel."""
    (ra1, dec1), (ra2, dec2) = one.pixel_to_sky(x, y), other.pixel_to_sky(x, y)
    return np.array([(ra2 - ra1) * np.cos(np.radians(dec1)), dec2 - dec1]).ravel() * 3600.0


@pytest.mark.parametrize("detector", [0, 1])
def test_true_wcs_is_off_the_headers_by_the_stated_pointing_and_rotation_error(choose, detector):
    centre = boresight(DEMO, detector)
    errors = []
    for visit in choose(DEMO, "live"):
        nominal = SkyWcs.from_cards(header_wcs(DEMO, visit, detector))
        true = true_wcs(DEMO, visit, detector)
        error = np.array(visit.conditions.pointing_error)
        np.testing.assert_allclose(_offset(nominal, true, *centre), error, atol=1e-3)
        step = 300.0
        turn = (_offset(nominal, true, centre[0], centre[1] + step) - error) / (step * DEMO.optics.pixel_scale)
        assert turn[0] == pytest.approx(np.radians(visit.conditions.rotation_error), abs=2e-6)
        errors.append(error)
    assert 1.0 < np.std(errors) < 6.0


def test_distortion_is_cubic_in_the_distance_from_the_boresight(choose):
    visit = choose(DEMO, "live")[0]
    wcs = true_wcs(replace(DEMO, optics=replace(DEMO.optics, pointing_error=0.0)), visit, 0)
    x0, y0 = boresight(DEMO, 0)
    scale = DEMO.optics.pixel_scale
    for radius in (200.0, 400.0, 780.0):
        ra, dec = wcs.pixel_to_sky([x0, x0], [y0, y0 + radius])
        separation = np.degrees(np.arctan(np.radians(radius * (1 + DEMO.optics.distortion * radius**2) * scale / 3600)))
        got = np.hypot((ra[1] - ra[0]) * np.cos(np.radians(dec[0])), dec[1] - dec[0])
        assert got * 3600 == pytest.approx(separation * 3600, abs=0.01)
    assert DEMO.optics.distortion * 780.0**3 > 1.0


def test_neighbouring_detectors_share_the_sky_but_for_the_gap(choose):
    visit = choose(DEMO, "live")[0]
    left, right = true_wcs(DEMO, visit, 0), true_wcs(DEMO, visit, 1)
    step = DEMO.detectors.width + DEMO.detectors.gap
    np.testing.assert_allclose(left.pixel_to_sky(step + 10.0, 200.0), right.pixel_to_sky(10.0, 200.0), atol=1e-9)


def test_psf_varies_by_a_few_percent(choose):
    y, x = np.mgrid[0:768:32, 0:768:32]
    for visit in choose(DEMO, "live"):
        widths = np.concatenate([psf_field(DEMO, visit, d).widths(x.ravel(), y.ravel()) for d in (0, 1)])
        assert 0.005 < np.ptp(widths) / np.mean(widths) < 0.12
        assert 2.5 < widths.min()
        assert widths.max() < 3.9
        xx, xy, yy = psf_field(DEMO, visit, 0).covariances(x.ravel(), y.ravel()).T
        ellipticity = np.hypot((xx - yy) / (xx + yy), 2 * xy / (xx + yy))
        assert ellipticity.max() < 0.1
        assert np.ptp(ellipticity) > 0.001


def test_archive_lies_in_the_window_and_the_live_night_does_not():
    begin, end = template_window(TINY)
    for visit in plan_visits(TINY):
        assert (begin <= visit.midpoint <= end) == (visit.role not in ("recent", "live"))
        assert visit.night == night_of(visit.begin)
    numbers = [visit.number for visit in plan_visits(TINY)]
    assert numbers == sorted(set(numbers))
    assert max(numbers) < 1 << 41


def test_more_live_visits_leave_the_others_as_they_are():
    more = replace(TINY, cadence=replace(TINY.cadence, live=TINY.cadence.live + 2))
    assert set(plan_visits(TINY)) <= set(plan_visits(more))
