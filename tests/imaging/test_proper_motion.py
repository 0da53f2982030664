"""Proper motion against astropy's, at the poles and across RA 0 too; epochs on any scale."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time

from workers.imaging.proper_motion import epoch_mjd, moved
from workers.imaging.reference import ReferenceCatalogue

MAS = 1.0 / 3.6e6
EPOCH, LATER = 57388.5, 64693.5
"""J2016.0, and twenty years after it."""


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(5)
    ra = np.concatenate([rng.uniform(0, 360, 300), [0.0, 359.9999999, 12.0, 200.0, 77.0]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 300))), [0.0, 10.0, 89.99999, -89.99999, 89.9]])
    pm_ra, pm_dec = rng.normal(0, 500, 305), rng.normal(0, 500, 305)
    pm_ra[0], pm_dec[0] = -801.551, 10362.394  # Barnard's star
    flux = {"r": np.ones(305)}
    return ReferenceCatalogue(ra, dec, flux, flux, epoch=np.array(EPOCH), pmRa=pm_ra, pmDec=pm_dec)


def astropys(stars):
    sky = SkyCoord(
        stars.ra * u.deg,
        stars.dec * u.deg,
        pm_ra_cosdec=stars.pmRa * u.mas / u.yr,
        pm_dec=stars.pmDec * u.mas / u.yr,
        distance=np.full(len(stars), 10.0) * u.pc,
        radial_velocity=np.zeros(len(stars)) * u.km / u.s,
        obstime=Time(EPOCH, format="mjd", scale="tcb"),
    )
    return sky.apply_space_motion(new_obstime=Time(LATER, format="mjd", scale="tcb"))


def test_positions_are_those_of_astropy(stars):
    later, other = stars.at(LATER), astropys(stars)
    apart = SkyCoord(later.ra * u.deg, later.dec * u.deg).separation(other).to_value(u.mas)
    far = SkyCoord(stars.ra * u.deg, stars.dec * u.deg).separation(other).to_value(u.mas)
    assert far.min() > 100
    assert apart.max() < 0.1  # mas; light takes longer from a star that moves: astropy's second order, 1e-6 of the way
    np.testing.assert_allclose(later.pmRa, other.pm_ra_cosdec.to_value(u.mas / u.yr), atol=1e-2, rtol=1e-4)
    np.testing.assert_allclose(later.pmDec, other.pm_dec.to_value(u.mas / u.yr), atol=1e-2, rtol=1e-4)
    assert np.all((later.ra >= 0) & (later.ra < 360))
    np.testing.assert_array_equal(later.epoch, LATER)


def test_there_and_back(stars):
    again = stars.at(LATER).at(EPOCH)
    apart = SkyCoord(again.ra * u.deg, again.dec * u.deg).separation(SkyCoord(stars.ra * u.deg, stars.dec * u.deg))
    assert apart.to_value(u.mas).max() < 0.3  # Barnard's star; its change of distance is forgotten in between


def test_over_the_pole():
    ra, dec, pm_ra, pm_dec = moved([30.0], [90.0 - 100 * MAS], [0.0], [200.0], 1.0)
    np.testing.assert_allclose((ra[0], (90.0 - dec[0]) / MAS), (210.0, 100.0), atol=1e-4)
    np.testing.assert_allclose((pm_ra[0], pm_dec[0]), (0.0, -200.0), atol=1e-4)


def test_ra_wraps():
    ra, _, _, _ = moved([0.0, 359.9999999], [0.0, 0.0], [-1e-9, 1000.0], [0.0, 0.0], 1.0)
    assert np.all((ra >= 0) & (ra < 360))
    assert ra[1] < 1e-3


def test_what_is_not_known_does_not_move():
    flux = {"r": np.ones(4)}
    nan = np.nan
    stars = ReferenceCatalogue(
        np.full(4, 10.0), np.full(4, 20.0), flux, flux,
        epoch=np.array([EPOCH, nan, EPOCH, EPOCH]), pmRa=np.array([nan, 100, 100, 100]),
        pmDec=np.array([1, 1, nan, 100.0]), raErr=np.full(4, 3.0), pmRaErr=np.array([1, 1, 1, 0.2]),
    )  # fmt: skip
    later = stars.at(LATER)
    np.testing.assert_array_equal(later.ra[:3], 10.0)
    np.testing.assert_array_equal(later.epoch[:3], [EPOCH, nan, EPOCH])
    assert later.ra[3] > 10.0 + 20 * 100 * MAS
    np.testing.assert_allclose(later.raErr, [3, 3, 3, 5])
    assert np.isnan(later.decErr).all()
    plain = ReferenceCatalogue(np.full(4, 10.0), np.full(4, 20.0), flux, flux)
    assert plain.at(LATER) is plain


def test_errors_of_the_motion_are_those_of_the_place():
    rng = np.random.default_rng(8)
    n, flux = 4000, {"r": np.ones(4000)}
    true = ReferenceCatalogue(
        rng.uniform(0, 360, n), rng.uniform(-60, 60, n), flux, flux, epoch=np.array(EPOCH), pmRa=rng.normal(0, 30, n),
        pmDec=rng.normal(0, 30, n),
    )  # fmt: skip
    measured = ReferenceCatalogue(
        true.ra + rng.normal(0, 2, n) * MAS / np.cos(np.radians(true.dec)), true.dec + rng.normal(0, 2, n) * MAS,
        flux, flux, epoch=np.array(EPOCH),
        pmRa=true.pmRa + rng.normal(0, 0.3, n), pmDec=true.pmDec + rng.normal(0, 0.3, n),
        raErr=np.full(n, 2.0), decErr=np.full(n, 2.0), pmRaErr=np.full(n, 0.3), pmDecErr=np.full(n, 0.3),
    )  # fmt: skip
    one, two = true.at(LATER), measured.at(LATER)
    pulls = (
        np.stack([(two.ra - one.ra) * np.cos(np.radians(one.dec)) / two.raErr, (two.dec - one.dec) / two.decErr]) / MAS
    )
    assert np.abs(pulls.mean(axis=1)).max() < 0.06
    np.testing.assert_allclose(pulls.std(axis=1), 1.0, atol=0.04)


def test_epochs_on_any_scale():
    given = [2016.0, 57388.5, 2457389.0, 1451606400.0, -999.0, np.nan, 0.0]
    np.testing.assert_allclose(
        epoch_mjd(given), [57388.5, 57388.5, 57388.5, 57388.0, np.nan, np.nan, np.nan], atol=1e-6
    )
    assert abs(Time(2016.0, format="jyear", scale="tt").mjd - epoch_mjd(2016.0)) < 1e-6
