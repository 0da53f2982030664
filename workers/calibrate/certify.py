"""A new master against the one before: certified where it is the same within limits, else to be put aside.

Between two masters of one period a detector is the same, so the masters are (ZTF-IN2P3: bias within 0.01 ADU, outliers
below 0.6 %). A master that differs although nothing is known to have changed tells of bad frames, and the one before
stays in use. Across a change point or an intervention a difference is no reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.calibrate.night_families import clipped_mean
from workers.imaging.calibrations import KINDS, TABLE_KINDS, Calibration
from workers.imaging.exposure import FloatImage
from workers.survey.camera import Detector, parse_section

__all__ = ["LIMITS", "TABLE_LIMITS", "AmplifierRow", "Limit", "Stability", "Verdict", "certify", "stability"]

_Float = NDArray[np.float64]

_OUTLIER_SIGMA = 5.0
_FORGIVEN = 3.0
_SAMPLE = 2_000_000


@dataclass(frozen=True)
class Limit:
    """How much a new picture may differ from the one before."""

    difference: float
    """Of an amplifier's level, in the unit of the master's kind; a flat's and a fringe's is relative."""
    outliers: float = 0.006
    """Fraction of pixels farther than five sigma from their amplifier's difference, or flagged in one master only."""


LIMITS: Mapping[str, Limit] = {
    "bias": Limit(0.01),
    "dark": Limit(0.002),
    "flat": Limit(5.0e-4),
    "fringe": Limit(5.0e-3),
    "defects": Limit(0.0),
}
"""By kind; defects have no level, what counts is the fraction of pixels that became good or bad."""

TABLE_LIMITS: Mapping[str, Mapping[str, float]] = {
    "ptc": {"gain": 0.01, "readNoise": 0.05, "turnoff": 0.1},
    "linearity": {"correction": 0.002},
    "crosstalk": {"coefficients": 0.1},
    "cti": {"serial": 0.1, "parallel": 0.1},
    "brighter_fatter": {"kernel": 0.1},
}
"""Greatest relative difference in the tables that are judged, by kind; other tables of these kinds are not.

Relative to the greatest value of the table in that amplifier, and beyond three sigma where its errors are known; a
linearity correction is compared at the same levels and relative to the level.
"""

_ERROR_NAMES = ("{}Err", "{}Error", "error")


@dataclass(frozen=True)
class AmplifierRow:
    """One amplifier, new master minus the one before (a flat: over it, minus 1; a table: relative)."""

    amplifier: str
    difference: float
    """Clipped mean over the pixels good in both; of tables the greatest relative difference."""
    error: float
    """Of the difference: from the masters' variances, and from how the levels of their frames scatter."""
    scatter: float
    """Standard deviation of the pixels' differences."""
    outliers: float
    """Fraction of the amplifier's pixels."""


@dataclass(frozen=True)
class Verdict:
    """Whether a master may be used."""

    certified: bool
    kind: str
    new: str
    """Id."""
    previous: str
    """Id; empty where there is none before."""
    reasons: tuple[str, ...]
    """What is beyond its limit, in words; or why it is certified nevertheless."""
    rows: tuple[AmplifierRow, ...]
    outliers: float
    """Fraction of the detector's pixels."""


def certify(
    new: Calibration,
    previous: Calibration | None,
    detector: Detector,
    *,
    between: str = "",
    limit: Limit | None = None,
    table_limits: Mapping[str, float] | None = None,
) -> Verdict:
    """Return the verdict on `new` against `previous`, the master in use before it of the same kind, band and lamp.

    `between` names the change or intervention that lies between the two (`Period.reason`); with it, or without a master
    before, a difference does not stand in the way. Raises ConfigurationError where the two are of different kinds,
    instruments, detectors, bands, lamps or layouts.
    """
    if previous is None:
        return Verdict(True, new.kind, new.id, "", ("the first of its kind",), (), 0.0)
    _check_comparable(new, previous)
    if new.kind in TABLE_KINDS:
        bounds = TABLE_LIMITS.get(new.kind, {}) if table_limits is None else table_limits
        rows, reasons = _compared_tables(new, previous, detector, bounds)
        outliers = 0.0
    else:
        rows, reasons, outliers = _compared_pictures(new, previous, detector, limit or LIMITS[new.kind])
    if reasons and between:
        return Verdict(True, new.kind, new.id, previous.id, (f"{between}: {'; '.join(reasons)}",), rows, outliers)
    return Verdict(not reasons, new.kind, new.id, previous.id, tuple(reasons), rows, outliers)


