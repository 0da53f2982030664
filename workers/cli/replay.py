"""`skydelta replay NIGHT`: the same night again, apart from the live one."""

from __future__ import annotations

import sys
import threading
import time

import click

from schemas.errors import SkydeltaError
from stream.bus import Message
from stream.shutdown import stop_on_signals
from stream.telemetry import configure
from workers.cli.options import json_option, print_json, survey_option
from workers.connect import open_bus, open_database, open_topics
from workers.night import ALL, Role, finished, run_roles, waiting
from workers.replay import archived_alerts, bus_alerts, compare, prepare, publish_night
from workers.survey.config import Survey
from workers.ticker import Ticker

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
    its packets are compared with the archived ones, byte for byte. Exit code 5 if any is missing, extra or different.
    """
    configure(sys.stderr)
    bus = open_bus(survey)
    topics, groups = prepare(survey, bus, night, prefix)
    roles = [Role(ALL[0], prefix)] * workers + [Role(ALL[1], prefix)]
    begin = time.monotonic()
    with stop_on_signals() as stop:
        feeder = _Feeder(survey, groups, prefix, speed, stop)
        feeder.start()
        code = run_roles(str(survey.root), roles, stop)
        feeder.join()
    if feeder.error is not None:
        raise feeder.error
    if code:
        sys.exit(code)
    seconds = time.monotonic() - begin
    observed = (groups[-1][0].timestamp - groups[0][0].timestamp) / 1000.0
    result = compare(archived_alerts(survey, bus, night), bus_alerts(bus, topics, night))
    if as_json:
        print_json({**vars(result), "identical": result.identical, "seconds": seconds, "observedSeconds": observed})
    else:
        click.echo(
            f"{result.same} packets byte-identical, {len(result.missing)} missing, {len(result.extra)} extra, "
            f"{len(result.different)} different; {observed:.0f} s of observing in {seconds:.0f} s"
        )
        for number, names in result.different.items():
            click.echo(f"{number}: {', '.join(names)}", err=True)
    sys.exit(0 if result.identical else 5)


class _Feeder(threading.Thread):
    """Publishes the night beside the workers, lets its last visits close, and stops the workers when all is done."""

    def __init__(
        self, survey: Survey, groups: list[list[Message]], prefix: str, speed: float | None, stop: threading.Event
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.survey, self.groups, self.prefix, self.speed, self.stop = survey, groups, prefix, speed, stop
        self.error: SkydeltaError | None = None

    def run(self) -> None:
        try:
            self._feed()
        except SkydeltaError as error:
            self.error = error
        finally:
            self.stop.set()

    def _feed(self) -> None:
        bus = open_bus(self.survey)
        try:
            live, topics = open_topics(self.survey, bus), open_topics(self.survey, bus, self.prefix)
            publish_night(bus, live, topics, self.groups, self.speed, wait=self.stop.wait)
            last = Role(ALL[1], self.prefix)
            ticker = Ticker(self.survey, bus, topics, open_database(self.survey, self.prefix))

            def idle() -> bool:
                return waiting(bus, topics, last) == 0

            while not self.stop.wait(0.5) and not finished(ticker, idle, last):
                ticker.look(idle, drain=True)
        finally:
            bus.close()
