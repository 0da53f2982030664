"""Remove template versions that no night needs any more."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import DataError
from workers.imaging.fits import write_atomically
from workers.templates.store import REMOVED, TemplateStore, named_inputs
from workers.templates.warps import WarpStore

__all__ = ["outdated", "prune", "removable", "size_of"]

_ABANDONED = 86_400.0
"""Seconds without a new file after which a version that was never finished is given up."""


def outdated(store: TemplateStore, before: float, now: float | None = None) -> tuple[str, ...]:
    """Return the versions that no night from the day of `before` (MJD TAI) on is compared with, oldest first.

    That is those older than the one that serves that day, without those of windows that stand still, of which nobody
    knows the days; and those that a day ago were not finished. `now`: Unix seconds.
    """
    published, day = store.versions(), math.floor(before)
    needed = {store.serving(before), store.current()}
    days = {name: found.day for name in published if (found := store.manifest(name)) is not None}
    old = [name for name, then in days.items() if name not in needed and then is not None and then <= day]
    latest = (time.time() if now is None else now) - _ABANDONED
    begun = [path.name for path in store.root.glob("versions/*") if not (path / REMOVED).exists()]
    left = [name for name in begun if name not in days and _last_change(store.root / "versions" / name) < latest]
    return tuple(sorted([*old, *left]))


def _last_change(folder: Path) -> float:
    return max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def prune(store: TemplateStore, names: Iterable[str], keep_warps_days: float) -> int:
    """Remove versions, then the kept warps that no version names and no job used for `keep_warps_days`.

    Returns how many files of warps that were. Raises DataError, before anything is removed, for the current version and
    for one that is not there.
    """
    chosen = removable(store, names)
    for name in chosen:
        _remove(store, name)
    manifest = store.manifest()
    if manifest is None:
        return 0
    return len(WarpStore(store.warps, manifest.grid).prune(named_inputs(store.root), keep_warps_days))


def _remove(store: TemplateStore, name: str) -> None:
    """Remove a version but for its day; one that is interrupted has no manifest any more, and nothing reads it."""
    folder = store.root / "versions" / name
    found = store.manifest(name) if store.holds(name) else None
    if found is not None:
        write_atomically(folder / REMOVED, json.dumps({"version": name, "day": found.day}).encode("ascii"))
    (folder / "manifest.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != REMOVED:
            path.unlink()
    if found is None:
        folder.rmdir()


def removable(store: TemplateStore, names: Iterable[str]) -> tuple[str, ...]:
    """Return `names`; raises DataError for the current version and for one that is not there."""
    chosen = tuple(names)
    for name in chosen:
        if name == store.current():
            raise DataError(f"template version {name} is the current one; build another before removing it")
        folder = store.root / "versions" / name
        if not folder.is_dir() or (folder / REMOVED).exists():
            raise DataError(f"there is no template version {name}; there are {store.versions()}")
    return chosen


def size_of(store: TemplateStore, names: Iterable[str]) -> int:
    """Return the bytes that the removal of versions gives back: of files that no other version shares."""
    return _freed(path for name in names for path in (store.root / "versions" / name).rglob("*") if path.is_file())


def _freed(files: Iterable[Path]) -> int:
    names, sizes = Counter[tuple[int, int]](), {}
    for path in files:
        status = os.stat(path)
        names[status.st_dev, status.st_ino] += 1
        sizes[status.st_dev, status.st_ino] = (status.st_nlink, status.st_size)
    return sum(size for key, (links, size) in sizes.items() if names[key] >= links)
