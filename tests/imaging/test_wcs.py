"""The WCS wrapper: round trips anywhere on the sky, local maps, sub-images, broken headers."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.wcs import SkyWcs, focal_to_sky, mirrored, pixel_to_focal, sky_to_focal


@settings(max_examples=60, deadline=None)
@given(
    ra=st.floats(0, 359.99),
    dec=st.floats(-90, 90),
    rotation=st.floats(-180, 180),
    parity=st.sampled_from([1, -1]),
    x=st.floats(-50, 600),
    y=st.floats(-50, 600),
)
def test_pixels_come_back(ra, dec, rotation, parity, x, y):
    wcs = SkyWcs.tangent(ra, dec, (250.0, 260.0), 0.6, rotation, parity)
    back = wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y))
    assert np.allclose(back, (x, y), atol=1e-5)
    assert wcs.pixel_scale(x, y) == pytest.approx(0.6, rel=1e-5)


def test_east_is_left_when_north_is_up():
    wcs = SkyWcs.tangent(10.0, 20.0, (100.0, 100.0), 1.0)
    ra, dec = wcs.pixel_to_sky([100.0, 90.0, 100.0], [100.0, 100.0, 110.0])
    assert (ra[0], dec[0]) == (pytest.approx(10.0), pytest.approx(20.0))
    assert ra[1] > ra[0]
    assert dec[2] > dec[0]
    mirrored = SkyWcs.tangent(10.0, 20.0, (100.0, 100.0), 1.0, parity=-1)
    assert mirrored.pixel_to_sky(90.0, 100.0)[0] < 10.0


@pytest.mark.parametrize("dec", [0.0, 60.0, 89.9999, -90.0])
def test_the_local_map_carries_cos_dec_and_holds_at_the_poles(dec):
    matrix = SkyWcs.tangent(150.0, dec, (99.0, 99.0), 0.5).jacobian(99.0, 99.0) * 3600.0
    assert np.allclose(matrix, [[-0.5, 0.0], [0.0, 0.5]], atol=1e-6)


def test_sub_images_and_local_frames_agree_with_the_whole():
    wcs = SkyWcs.tangent(10.0, 45.0, (500.0, 500.0), 0.6, 33.0)
    ra, dec = wcs.pixel_to_sky(120.0, 340.0)
    assert np.allclose(wcs.shifted(100.0, 300.0).sky_to_pixel(ra, dec), (20.0, 40.0), atol=1e-6)
    assert np.allclose(wcs.local(118.0, 339.0).sky_to_pixel(ra, dec), (120.0, 340.0), atol=1e-4)


def test_the_header_keeps_sip():
    header = SkyWcs.tangent(10.0, 45.0, (500.0, 500.0), 0.6).header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["B_ORDER"], header["A_3_0"], header["B_0_3"] = 3, 3, 3e-9, 3e-9
    wcs = SkyWcs(header)
    again = SkyWcs(wcs.header())
    place = np.array([20.0, 900.0]), np.array([950.0, 30.0])
    assert np.allclose(wcs.pixel_to_sky(*place), again.pixel_to_sky(*place), atol=1e-10)
    assert np.allclose(wcs.sky_to_pixel(*wcs.pixel_to_sky(*place)), place, atol=1e-4)


def test_the_footprint_goes_round_the_image():
    wcs = SkyWcs.tangent(0.0, 0.0, (49.5, 99.5), 3600.0 / 100)
    ra, dec = wcs.footprint((200, 100))
    x, y = wcs.sky_to_pixel(ra, dec)
    assert np.allclose(x, [-0.5, 99.5, 99.5, -0.5], atol=1e-6)
    assert np.allclose(y, [-0.5, -0.5, 199.5, 199.5], atol=1e-6)


def test_a_header_without_wcs_or_with_nan_is_refused():
    with pytest.raises(DataError, match=r"no celestial WCS.*\[wcs\] table"):
        SkyWcs(fits.Header())
    header = SkyWcs.tangent(10.0, 45.0, (500.0, 500.0), 0.6).header()
    cards = {key: header[key] for key in header}
    for broken in (
        {"CRVAL1": float("nan")},
        {"CRVAL2": "north"},
        {"CD1_1": 0.0, "CD2_2": 0.0, "CD1_2": 0.0, "CD2_1": 0.0},
    ):
        with pytest.raises(DataError, match="WCS"):
            SkyWcs.from_cards({**cards, **broken})


def test_focal_plane_and_projection_make_the_whole_map():
    header = SkyWcs.tangent(30.0, -40.0, (100.0, 80.0), 0.5, 20.0).header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"] = header["B_ORDER"] = 2
    header["A_2_0"], header["B_1_1"] = 1e-4, -2e-4
    wcs = SkyWcs(header)
    points = np.random.default_rng(1).uniform(0, 200, (20, 2))
    focal = pixel_to_focal(wcs, points)
    assert np.abs(focal - points).max() > 0.5
    sky = focal_to_sky(wcs, focal)
    np.testing.assert_allclose(sky, wcs.pixel_to_sky(*points.T), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sky_to_focal(wcs, *sky), focal, atol=1e-7)


def test_the_mirrored_wcs_is_that_of_the_flipped_image():
    header = SkyWcs.tangent(30.0, -40.0, (100.0, 80.0), 0.5, 20.0).header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"] = header["B_ORDER"] = 3
    header["A_2_0"], header["A_1_2"], header["B_1_1"], header["B_0_3"] = 1e-4, 3e-7, -2e-4, 1e-7
    wcs = SkyWcs(header)
    x, y = np.random.default_rng(2).uniform(0, 200, (2, 20))
    np.testing.assert_allclose(mirrored(wcs).pixel_to_sky(200.0 - x, y), wcs.pixel_to_sky(x, y), rtol=0, atol=1e-11)
