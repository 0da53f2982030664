"""`skydelta report`: the night on one page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from schemas.errors import DataError
from workers.cli.options import survey_option
from workers.connect import open_bus, open_database, open_topics
from workers.quality.evaluation import Evaluation, evaluate, match_truth
from workers.quality.night import night_report
from workers.quality.page import Report, render
from workers.records import records
from workers.survey.config import Survey

__all__ = ["against_truth", "command", "make_report"]


def make_report(survey: Survey, night: int, prefix: str = "", extra: dict[str, str] | None = None) -> Report:
    """Return the report of a night, against truth where the survey has truth tables."""
    bus = open_bus(survey)
    topics = open_topics(survey, bus, prefix)
    packets = [packet for packet in records(bus, topics.name("alerts")) if packet["night"] == night]
    quality = [record for record in records(bus, topics.name("quality")) if record["night"] == night]
    announced = open_database(survey, prefix).announcements(night)
    visits = {(one.visit, one.detector) for one in announced}
    if not announced:
        raise DataError(f"nothing is known of night {night}; `skydelta status` shows the last visit")
    dead = sum(1 for _ in bus.read(topics.name("dead")))
    evaluation = against_truth(survey, packets, visits, prefix)
    title = f"{survey.config.name}: night {night}"
    return night_report(title, packets, quality, Counter(one.outcome for one in announced), dead, evaluation, extra)


def against_truth(
    survey: Survey, packets: list[dict[str, Any]], visits: set[tuple[int, int]], prefix: str = ""
) -> Evaluation | None:
    """Match the night to the simulator's truth tables; None for a survey that has none."""
    import numpy as np
    from astropy.table import Table

    database = open_database(survey, prefix)
    alerted = {packet["diaSourceId"] for packet in packets}
    matched = []
    for visit, detector in sorted(visits):
        path = survey.root / "truth" / f"{visit}_{detector}.fits"
        if path.exists():
            sources = database.sources_in(visit, detector)
            told = np.array([number in alerted for number in sources["diaSourceId"].tolist()], np.bool_)
            chip = survey.camera.detector(detector)
            matched.append(match_truth(Table.read(path).as_array(), (chip.height, chip.width), sources, told))
    return evaluate(matched) if matched else None


@click.command()
@click.argument("night", type=int)
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page; default report-NIGHT.html.")
@click.option("--prefix", default="", help="Of a replay.")
def command(survey: Survey, night: int, output: Path | None, prefix: str) -> None:
    """Write the report of NIGHT (YYYYMMDD) as one HTML page: outcomes, times, triplets, light curves."""
    path = output or survey.root / f"report-{night}.html"
    path.write_text(render(make_report(survey, night, prefix)), encoding="utf-8")
    click.echo(str(path))
