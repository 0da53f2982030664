"""Linearity: what to add to measured counts so that they follow the light, from flats of many exposure times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.frames import Frames, Solution
from workers.calibrate.linearity_fit import ResponseFit, fit_response
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.masks import MaskPlane
from workers.survey.camera import Amplifier, parse_section

__all__ = ["STEPS", "Levels", "Zones", "curves", "measure_levels", "solve", "turnoff_of", "zones_of"]

STEPS = ("overscan", "crosstalk", "saturation", "bias")
"""Steps of isr.steps that the flats go through."""

_Float = NDArray[np.float64]
_ZONES = 4
_SMOOTH = 15
_EVEN = 10.0
_CLIP = 5.0
_LEAST_LEVEL = 30.0
_LEAST_EXPOSURES = 8
_DEVIATION = 0.01
_REFERENCE = 0.03


@dataclass(frozen=True)
class Zones:
    """The pixels of one amplifier that are used, by how much light they get; arrays of the amplifier's shape."""

    where: tuple[slice, slice]
    number: NDArray[np.int8]
    """Zone from the brightest, 0, to the dimmest; -1: not used."""
    response: FloatImage
    """Light relative to the amplifier's mean."""


@dataclass(frozen=True)
class Levels:
    """Mean counts by exposure, amplifier and zone, ADU, with independent errors; NaN where none was measured."""

    level: _Float
    error: _Float
    exposure: _Float
    """Seconds, or a photodiode's charge."""


def solve(
    frames: Frames, steps: tuple[str, ...] = STEPS, *, photodiode: str | None = None, knots: int = 16
) -> Solution:
    """Return tables ``knots``, ``correction``, ``error`` (amplifiers, knots) and ``turnoff`` (amplifiers,), all ADU.

    Frames are flats of a range of exposure times up to saturation, the order mixed or one time repeated throughout, so
    that a drift of the lamp can be told from a bent response. `photodiode` names the header key of the light that a
    photodiode counted, to be taken instead of the exposure time. Raises DataError where the frames don't serve.
    """
    levels = measure_levels(frames, steps, photodiode)
    for index, amplifier in enumerate(frames.detector.amplifiers):
        levels.level[:, index] = _usable(levels.level[:, index], levels.exposure, amplifier.name)
    order = np.isfinite(levels.level).any(axis=(1, 2))
    fit = fit_response(levels.level[order], levels.error[order], levels.exposure[order])
    kept = Levels(levels.level[order], levels.error[order], levels.exposure[order])
    tables = curves(fit, kept, knots, [amplifier.name for amplifier in frames.detector.amplifiers])
    used = np.isfinite(fit.residual)
    metadata = {
        "lampScatter": fit.lampScatter,
        "lampRange": float(np.ptp(fit.lamp)),
        "residual": float(1.4826 * np.median(np.abs(fit.residual[used]))),
        "nonlinearity": float(np.max(np.abs(tables["correction"][:, 1:]) / tables["knots"][:, 1:])),
        "error": float(np.max(tables["error"][:, 1:] / tables["knots"][:, 1:])),
        "exposures": float(order.sum()),
    }
    return Solution(tables=tables, metadata=metadata)


def curves(fit: ResponseFit, levels: Levels, knots: int, names: list[str]) -> dict[str, _Float]:
    """Return the tables of `solve` from the fit: knots as the squares of equal steps, so denser at low level.

    The scale is that of low level: the correction has mean 0 below 3 % of the range. Raises DataError where linearised
    counts would not rise with the measured ones.
    """
    tables = {name: np.zeros((len(names), knots)) for name in ("knots", "correction", "error")}
    for index, name in enumerate(names):
        at = fit.top[index] * (np.arange(knots) / (knots - 1.0)) ** 2
        level, error = levels.level[:, index].ravel(), levels.error[:, index].ravel()
        good = np.isfinite(level)
        low = good & (level <= max(_REFERENCE * fit.top[index], np.sort(level[good])[2]))
        weights = 1.0 / ((error[low] / level[low]) ** 2 + fit.lampScatter**2)
        rho, sigma = fit.contrast(index, at, weights, level[low])
        tables["knots"][index] = at
        tables["correction"][index] = at * np.expm1(rho)
        tables["error"][index] = at * sigma
        if not np.all(np.diff(at + tables["correction"][index]) > 0):
            raise DataError(
                f"the response of amplifier {name} is no rising curve: linearised counts would fall between "
                f"{at[1]:.0f} and {at[-1]:.0f} ADU; look at the flats, and give more of them"
            )
    return {**tables, "turnoff": fit.top}


