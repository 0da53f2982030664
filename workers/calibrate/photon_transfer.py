"""Photon transfer: gain, read noise, turnoff and covariances of each amplifier from pairs of flats.

Consecutive flats of one exposure time make a pair; pairs run from faint to nearly full. Read noise is the overscan's
where camera.toml names one (it is better known than the curve's value at no light), or else the curve's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.calibrate.flat_pairs import PairStatistics, pair_statistics, read_noise
from workers.calibrate.frames import Frames, Solution
from workers.calibrate.transfer_fit import TransferCurve, fit_transfer_curve, turnoff_level
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.masks import BLOCKING
from workers.isr.assembly import data_pixels
from workers.survey.camera import Amplifier, parse_section

__all__ = ["LEAST_PAIRS", "STEPS", "solve", "transfer_tables"]

STEPS = ("overscan", "saturation", "crosstalk", "linearity", "bias")
"""Steps of isr.steps that the flats go through: offset and response, nothing that moves or averages pixels."""

LEAST_PAIRS = 6

_Float = NDArray[np.float64]
_LARGEST_DRIFT = 0.05
_LEAST_LEVEL = 10.0
_LEAST_SPAN = 3.0
_SAME_TIME = 1.0e-3
_BRIGHT_QUANTILE, _BRIGHT_SIGMA = 0.98, 4.0
_ROUNDING = 1.0 / 12.0


@dataclass(frozen=True)
class _Flat:
    raw: RawExposure
    exposure: Exposure
    level: float
    """Median of the good pixels, ADU."""


@dataclass
class _Amplifier:
    """What one amplifier has shown so far."""

    name: str
    pairs: list[PairStatistics] = field(default_factory=list)
    noise: list[tuple[float, int]] = field(default_factory=list)
    """Variance of overscans, ADU², and degrees of freedom."""
    refused: dict[str, int] = field(default_factory=dict)
    """Pairs not used, by reason."""


def solve(frames: Frames, steps: tuple[str, ...] = STEPS) -> Solution:
    """Return the tables of the kind ``ptc`` (see `transfer_tables`); `steps` are those that the flats go through.

    Two frames are in memory at a time. Raises DataError where an amplifier has fewer than 6 usable pairs, or where
    they span less than a factor 3 in level.
    """
    amplifiers = [_Amplifier(amplifier.name) for amplifier in frames.detector.amplifiers]
    pairs, drifted = 0, 0
    for first, second in _pairs(frames, steps):
        if second.level <= 0.0 or abs(second.level / max(first.level, 1e-9) - 1.0) > _LARGEST_DRIFT:
            drifted += 1
            continue
        pairs += 1
        for design, amplifier in zip(frames.detector.amplifiers, amplifiers, strict=True):
            _measure(design, amplifier, first, second)
    where = f"detector {frames.detector.name} of {frames.camera.name}, {len(frames)} frames in {pairs} pairs"
    if drifted:
        where += f" and {drifted} whose level differs by more than {_LARGEST_DRIFT:.0%}"
    for amplifier in amplifiers:
        _check_enough(amplifier, where)
    tables = transfer_tables([a.pairs for a in amplifiers], [a.noise for a in amplifiers])
    metadata = {
        "pairs": float(pairs),
        "pairsDrifted": float(drifted),
        "largestDrift": max(abs(pair.drift) for a in amplifiers for pair in a.pairs),
        "readNoiseFromOverscan": float(all(a.noise for a in amplifiers)),
        "chi2": float(np.median(tables["chi2"])),
        "covarianceChi2": float(np.median(tables["covarianceChi2"])),
    }
    return Solution(tables=tables, metadata=metadata)


def _pairs(frames: Frames, steps: tuple[str, ...]) -> Iterator[tuple[_Flat, _Flat]]:
    """Yield consecutive flats of one exposure time. One that agrees with neither neighbour in level loses its turn."""
    before: _Flat | None = None
    for index in range(len(frames)):
        exposure = frames.reduced(index, steps)
        good = exposure.image[(exposure.mask & np.int32(BLOCKING)) == 0]
        flat = _Flat(frames.raw(index), exposure, float(np.median(good)) if good.size else 0.0)
        if before is None or not _same_time(before, flat):
            before = flat
            continue
        yield before, flat
        before = None if abs(flat.level - before.level) <= _LARGEST_DRIFT * before.level else flat


def _same_time(first: _Flat, second: _Flat) -> bool:
    times = [flat.exposure.info.exposureTime for flat in (first, second)]
    return abs(times[1] - times[0]) <= _SAME_TIME * times[0]


def _measure(design: Amplifier, amplifier: _Amplifier, first: _Flat, second: _Flat) -> None:
    """Add a pair to what is known of an amplifier."""
    section = parse_section(design.position)
    planes = [flat.exposure.image[section] for flat in (first, second)]
    flagged = (first.exposure.mask[section] | second.exposure.mask[section]) & np.int32(BLOCKING)
    pair = pair_statistics(planes[0], planes[1], flagged == 0)
    if pair is None or pair.level < _LEAST_LEVEL:
        reason = "too faint" if pair is not None or min(first.level, second.level) < _LEAST_LEVEL else "flagged"
    elif _full(design, (first, second), pair.variance):
        reason = "saturated"
    else:
        amplifier.pairs.append(pair)
        amplifier.noise += [read_noise(values) for flat in (first, second) for values in _overscan(design, flat.raw)]
        return
    amplifier.refused[reason] = amplifier.refused.get(reason, 0) + 1


def _full(design: Amplifier, flats: tuple[_Flat, _Flat], variance: float) -> bool:
    """Tell whether the scatter of the brightest part reaches saturation (or the suspect level): it would be cut off."""
    limit = min(design.saturation, design.suspect or np.inf)
    bright = max(float(np.nanquantile(data_pixels(flat.raw, design)[::2, ::2], _BRIGHT_QUANTILE)) for flat in flats)
    return bright + _BRIGHT_SIGMA * math.sqrt(variance) >= limit


def _overscan(design: Amplifier, raw: RawExposure) -> list[NDArray[np.generic]]:
    """Return the serial overscan (one array or none), less the first eighth: deferred charge spills there."""
    if design.overscan is None:
        return []
    values = raw.hdus[design.hdu][parse_section(design.overscan)]
    skipped = values.shape[1] // 8
    rows, columns = parse_section(design.overscan), parse_section(design.data)[1]
    return [values[:, skipped:] if rows[1].start >= columns.stop else values[:, : values.shape[1] - skipped]]


def _check_enough(amplifier: _Amplifier, where: str) -> None:
    """Raise DataError where the curve of an amplifier can't be fitted."""
    count = len(amplifier.pairs)
    levels = [pair.level for pair in amplifier.pairs]
    if count < LEAST_PAIRS:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(amplifier.refused.items()))
        raise DataError(
            f"amplifier {amplifier.name} ({where}): {count} usable pairs of flats ({reasons or 'none refused'}), a "
            f"photon transfer curve needs {LEAST_PAIRS}; take two flats in a row at each of as many "
            "exposure times or more"
        )
    curve = [np.array([getattr(p, n) for p in amplifier.pairs]) for n in ("level", "variance", "varianceErr")]
    turnoff = turnoff_level(*curve)
    levels = [level for level in levels if level <= turnoff]
    if len(levels) < LEAST_PAIRS:
        raise DataError(
            f"amplifier {amplifier.name} ({where}): the variance falls above {turnoff:.0f} ADU and only "
            f"{len(levels)} of {count} pairs are below; take {LEAST_PAIRS} or more fainter ones, or look for a lamp "
            "that flickers"
        )
    if max(levels) < _LEAST_SPAN * min(levels):
        raise DataError(
            f"amplifier {amplifier.name} ({where}): the flats' levels run from {min(levels):.0f} to "
            f"{max(levels):.0f} ADU only; a photon transfer curve needs a factor {_LEAST_SPAN:.0f} at least, "
            "from a per cent of full well to nearly full"
        )


