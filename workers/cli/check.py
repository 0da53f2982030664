"""`skydelta check`: whether everything is there that a night needs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from workers.checks import check_survey
from workers.cli.options import json_option, print_json

__all__ = ["command"]


@click.command()
@click.option("-s", "--survey", "folder", default=".", show_default=True, type=click.Path(path_type=Path))
@click.option("--raw", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="One raw file, to try it.")
@json_option
def command(folder: Path, raw: Path | None, as_json: bool) -> None:
    """Check configuration, one raw file against the camera, bus, database, calibrations, templates and classifier.

    Each failure names what mends it. The exit code is that of the first failure.
    """
    findings = []
    for finding in check_survey(folder, raw):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.what}: {finding.text}")
    if as_json:
        print_json([vars(finding) for finding in findings])
    sys.exit(next((finding.exit_code for finding in findings if not finding.good), 0))
