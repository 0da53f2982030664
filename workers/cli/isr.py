"""`skydelta isr`: raw files to calibrated exposures."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

from schemas.errors import DataError
from workers.cli.options import json_option, print_json, survey_option
from workers.isr.worker import calibrate_file, paired
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File (of one exposure) or folder; else the archive."
)
@click.option("--snaps", is_flag=True, help="FILES are pairs of snaps: two of each visit and detector become one.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@json_option
def command(
    survey: Survey, files: tuple[Path, ...], output: Path | None, snaps: bool, workers: int, as_json: bool
) -> None:
    """Calibrate raw FILES: signature removal, cosmic rays, background, PSF, WCS, zero point.

    The result is FITS with IMAGE (nJy), MASK, VARIANCE and PSF. Without -o it goes to archive/calexps/NIGHT.
    """
    exposures = paired(files, survey) if snaps else [(path, None) for path in files]
    if output is not None and output.suffix and len(exposures) > 1:
        raise click.UsageError("-o names one file; give a folder for several exposures")
    tasks = [(str(survey.root), first, output, second) for first, second in exposures]
    if workers == 1:
        done = [calibrate_file(*task) for task in tasks]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(calibrate_file, *zip(*tasks, strict=True)))
    for result in done:
        if result.error:
            click.echo(f"{result.raw}: {result.error}", err=True)
    if as_json:
        print_json([vars(result) for result in done])
    else:
        for result in done:
            if result.path is not None:
                numbers = " ".join(f"{name}={value:.4g}" for name, value in result.metrics.items())
                click.echo(f"{result.path} {numbers}")
    failed = [result for result in done if result.error]
    if failed:
        raise DataError(f"{len(failed)} of {len(done)} exposures could not be calibrated")
