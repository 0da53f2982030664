"""Which masters an exposure would get, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.calibrate.groups import read_file
from workers.imaging.calibration_store import Candidate
from workers.imaging.calibrations import FOREVER
from workers.isr.masters import layout_of, open_store
from workers.isr.pipeline import needed_kinds
from workers.survey.config import Survey

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """One master that was looked at for one exposure."""

    kind: str
    chosen: bool
    id: str
    """Empty where there is no master of this kind for the detector at all."""
    validFrom: float
    validTo: float
    why: str

    def cells(self) -> tuple[str, ...]:
        """Return the row of a table for people."""
        end = "on" if self.validTo >= FOREVER else f"{self.validTo:.5f}"
        period = f"{self.validFrom:.5f}..{end}" if self.id else ""
        return self.kind, "*" if self.chosen else "", self.id, period, self.why


def explain(path: Path, survey: Survey) -> list[Explanation]:
    """Return every master of the kinds that a raw file's exposure needs, the chosen ones first of their kind."""
    info = read_file(path, survey).info
    store, layout = open_store(survey), layout_of(survey.camera, info)
    rows: list[Explanation] = []
    for kind in needed_kinds(survey.config.isr, band=info.band):
        known = store.candidates(info, kind, layout)
        rows += sorted((_told(one) for one in known), key=lambda row: not row.chosen)
        if not known:
            why = f"detector {info.detector} has none: run `skydelta calibrate {kind}`"
            rows.append(Explanation(kind, False, "", 0.0, 0.0, why))
    return rows


def _told(one: Candidate) -> Explanation:
    if one.chosen:
        why = "fits, and no other that fits begins later"
    else:
        why = "; ".join(one.misfits) or "fits, but another that fits begins later"
    entry = one.entry
    return Explanation(entry.kind, one.chosen, entry.id, entry.validFrom, entry.validTo, why)
