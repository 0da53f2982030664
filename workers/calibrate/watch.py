"""Find the periods of a survey's detectors from raw frames of many nights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.calibrate.periods import PeriodPlan
from workers.calibrate.plans import plan_periods
from workers.calibrate.worker import frames_of, groups_of
from workers.imaging.calibrations import FOREVER
from workers.isr.masters import open_store
from workers.survey.config import Survey

__all__ = ["Watched", "find_periods"]


@dataclass(frozen=True)
class Watched:
    """The periods of one series."""

    name: str
    plan: PeriodPlan

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per period for people and programs; a jump day is told with its causes."""
        causes = {jump.night: ", ".join(str(cause) for cause in jump.causes) for jump in self.plan.jumps}
        rows = []
        for period in self.plan.periods:
            jumps = [f"{night} ({causes.get(night, '')})" for night in period.left_out]
            rows.append(
                {
                    "series": self.name,
                    "begin": period.begin,
                    "end": "on" if period.end >= FOREVER else period.end,
                    "nights": len(period.nights),
                    "leftOut": ", ".join(jumps),
                    "reason": period.reason,
                }
            )
        return rows


def find_periods(
    kind: str, paths: Iterable[Path], survey: Survey, progress: Callable[[str], None] = lambda text: None
) -> list[Watched]:
    """Measure the nights of a kind of raw frames (default: the archive's) and return each series' periods."""
    store = open_store(survey)
    watched = []
    for group in groups_of(kind, paths, survey):
        nights = {source.info.night for source in group.sources}
        progress(f"{kind} of {group}: {len(group.sources)} frames of {len(nights)} nights")
        frames = frames_of(kind, group, group.sources, survey, store, least=1)
        watched.append(Watched(f"{kind} of {group}", plan_periods(frames, survey)))
    return watched
