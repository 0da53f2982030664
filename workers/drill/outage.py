"""A server that is killed in the middle of a night and started again, until it was often enough."""

from __future__ import annotations

import shlex
import subprocess
import time
from contextlib import suppress

import numpy as np

from schemas.errors import ConfigurationError
from workers.drill.compare import Difference
from workers.drill.night import Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding
from workers.drill.settings import Commands

__all__ = ["killed_in_the_night", "started_again"]

_KILLS = 3
_MOST_NIGHTS = 4
_UP, _DOWN = (1.0, 4.0), (0.5, 3.0)
"""Seconds that the server is up before a kill, and down after it, at random between these."""
_PATIENCE = 180.0
"""Seconds for a command."""


def killed_in_the_night(fault: str, stage: Stage, place: Place, commands: Commands) -> Finding:
    """Kill the server three times while nights run, and compare each night."""
    rng = np.random.default_rng(stage.settings.seed)
    kills = nights = 0
    total = Difference()
    while kills < _KILLS and nights < _MOST_NIGHTS:
        with begun(stage.settings, stage.prepared, place, fault) as night:
            kills += _one_night(night, commands, rng, _KILLS - kills)
            difference = night.compared(stage.expected)
        nights += 1
        total.add(difference)
        stage.say(f"{kills} of {_KILLS} kills in {nights} nights")
    return finding(fault, place, total, injections=kills, nights=nights)


def _one_night(night: Night, commands: Commands, rng: np.random.Generator, wanted: int) -> int:
    night.ingest()
    night.hire(pixels=2, associate=2)
    kills = 0
    while kills < wanted and not night.over():
        night.pass_time(rng.uniform(*_UP))
        _run(commands.kill)
        time.sleep(rng.uniform(*_DOWN))
        _run(commands.start)
        kills += 1
    night.finish()
    return kills


def started_again(commands: Commands) -> None:
    """Start a server that may have ended by itself."""
    with suppress(ConfigurationError):
        _run(commands.kill)
    _run(commands.start)


def _run(command: str) -> None:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode:
        raise ConfigurationError(f"`{command}` ended with exit code {done.returncode}: {done.stderr.strip()}")
