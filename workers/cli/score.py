"""`skydelta score`: the reliability of the sources of one subtraction."""

from __future__ import annotations

from pathlib import Path

import click

from schemas.errors import DataError
from stream import codec
from workers.cli.options import json_option, print_json, survey_option
from workers.connect import open_blobs
from workers.imaging.stamps import to_bytes
from workers.items import payload_inline, sources_item, sources_record
from workers.score.worker import ScoreStage
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("sources", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Avro file for the scored sources."
)
@json_option
def command(survey: Survey, sources: Path, output: Path, as_json: bool) -> None:
    """Score SOURCES (the Avro file that `skydelta subtract` wrote) with the survey's classifier."""
    stage = ScoreStage.open(survey)
    read = codec.read_container(sources, "diasources")
    if len(read) != 1:
        raise DataError(f"{sources} holds {len(read)} records and not one; it is not what `skydelta subtract` wrote")
    item = stage.process(sources_item(read[0], open_blobs(survey)))
    record = sources_record(item, lambda stamps: payload_inline(to_bytes(stamps)))
    codec.write_container(output, "scored", [{**record, "modelVersion": item.modelVersion}])
    rows = item.rows()
    above = int((rows["reliability"] >= stage.classifier.threshold).sum())
    if as_json:
        print_json({"modelVersion": item.modelVersion, "reliability": rows["reliability"].tolist()})
    else:
        click.echo(f"{output}: {above} of {len(rows)} sources at or above {stage.classifier.threshold:.3f}")