def transfer_tables(
    pairs: list[list[PairStatistics]], overscans: list[list[tuple[float, int]]]
) -> dict[str, NDArray[np.float64]]:
    """Return the tables, float64, from the pairs and overscan variances (ADU², degrees of freedom) of each amplifier.

    By amplifier: gain, gainErr (electrons per ADU); readNoise, readNoiseErr (electrons; overscan, or else the curve);
    readNoiseFit, readNoiseFitErr (electrons; curve less rounding); a00, a00Err (per electron); turnoff (ADU) and
    turnoffElectron; chi2, covarianceChi2 (per degree of freedom). [amplifier, pair] in order of level, NaN where an
    amplifier has fewer pairs: level (ADU), variance, varianceErr (ADU²), used (0, 1), drift, rejected (share clipped).
    [amplifier, pair, lag y, lag x]: covariances (ADU²). [amplifier, lag y, lag x]: aMatrix, aMatrixErr (per electron),
    noise (electrons², rounding and what the offset's subtraction adds included).
    """
    pairs = [sorted(one, key=lambda pair: pair.level) for one in pairs]
    curves = [_curve(one) for one in pairs]
    tables = _by_amplifier(curves, overscans) | _by_pair(pairs, curves)
    for name, attribute in (("aMatrix", "area"), ("aMatrixErr", "areaErr"), ("noise", "noise")):
        tables[name] = np.stack([getattr(curve, attribute) for curve in curves])
    return tables


