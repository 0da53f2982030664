"""Collect what the report of a night shows, and put it on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.quality.cards import alert_card
from workers.quality.evaluation import KINDS, MARGIN, BinRow, Evaluation
from workers.quality.page import Report, Table
from workers.quality.pictures import sky_map_svg

__all__ = ["evaluation_table", "exposure_rows", "latency_rows", "night_report", "purity_table"]

Packet = Mapping[str, Any]
_MOST_CARDS = 60
_EXPOSURE = {
    "seeingArcsec": "seeing, arcsec",
    "psfEllipticity": "ellipticity of the PSF",
    "skyMagnitude": "sky, AB mag per square arcsec",
    "zeroPoint": "zero point, nJy per electron",
    "zeroPointScatter": "scatter of the zero point, relative",
    "transparency": "transparency",
    "limitingMagnitude": "5-sigma limit, AB mag",
    "astrometricRms": "astrometric rms, arcsec",
    "nPsfStars": "PSF stars",
    "nMatched": "matched stars",
}
"""Metrics of characterization that the report shows, and their names on the page."""


def latency_rows(quality: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of (stage, exposures, p50, p95, p99 seconds) from quality records."""
    seconds: dict[str, dict[tuple[int, int], float]] = {}
    for record in quality:
        for time in record["stageTimes"]:
            seconds.setdefault(time["stage"], {})[record["visit"], record["detector"]] = time["seconds"]
    rows = []
    for stage, values in seconds.items():
        parts = np.percentile(list(values.values()), [50, 95, 99])
        rows.append([stage, str(len(values)), *(f"{part:.2f}" for part in parts)])
    return rows


def exposure_rows(quality: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of (quantity, exposures, p5, p50, p95) of what isr's quality records say of the exposures."""
    measured: dict[str, dict[tuple[int, int], float]] = {name: {} for name in _EXPOSURE}
    for record in quality:
        for name in _EXPOSURE.keys() & record["metrics"].keys() if record["stage"] == "isr" else ():
            measured[name][record["visit"], record["detector"]] = record["metrics"][name]
    rows = []
    for name, label in _EXPOSURE.items():
        values = np.array(list(measured[name].values()))
        values = values[np.isfinite(values)]
        if len(values):
            rows.append([label, str(len(values)), *(f"{part:.4g}" for part in np.percentile(values, [5, 50, 95]))])
    return rows


def evaluation_table(evaluation: Evaluation, kind: str) -> list[list[str]]:
    """Return rows of (S/N bin, true, detected, alerted, completeness) of one kind of change."""
    return [
        [_bin_name(part), str(part.true), str(part.detected), str(part.alerted), _percent(part.completeness)]
        for part in evaluation.bins[kind]
    ]


def purity_table(evaluation: Evaluation) -> list[list[str]]:
    """Return rows of (S/N bin as measured, alerts, true changes among them, purity)."""
    bins = evaluation.bins["transient"]
    return [[_bin_name(part), str(part.alerts), str(part.pure), _percent(part.purity)] for part in bins]


def _bin_name(part: BinRow) -> str:
    return f"{part.low:g}–{part.high:g}" if np.isfinite(part.high) else f"≥ {part.low:g}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def night_report(
    title: str,
    packets: Sequence[Packet],
    quality: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, int],
    dead: int,
    evaluation: Evaluation | None = None,
    extra: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of a night from its alert packets, quality records, outcome counts and dead letters."""
    objects = Counter(packet["diaSource"]["diaObjectId"] for packet in packets)
    summary = {
        "visits × detectors": str(sum(outcomes.values())),
        "outcomes": ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "none",
        "alerts": f"{len(packets)} of {len(objects)} objects",
        "dead letters": str(dead),
        **(extra or {}),
    }
    tables = [Table("Seconds per stage", ("stage", "exposures", "p50", "p95", "p99"), latency_rows(quality))]
    if rows := exposure_rows(quality):
        tables.append(Table("Exposures", ("quantity", "exposures", "p5", "p50", "p95"), rows))
    if evaluation is not None:
        summary |= _against_truth(evaluation)
        tables += _truth_tables(evaluation)
    places: dict[str, list[tuple[float, float]]] = {"positive": [], "negative": []}
    for packet in packets:
        source = packet["diaSource"]
        places["negative" if source["isNegative"] else "positive"].append((source["ra"], source["dec"]))
    latest = {packet["diaSource"]["diaObjectId"]: packet for packet in packets}
    chosen = sorted(latest.values(), key=lambda p: -abs(p["diaSource"]["snr"] or 0.0))[:_MOST_CARDS]
    return Report(
        title=title,
        summary=summary,
        tables=tables,
        pictures={"Alerts on the sky": sky_map_svg(places)} if packets else {},
        cards=[alert_card(dict(packet)) for packet in chosen],
        cardsNote=f"The last alert of each object, the {len(chosen)} of highest S/N. Difference stamps: grey is zero.",
    )


def _truth_tables(evaluation: Evaluation) -> list[Table]:
    note = (
        "By true |S/N| of the change, off saturated stars, defects, other changes and the outer "
        f"{MARGIN:.0f} pixels. A variable star's own light adds a floor to what counts as a change."
    )
    columns = ("|S/N|", "true", "detected", "alerted", "completeness")
    kinds = [Table(f"Completeness: {kind}s", columns, evaluation_table(evaluation, kind), note) for kind in KINDS]
    purity = Table(
        "Purity", ("|S/N|", "alerts", "true changes", "purity"), purity_table(evaluation), "By measured |S/N|."
    )
    return [*kinds, purity]


def _against_truth(evaluation: Evaluation) -> dict[str, str]:
    return {
        "found at S/N ≥ 8": f"{_percent(evaluation.completeness8)} of {evaluation.above8} transients "
        f"({_percent(evaluation.alerted8)} as alerts)",
        "purity": _percent(evaluation.purity),
        "positions": f"{evaluation.positionRms:.3f} px rms per axis, transients at S/N ≥ 8",
        "flux pulls": f"mean {evaluation.pullMean:+.2f}, width {evaluation.pullWidth:.2f}, "
        f"{evaluation.nPulls} transients at S/N ≥ 8",
    }
