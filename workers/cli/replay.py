"""`skydelta replay NIGHT`: the same night again, apart from the live one."""

from __future__ import annotations

import sys
import threading

import click

from stream.shutdown import stop_on_signals
from stream.telemetry import configure
from workers.cli.options import json_option, print_json, survey_option
from workers.connect import open_bus, open_topics
from workers.night import ALL, Role, supervise, waiting
from workers.replay import compare, prepare, publish_night
from workers.survey.config import Survey

__all__ = ["command"]


def _speed(ctx: click.Context, parameter: click.Parameter, value: str) -> float | None:
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError as error:
        raise click.BadParameter("give a number or max") from error
    if speed <= 0:
        raise click.BadParameter("must be above 0")
    return speed


@click.command()
@click.argument("night", type=int)
@survey_option
@click.option("--speed", default="max", show_default=True, callback=_speed, help="Times real time, or max.")
@click.option("--into", "prefix", required=True, metavar="PREFIX", help="Before topic and database names.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes for the pixel stages.")
@json_option
def command(survey: Survey, night: int, speed: float | None, prefix: str, workers: int, as_json: bool) -> None:
    """Run NIGHT (YYYYMMDD) again from the exposures on the bus, into topics and a database under PREFIX.

    The replay has the live night's timestamps and starts from the database as it was when the night began. At the end
    its alerts are compared with the archived ones; wall-clock fields (stage times, timeProcessedMjdTai) are left out.
    Exit code 5 if any is missing, extra or different.
    """
    configure(sys.stderr)
    bus = open_bus(survey)
    topics, messages = prepare(survey, bus, night, prefix)
    live = open_topics(survey, bus)
    roles = [Role(ALL[0], prefix)] * workers + [Role(ALL[1], prefix)]

    def feed(stop: threading.Event) -> None:
        publish_night(bus, live, topics, messages, speed, wait=stop.wait)
        while not stop.wait(0.5):
            if waiting(bus, topics, roles[-1]) == 0:
                stop.set()

    with stop_on_signals() as stop:
        feeder = threading.Thread(target=feed, args=(stop,), daemon=True)
        feeder.start()
        code = supervise(str(survey.root), roles, stop)
    if code:
        sys.exit(code)
    result = compare(bus, live, topics, night)
    if as_json:
        print_json({**vars(result), "identical": result.identical})
    else:
        click.echo(
            f"{result.same} alerts the same, {len(result.missing)} missing, {len(result.extra)} extra, "
            f"{len(result.different)} different"
        )
        for number, names in result.different.items():
            click.echo(f"{number}: {', '.join(names)}", err=True)
    sys.exit(0 if result.identical else 5)
