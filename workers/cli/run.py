"""`skydelta run`: the workers of the night."""

from __future__ import annotations

import sys

import click

from stream.shutdown import stop_on_signals
from stream.telemetry import configure
from workers.cli.options import survey_option
from workers.night import Role, parse_stages, run_role, supervise
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("stages", metavar="STAGE[+STAGE...]|all")
@survey_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes for the pixel stages.")
@click.option("--drain", is_flag=True, help="Stop when all that was ingested is done.")
@click.option("--prefix", default="", help="Of topics and database; `skydelta replay` uses it.")
def command(survey: Survey, stages: str, workers: int, drain: bool, prefix: str) -> None:
    """Run workers until SIGTERM: isr, subtract, score, neighbours of these joined by +, associate, or all.

    More processes, here or on other machines, share the work through the consumer group.
    """
    configure(sys.stderr)
    roles = []
    for text in parse_stages(stages):
        count = 1 if text == "associate" else workers
        roles += [Role(text, prefix, drain)] * count
    with stop_on_signals() as stop:
        if len(roles) == 1:
            run_role(survey, roles[0], stop)
        else:
            sys.exit(supervise(str(survey.root), roles, stop))
