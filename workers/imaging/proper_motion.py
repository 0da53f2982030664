"""Where a star is at another date: straight, uniform motion, right at the poles too."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["JULIAN_YEAR", "epoch_mjd", "moved"]

_Float = NDArray[np.float64]

JULIAN_YEAR = 365.25
"""Days."""
_RAD_PER_MAS = np.pi / (180.0 * 3.6e6)


def moved(
    ra: ArrayLike, dec: ArrayLike, pm_ra: ArrayLike, pm_dec: ArrayLike, years: ArrayLike
) -> tuple[_Float, _Float, _Float, _Float]:
    """Return (ra, dec, pmRa, pmDec) of stars `years` Julian years later, float64, shape (n,).

    Positions are degrees ICRS, 0 <= ra < 360; motions mas per year, pmRa on RA·cos(Dec). The star moves along a
    straight line in space at no radial velocity (Hipparcos catalogue, vol. 1, section 1.5.5); its motion turns with
    the directions of east and north at the new place.
    """
    direction, east, north = _triad(np.radians(ra), np.radians(dec))
    velocity = (np.asarray(pm_ra, float) * east + np.asarray(pm_dec, float) * north) * _RAD_PER_MAS
    span = np.asarray(years, float)
    place = direction + span * velocity
    distance = np.sqrt(np.sum(place * place, axis=0))
    place = place / distance
    velocity = (velocity - place * np.sum(place * velocity, axis=0)) / distance
    lon = np.arctan2(place[1], place[0])
    lat = np.arctan2(place[2], np.hypot(place[0], place[1]))
    _, east, north = _triad(lon, lat)
    new_ra = np.degrees(lon) % 360.0
    return (
        np.where(new_ra >= 360.0, 0.0, new_ra),  # a tiny negative angle is rounded up to 360
        np.degrees(lat),
        np.sum(velocity * east, axis=0) / _RAD_PER_MAS,
        np.sum(velocity * north, axis=0) / _RAD_PER_MAS,
    )


def _triad(lon: _Float, lat: _Float) -> tuple[_Float, _Float, _Float]:
    """Return the unit vectors towards (lon, lat), radians, and to the east and north there, each (3, n)."""
    cos_lon, sin_lon, cos_lat, sin_lat = np.cos(lon), np.sin(lon), np.cos(lat), np.sin(lat)
    direction = np.stack([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat])
    east = np.stack([-sin_lon, cos_lon, np.zeros_like(lon)])
    north = np.stack([-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat])
    return direction, east, north


def epoch_mjd(value: ArrayLike) -> _Float:
    """Return epochs as MJD, float64, from whatever scale they are on; NaN for what is on none.

    Julian years (1800 to 2200), MJD (15000 to 100000), JD (2.4 to 2.5 million) and seconds of Unix time (from 1986
    on) do not overlap. The minute between TT, TAI and UTC moves no star by a microarcsecond.
    """
    raw = np.asarray(value, float)
    year, mjd = (raw > 1800.0) & (raw < 2200.0), (raw > 15000.0) & (raw < 100000.0)
    julian, unix = (raw > 2.4e6) & (raw < 2.5e6), (raw > 5e8) & (raw < 1e10)
    scales = [51544.5 + (raw - 2000.0) * JULIAN_YEAR, raw, raw - 2400000.5, 40587.0 + raw / 86400.0]
    return np.select([year, mjd, julian, unix], scales, np.nan)
