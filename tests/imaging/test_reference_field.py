"""The stars of one exposure: all that the detector may see, moved to its date."""

import numpy as np
import pytest
from astropy.wcs import WCS

from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.reference_field import field_cone, field_stars
from workers.imaging.reference_writing import write_store
from workers.imaging.wcs import SkyWcs

SHAPE = (1000, 600)
SCALE = 1.0


def tangent(ra, dec, turn=30.0, scale=SCALE):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [ra, dec], [280.0, 540.0]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = scale / 3600.0 * np.array([[-c, s], [s, c]])
    return SkyWcs(wcs.to_header())


@pytest.mark.parametrize(("ra", "dec"), [(0.05, 10.0), (359.95, -40.0), (120.0, 89.95), (300.0, -90.0), (45.0, 0.0)])
def test_every_star_on_the_detector_is_in_the_field(ra, dec, tmp_path):
    """Also where the header is off by the slack, turned by a degree, and the stars moved for ten years."""
    rng = np.random.default_rng(3)
    header, truth = tangent(ra, dec), tangent(ra, max(dec - 20 / 3600, -90.0), turn=31.0)
    n = 4000
    x, y = rng.uniform(-0.5, SHAPE[1] - 0.5, n), rng.uniform(-0.5, SHAPE[0] - 0.5, n)
    star_ra, star_dec = truth.pixel_to_sky(x, y)
    flux = {"r": rng.uniform(1, 2, n)}
    now = ReferenceCatalogue(
        star_ra,
        star_dec,
        flux,
        flux,
        epoch=np.array(61000.0),
        pmRa=rng.normal(0, 3000, n),
        pmDec=rng.normal(0, 3000, n),
    )
    store = write_store(tmp_path / "ref", now.at(57388.5))
    found = field_stars(store, header, SHAPE, 25.0, 61000.0)
    assert len(found) == n
    back = truth.sky_to_pixel(found.ra, found.dec)
    order, true_order = np.argsort(back[0]), np.argsort(x)
    np.testing.assert_allclose(back[0][order], x[true_order], atol=2e-3)  # float32 motions
    np.testing.assert_array_equal(found.epoch, 61000.0)


def test_the_cone_is_not_much_wider_than_the_detector():
    _, _, radius = field_cone(tangent(10.0, 20.0), SHAPE, 20.0)
    half = 0.5 * np.hypot(*SHAPE) / 3600
    assert 1.1 * half < radius < 1.13 * (half + 20 * np.sqrt(2) / 3600)


def test_a_single_table_does_it_too():
    stars = ReferenceCatalogue(np.array([10.0, 50.0]), np.array([20.0, 20.0]), {"r": np.ones(2)}, {"r": np.ones(2)})
    assert len(field_stars(stars, tangent(10.0, 20.0), SHAPE, 20.0, 61000.0)) == 1
