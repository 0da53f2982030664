"""`skydelta subtract`: one calibrated exposure minus its template."""

from __future__ import annotations

from pathlib import Path

import click

from stream import codec
from workers.cli.options import json_option, print_json, survey_option
from workers.imaging.fits import read_exposure, write_exposure
from workers.imaging.stamps import to_bytes
from workers.ingest.pipeline import sky_tile
from workers.items import CalexpItem, payload_inline, sources_record
from workers.subtract.worker import SubtractStage
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("calexp", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Avro file for the sources.")
@click.option("--difference", type=click.Path(path_type=Path), help="FITS file for the difference image.")
@click.option("--template", type=click.Path(path_type=Path), help="FITS file for the template in this frame.")
@json_option
def command(
    survey: Survey, calexp: Path, output: Path, difference: Path | None, template: Path | None, as_json: bool
) -> None:
    """Subtract the template from CALEXP (FITS that `skydelta isr` wrote), detect and measure.

    The sources with their stamps go to an Avro container file that `skydelta score` reads.
    """
    stage = SubtractStage.open(survey)
    exposure = read_exposure(calexp)
    item = CalexpItem(exposure, sky_tile(exposure.info.ra, exposure.info.dec))
    found = stage.difference(exposure)
    result = stage.finished(item, found)
    codec.write_container(output, "diasources", [sources_record(result, lambda s: payload_inline(to_bytes(s)))])
    if found is not None:
        for path, image in ((template, found[0].exposure), (difference, found[1].difference)):
            if path is not None:
                write_exposure(path, image)
    if as_json:
        print_json({"outcome": result.outcome, "sources": len(result.rows()), "metrics": result.metrics})
    else:
        click.echo(f"{output}: {result.outcome}, {len(result.rows())} sources")
