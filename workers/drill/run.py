"""Run a drill: the undisturbed night once, then each fault in each place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from schemas.errors import DataError, SkydeltaError
from workers.drill.compare import Ending
from workers.drill.faults import FAULTS
from workers.drill.night import Stage, begun
from workers.drill.place import Place, places
from workers.drill.report import FAILED, Finding
from workers.drill.settings import DrillSettings
from workers.drill.survey import Prepared, prepared_survey

__all__ = ["prepare_stage", "run_drill", "run_fault"]

Say = Callable[[str], None]

_MOST_FAILURES = 0.1
"""Share of exposures that may fail by themselves, for want of stars say: they must fail alike in every night."""

_REPEATS = 3
"""Alerts that some object must have, or the night proves nothing about histories."""


def run_drill(settings: DrillSettings, faults: Sequence[str], say: Say) -> list[Finding]:
    """Inject the named faults in every place that `settings` gives an address of; raises SkydeltaError."""
    stage = prepare_stage(settings, say)
    return [run_fault(name, stage, place) for place in places(settings) for name in faults]


def prepare_stage(settings: DrillSettings, say: Say) -> Stage:
    """Prepare the survey and run its night undisturbed, on the embedded bus and SQLite with one worker of each role."""
    prepared = prepared_survey(settings, say)
    say("run the undisturbed night")
    expected = _undisturbed(settings, prepared)
    say(f"{len(expected.alerts)} alerts of {len(expected.order)} objects from {len(expected.outcomes)} exposures")
    return Stage(settings, prepared, expected, say)


def _undisturbed(settings: DrillSettings, prepared: Prepared) -> Ending:
    with begun(settings, prepared, Place(), "undisturbed") as night:
        night.ingest()
        night.hire()
        night.finish()
        ending = night.ending()
        _require_fit(ending, night.survey.root)
    return ending


def _require_fit(ending: Ending, root: Path) -> None:
    odd = [label for label, outcome in ending.outcomes.items() if outcome not in ("alerts", "no_alerts", "failed")]
    twice = [number for number, found in ending.alerts.items() if len(found) > 1]
    seen = max((len(ids) for ids in ending.order.values()), default=0)
    failures = sum(outcome == "failed" for outcome in ending.outcomes.values())
    if odd or twice or failures > _MOST_FAILURES * len(ending.outcomes) or seen < _REPEATS:
        raise DataError(
            f"the undisturbed night in {root} is not fit for a drill: {len(odd)} exposures did not end, "
            f"{failures} failed, {len(twice)} alerts came twice, {seen} alerts of one object at most, dead letters "
            f"{sorted({letter.message for letter in ending.letters})}; try another --seed"
        )


def run_fault(name: str, stage: Stage, place: Place) -> Finding:
    """Inject one fault in one place; what stops it is a finding too."""
    stage.say(f"{name} on {place.bus} and {place.database}")
    begin = time.monotonic()
    try:
        found = FAULTS[name].inject(stage, place)
    except SkydeltaError as error:
        text = f"{type(error).__name__}: {error}"
        found = Finding(name, place.bus, place.database, verdict=FAILED, notes=[text])
    found = replace(found, seconds=time.monotonic() - begin)
    stage.say(f"{name} on {place.bus} and {place.database}: {found.verdict}" + "".join(f"\n  {n}" for n in found.notes))
    return found
