"""Write the report of a survey's calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from schemas.errors import DataError
from workers.calibrate.certify import Stability, Verdict, certify, stability
from workers.calibrate.periods import PeriodPlan
from workers.calibrate.plans import load_series
from workers.calibrate.report import calibration_report
from workers.calibrate.worker import limit_of, previous_of
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import TABLE_KINDS, Calibration
from workers.imaging.fits import write_atomically
from workers.isr.masters import open_store
from workers.survey.config import Survey

__all__ = ["write_report"]


def write_report(survey: Survey, path: Path) -> Path:
    """Write the page of all masters, those in quarantine among them; raises DataError where there is none."""
    store = open_store(survey)
    masters = [store.load(entry.id) for entry in store.entries()]
    aside = [store.aside.load(entry.id) for entry in store.aside.entries()]
    if not masters and not aside:
        raise DataError(f"there are no masters in {store.root}; make some with `skydelta calibrate`")
    series = [load_series(file) for file in sorted((survey.calibrations / "periods").glob("*.json"))]
    plans = [plan for _, plan in series]
    page = calibration_report(
        [*masters, *aside],
        survey.camera,
        nights=[night for nights, _ in series for night in nights],
        plans=plans,
        verdicts=[_verdict(master, store, survey, plans) for master in [*masters, *aside]],
        stabilities=_stabilities(masters, survey),
        title=f"Calibrations of {survey.config.name}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode("utf-8"))
    return path


def _verdict(master: Calibration, store: CalibrationStore, survey: Survey, plans: Sequence[PeriodPlan]) -> Verdict:
    series = (master.kind, master.instrument, master.detector, master.band, master.lamp)
    reasons = [
        period.reason
        for plan in plans
        if (plan.kind, plan.instrument, plan.detector, plan.band, plan.lamp) == series
        for period in plan.periods
        if period.begin == master.validFrom
    ]
    detector = survey.camera.detector(master.detector)
    limit = limit_of(master.kind, survey.config.calibrate)
    return certify(master, previous_of(master, store), detector, between="; ".join(reasons), limit=limit)


def _stabilities(masters: Sequence[Calibration], survey: Survey) -> list[Stability]:
    """Stability of every series of pictures with two masters or more."""

    def series(master: Calibration) -> tuple[str, int, str, str, str]:
        return (master.kind, master.detector, master.band, master.lamp, master.layout)

    pictures = sorted((m for m in masters if m.kind not in TABLE_KINDS), key=lambda m: (series(m), m.validFrom, m.id))
    groups = [list(group) for _, group in groupby(pictures, series)]
    return [stability(group, survey.camera.detector(group[0].detector)) for group in groups if len(group) > 1]
