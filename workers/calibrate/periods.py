"""Periods in which a detector stayed the same: from change point or intervention to the next one.

A period ends where the nightly statistics change, where somebody did something to the camera, and, only when asked, at
a longest length. Nights on which the detector jumped and came back belong to the period, but not into its master.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import DataError
from workers.calibrate.change_points import STANDARD, ScanSettings
from workers.calibrate.detector_changes import Cause, DetectorChange, DetectorJump, detector_changes
from workers.calibrate.interventions import Intervention
from workers.calibrate.nightly import NightStatistics
from workers.imaging.calibrations import FOREVER

__all__ = [
    "WHENEVER",
    "JumpDay",
    "Period",
    "PeriodPlan",
    "PeriodSettings",
    "plan_from_json",
    "plan_to_json",
    "propose_periods",
]

_BEFORE = 0.5
"""Days before the first frame at which the first period begins."""


@dataclass(frozen=True)
class PeriodSettings:
    """How periods are found."""

    scan: ScanSettings = STANDARD
    longest_days: float | None = None
    """Split what is longer into equal parts; None: periods last until something changes."""


WHENEVER = PeriodSettings()


@dataclass(frozen=True)
class JumpDay:
    """A night left out of the masters."""

    night: int
    mjd: float
    """TAI, middle of its frames."""
    causes: tuple[Cause, ...]


@dataclass(frozen=True)
class Period:
    """A time in which one master is valid."""

    begin: float
    """MJD TAI: midway between the frames of the last night before and those of the first night after the change."""
    end: float
    """MJD TAI; of the last period `FOREVER`, until something newer is there."""
    reason: str
    """Why it begins: in words."""
    nights: tuple[int, ...]
    """YYYYMMDD, those that a master is made from."""
    left_out: tuple[int, ...]
    """Jump days, YYYYMMDD."""
    inputs: tuple[str, ...]
    """sha256 of the frames of `nights`, in order of time."""
    causes: tuple[Cause, ...] = ()
    """Series that show the change."""
    uncertainty: tuple[float, float] = (0.0, 0.0)
    """MJD TAI: the change lies between these (4 sigma); equal where it is declared."""


@dataclass(frozen=True)
class PeriodPlan:
    """The periods of one detector, for one kind (one band and lamp)."""

    kind: str
    instrument: str
    detector: int
    band: str
    lamp: str
    periods: tuple[Period, ...]
    jumps: tuple[JumpDay, ...]
    settings: PeriodSettings

    def at(self, mjd: float) -> Period:
        """Return the period of a time (MJD TAI); raises DataError before the first."""
        for period in reversed(self.periods):
            if period.begin <= mjd:
                return period
        raise DataError(f"MJD {mjd:.5f} is before the first {self.kind} of detector {self.detector}")


@dataclass(frozen=True)
class _Boundary:
    mjd: float
    reason: str
    causes: tuple[Cause, ...] = ()
    uncertainty: tuple[float, float] = (0.0, 0.0)


def propose_periods(
    nights: Sequence[NightStatistics],
    interventions: Sequence[Intervention] = (),
    settings: PeriodSettings = WHENEVER,
) -> PeriodPlan:
    """Return the periods of the nights of one detector, kind, band and lamp.

    Raises DataError where there is no night, the nights are of different groups, or one comes twice.
    """
    ordered = sorted(nights, key=lambda night: (night.begin, night.night))
    _check(ordered)
    changes, jumps = detector_changes(ordered, settings.scan)
    first = ordered[0]
    declared = [one for one in interventions if one.concerns(first.kind, first.detector)]
    bounds = _boundaries(ordered, changes, declared)
    if settings.longest_days is not None:
        bounds = _split(bounds, ordered, settings.longest_days)
    off = {jump.night for jump in jumps}
    return PeriodPlan(
        *first.group,
        periods=tuple(_periods(bounds, ordered, off)),
        jumps=tuple(_jump_day(ordered, jump) for jump in jumps),
        settings=settings,
    )


def _check(nights: Sequence[NightStatistics]) -> None:
    if not nights:
        raise DataError("no periods without nightly statistics: give frames of at least one night")
    groups = {night.group for night in nights}
    if len(groups) > 1:
        raise DataError(f"periods are of one kind, detector, band and lamp; these are of {sorted(groups)}")
    twice = {night.night for night in nights if sum(other.night == night.night for other in nights) > 1}
    if twice:
        raise DataError(f"nights {sorted(twice)} of {nights[0].kind} come twice; give each night's frames once")


def _boundaries(
    nights: Sequence[NightStatistics], changes: Sequence[DetectorChange], declared: Sequence[Intervention]
) -> list[_Boundary]:
    """Return where periods begin. A change at the date of an intervention is the intervention."""
    bounds = [_Boundary(nights[0].begin - _BEFORE, "first night")]
    explained: set[int] = set()
    for one in declared:
        causes: list[Cause] = []
        for number, change in enumerate(changes):
            early = nights[max(change.earliest - 2, 0)].end
            late = nights[min(change.latest + 1, len(nights) - 1)].begin
            if early <= one.mjd <= late:
                explained.add(number)
                causes += change.causes
        if nights[0].begin < one.mjd:
            bounds.append(_Boundary(one.mjd, f"intervention: {one.reason}", tuple(causes), (one.mjd, one.mjd)))
    for number, change in enumerate(changes):
        if number in explained:
            continue
        dates = (nights[max(change.earliest - 1, 0)].end, nights[change.latest].begin)
        reason = f"change: {_worded(change.causes)}"
        bounds.append(_Boundary(_between(nights, change.first), reason, change.causes, dates))
    return sorted(bounds, key=lambda bound: bound.mjd)


def _between(nights: Sequence[NightStatistics], first: int) -> float:
    return 0.5 * (nights[first - 1].end + nights[first].begin)


def _worded(causes: Sequence[Cause]) -> str:
    """Return the strongest three causes, and how many more there are."""
    told = [str(cause) for cause in causes[:3]]
    more = len(causes) - 3
    return ", ".join(told) + (f" and {more} more series" if more > 0 else "")


def _split(bounds: list[_Boundary], nights: Sequence[NightStatistics], longest: float) -> list[_Boundary]:
    """Split what is longer than `longest` days into equal parts, at the nearest gap between nights."""
    if not longest > 0:
        raise DataError(f"the longest period must be above 0 days, it is {longest}")
    last = nights[-1].end + _BEFORE
    gaps = [_between(nights, index) for index in range(1, len(nights))]
    split: list[_Boundary] = []
    for number, bound in enumerate(bounds):
        end = bounds[number + 1].mjd if number + 1 < len(bounds) else last
        parts = max(math.ceil((end - bound.mjd) / longest - 1e-9), 1)
        split.append(bound)
        for part in range(1, parts):
            wanted = bound.mjd + part * (end - bound.mjd) / parts
            inside = [gap for gap in gaps if split[-1].mjd < gap < end]
            if inside:
                gap = min(inside, key=lambda place: (abs(place - wanted), place))
                split.append(_Boundary(gap, f"longest period: {longest:g} days", (), (gap, gap)))
    return split


def _periods(bounds: Sequence[_Boundary], nights: Sequence[NightStatistics], off: set[int]) -> list[Period]:
    periods = []
    for number, bound in enumerate(bounds):
        end = bounds[number + 1].mjd if number + 1 < len(bounds) else FOREVER
        inside = [index for index, night in enumerate(nights) if bound.mjd <= 0.5 * (night.begin + night.end) < end]
        used = [index for index in inside if index not in off]
        periods.append(
            Period(
                begin=bound.mjd,
                end=end,
                reason=bound.reason,
                nights=tuple(nights[index].night for index in used),
                left_out=tuple(nights[index].night for index in inside if index in off),
                inputs=tuple(name for index in used for name in nights[index].inputs),
                causes=bound.causes,
                uncertainty=bound.uncertainty,
            )
        )
    return periods


def _jump_day(nights: Sequence[NightStatistics], jump: DetectorJump) -> JumpDay:
    night = nights[jump.night]
    return JumpDay(night.night, 0.5 * (night.begin + night.end), jump.causes)


def plan_to_json(plan: PeriodPlan) -> str:
    """Return the plan as JSON; the same statistics give the same text."""
    return json.dumps(asdict(plan), indent=1) + "\n"


def plan_from_json(text: str, label: str) -> PeriodPlan:
    """Read a plan back; raises DataError naming `label` where the text is not what was written."""
    try:
        tree = json.loads(text)
        settings = tree.pop("settings")
        scan = ScanSettings(**settings.pop("scan"))
        periods = tuple(_period(one) for one in tree.pop("periods"))
        jumps = tuple(JumpDay(**{**one, "causes": _read_causes(one["causes"])}) for one in tree.pop("jumps"))
        return PeriodPlan(**tree, periods=periods, jumps=jumps, settings=PeriodSettings(scan=scan, **settings))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{label}: no plan of periods that skydelta wrote: {error}") from error


def _period(tree: dict[str, Any]) -> Period:
    lists = {name: tuple(tree[name]) for name in ("nights", "left_out", "inputs", "uncertainty")}
    return Period(**{**tree, **lists, "causes": _read_causes(tree["causes"])})


def _read_causes(trees: Sequence[dict[str, Any]]) -> tuple[Cause, ...]:
    return tuple(Cause(**tree) for tree in trees)
