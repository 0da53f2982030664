"""The quality report of a survey's calibrations as one HTML page that needs no network.

Masters with pictures and tables, their verdicts, the periods and how the detectors kept from night to night. Pure:
records in, text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray

from workers.calibrate.certify import Stability, Verdict
from workers.calibrate.detector_changes import family_series
from workers.calibrate.nightly import NightStatistics
from workers.calibrate.periods import PeriodPlan
from workers.calibrate.report_plots import Curve, Marker, curves_svg
from workers.calibrate.report_products import Figure, Section, product_section
from workers.imaging.calibrations import FOREVER, KINDS, Calibration
from workers.quality.page import Table
from workers.survey.camera import Camera

__all__ = ["calibration_report"]

_Float = NDArray[np.float64]
_Group = tuple[str, str, int, str, str]

_SHOWN_FAMILIES = ("level", "noise", "gradient", "hot", "lamp")
_MOST_CAUSES = 4
_CURVES = 16
_WORDS = ("verdict", "why it begins", "what was off")
"""Columns that hold words, not numbers."""


def calibration_report(
    masters: Sequence[Calibration],
    camera: Camera,
    *,
    nights: Sequence[NightStatistics] = (),
    plans: Sequence[PeriodPlan] = (),
    verdicts: Sequence[Verdict] = (),
    stabilities: Sequence[Stability] = (),
    title: str = "Calibrations",
) -> str:
    """Return the page: an overview, one section per group of nightly statistics, one per master; all else is optional.

    Every text that comes from outside is escaped; pictures are inline.
    """
    ordered = sorted(masters, key=lambda m: (m.detector, list(KINDS).index(m.kind), m.band, m.lamp, m.validFrom, m.id))
    by_new = {verdict.new: verdict for verdict in verdicts}
    sections = [*_stability_sections(nights, plans)]
    sections += [product_section(m, camera.detector(m.detector), by_new.get(m.id)) for m in ordered]
    page = (resources.files("workers.calibrate") / "report.html").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True)
        .from_string(page)
        .render(
            title=title,
            summary=_summary(ordered, plans, verdicts),
            tables=[table for table in (_overview(ordered, by_new), _stability_table(stabilities)) if table.rows],
            sections=sections,
            words=_WORDS,
        )
    )


def _summary(
    masters: Sequence[Calibration], plans: Sequence[PeriodPlan], verdicts: Sequence[Verdict]
) -> dict[str, str]:
    aside = [verdict.new for verdict in verdicts if not verdict.certified]
    summary = {
        "masters": f"{len(masters)}, detectors: {len({m.detector for m in masters})}",
        "raw files": str(len({name for master in masters for name in master.inputs})),
    }
    if plans:
        changes = sum(max(len(plan.periods) - 1, 0) for plan in plans)
        jumps = sum(len(plan.jumps) for plan in plans)
        summary["periods"] = f"{changes} changes and {jumps} jump days in {len(plans)} series"
    if verdicts:
        summary["verdicts"] = f"{len(verdicts) - len(aside)} certified, {len(aside)} in quarantine"
    return summary


def _overview(masters: Sequence[Calibration], by_new: dict[str, Verdict]) -> Table:
    rows = []
    for master in masters:
        verdict = by_new.get(master.id)
        said = "" if verdict is None else "certified" if verdict.certified else "QUARANTINE"
        end = "on" if master.validTo >= FOREVER else f"{master.validTo:.3f}"
        what = " ".join(word for word in (master.kind, master.band, master.lamp) if word)
        cells = [f"{master.validFrom:.3f}", end, str(len(master.inputs)), said]
        rows.append([what, str(master.detector), master.id, *cells])
    return Table("Masters", ["kind", "detector", "id", "valid from", "to", "raw files", "verdict"], rows)


def _stability_table(stabilities: Sequence[Stability]) -> Table:
    rows = [
        [
            one.kind,
            str(len(one.ids)),
            f"{one.rms:.3g}",
            f"{one.worst:.3g}",
            f"{100.0 * max(one.outliers, default=0.0):.3g} %",
        ]
        for one in stabilities
    ]
    columns = ["kind", "masters", "rms of the changes", "greatest change", "most outlier pixels"]
    note = "Change of an amplifier's level from one master to the next: bias in ADU, dark in ADU/s, flat relative."
    return Table("Stability of the masters", columns, rows, note)


def _stability_sections(nights: Sequence[NightStatistics], plans: Sequence[PeriodPlan]) -> list[Section]:
    groups: dict[_Group, list[NightStatistics]] = {}
    for night in sorted(nights, key=lambda one: (one.group, one.begin)):
        groups.setdefault(night.group, []).append(night)
    known = {(p.kind, p.instrument, p.detector, p.band, p.lamp): p for p in plans}
    for group in known:
        groups.setdefault(group, [])
    return [_stability_section(group, groups[group], known.get(group)) for group in sorted(groups)]


def _stability_section(group: _Group, nights: Sequence[NightStatistics], plan: PeriodPlan | None) -> Section:
    kind, _, detector, band, lamp = group
    words = ["nights", kind, f"detector {detector}", band, f"lamp {lamp}" if lamp else ""]
    facts = {"nights": str(len(nights)), "raw files": str(sum(night.frames for night in nights))}
    figures: list[Figure] = []
    if nights:
        figures = _figures(nights, plan)
        first, last = nights[0].night, nights[-1].night
        facts["from, to"] = f"{first}, {last}"
    return Section(
        title=" · ".join(word for word in words if word),
        facts=facts,
        figures=[figure for figure in figures if figure.svg],
        tables=[] if plan is None else [table for table in _plan_tables(plan) if table.rows],
    )


def _figures(nights: Sequence[NightStatistics], plan: PeriodPlan | None) -> list[Figure]:
    """Return the families of few series, and the series that the plan's strongest causes name, against time."""
    times = np.array([0.5 * (night.begin + night.end) for night in nights])
    markers = _plan_markers(plan)
    figures = []
    for family in _SHOWN_FAMILIES:
        if any(family in night.families for night in nights):
            names, values, errors = family_series(nights, family)
            figures.append(_figure(family, times, (names, values, errors), markers))
    for cause in _named(plan):
        family, name = cause.split("/", 1)
        if any(family in night.families for night in nights):
            names, values, errors = family_series(nights, family)
            row = [index for index, other in enumerate(names) if other == name]
            figures.append(_figure(cause, times, ([names[i] for i in row], values[row], errors[row]), markers))
    return figures


