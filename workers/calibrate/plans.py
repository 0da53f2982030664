"""Where nightly statistics and the periods found in them are kept: one JSON file per series."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.frames import Frames
from workers.calibrate.interventions import load_interventions
from workers.calibrate.nightly import NightStatistics, measure_nights, nights_from_json, nights_to_json
from workers.calibrate.periods import PeriodPlan, PeriodSettings, plan_from_json, plan_to_json, propose_periods
from workers.imaging.fits import write_atomically
from workers.survey.config import Survey

__all__ = ["PERIOD_KINDS", "load_plan", "load_series", "plan_periods"]

PERIOD_KINDS = ("bias", "dark", "flat")
"""Kinds whose nights are watched."""


def plan_periods(frames: Frames, survey: Survey) -> PeriodPlan:
    """Measure the nights that `frames` has, add them to those known, and return the periods found in all of them.

    A night measured again replaces what was known of it. Interventions come from ``interventions.toml`` in the survey's
    folder. Statistics and plan are written.
    """
    path = _path(survey, frames.kind, frames.infos[0].detector, _band(frames), frames.lamp)
    new = measure_nights(frames, survey.config.isr.steps)
    known = {night.night: night for night in (load_series(path)[0] if path.exists() else [])}
    nights = [night for _, night in sorted((known | {night.night: night for night in new}).items())]
    longest = survey.config.calibrate.max_days or None
    settings = PeriodSettings(longest_days=longest)
    plan = propose_periods(nights, load_interventions(survey.root / "interventions.toml"), settings)
    tree = {"nights": json.loads(nights_to_json(nights)), "plan": json.loads(plan_to_json(plan))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(tree) + "\n").encode())
    return plan


def load_plan(survey: Survey, kind: str, detector: int, band: str, lamp: str) -> PeriodPlan:
    """Return the periods of one series; raises ConfigurationError where none were looked for."""
    path = _path(survey, kind, detector, band, lamp)
    if not path.exists():
        raise ConfigurationError(
            f"there are no periods for {kind} of detector {detector} {band} {lamp}".rstrip()
            + f" ({path} does not exist); run `skydelta calibrate periods {kind}` first"
        )
    return load_series(path)[1]


def load_series(path: Path) -> tuple[Sequence[NightStatistics], PeriodPlan]:
    """Return what one file holds; raises DataError where it is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        nights, plan = json.dumps(tree["nights"]), json.dumps(tree["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not what `skydelta calibrate periods` wrote ({error}); delete it and run that again"
        ) from error
    return nights_from_json(nights, str(path)), plan_from_json(plan, str(path))


def _band(frames: Frames) -> str:
    return frames.infos[0].band if frames.kind == "flat" else ""


def _path(survey: Survey, kind: str, detector: int, band: str, lamp: str) -> Path:
    parts = [kind, str(detector), band or "all", *([lamp] if lamp else [])]
    name = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)
    return survey.calibrations / "periods" / f"{name}.json"
