"""Collect what the report of a night shows, and put it on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.quality.cards import alert_card
from workers.quality.evaluation import Evaluation
from workers.quality.page import Report, Table
from workers.quality.pictures import sky_map_svg

__all__ = ["evaluation_table", "latency_rows", "night_report"]

Packet = Mapping[str, Any]
_MOST_CARDS = 60


def latency_rows(packets: Sequence[Packet], quality: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of (stage, exposures, p50, p95, p99 seconds) from the stage times that messages carry."""
    seconds: dict[str, dict[tuple[int, int], float]] = {}
    for record in quality:
        for time in record["stageTimes"]:
            seconds.setdefault(time["stage"], {})[record["visit"], record["detector"]] = time["seconds"]
    for packet in packets:
        key = (packet["diaSource"]["visit"], packet["diaSource"]["detector"])
        for time in packet["stageTimes"]:
            seconds.setdefault(time["stage"], {})[key] = time["seconds"]
    rows = []
    for stage, values in seconds.items():
        parts = np.percentile(list(values.values()), [50, 95, 99])
        rows.append([stage, str(len(values)), *(f"{part:.2f}" for part in parts)])
    return rows


def evaluation_table(evaluation: Evaluation) -> list[list[str]]:
    """Return rows of (S/N bin, true, detected, alerted, completeness, alerts, purity)."""
    rows = []
    for part in evaluation.bins:
        name = f"{part.low:g}–{part.high:g}" if np.isfinite(part.high) else f"≥ {part.low:g}"
        counts = [str(part.true), str(part.detected), str(part.alerted), _percent(part.completeness)]
        rows.append([name, *counts, str(part.alerts), _percent(part.purity)])
    return rows


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
    tables = [Table("Seconds per stage", ("stage", "exposures", "p50", "p95", "p99"), latency_rows(packets, quality))]
    if evaluation is not None:
        summary |= _against_truth(evaluation)
        columns = ("|S/N|", "true", "detected", "alerted", "completeness", "alerts", "purity")
        note = (
            "Away from saturated stars, defects and other changes. Bins: true S/N; for alerts and purity, as measured."
        )
        tables.append(Table("Against truth", columns, evaluation_table(evaluation), note))
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


def _against_truth(evaluation: Evaluation) -> dict[str, str]:
    return {
        "found at S/N ≥ 8": f"{_percent(evaluation.completeness8)} of {evaluation.above8} true changes "
        f"({_percent(evaluation.alerted8)} as alerts)",
        "purity": _percent(evaluation.purity),
        "positions": f"{evaluation.positionRms:.3f} px rms per axis at S/N ≥ 8",
        "flux pulls": f"mean {evaluation.pullMean:+.2f}, width {evaluation.pullWidth:.2f} ({evaluation.nPulls} at S/N ≥ 8)",
    }