def _check_comparable(new: Calibration, previous: Calibration) -> None:
    names = ("kind", "instrument", "detector", "band", "lamp", "layout")
    wrong = [
        f"{name} {getattr(new, name)!r} instead of {getattr(previous, name)!r}"
        for name in names
        if getattr(new, name) != getattr(previous, name)
    ]
    if new.image.shape != previous.image.shape:
        wrong.append(f"shape {new.image.shape} instead of {previous.image.shape}")
    if wrong:
        raise ConfigurationError(f"{new.id} can't be certified against {previous.id}: it has {', '.join(wrong)}")


def _compared_pictures(
    new: Calibration, previous: Calibration, detector: Detector, limit: Limit
) -> tuple[tuple[AmplifierRow, ...], list[str], float]:
    rows, reasons, total = [], [], 0
    unit = KINDS[new.kind].replace("1", "")
    common = [master.tables.get("levelError", np.zeros(len(detector.amplifiers))) for master in (new, previous)]
    for index, amplifier in enumerate(detector.amplifiers):
        row, odd = _row(amplifier.name, *_difference(new, previous, parse_section(amplifier.position)))
        row = replace(row, error=math.hypot(row.error, common[0][index], common[1][index]))
        rows.append(row)
        total += odd
        if new.kind != "defects" and not abs(row.difference) <= limit.difference + _FORGIVEN * row.error:
            reasons.append(
                f"amplifier {row.amplifier} differs by {row.difference:+.3g} ± {row.error:.1g} {unit}".rstrip()
                + f", allowed are {limit.difference:g} beyond {_FORGIVEN:g} sigma"
            )
    fraction = total / max(new.mask.size, 1)
    if fraction > limit.outliers:
        reasons.append(f"{100 * fraction:.2f} % of the pixels are off, allowed are {100 * limit.outliers:g} %")
    return tuple(rows), reasons, fraction