def measure_levels(frames: Frames, steps: tuple[str, ...], photodiode: str | None = None) -> Levels:
    """Return the levels of every frame in order of time; each frame is read once, three of them twice."""
    exposure = np.array([_light(frames, index, photodiode) for index in range(len(frames))])
    zones, shown = _zones(frames, steps)
    shape = (len(frames), len(zones), _ZONES)
    level, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for index in range(len(frames)):
        frame = frames.reduced(index, steps)
        for number, (zone, amplifier) in enumerate(zip(zones, frames.detector.amplifiers, strict=True)):
            level[index, number], error[index, number] = _levels_of(frame, zone, amplifier)
    error[shown] *= 2.0  # half of their noise is in the response that they are compared with
    return Levels(level, error, exposure)


def zones_of(images: list[FloatImage], mask: NDArray[np.bool_], where: tuple[slice, slice]) -> Zones:
    """Return the zones of one amplifier from a few flats of the detector (ADU); `mask` (height, width) is left out.

    Zones are four equal shares of the pixels by the light around them (mean of 15 x 15): by the pixel's own counts,
    noise would sort them. Where the light is so even that noise would sort the means too, all are zone 0.
    """
    seen = np.stack([image[where] / np.float32(np.median(image[where])) for image in images])
    response = np.asarray(np.median(seen, axis=0), np.float32)  # no particle in it
    good = ~mask[where] & (response > 0.5) & (response < 1.5)
    if not good.any():
        raise DataError("an amplifier has no pixel that is good in the flats chosen to show it; are they overexposed?")
    response /= np.float32(response[good].mean())
    share = uniform_filter(good.astype(np.float32), _SMOOTH, mode="constant")
    around = uniform_filter(np.where(good, response, np.float32(0)), _SMOOTH, mode="constant")
    light = around / np.maximum(share, np.float32(1e-3))
    limits = np.quantile(light[good], 1.0 - np.arange(1, _ZONES) / _ZONES)[::-1]
    number = (_ZONES - 1 - np.searchsorted(limits, light)).astype(np.int8)
    noise = 1.4826 * float(np.median(np.abs(response[good] - light[good]))) / _SMOOTH
    if limits[-1] - limits[0] < _EVEN * noise:
        number = np.zeros_like(number)
    return Zones(where, np.where(good, number, np.int8(-1)), response)


def turnoff_of(level: _Float, exposure: _Float) -> float:
    """Return the level (ADU) beyond which counts fall short of what those before them promise, by 1 % and 3 sigma.

    `level` and `exposure` (exposures,) of one amplifier. Each exposure is compared with the straight line of counts
    per time through the eight before it; two in a row that fall short are the end.
    """
    order = np.argsort(exposure, kind="stable")
    time, rate = exposure[order], level[order] / exposure[order]
    kept: list[int] = []
    short: list[int] = []
    for index in range(len(time)):
        before = kept[-8:]
        if len(before) == 8 and time[index] > 1.0001 * time[before[0]]:
            line = np.polyfit(time[before], rate[before], 1)
            scatter = float(np.std(rate[before] - np.polyval(line, time[before]))) / rate[before[-1]]
            lack = 1.0 - rate[index] / np.polyval(line, time[index])
            if lack > _DEVIATION + 3.0 * scatter:
                short.append(index)
                if len(short) == 2:
                    break
                continue
        short = []
        kept.append(index)
    return float((rate * time)[kept].max())


def _usable(level: _Float, exposure: _Float, name: str) -> _Float:
    """Return the levels (exposures, zones) of one amplifier, NaN where too faint or beyond the turnoff."""
    dimmest = np.min(np.where(np.isfinite(level), level, np.inf), axis=1)
    some = np.isfinite(level[:, 0]) & (dimmest >= _LEAST_LEVEL)
    if some.sum() >= _LEAST_EXPOSURES:
        some[some] = level[some, 0] <= turnoff_of(level[some, 0], exposure[some])
    level = np.where(some[:, None], level, np.nan)
    if some.sum() < _LEAST_EXPOSURES or level[some, 0].max() < 10.0 * level[some, 0].min():
        raise DataError(
            f"amplifier {name}: {int(some.sum())} flats between {_LEAST_LEVEL:.0f} ADU and saturation tell no "
            f"response; give at least {_LEAST_EXPOSURES}, from faint to ten times brighter and more"
        )
    return level


