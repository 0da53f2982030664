"""A year of nightly bias and flat frames of one detector, with interventions and bad days, and the truth about them.

What happens to the detector is a list of `Event`; everything else is clean: a slow drift with the season, wander of
some days, nights without frames, nights with few. `nightly_levels` draws the levels that such a year gives without
making a pixel: thousands of years in a minute.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import ExposureInfo, RawExposure
from workers.simulate.camera import make_camera
from workers.simulate.readout import read_out
from workers.simulate.settings import DetectorSettings, SimulatedSurvey
from workers.simulate.streams import stream
from workers.survey.camera import Detector, parse_section

__all__ = [
    "CalibrationYear",
    "Event",
    "bias_frames",
    "drift_of",
    "flat_frames",
    "night_number",
    "nightly_levels",
    "observed_nights",
    "survey_of",
]

_Float = NDArray[np.float64]

_TAKEN = 0.7
"""Fraction of the day at which calibration frames are taken."""
_BETWEEN = 40.0 / 86400.0


@dataclass(frozen=True)
class Event:
    """What happens before the frames of one day of the year."""

    day: int
    effect: Literal["level", "amplifier", "pattern", "column", "gradient"]
    """All amplifiers, one, a pattern of blocks, a column from some row on, a gradient along x."""
    size: float
    """Bias: ADU; flat: relative. A pattern's is its rms, a gradient's is from the centre to the edge."""
    lasts: int | None = None
    """Days; None: for good. 1 is a bad day."""
    amplifier: int = 0
    column: int = 0
    kind: Literal["bias", "flat"] = "bias"


@dataclass(frozen=True)
class CalibrationYear:
    """Everything that defines the year; equal settings give equal frames."""

    seed: int = 1
    days: int = 365
    first_mjd: float = 61041.0
    missing: float = 0.06
    """Fraction of the nights that have no frames."""
    frames: tuple[int, int] = (5, 20)
    """Fewest and most frames of a night."""
    read_noise: float = 4.0
    """ADU"""
    season: float = 0.02
    """ADU, amplitude of the yearly drift, of another phase for each amplifier."""
    wander: float = 0.001
    """ADU, one sigma, of a wander with a time scale of ten days."""
    flat_season: float = 3.0e-4
    """Relative amplitude of the yearly drift of the amplifiers in a flat."""
    flat_level: float = 20000.0
    """ADU"""
    events: tuple[Event, ...] = ()
    detector: DetectorSettings = field(
        default_factory=lambda: DetectorSettings(width=512, height=512, count=1, overscan=96, bad_columns=0)
    )


@lru_cache(maxsize=4)
def survey_of(year: CalibrationYear) -> SimulatedSurvey:
    """Return the simulated survey whose camera takes the frames: one detector, read noise as the year says."""
    design = year.detector
    changed = {**vars(design), "read_noise": year.read_noise * design.gain}
    return SimulatedSurvey(seed=year.seed, name="calibration-year", detectors=DetectorSettings(**changed))


def observed_nights(year: CalibrationYear) -> list[tuple[int, int]]:
    """Return (day, frames) of the nights that have frames."""
    rng = stream(year.seed, "calibration.nights")
    there = rng.random(year.days) >= year.missing
    counts = rng.integers(year.frames[0], year.frames[1] + 1, year.days)
    return [(int(day), int(counts[day])) for day in np.flatnonzero(there)]


def drift_of(year: CalibrationYear, series: int) -> _Float:
    """Return the clean change of each of `series` levels over the year, ADU, float64 (series, days)."""
    rng = stream(year.seed, "calibration.drift")
    days = np.arange(year.days)
    phases = rng.random((series, 1))
    steps = rng.standard_normal((series, year.days))
    wander = np.zeros_like(steps)
    keep = np.exp(-1.0 / 10.0)
    wander[:, 0] = steps[:, 0]
    for day in range(1, year.days):
        wander[:, day] = keep * wander[:, day - 1] + np.sqrt(1.0 - keep**2) * steps[:, day]
    return np.asarray(year.season * np.sin(2.0 * np.pi * (days / 365.0 + phases)) + year.wander * wander)


def nightly_levels(
    year: CalibrationYear, series: int, frame_error: float, outliers: float = 0.01
) -> tuple[_Float, _Float, _Float, NDArray[np.bool_]]:
    """Return days (n,), levels and errors (series, n) in ADU, and which nights are outliers (n,), without pixels.

    `frame_error` is the error of one frame's level, ADU. On a fraction `outliers` of the nights every series is off by
    Student's t with 1.5 degrees of freedom times 8 errors: such nights are bad days, not changes. Events of the year
    act on the series: "level" on all, "amplifier" on one.
    """
    nights = observed_nights(year)
    days = np.array([day for day, _ in nights])
    error = frame_error / np.sqrt([frames for _, frames in nights])
    rng = stream(year.seed, "calibration.levels")
    levels = drift_of(year, series)[:, days] + rng.standard_normal((series, len(days))) * error
    off = rng.random(len(days)) < outliers
    levels[:, off] += 8.0 * rng.standard_t(1.5, (series, int(off.sum()))) * error[off]
    for event in year.events:
        active = np.array([_active(event, int(day)) for day in days])
        rows = slice(None) if event.effect == "level" else slice(event.amplifier, event.amplifier + 1)
        levels[rows] += event.size * active
    return days.astype(float), levels, np.broadcast_to(error, levels.shape).copy(), off


def _active(event: Event, day: int) -> bool:
    return event.day <= day and (event.lasts is None or day < event.day + event.lasts)


def bias_frames(year: CalibrationYear, day: int, frames: int) -> list[RawExposure]:
    """Return the raw bias frames of one day."""
    config = survey_of(year)
    detector = make_camera(config).detector(0)
    change = _change(year, day, "bias", detector)
    drift = drift_of(year, len(detector.amplifiers))[:, day]
    for amplifier, level in zip(detector.amplifiers, drift, strict=True):
        change[parse_section(amplifier.position)] += level
        change[parse_section(amplifier.position)] *= amplifier.gain or year.detector.gain
    return [_raw(year, day, number, "bias", change) for number in range(frames)]


def flat_frames(year: CalibrationYear, day: int, frames: int) -> list[RawExposure]:
    """Return the raw flat frames of one day: a lamp that drifts by a per cent, photon noise, the year's events."""
    config = survey_of(year)
    detector = make_camera(config).detector(0)
    response = 1.0 + _change(year, day, "flat", detector)
    phases = stream(year.seed, "calibration.flat").random(len(detector.amplifiers))
    for amplifier, phase in zip(detector.amplifiers, phases, strict=True):
        season = 1.0 + year.flat_season * np.sin(2.0 * np.pi * (day / 365.0 + phase))
        response[parse_section(amplifier.position)] *= season * year.flat_level * (amplifier.gain or 1.0)
    response *= _pixel_response(year)
    made = []
    for number in range(frames):
        rng = stream(year.seed, "calibration.photons", day, number)
        mean = response * (1.0 + 0.01 * rng.standard_normal())
        made.append(_raw(year, day, number, "flat", mean + np.sqrt(mean) * rng.standard_normal(mean.shape)))
    return made