def _named(plan: PeriodPlan | None) -> list[str]:
    """Return the strongest series of each change that no family of few series shows, a few in all."""
    if plan is None:
        return []
    told = [*(period.causes for period in plan.periods), *(jump.causes for jump in plan.jumps)]
    causes = [cause.series for strongest in told for cause in strongest[:1]]
    others = [cause for cause in causes if cause.split("/")[0] not in _SHOWN_FAMILIES and not cause.endswith("/all")]
    return list(dict.fromkeys(others))[:_MOST_CAUSES]


def _figure(
    title: str, times: _Float, series: tuple[Sequence[str], _Float, _Float], markers: Sequence[Marker]
) -> Figure:
    names, values, errors = series
    curves = []
    for name, row, error in zip(names[:_CURVES], values, errors, strict=False):
        good = np.isfinite(row)
        centre = float(np.median(row[good])) if good.any() else 0.0
        curves.append(Curve(name, times, row - centre, error if len(names) == 1 else None))
    svg = curves_svg(curves, ("MJD TAI", f"{title} − median"), markers, size=(760, 220), rows=_rows(curves))
    return Figure(f"{title}; dashed: changes, arrows: jump days", svg)


def _rows(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Return the range that shows the steps: bad days stand at the edge, where they would press all else flat."""
    values = np.concatenate([np.asarray(curve.y, float) for curve in curves])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = (float(value) for value in np.percentile(values, [1.0, 99.0]))
    return (low - 0.25 * (high - low), high + 0.25 * (high - low)) if high > low else None


def _plan_markers(plan: PeriodPlan | None) -> list[Marker]:
    if plan is None:
        return []
    markers = [Marker(period.begin, period.reason) for period in plan.periods[1:]]
    return markers + [Marker(jump.mjd, f"jump day {jump.night}", jump=True) for jump in plan.jumps]


def _plan_tables(plan: PeriodPlan) -> list[Table]:
    periods = [
        [
            f"{period.begin:.4f}",
            "on" if period.end >= FOREVER else f"{period.end:.4f}",
            str(len(period.nights)),
            str(len(period.left_out)),
            f"{period.uncertainty[0]:.2f} … {period.uncertainty[1]:.2f}" if period.uncertainty[0] > 0 else "",
            period.reason,
        ]
        for period in plan.periods
    ]
    jumps = [
        [
            str(jump.night),
            f"{jump.mjd:.4f}",
            ", ".join(str(cause) for cause in jump.causes[:3]),
        ]
        for jump in plan.jumps
    ]
    columns = ["begin, MJD TAI", "end", "nights", "left out", "change lies within", "why it begins"]
    return [
        Table("Periods", columns, periods),
        Table("Jump days, in no master", ["night", "MJD TAI", "what was off"], jumps),
    ]