def _light(frames: Frames, index: int, photodiode: str | None) -> float:
    """Exposure time in seconds, or the photodiode's charge."""
    info = frames.infos[index]
    if photodiode is None:
        light, what = info.exposureTime, "an exposure time"
    else:
        value = frames.raw(index).header.get(photodiode)
        if value is None:
            raise ConfigurationError(f"{info.fileName} has no header key {photodiode!r} of a photodiode; name another")
        what = f"{photodiode} ="
        try:
            light = float(value)
        except ValueError:
            light = math.nan
    if not (math.isfinite(light) and light > 0):
        raise DataError(f"{info.fileName}: {what} of {light} tells nothing of the response; leave the frame out")
    return light


def _zones(frames: Frames, steps: tuple[str, ...]) -> tuple[list[Zones], NDArray[np.intp]]:
    """Zones of every amplifier, and the flats that show them: the three nearest to 0.4 of the longest unsaturated."""
    times = np.array([info.exposureTime for info in frames.infos])
    limit = times.max()
    while True:
        nearest = np.argsort(np.abs(times - 0.4 * limit), kind="stable")[:3]
        chosen = [frames.reduced(int(index), steps) for index in np.sort(nearest)]
        full = np.mean([np.mean((frame.mask & int(MaskPlane.SATURATED)) != 0) for frame in chosen])
        if full < 0.01:
            break
        limit *= 0.5
        if limit < times.min():
            raise DataError("every flat is saturated: give shorter exposures")
    mask = np.logical_or.reduce([frame.mask != 0 for frame in chosen])
    images = [frame.image for frame in chosen]
    places = [parse_section(amplifier.position) for amplifier in frames.detector.amplifiers]
    return [zones_of(images, mask, place) for place in places], nearest


def _levels_of(frame: Exposure, zones: Zones, amplifier: Amplifier) -> tuple[_Float, _Float]:
    """Level and error of each zone (zones,), ADU; NaN where a thousandth of the pixels is saturated."""
    nothing = np.full(_ZONES, np.nan)
    image, number = frame.image[zones.where], zones.number
    good = number >= 0
    if np.mean((frame.mask[zones.where][good] & int(MaskPlane.SATURATED)) != 0) > 1.0e-3:
        return nothing, nothing
    level = float(np.median(image[good]))
    residual = image - np.float32(level) * zones.response
    centre = float(np.median(residual[good]))
    sigma = 1.4826 * float(np.median(np.abs(residual[good] - centre))) + 1.0e-3
    kept = good & (np.abs(residual - np.float32(centre)) < _CLIP * sigma)
    place = number[kept]
    count = np.maximum(np.bincount(place, minlength=_ZONES), 0.5)
    light = np.bincount(place, weights=zones.response[kept], minlength=_ZONES)
    total = np.bincount(place, weights=image[kept], minlength=_ZONES)
    square = np.bincount(place, weights=(residual[kept] - centre) ** 2, minlength=_ZONES)
    all_light = np.bincount(number[good], weights=zones.response[good], minlength=_ZONES)
    scale = all_light / np.maximum(np.bincount(number[good], minlength=_ZONES), 1)
    error = np.hypot(np.sqrt(square) / count, _offset_error(frame, amplifier))
    some = light > 0
    return np.where(some, total / np.where(some, light, 1.0) * scale, np.nan), np.where(some, error, np.nan)


def _offset_error(frame: Exposure, amplifier: Amplifier) -> float:
    """Error of the offset taken off a whole amplifier, ADU: of this frame's overscan, and as much of the bias."""
    if amplifier.overscan is None:
        return 0.1
    rows, columns = parse_section(amplifier.overscan)
    pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
    noise = frame.metrics.get(f"overscanNoise_{amplifier.name}", amplifier.read_noise / (amplifier.gain or 1.0))
    return math.sqrt(2.0 / pixels) * max(noise, 0.3)
