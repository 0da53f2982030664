"""A disk that runs full in the middle of the night, and has room again later."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError
from workers.drill.compare import Difference
from workers.drill.night import Stage, begun
from workers.drill.outage import started_again
from workers.drill.place import NO_TABLES, Place
from workers.drill.report import Finding, finding, skipped
from workers.drill.settings import NO_COMMANDS, Commands, DrillSettings

__all__ = ["inject"]

_SIZE = "192m"
_FULL = 4.0
"""Seconds that the disk stays full."""
_CHUNK = 65_536
_PAGE = 4096


@dataclass(frozen=True)
class _Full:
    """What lies on a disk that runs full."""

    what: str
    disk: Path | None
    """A folder on it; None: one is made for the night, and `key` of survey.toml leads there."""
    key: str = ""
    server: Commands = NO_COMMANDS
    """Of a server that may not outlive it."""


def inject(stage: Stage, place: Place) -> Finding:
    """One night for each of bus, blobs and database with a small disk of its own."""
    given = stage.settings.small_disk
    if given is None and (os.geteuid() != 0 or shutil.which("mount") is None):
        return skipped("disk", place, "only root can mount a tmpfs; give --small-disk DIR instead")
    total, notes, felt = Difference(), [], 0
    chosen = list(_chosen(stage.settings, place))
    for full in chosen:
        with nullcontext(full.disk) if full.disk else _small_disk(given) as disk:
            pauses, difference = _one_night(stage, place, full, disk)
        notes.append(f"{full.what}: workers paused {pauses} times")
        stage.say(notes[-1])
        felt += pauses > 0
        total.add(difference)
    return finding("disk", place, total, injections=felt, nights=len(chosen), notes=notes)


def _chosen(settings: DrillSettings, place: Place) -> Iterator[_Full]:
    yield _Full("blobs", None, "blobs")
    if place.bus == "embedded":
        yield _Full("bus", None, "bus")
    elif settings.broker_disk and settings.broker:
        yield _Full("Kafka", settings.broker_disk, server=settings.broker)
    if place.database == "sqlite":
        yield _Full("database", None, "database")
    elif settings.server_disk and settings.server:
        yield _Full("PostgreSQL", settings.server_disk, server=settings.server)


def _one_night(stage: Stage, place: Place, full: _Full, disk: Path) -> tuple[int, Difference]:
    """Fill the disk when the night is well under way; return how often workers paused for it, and what came out."""
    path = disk / full.key if full.key == "blobs" else disk / f"{full.key}.sqlite"
    tables = {full.key: {"path": str(path)}} if full.key else NO_TABLES
    with begun(stage.settings, stage.prepared, place, f"disk-{full.what.lower()}", tables) as night:
        night.ingest()
        night.hire(pixels=2)
        night.reach(0.3)
        filler = disk / "filler"
        _fill(filler)
        night.pass_time(_FULL)
        filler.unlink()
        if full.server:
            started_again(full.server)
        night.finish()
        pauses = sum(member.told(" pauses ") for member in night.crew.gone)
        return pauses, night.compared(stage.expected)


def _fill(path: Path) -> None:
    """Write until nothing more goes onto the disk."""
    for size in (_CHUNK, _PAGE):
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(size)) == size:
                pass
    if os.statvfs(path).f_bavail * os.statvfs(path).f_frsize > _CHUNK:
        raise OSError(errno.EIO, "the small disk could not be filled", str(path))


@contextmanager
def _small_disk(given: Path | None) -> Iterator[Path]:
    """Give a folder on the operator's small disk, or on a tmpfs of this drill's own."""
    if given is not None:
        with tempfile.TemporaryDirectory(dir=given) as folder:
            yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        _call("mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "skydelta-drill", folder)
        try:
            yield Path(folder)
        finally:
            _call("umount", folder)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"`{' '.join(command)}` failed: {done.stderr.strip()}; give --small-disk DIR instead")
