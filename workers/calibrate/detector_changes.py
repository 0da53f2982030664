"""What the families of a detector's nightly statistics say together: its changes and its jump days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.calibrate.change_points import STANDARD, Change, Evidence, FamilyChanges, Jump, ScanSettings, find_changes
from workers.calibrate.nightly import NightStatistics

__all__ = ["Cause", "DetectorChange", "DetectorJump", "detector_changes", "family_series"]

_Float = NDArray[np.float64]

_PROFILES = ("column", "row")
"""Families of thousands: a night is off where a hundredth of them is, not where one is."""
_JUMPED = 0.01
_UNSCANNED = ("lamp",)
"""Of the lamp, not of the detector."""
_TOGETHER = ("block",)
_NAMED = 12
"""Series named per change."""


@dataclass(frozen=True)
class Cause:
    """One series that shows a change or a jump."""

    series: str
    """``<family>/<name>``, e.g. ``level/A0``; ``block/all`` stands for all blocks together."""
    size: float
    """After minus before, in the unit of the series."""
    error: float
    significance: float
    """|size| over its error; for all together the Gaussian equivalent."""

    def __str__(self) -> str:
        """Return it as a person reads it, e.g. ``level/A0 +0.0503 (31 sigma)``."""
        return f"{self.series} {self.size:+.3g} ({self.significance:.0f} sigma)"


@dataclass(frozen=True)
class DetectorChange:
    """The detector differs from night number `first` on."""

    first: int
    """Index into the nights."""
    earliest: int
    latest: int
    causes: tuple[Cause, ...]
    """Strongest first, a dozen at most."""


@dataclass(frozen=True)
class DetectorJump:
    """A night on which the detector was off: its frames belong into no master."""

    night: int
    """Index into the nights."""
    causes: tuple[Cause, ...]


def family_series(nights: Sequence[NightStatistics], family: str) -> tuple[tuple[str, ...], _Float, _Float]:
    """Return names (s), values and errors (s, n) of one family on all nights.

    An error that is not known (one frame) is the median of the others', scaled to the frames. Raises DataError where
    the names differ from night to night: the camera's amplifiers did.
    """
    names = next(night.families[family].names for night in nights if family in night.families)
    for night in nights:
        if family in night.families and night.families[family].names != names:
            raise DataError(
                f"night {night.night} of detector {night.detector} has other series of family {family!r} than those "
                "before: the layout of the amplifiers changed; propose periods for the nights on either side apart"
            )
    empty = np.full(len(names), np.nan)
    values = np.array([n.families[family].values if family in n.families else empty for n in nights]).T
    errors = np.array([n.families[family].errors if family in n.families else empty for n in nights]).T
    frames = np.sqrt([float(max(night.frames, 1)) for night in nights])
    one_frame = errors * frames[None, :]
    typical = np.array([_median(row) for row in one_frame])
    return names, values, np.where(errors > 0, errors, typical[:, None] / frames[None, :])


def _median(row: _Float) -> float:
    known = row[row > 0]
    return float(np.median(known)) if known.size else 1e-9


def detector_changes(
    nights: Sequence[NightStatistics], settings: ScanSettings = STANDARD
) -> tuple[tuple[DetectorChange, ...], tuple[DetectorJump, ...]]:
    """Return the changes and jump days of one detector from its nights (one kind, band and lamp), in order of time."""
    times = np.array([0.5 * (night.begin + night.end) for night in nights])
    found: dict[str, FamilyChanges] = {}
    names: dict[str, tuple[str, ...]] = {}
    for family in sorted({name for night in nights for name in night.families} - set(_UNSCANNED)):
        names[family], values, errors = family_series(nights, family)
        usable = np.isfinite(values).sum(axis=1) > len(nights) // 2
        names[family] = tuple(name for name, good in zip(names[family], usable, strict=True) if good)
        found[family] = find_changes(
            times, values[usable], errors[usable], settings, together=family in _TOGETHER and usable.sum() > 1
        )
    return _merged(found, names), _jumps(found, names)


def _causes(family: str, names: tuple[str, ...], evidence: Sequence[Evidence]) -> list[Cause]:
    return [
        Cause(f"{family}/{names[e.series] if e.series >= 0 else 'all'}", e.size, e.error, abs(e.z)) for e in evidence
    ]


def _merged(found: Mapping[str, FamilyChanges], names: Mapping[str, tuple[str, ...]]) -> tuple[DetectorChange, ...]:
    """Return the families' changes as the detector's: those whose dates overlap are one, dated by the strongest."""
    every = [(family, change) for family in sorted(found) for change in found[family].changes]
    every.sort(key=lambda one: -_strength(one[1]))
    groups: list[list[tuple[str, Change]]] = []
    for family, change in every:
        for group in groups:
            leader = group[0][1]
            if change.earliest - 1 <= leader.latest and leader.earliest <= change.latest + 1:
                group.append((family, change))
                break
        else:
            groups.append([(family, change)])
    changes = []
    for group in groups:
        causes = [cause for family, change in group for cause in _causes(family, names[family], change.evidence)]
        causes.sort(key=lambda cause: (-cause.significance, cause.series))
        leader = group[0][1]
        changes.append(DetectorChange(leader.first, leader.earliest, leader.latest, tuple(causes[:_NAMED])))
    return tuple(sorted(changes, key=lambda change: change.first))


def _strength(change: Change) -> float:
    return max(abs(e.z) for e in change.evidence)


def _jumps(found: Mapping[str, FamilyChanges], names: Mapping[str, tuple[str, ...]]) -> tuple[DetectorJump, ...]:
    """Return the nights that are off: in any family of few series, or in a hundredth of the columns or rows."""
    causes: dict[int, list[Cause]] = {}
    for family in sorted(found):
        for jump in found[family].jumps:
            if _counts(family, len(names[family]), jump):
                causes.setdefault(jump.night, []).extend(_causes(family, names[family], jump.evidence))
    ordered = {
        night: sorted(list_, key=lambda cause: (-cause.significance, cause.series)) for night, list_ in causes.items()
    }
    return tuple(DetectorJump(night, tuple(ordered[night][:_NAMED])) for night in sorted(ordered))


def _counts(family: str, series: int, jump: Jump) -> bool:
    return family not in _PROFILES or len(jump.evidence) >= _JUMPED * series
