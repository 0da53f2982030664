"""Seasons of the sky: from one conjunction of a right ascension with the Sun to the next."""

from __future__ import annotations

import math

__all__ = ["last_conjunction", "season_before"]

_J2000 = 51544.5
"""MJD."""
_OBLIQUITY = math.radians(23.439)
_MEAN_LONGITUDE, _MEAN_MOTION = 280.460, 0.9856474
"""Degrees of the equinox of date, and a day."""
_ANOMALY, _ANOMALY_MOTION = 357.528, 0.9856003
_PRECESSION = 3.8247e-5
"""Degrees a day, of the equinox in longitude: 50.29 arcsec a year."""
_ROUNDS = 6
"""Of a fixed point that gains a factor of 30 each time, from 2 days."""
_PART = 100.0
"""Days: before a conjunction by so much, the last one was a year earlier."""


def _sun_longitude(mjd: float) -> float:
    """Return the Sun's ecliptic longitude of J2000, degrees, from 0 to 360, at `mjd` (TAI).

    The low-precision formula of the Astronomical Almanac (page C5): 0.01 degrees, a quarter of an hour of the Sun's
    way, from 1950 to 2050, with the equinox's precession taken off.
    """
    days = mjd - _J2000
    anomaly = math.radians(_ANOMALY + _ANOMALY_MOTION * days)
    mean = _MEAN_LONGITUDE + (_MEAN_MOTION - _PRECESSION) * days
    return (mean + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2.0 * anomaly)) % 360.0


def last_conjunction(ra: float, mjd: float) -> float:
    """Return when the Sun last had right ascension `ra` (degrees ICRS) at or before `mjd`, MJD TAI, to 0.02 days.

    Near the celestial poles, where right ascension says little, this still parts the years.
    """
    angle = math.radians(ra)
    # the point of the ecliptic with that right ascension: tan(ra) = tan(longitude) cos(obliquity), same quadrant
    target = math.degrees(math.atan2(math.sin(angle), math.cos(angle) * math.cos(_OBLIQUITY)))
    motion = _MEAN_MOTION - _PRECESSION
    found = mjd - ((_sun_longitude(mjd) - target) % 360.0) / motion
    for _ in range(_ROUNDS):
        found -= ((_sun_longitude(found) - target + 180.0) % 360.0 - 180.0) / motion
    return found


def season_before(ra: float, mjd: float) -> tuple[float, float]:
    """Return (begin, end) of the last whole season of `ra` (degrees ICRS) at `mjd`, MJD TAI: the last two conjunctions.

    To whole days, downwards, so that all days of a season give the same. The end belongs to the season after it:
    seasons tile the time.
    """
    end = last_conjunction(ra, mjd)
    return float(math.floor(last_conjunction(ra, end - _PART))), float(math.floor(end))
