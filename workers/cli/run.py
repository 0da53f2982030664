"""`skydelta run`: the workers of the night."""

from __future__ import annotations

import sys

import click

from stream.shutdown import stop_on_signals
from stream.telemetry import configure
from workers.cli.options import survey_option
from workers.night import Role, parse_stages, run_role, run_roles
from workers.supervise import stop_when_gone
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("stages", metavar="STAGE[+STAGE...]|all")
@survey_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes of the stage.")
@click.option(
    "--associate-workers", default=1, show_default=True, type=click.IntRange(1), help="Processes for it, with all."
)
@click.option("--drain", is_flag=True, help="Stop when all that was ingested is done.")
@click.option("--prefix", default="", help="Of topics and database; `skydelta replay` uses it.")
@click.option("--parent", type=int, hidden=True, help="Stop when this process is gone.")
def command(
    survey: Survey, stages: str, workers: int, associate_workers: int, drain: bool, prefix: str, parent: int | None
) -> None:
    """Run workers until SIGTERM: isr, subtract, score, neighbours of these joined by +, associate, archive, or all.

    With all, `--workers` are those of isr+subtract+score. More processes, here or on other machines, share the work
    through the consumer group. One that a signal ended is started again.
    """
    configure(sys.stderr)
    roles = []
    for text in parse_stages(stages):
        count = workers
        if stages == "all" and text != "isr+subtract+score":
            count = associate_workers if text == "associate" else 1
        roles += [Role(text, prefix, drain)] * count
    with stop_on_signals() as stop:
        if parent is not None:
            stop_when_gone(parent, stop)
        if len(roles) == 1:
            run_role(survey, roles[0], stop)
        else:
            sys.exit(run_roles(str(survey.root), roles, stop))
