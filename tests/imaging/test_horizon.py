"""Airmass and parallactic angle, beside astropy's."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from workers.imaging.horizon import look_up

SITE = {"longitude": -70.74, "latitude": -30.24, "height": 2663.0}


@pytest.mark.parametrize(("ra", "dec"), [(150.0, -30.0), (120.0, 10.0), (200.0, -75.0), (10.0, -30.0)])
def test_altitude_and_airmass_are_those_of_astropy(ra, dec):
    place = EarthLocation(lon=SITE["longitude"], lat=SITE["latitude"], height=SITE["height"])
    with iers.conf.set_temp("auto_download", False):
        there = SkyCoord(ra, dec, unit="deg").transform_to(
            AltAz(obstime=Time(60050.1, format="mjd", scale="tai"), location=place)
        )
    seen = look_up(ra, dec, 60050.1, **SITE)
    assert seen.altitude == pytest.approx(there.alt.to_value(u.deg), abs=0.01)
    if seen.altitude > 20:
        assert seen.airmass == pytest.approx(float(there.secz), rel=0.01)
    elif seen.altitude < 0:
        assert np.isnan(seen.airmass)


def test_the_parallactic_angle_points_to_the_zenith():
    ra, dec, time, step = 120.0, 10.0, 60050.1, 0.01
    here = look_up(ra, dec, time, **SITE)
    angle = np.radians(here.parallacticAngle)
    toward = look_up(ra + step * np.sin(angle) / np.cos(np.radians(dec)), dec + step * np.cos(angle), time, **SITE)
    assert toward.altitude - here.altitude == pytest.approx(step, rel=1e-3)