def _curve(pairs: list[PairStatistics]) -> TransferCurve:
    columns = [[getattr(p, n) for p in pairs] for n in ("level", "covariances", "varianceErr", "products")]
    return fit_transfer_curve(*(np.array(column) for column in columns))


def _by_amplifier(
    curves: list[TransferCurve], overscans: list[list[tuple[float, int]]]
) -> dict[str, NDArray[np.float64]]:
    rows = []
    for curve, overscan in zip(curves, overscans, strict=True):
        fitted = math.sqrt(max(curve.noise[0, 0] - _ROUNDING * curve.gain**2, 0.0))
        fittedErr = 0.5 * curve.noiseErr[0, 0] / max(fitted, math.sqrt(curve.noiseErr[0, 0]))
        noise, error = (fitted, fittedErr) if not overscan else _overscan_noise(overscan, curve)
        rows.append(
            {
                "gain": curve.gain,
                "gainErr": curve.gainErr,
                "readNoise": noise,
                "readNoiseErr": error,
                "readNoiseFit": fitted,
                "readNoiseFitErr": fittedErr,
                "a00": curve.area[0, 0],
                "a00Err": curve.areaErr[0, 0],
                "turnoff": curve.turnoff,
                "turnoffElectron": curve.turnoff * curve.gain,
                "chi2": curve.chi2,
                "covarianceChi2": curve.covarianceChi2,
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _overscan_noise(overscan: list[tuple[float, int]], curve: TransferCurve) -> tuple[float, float]:
    """Return read noise and error, electrons: the median of the frames' variances, with the gain's error."""
    variance, freedom = (np.array(column, float) for column in zip(*overscan, strict=True))
    noise = curve.gain * math.sqrt(float(np.median(variance)))
    relative = math.hypot(math.sqrt(0.25 * math.pi / freedom.sum()), curve.gainErr / curve.gain)
    return noise, noise * relative


def _by_pair(pairs: list[list[PairStatistics]], curves: list[TransferCurve]) -> dict[str, NDArray[np.float64]]:
    count, lags = max(len(one) for one in pairs), pairs[0][0].covariances.shape
    shape = (len(pairs), count)
    names = ("level", "variance", "varianceErr", "drift", "rejected")
    tables = {name: np.full(shape, np.nan) for name in (*names, "used")}
    tables["covariances"] = np.full((*shape, *lags), np.nan)
    for row, (one, curve) in enumerate(zip(pairs, curves, strict=True)):
        for name in names:
            tables[name][row, : len(one)] = [getattr(pair, name) for pair in one]
        tables["covariances"][row, : len(one)] = [pair.covariances for pair in one]
        tables["used"][row, : len(one)] = curve.used
    return tables
