"""The archived night once more, at maximum speed."""

from __future__ import annotations

import json
import subprocess
import sys

from stream.topics import Topics
from workers.drill.compare import Difference, read_ending
from workers.drill.night import Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding
from workers.imaging.identity import unpack_dia_source_id

__all__ = ["inject"]

_INTO = "again."


def inject(stage: Stage, place: Place) -> Finding:
    """`skydelta replay` must call its packets identical, and they must be those of the undisturbed night."""
    with begun(stage.settings, stage.prepared, place, "replay") as night:
        night.ingest()
        night.hire()
        night.finish()
        difference = night.compared(stage.expected)
        report = _replayed(night, night_of(stage), difference)
        _same_bytes(stage, night, difference)
    return finding("replay", place, difference, injections=1, notes=[f"report: {report}"])


def night_of(stage: Stage) -> int:
    """Return the live night, YYYYMMDD."""
    return max(_night(number) for number in stage.expected.alerts)


def _night(number: int) -> int:
    """Night of an alert: the simulator's visits are the night and a running number of four digits."""
    return unpack_dia_source_id(number)[0] // 10_000


def _replayed(night: Night, date: int, difference: Difference) -> str:
    command = [sys.executable, "-m", "workers", "replay", str(date), "-s", str(night.survey.root), "--into", _INTO]
    done = subprocess.run(
        [*command, "--speed", "max", "--json"],
        capture_output=True,
        text=True,
        timeout=night.settings.limit,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        difference.differs(f"skydelta replay ended with exit code {done.returncode}: {lines[-1]}")
    told = json.loads(done.stdout) if done.stdout else {}
    return ", ".join(f"{name} {value}" for name, value in told.items() if not isinstance(value, (dict, list)))


def _same_bytes(stage: Stage, night: Night, difference: Difference) -> None:
    found = read_ending(night.survey, night.bus, Topics(_INTO + night.topics.prefix, night.topics.partitions), _INTO)
    expected = {
        number: digests for number, digests in stage.expected.alerts.items() if _night(number) == night_of(stage)
    }
    difference.lost += len(expected.keys() - found.alerts.keys())
    wrong = [number for number in found.alerts if found.alerts[number] != expected.get(number)]
    if wrong:
        difference.differs(f"{wrong[0]} is an alert of the replay that has other bytes", len(wrong))