@lru_cache(maxsize=2)
def _pixel_response(year: CalibrationYear) -> _Float:
    shape = (year.detector.height, year.detector.width)
    rng = stream(year.seed, "calibration.response")
    return np.asarray(1.0 + year.detector.pixel_response * rng.standard_normal(shape))


def _change(year: CalibrationYear, day: int, kind: str, detector: Detector) -> _Float:
    """Return what the events before or on `day` add to the detector (height, width)."""
    change = np.zeros((detector.height, detector.width))
    for number, event in enumerate(year.events):
        if event.kind != kind or not _active(event, day):
            continue
        if event.effect == "level":
            change += event.size
        elif event.effect == "amplifier":
            change[parse_section(detector.amplifiers[event.amplifier].position)] += event.size
        elif event.effect == "pattern":
            blocks = stream(year.seed, "calibration.pattern", number).standard_normal((8, 8))
            change += event.size * np.kron(blocks, np.ones((detector.height // 8, detector.width // 8)))
        elif event.effect == "column":
            change[detector.height // 8 : detector.height // 2, event.column] += event.size
        else:
            change += event.size * np.linspace(-1.0, 1.0, detector.width)[None, :]
    return change


def _raw(year: CalibrationYear, day: int, number: int, kind: str, electrons: _Float) -> RawExposure:
    visit = (day * 2 + (kind == "flat")) * 1000 + number
    config = survey_of(year)
    name = f"{kind}-{day:03d}-{number:03d}.fits"
    info = ExposureInfo(
        instrument=config.name,
        visit=visit,
        detector=0,
        band="r",
        midpointMjdTai=year.first_mjd + day + _TAKEN + number * _BETWEEN,
        exposureTime=0.0 if kind == "bias" else 5.0,
        ra=0.0,
        dec=0.0,
        night=night_number(year, day),
        kind=kind,
        sha256=hashlib.sha256(f"{year.seed} {name}".encode()).hexdigest(),
        fileName=name,
    )
    return RawExposure(info, read_out(config, visit, 0, electrons), {})


def night_number(year: CalibrationYear, day: int) -> int:
    """Return the observing night YYYYMMDD of a day of the year."""
    date = np.datetime64("1858-11-17") + np.timedelta64(int(year.first_mjd) + day, "D")
    return int(str(date).replace("-", ""))
