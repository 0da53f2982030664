"""Where a telescope looks, seen from the ground: airmass and parallactic angle."""

from __future__ import annotations

from dataclasses import dataclass

import erfa
import numpy as np

__all__ = ["Horizon", "look_up"]

_MJD_ZERO = 2400000.5


@dataclass(frozen=True)
class Horizon:
    """A direction of the sky over one site at one time."""

    altitude: float
    """Degrees, without refraction."""
    airmass: float
    """NaN below the horizon."""
    parallacticAngle: float
    """Degrees, from north through east to the zenith, at the direction."""


def look_up(ra: float, dec: float, mjd_tai: float, *, longitude: float, latitude: float, height: float) -> Horizon:
    """Return how (ra, dec), degrees ICRS, stands at `mjd_tai` over a site at `longitude` (east), `latitude` (degrees).

    `height` in metres. SOFA's chain of precession, nutation, aberration and Earth rotation, UT1 taken as UTC (at most
    15 arcsec); the airmass is Pickering's (2002, DIO 12, 20, note 39), good to the horizon.
    """
    utc1, utc2 = erfa.taiutc(_MJD_ZERO, mjd_tai)
    place = np.radians(longitude), np.radians(latitude)
    # proper motion, parallax, velocity; then UT1-UTC; then polar motion, pressure (0: no refraction), weather
    _, zenith, hour, declination, _, _ = erfa.atco13(
        *np.radians([ra, dec]), 0.0, 0.0, 0.0, 0.0, utc1, utc2, 0.0, *place, height, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5
    )
    altitude = 90.0 - float(np.degrees(zenith))
    angle = np.arctan2(np.sin(hour), np.tan(place[1]) * np.cos(declination) - np.sin(declination) * np.cos(hour))
    return Horizon(altitude, _airmass(altitude), float(np.degrees(angle)))


def _airmass(altitude: float) -> float:
    if altitude < 0.0:
        return float("nan")
    return float(1.0 / np.sin(np.radians(altitude + 244.0 / (165.0 + 47.0 * altitude**1.1))))
