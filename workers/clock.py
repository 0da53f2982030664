"""The wall clock, as MJD TAI: the only place that reads it. Pure code is given times; workers are given a Clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date

__all__ = ["MJD_ORDINAL", "TAI_MINUS_UTC", "Clock", "event_timestamp", "mjd_of", "mjd_tai_now"]

Clock = Callable[[], float]
"""Returns the present as MJD TAI."""

TAI_MINUS_UTC = 37.0
"""Seconds, since 2017-01-01 (IERS Bulletin C 52); no leap second has been announced since."""

MJD_ORDINAL = 678576
"""Of date.toordinal() on the day of MJD 0."""
_MJD_1970 = 40587.0
_DAY = 86400.0


def mjd_tai_now() -> float:
    """Return the present time as MJD TAI."""
    return _MJD_1970 + (time.time() + TAI_MINUS_UTC) / _DAY


def mjd_of(day: date) -> float:
    """Return the MJD of the beginning of a day, without its time where it is a datetime."""
    return float(day.toordinal() - MJD_ORDINAL)


def event_timestamp(mjd_tai: float) -> int:
    """Return an instant given as MJD TAI in the milliseconds since 1970 UTC that message timestamps use."""
    return round(((mjd_tai - _MJD_1970) * _DAY - TAI_MINUS_UTC) * 1000.0)