def _difference(
    new: Calibration, previous: Calibration, place: tuple[slice, slice]
) -> tuple[FloatImage, FloatImage, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return of a section the pixels' difference (relative for flats), its error, where both are good, where one is."""
    first, second = previous.image[place], new.image[place]
    bad = (new.mask[place] != 0, previous.mask[place] != 0)
    good = ~(bad[0] | bad[1]) & np.isfinite(first) & np.isfinite(second)
    sigma: FloatImage = np.sqrt(np.maximum(new.variance[place] + previous.variance[place], np.float32(0)))
    if new.kind == "flat":
        good &= first > 0
        divisor = np.where(good, first, np.float32(1))
        np.divide(sigma, divisor, out=sigma)
        return np.asarray(second / divisor - 1, np.float32), sigma, good, bad[0] != bad[1]
    return second - first, sigma, good, bad[0] != bad[1]


def _row(
    name: str, difference: FloatImage, sigma: FloatImage, good: NDArray[np.bool_], flagged: NDArray[np.bool_]
) -> tuple[AmplifierRow, int]:
    """Return one amplifier's row, and how many pixels are off: far from the others by their own error and by theirs.

    Means and medians are those of two million pixels at most.
    """
    values, errors = difference[good], sigma[good]
    if values.size == 0:
        return AmplifierRow(name, np.nan, np.nan, np.nan, float(flagged.mean())), int(np.count_nonzero(flagged))
    some = slice(None, None, max(values.size // _SAMPLE, 1))
    mean, scatter, kept = clipped_mean(values[some])
    error = float(np.sqrt(np.mean(np.square(errors[some])) / max(kept, 1)))
    spread = 1.4826 * float(np.median(np.abs(values[some] - np.median(values[some]))))
    limit = np.maximum(errors, np.float32(spread), out=errors)
    limit *= np.float32(_OUTLIER_SIGMA)
    values -= np.float32(mean)
    odd = int(np.count_nonzero(np.abs(values, out=values) > limit)) + int(np.count_nonzero(flagged))
    return AmplifierRow(name, mean, error, scatter, odd / good.size), odd


def _compared_tables(
    new: Calibration, previous: Calibration, detector: Detector, limits: Mapping[str, float]
) -> tuple[tuple[AmplifierRow, ...], list[str]]:
    """Return per amplifier the greatest relative difference in a judged table, and what is beyond its limit."""
    names = [amplifier.name for amplifier in detector.amplifiers]
    worst = np.zeros(len(names))
    reasons = []
    for table, limit in sorted(limits.items()):
        if (table in new.tables) != (table in previous.tables):
            reasons.append(f"only one of the two has the table {table}")
        if table not in new.tables or table not in previous.tables:
            continue
        relative = _table_difference(new, previous, table, len(names))
        if relative is None:
            reasons.append(f"table {table} has another shape or other gaps than before")
            continue
        worst = np.maximum(worst, relative)
        for index in np.flatnonzero(~(relative <= limit)):
            who = f"amplifier {names[index]}" if len(new.tables[table]) == len(names) else "all amplifiers"
            reasons.append(f"{table} of {who} differs by {100 * relative[index]:.2g} %, allowed are {100 * limit:g} %")
    rows = tuple(AmplifierRow(name, float(value), 0.0, 0.0, 0.0) for name, value in zip(names, worst, strict=True))
    return rows, list(dict.fromkeys(reasons))


def _table_difference(new: Calibration, previous: Calibration, table: str, amplifiers: int) -> _Float | None:
    """Return the relative difference per amplifier; None where the two can't be compared."""
    first, second = previous.tables[table], new.tables[table]
    if new.kind == "linearity" and table == "correction" and "knots" in new.tables and "knots" in previous.tables:
        return _linearity_difference(new, previous)
    if first.shape != second.shape or not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return None
    return _relative(first, second, np.hypot(_errors(previous, table), _errors(new, table)), amplifiers)


def _errors(master: Calibration, table: str) -> _Float:
    """Return the errors that go with a table, 0 where none are known."""
    values = master.tables[table]
    for pattern in _ERROR_NAMES:
        errors = master.tables.get(pattern.format(table))
        if errors is not None and errors.shape == values.shape:
            return np.where(np.isfinite(errors), errors, 0.0)
    return np.zeros_like(values)


def _linearity_difference(new: Calibration, previous: Calibration) -> _Float:
    """Return the greatest difference of the corrections over the level, from a twentieth of the common range up."""
    worst = []
    for k0, c0, k1, c1 in zip(
        previous.tables["knots"],
        previous.tables["correction"],
        new.tables["knots"],
        new.tables["correction"],
        strict=True,
    ):
        top = min(float(np.nanmax(k0)), float(np.nanmax(k1)))
        at = np.linspace(0.05 * top, top, 100)
        worst.append(float(np.abs((np.interp(at, k1, c1) - np.interp(at, k0, c0)) / at).max()))
    return np.array(worst)


def _relative(first: _Float, second: _Float, errors: _Float, amplifiers: int) -> _Float:
    """Return the greatest difference over the greatest value, per amplifier where the first axis counts those.

    Three sigma of the difference are forgiven.
    """
    count = amplifiers if first.ndim and len(first) == amplifiers else 1
    before = np.where(np.isfinite(first), first, 0.0).reshape(count, -1)
    after = np.where(np.isfinite(second), second, 0.0).reshape(count, -1)
    if before.shape[1] == 0:
        return np.zeros(amplifiers)
    scale = np.maximum(np.abs(before).max(axis=1), np.abs(after).max(axis=1))
    excess = np.maximum(np.abs(after - before) - _FORGIVEN * errors.reshape(count, -1), 0.0)
    relative = excess.max(axis=1) / np.where(scale > 0, scale, 1.0)
    return np.asarray(np.broadcast_to(relative, (amplifiers,)), float)


@dataclass(frozen=True)
class Stability:
    """How much the masters of one kind differ from each other."""

    kind: str
    ids: tuple[str, ...]
    amplifiers: tuple[str, ...]
    differences: tuple[tuple[float, ...], ...]
    """Of each master after the first from the one before, per amplifier."""
    rms: float
    """Root mean square of those."""
    worst: float
    """Greatest of those."""
    outliers: tuple[float, ...]
    """Fraction of outlier pixels of each master after the first."""


def stability(masters: Sequence[Calibration], detector: Detector) -> Stability:
    """Return the stability of masters of one kind, detector, band and lamp, given in order of time."""
    verdicts = [certify(new, old, detector) for old, new in pairwise(masters)]
    differences = np.array([[row.difference for row in verdict.rows] for verdict in verdicts])
    finite = differences[np.isfinite(differences)]
    if finite.size == 0:
        finite = np.zeros(1)
    return Stability(
        kind=masters[0].kind if masters else "",
        ids=tuple(master.id for master in masters),
        amplifiers=tuple(amplifier.name for amplifier in detector.amplifiers),
        differences=tuple(tuple(float(value) for value in row) for row in differences),
        rms=float(np.sqrt(np.mean(np.square(finite)))),
        worst=float(np.abs(finite).max()),
        outliers=tuple(verdict.outliers for verdict in verdicts),
    )
