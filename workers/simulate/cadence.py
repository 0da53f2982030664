"""The plan of a synthetic survey: which frame is taken when, and under what conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

import numpy as np
from astropy.time import Time

from workers.clock import MJD_ORDINAL
from workers.simulate.settings import BANDS, SimulatedSurvey
from workers.simulate.streams import stream

__all__ = ["NIGHT_OFFSET_HOURS", "Conditions", "Role", "Visit", "night_of", "plan_visits", "template_window"]

Role = Literal["bias", "dark", "flat", "ramp", "spots", "archive", "recent", "live"]
"""A ramp is pairs of flats whose exposure times rise to saturation; spots are a mask's holes before the lamp."""

_LAMPS = ("flat", "ramp", "spots")
_NO_SKY = ("bias", "dark", *_LAMPS)

NIGHT_OFFSET_HOURS = -12.0
_MINUTE = 1.0 / 1440.0


@dataclass(frozen=True)
class Conditions:
    """Atmosphere and pointing of one visit."""

    seeing: float
    """FWHM at the field centre, pixels."""
    sky: float
    """AB mag per arcsec²."""
    transparency: float
    dither: tuple[float, float]
    """Offset of the pointing in the header from the field centre, arcsec (RA cos Dec, Dec)."""
    pointing_error: tuple[float, float]
    """True pointing minus the header's, arcsec (RA cos Dec, Dec)."""
    rotation_error: float
    """True position angle minus the header's, degrees."""
    trail: bool
    """A satellite crosses."""


@dataclass(frozen=True)
class Visit:
    """One frame of every detector."""

    number: int
    """Night as YYYYMMDD × 10⁴ + running number within it."""
    role: Role
    band: str
    """Empty for bias and dark."""
    begin: float
    """MJD TAI at which the shutter opens."""
    exposure_time: float
    """seconds"""
    night: int
    night_begin: float
    """MJD TAI, the first science visit of the same night (asteroids refer to it)."""
    conditions: Conditions | None
    """None for calibration frames."""

    @property
    def midpoint(self) -> float:
        """MJD TAI of the middle of the exposure."""
        return self.begin + 0.5 * self.exposure_time / 86400.0

    @property
    def kind(self) -> str:
        """``bias``, ``dark``, ``flat`` or ``science``."""
        if self.conditions is not None:
            return "science"
        return "flat" if self.role in _LAMPS else self.role


def night_of(mjd: float) -> int:
    """Return the observing night of an MJD TAI as YYYYMMDD: the date at its beginning."""
    utc = float(Time(mjd, format="mjd", scale="tai").utc.mjd)
    day = date.fromordinal(MJD_ORDINAL + math.floor(utc + NIGHT_OFFSET_HOURS / 24.0))
    return day.year * 10000 + day.month * 100 + day.day


def template_window(config: SimulatedSurvey) -> tuple[float, float]:
    """Return (begin, end), MJD TAI, of the prior-year window that holds all archive visits."""
    begin = config.cadence.live_mjd - config.cadence.archive_begin
    return begin - 1.0, begin + config.cadence.archive_span + 1.0


@lru_cache(maxsize=8)
def plan_visits(config: SimulatedSurvey) -> tuple[Visit, ...]:
    """Return every visit in order of time: calibration frames of the first afternoon, archive, recent, live."""
    science = _science_times(config)
    first = {night: min(begin for _, _, begin, n in science if n == night) for *_, night in science}
    counts: dict[int, int] = {}
    visits = []
    calibrations = [
        (role, band, begin, night_of(begin), seconds) for role, band, begin, seconds in _calibration_times(config)
    ]
    sciences = [(*row, config.cadence.exposure_time) for row in science]
    for role, band, begin, night, seconds in sorted(calibrations + sciences, key=lambda row: row[2]):
        counts[night] = counts.get(night, 0) + 1
        number = night * 10000 + counts[night]
        conditions = None if role in _NO_SKY else _conditions(config, number, band)
        visits.append(Visit(number, role, band, begin, seconds, night, first.get(night, begin), conditions))
    return tuple(visits)


def _science_times(config: SimulatedSurvey) -> list[tuple[Role, str, float, int]]:
    """(role, band, begin, night) of archive, recent and live visits."""
    plan = config.cadence
    step = (plan.exposure_time + 15.0) / 86400.0
    archive = plan.live_mjd - plan.archive_begin
    rows: list[tuple[Role, str, float]] = []
    for index, band in enumerate(config.bands):
        days = [round(k * plan.archive_span / plan.archive) for k in range(plan.archive)]
        rows += [("archive", band, archive + day + index * step) for day in days]
        days = [round(plan.recent_days * (1.0 - k / (plan.recent + 1))) for k in range(plan.recent)]
        rows += [("recent", band, plan.live_mjd - day + index * step) for day in days]
        minutes = [k * plan.live_minutes for k in range(plan.live)]
        rows += [("live", band, plan.live_mjd + minute * _MINUTE + index * step) for minute in minutes]
    return [(role, band, begin, night_of(begin)) for role, band, begin in rows]


def _calibration_times(config: SimulatedSurvey) -> list[tuple[Role, str, float, float]]:
    """(role, band, begin, seconds) of the frames taken in the afternoon before the first archive night."""
    plan = config.cadence
    rows: list[tuple[Role, str, float]] = []
    rows += [("bias", "", 0.0)] * plan.biases
    rows += [("dark", "", plan.dark_time)] * plan.darks
    for band in config.bands:
        rows += [("flat", band, plan.flat_time)] * plan.flats
    rows += [("ramp", config.bands[0], seconds) for seconds in _ramp_times(config)]
    rows += [("spots", config.bands[0], plan.flat_time)] * plan.spots
    begin = plan.live_mjd - plan.archive_begin - 0.4
    timed = []
    for role, band, seconds in rows:
        timed.append((role, band, begin, seconds))
        begin += (seconds + 30.0) / 86400.0
    return timed


def _ramp_times(config: SimulatedSurvey) -> list[float]:
    """Exposure times of the ramp's flats: pairs from 300 electrons to a tenth over full well, in mixed order.

    The order keeps a drift of the lamp from looking like a bent response.
    """
    plan = config.cadence
    levels = np.geomspace(300.0, 1.1 * config.detectors.full_well, plan.ramp) if plan.ramp else np.zeros(0)
    order = stream(config.seed, "ramp").permutation(plan.ramp)
    return [round(float(plan.flat_time * levels[k] / plan.flat_level), 4) for k in order for _ in range(2)]


def _conditions(config: SimulatedSurvey, visit: int, band: str) -> Conditions:
    """Draw the conditions of one visit from its own stream."""
    rng, optics = stream(config.seed, "conditions", visit), config.optics
    uniform, normal = rng.random(6), rng.standard_normal(4)
    dither = config.cadence.dither * (2.0 * uniform[3:5] - 1.0)
    return Conditions(
        seeing=float(np.interp(uniform[0], (0, 1), optics.seeing)),
        sky=float(BANDS[band].sky + optics.sky_variation * np.clip(normal[0], -2.0, 2.0)),
        transparency=float(np.interp(uniform[1], (0, 1), optics.transparency)),
        dither=(float(dither[0]), float(dither[1])),
        pointing_error=(float(optics.pointing_error * normal[1]), float(optics.pointing_error * normal[2])),
        rotation_error=float(optics.rotation_error * normal[3]),
        trail=bool(uniform[5] < optics.trail_fraction),
    )
