"""A disk that runs full in the middle of the night, and has room again later."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import ConfigurationError
from workers.drill.compare import Difference
from workers.drill.night import Night, Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding, skipped

__all__ = ["inject"]

_SIZE = "192m"
_FULL = 4.0
"""Seconds that the disk stays full."""
_CHUNK = 65_536
_PAGE = 4096


def inject(stage: Stage, place: Place) -> Finding:
    """One night each with the embedded bus, the blobs and the SQLite database on a small disk of their own."""
    given = stage.settings.small_disk
    if given is None and (os.geteuid() != 0 or shutil.which("mount") is None):
        return skipped("disk", place, "only root can mount a tmpfs; give --small-disk DIR instead")
    parts = {"bus": place.bus == "embedded", "blobs": True, "database": place.database == "sqlite"}
    total, notes, felt = Difference(), [], 0
    chosen = [name for name, here in parts.items() if here]
    for name in chosen:
        with _small_disk(given) as disk:
            path = disk / name if name == "blobs" else disk / f"{name}.sqlite"
            with begun(stage.settings, stage.prepared, place, f"disk-{name}", {name: {"path": str(path)}}) as night:
                pauses = _one_night(night, disk)
                difference = night.compared(stage.expected)
        notes.append(f"{name}: workers paused {pauses} times")
        stage.say(notes[-1])
        felt += pauses > 0
        total.add(difference)
    return finding("disk", place, total, injections=felt, nights=len(chosen), notes=notes)


def _one_night(night: Night, disk: Path) -> int:
    """Fill the disk when the night is well under way; return how often workers paused for it."""
    night.ingest()
    night.hire(pixels=2)
    night.reach(0.3)
    filler = disk / "filler"
    _fill(filler)
    night.pass_time(_FULL)
    filler.unlink()
    night.finish()
    return sum(member.told(" pauses ") for member in night.crew.gone)


def _fill(path: Path) -> None:
    """Write until nothing more goes onto the disk."""
    for size in (_CHUNK, _PAGE):
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(size)) == size:
                pass
    if os.statvfs(path).f_bavail * os.statvfs(path).f_frsize > _CHUNK:
        raise OSError(errno.EIO, "the small disk could not be filled", str(path))


@contextlib.contextmanager
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
