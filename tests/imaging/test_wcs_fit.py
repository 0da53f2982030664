"""Refinement of a header's WCS."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from schemas.errors import DataError
from workers.imaging.wcs import SkyWcs, focal_to_sky, pixel_to_focal
from workers.imaging.wcs_cards import tan_sip, tan_tpv
from workers.imaging.wcs_correction import Correction, Design
from workers.imaging.wcs_fit import composed, fit_wcs

SHAPE = (768, 1024)


def distorted(rng, scale=0.4, amount=0.6):
    """TAN-SIP of order 3 with `amount` pixels of distortion at the edge."""
    wcs = SkyWcs.tangent(
        rng.uniform(0, 360), rng.uniform(-85, 85), (511.5, 383.5), scale, rng.uniform(0, 360), int(rng.choice([1, -1]))
    )
    header = wcs.header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    for name in "AB":
        header[f"{name}_ORDER"] = 3
        for i in range(4):
            for j in range(4 - i):
                if i + j >= 2:
                    header[f"{name}_{i}_{j}"] = rng.normal() * amount / 512.0 ** (i + j)
    return SkyWcs(header), wcs


def moved(wcs, rng, arcsec=6.0, degrees=0.1):
    header = wcs.header()
    turn = np.radians(rng.uniform(-degrees, degrees))
    header["CRVAL2"] += rng.uniform(-arcsec, arcsec) / 3600
    header["CRVAL1"] += rng.uniform(-arcsec, arcsec) / 3600 / np.cos(np.radians(header["CRVAL2"]))
    matrix = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    matrix = matrix @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    return SkyWcs(header)


def stars(rng, wcs, count, error=0.03):
    x, y = rng.uniform(0, SHAPE[1], count), rng.uniform(0, SHAPE[0], count)
    ra, dec = wcs.pixel_to_sky(x, y)
    return x + rng.normal(0, error, count), y + rng.normal(0, error, count), np.full(count, error), ra, dec


def worst(found, truth, edge=15):
    axes = np.meshgrid(np.linspace(edge, SHAPE[1] - edge, 11), np.linspace(edge, SHAPE[0] - edge, 11))
    x, y = (axis.ravel() for axis in axes)
    fx, fy = found.sky_to_pixel(*truth.pixel_to_sky(x, y))
    distance = np.hypot(fx - x, fy - y)
    return float(np.sqrt(np.mean(distance**2) / 2)), float(distance.max())


def test_few_stars_correct_the_pointing_and_keep_the_distortion():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth, _ = distorted(rng)
        found = fit_wcs(moved(truth, rng), *stars(rng, truth, 15), SHAPE)
        assert worst(found.wcs, truth)[0] < 0.05
        assert found.rms < 0.06


def test_many_stars_find_the_distortion_that_the_header_lacks():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth, plain = distorted(rng)
        found = fit_wcs(moved(plain, rng), *stars(rng, truth, 200), SHAPE)
        assert worst(found.wcs, truth)[0] < 0.02
        assert found.order >= 2
        assert found.rms == pytest.approx(0.03, rel=0.2)


def test_outliers_leave():
    rng = np.random.default_rng(5)
    truth, _ = distorted(rng)
    x, y, error, ra, dec = stars(rng, truth, 100)
    x[:20] += rng.uniform(0.5, 3.0, 20)
    found = fit_wcs(moved(truth, rng), x, y, error, ra, dec, SHAPE)
    assert not found.kept[:20].any()
    assert found.kept[20:].mean() > 0.95
    assert worst(found.wcs, truth)[0] < 0.02


def test_unexplained_scatter_does_not_let_the_brightest_decide():
    rng = np.random.default_rng(6)
    truth, _ = distorted(rng)
    x, y, error, ra, dec = stars(rng, truth, 60, error=0.2)
    error[:3] = 1e-4
    found = fit_wcs(moved(truth, rng), x, y, error * 0.1, ra, dec, SHAPE)
    assert worst(found.wcs, truth)[0] < 0.12


def test_a_tpv_header_is_understood():
    rng = np.random.default_rng(7)
    header = SkyWcs.tangent(150.0, 2.0, (511.5, 383.5), 0.4).header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    for axis in (1, 2):
        header[f"PV{axis}_0"], header[f"PV{axis}_1"], header[f"PV{axis}_4"] = 0.0, 1.0, 2e-2
    truth = SkyWcs(header)
    found = fit_wcs(truth, *stars(rng, truth, 25), SHAPE)
    assert worst(found.wcs, truth)[0] < 0.03
    assert found.wcs.header()["CTYPE1"] == "RA---TAN-SIP"


def test_the_cards_are_read_alike_by_astropy_and_round_trip():
    rng = np.random.default_rng(8)
    truth, _ = distorted(rng)
    found = fit_wcs(moved(truth, rng), *stars(rng, truth, 200), SHAPE).wcs
    header = fits.Header.fromstring(found.header().tostring())
    again = SkyWcs(header)
    x, y = rng.uniform(0, 768, 20), rng.uniform(0, 768, 20)
    np.testing.assert_allclose(again.pixel_to_sky(x, y), found.pixel_to_sky(x, y), rtol=0, atol=1e-11)
    sky = np.stack(found.pixel_to_sky(x, y), axis=1)
    # AP and BP, as other readers use them: from the linear WCS's pixel to the true one (Shupe et al. 2005, eq. 6)
    u, v = (WCS(header).wcs_world2pix(sky, 1) - WCS(header).wcs.crpix).T
    order = range(header["AP_ORDER"] + 1)
    for ideal, true, name in ((u, x, "AP"), (v, y, "BP")):
        shift = sum(header.get(f"{name}_{i}_{j}", 0.0) * u**i * v**j for i in order for j in order)
        axis = 1 if name == "AP" else 2
        np.testing.assert_allclose(ideal + shift + header[f"CRPIX{axis}"] - 1.0, true, atol=0.02)


def test_tan_sip_of_order_one_is_plain_tan():
    truth = SkyWcs.tangent(10.0, -89.5, (511.5, 383.5), 0.4)
    axes = np.meshgrid(np.linspace(0, 1023, 8), np.linspace(0, 767, 8))
    x, y = (axis.ravel() for axis in axes)
    found, residual = tan_sip(x, y, *truth.pixel_to_sky(x, y), order=1, shape=SHAPE)
    assert residual < 1e-6
    assert worst(found, truth)[1] < 1e-4
    assert found.header()["CTYPE1"] == "RA---TAN"


@pytest.mark.parametrize("order", [1, 3, 5, 7])
def test_tpv_is_written_and_read_alike_by_astropy(order):
    rng = np.random.default_rng(order)
    truth, plain = distorted(rng, amount=8.0)
    truth = truth if order > 1 else plain
    axes = np.meshgrid(np.linspace(0, 1023, 12), np.linspace(0, 767, 12))
    x, y = (axis.ravel() for axis in axes)
    found, residual = tan_tpv(x, y, *truth.pixel_to_sky(x, y), order=order, shape=SHAPE)
    assert residual < 1e-5
    header = fits.Header.fromstring(found.header().tostring())
    assert header["CTYPE1"] == "RA---TPV"
    px, py = rng.uniform(0, 1023, 50), rng.uniform(0, 767, 50)
    sky = WCS(header).all_pix2world(px, py, 0)
    np.testing.assert_allclose(sky, truth.pixel_to_sky(px, py), rtol=0, atol=1e-8)
    np.testing.assert_allclose(SkyWcs(header).sky_to_pixel(*sky), [px, py], atol=1e-3)


def test_tpv_has_no_order_eight():
    with pytest.raises(DataError, match="orders 1 to 7"):
        tan_tpv(*np.zeros((4, 9)), order=8, shape=SHAPE)


def test_a_field_across_ra_zero():
    truth = SkyWcs.tangent(0.0, 10.0, (511.5, 383.5), 0.4)
    rng = np.random.default_rng(9)
    found = fit_wcs(moved(truth, rng), *stars(rng, truth, 100), SHAPE)
    assert worst(found.wcs, truth)[0] < 0.03


def test_too_few_stars_are_counted():
    rng = np.random.default_rng(10)
    truth, _ = distorted(rng)
    with pytest.raises(DataError, match="astrometry failed: 5 of 5 matched stars agree with one WCS, 8 are needed"):
        fit_wcs(truth, *stars(rng, truth, 5), SHAPE, min_stars=8)


def test_nonsense_is_refused():
    rng = np.random.default_rng(11)
    truth, _ = distorted(rng)
    x, y, error, ra, dec = stars(rng, truth, 30, error=0.9)
    with pytest.raises(DataError, match=r"astrometry failed: .* matches, rms .* pixels > 0\.5"):
        fit_wcs(truth, x, y, error, ra, dec, SHAPE)


@pytest.mark.parametrize("amount", [0.5, 10.0, 40.0])
def test_the_written_wcs_follows_distortion_and_correction_together(amount):
    rng = np.random.default_rng(12)
    start, _ = distorted(rng, amount=amount / 4.0)
    solution = rng.normal(0, 0.7, (15, 2))
    solution[:3] *= 40.0
    correction = Correction(solution, 4, np.zeros((15, 15)), 0.0)
    found = composed(start, correction, SHAPE)
    points = np.stack([rng.uniform(0, SHAPE[1] - 1, 400), rng.uniform(0, SHAPE[0] - 1, 400)], axis=1)
    focal = pixel_to_focal(start, points)
    sky = focal_to_sky(start, focal + Design(SHAPE)(focal) @ solution)
    back = np.stack(SkyWcs(fits.Header.fromstring(found.header().tostring())).sky_to_pixel(*sky), axis=1)
    assert np.abs(back - points).max() < 0.004
