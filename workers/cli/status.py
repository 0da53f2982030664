"""`skydelta status`: how the night is going."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_bus, open_database, open_topics
from workers.night import lags
from workers.quality.night import latency_rows
from workers.records import records
from workers.survey.config import Survey

__all__ = ["collect", "command"]


@click.command()
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def command(survey: Survey, prefix: str, as_json: bool) -> None:
    """Show the lag of each stage, how exposures ended, the last visit, stage times and dead letters."""
    status = collect(survey, prefix)
    if as_json:
        print_json(status)
        return
    print_table(("stage", "waiting"), list(status["lag"].items()))
    print_table(("outcome", "exposures"), list(status["outcomes"].items()))
    print_table(("stage", "exposures", "p50 s", "p95 s", "p99 s"), status["seconds"])
    rows = [(name, str(status[name])) for name in ("lastVisit", "alerts", "deadLetters", "objects", "sources")]
    print_table(("", ""), rows)


def collect(survey: Survey, prefix: str = "") -> dict[str, Any]:
    """Return the status as plain values."""
    bus = open_bus(survey)
    topics = open_topics(survey, bus, prefix)
    database = open_database(survey, prefix)
    announced = database.announcements()
    counts = database.counts()
    lag = lags(bus, topics, prefix)
    if next(bus.read(topics.name("calexps")), None) is None:  # fused stages: nothing travels between them
        lag = {stage: number for stage, number in lag.items() if stage not in ("subtract", "score")}
    last = max(announced, key=lambda one: one.midpointMjdTai, default=None)
    return {
        "lag": lag,
        "outcomes": dict(sorted(Counter(one.outcome for one in announced).items())),
        "seconds": latency_rows(records(bus, topics.name("quality"))),
        "lastVisit": None if last is None else last.visit,
        "alerts": sum(one.alerts for one in announced),
        "deadLetters": sum(1 for _ in bus.read(topics.name("dead"))),
        "objects": counts["dia_objects"],
        "sources": counts["dia_sources"],
    }
