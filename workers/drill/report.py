"""What a drill found: one row per fault, bus and database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.drill.compare import Difference
from workers.drill.place import Place

__all__ = ["COLUMNS", "FAILED", "PASSED", "SKIPPED", "Finding", "finding", "skipped"]

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"

COLUMNS = (
    "fault", "bus", "database", "injections", "nights", "lost", "duplicate", "different", "seconds", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """How the night stood one fault in one place."""

    fault: str
    bus: str
    database: str
    injections: int = 0
    """Kills, or inputs, or what else the fault is made of."""
    nights: int = 0
    lost: int = 0
    """Alerts that are missing, exposures without an outcome."""
    duplicate: int = 0
    different: int = 0
    """Alerts of other bytes or too many, outcomes, rows, dead letters."""
    seconds: float = 0.0
    verdict: str = PASSED
    notes: list[str] = field(default_factory=list)

    def row(self) -> list[Any]:
        """Return the cells of COLUMNS."""
        return [round(value, 1) if isinstance(value := getattr(self, name), float) else value for name in COLUMNS]


def finding(
    fault: str,
    place: Place,
    difference: Difference,
    *,
    injections: int,
    nights: int = 1,
    notes: Sequence[str] = (),
) -> Finding:
    """Return the finding of a fault that was injected; `notes` say what was done."""
    return Finding(
        fault,
        place.bus,
        place.database,
        injections,
        nights,
        difference.lost,
        difference.duplicate,
        difference.different,
        verdict=FAILED if difference or not injections else PASSED,
        notes=[*notes, *difference.notes],
    )


def skipped(fault: str, place: Place, reason: str) -> Finding:
    """Return the finding of a fault that can't be injected here."""
    return Finding(fault, place.bus, place.database, verdict=SKIPPED, notes=[reason])
