"""What a drill is given: its folder, the buses and databases to try, how hard to strike, and the survey it runs on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from workers.simulate.settings import DEMO, TINY, SimulatedSurvey

__all__ = ["NO_COMMANDS", "SIZES", "WARM_FRAME", "WARM_SURVEY", "Commands", "DrillSettings"]

WARM_SURVEY, WARM_FRAME = "SKYDELTA_DRILL_SURVEY", "SKYDELTA_DRILL_FRAME"
"""Environment variables: the survey's folder and the raw frame that the fork server warms up with."""

_BORDER = 149.0625, 2.388015
"""Degrees ICRS: here four sky tiles meet (HEALPix nside 32)."""


def _at_border(config: SimulatedSurvey, live: int) -> SimulatedSurvey:
    """Two detectors, between them the border; the dither carries sources over the gap and from tile to tile."""
    return replace(
        config,
        name="drill",
        sky=replace(config.sky, transients=1.5, ra=_BORDER[0], dec=_BORDER[1]),
        detectors=replace(config.detectors, count=2),
        cadence=replace(config.cadence, recent=1, live=live, dither=20.0),
    )


_SMALL = replace(TINY, sky=replace(TINY.sky, stars=26.0), detectors=replace(TINY.detectors, width=256, height=256))

SIZES = {
    "quick": _at_border(_SMALL, 4),
    "tiny": _at_border(TINY, 8),
    "demo": _at_border(DEMO, 12),
    "long": _at_border(replace(_SMALL, sky=replace(_SMALL.sky, stars=45.0)), 70),
}
"""Surveys by the names that the command line takes; `long` is a night in which a hundred workers can die."""


@dataclass(frozen=True)
class Commands:
    """Shell commands that kill a server as SIGKILL does, and that start it again; empty where there are none."""

    kill: str = ""
    start: str = ""

    def __bool__(self) -> bool:
        """Whether both are given."""
        return bool(self.kill and self.start)


NO_COMMANDS = Commands()


@dataclass(frozen=True)
class DrillSettings:
    """One drill."""

    folder: Path
    kafka: str = ""
    """host:port of the brokers; empty: the embedded bus alone."""
    postgres: str = ""
    """postgresql://user@host/name; empty: SQLite alone."""
    kills: int = 100
    seed: int = 1
    size: str = "tiny"
    session_timeout: float = 2.0
    """Seconds after which the bus gives a dead worker's share away."""
    limit: float = 600.0
    """Seconds after which a night that has not ended is lost."""
    broker: Commands = field(default_factory=Commands)
    server: Commands = field(default_factory=Commands)
    """Of PostgreSQL."""
    small_disk: Path | None = None
    """A folder on a small file system that may be filled; None: a tmpfs is mounted, which needs root."""
    broker_disk: Path | None = None
    """A folder on the small file system that holds the Kafka broker's log, which may be filled."""
    server_disk: Path | None = None
    """The same of PostgreSQL."""
