"""Remove template versions that no night needs any more."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from schemas.errors import DataError
from workers.imaging.fits import write_atomically
from workers.templates.store import REMOVED, TemplateStore, named_inputs, only_job
from workers.templates.warps import ABANDONED, WarpStore

__all__ = ["outdated", "prune", "removable", "size_of"]


def outdated(store: TemplateStore, before: float, now: float | None = None) -> tuple[str, ...]:
    """Return the versions that no night from the day of `before` (MJD TAI) on is compared with, oldest first.

    That is those older than the one that serves that day, without those of windows that stand still, of which nobody
    knows the days; those that a day ago were not finished; and those of which a removal was interrupted. `now`: Unix
    seconds.
    """
    published, day = store.versions(), math.floor(before)
    needed = {store.serving(before), store.current()}
    days = {name: found.day for name in published if (found := store.manifest(name)) is not None}
    old = [name for name, then in days.items() if name not in needed and then is not None and then <= day]
    latest = (time.time() if now is None else now) - ABANDONED
    left = [name for name, folder in _there(store).items() if name not in days and _given_up(folder, latest)]
    return tuple(sorted([*old, *left]))


def _there(store: TemplateStore) -> dict[str, Path]:
    """Return the folders of versions by name: published, being built, abandoned, or not yet wholly removed."""
    folders = (path for path in store.root.glob("versions/*") if path.is_dir())
    return {path.name: path for path in folders if any(one.name != REMOVED for one in path.iterdir())}


def _given_up(folder: Path, latest: float) -> bool:
    """Tell whether a version without manifest is one that was to be removed, or has no file younger than `latest`."""
    return (folder / REMOVED).exists() or all(status.st_mtime < latest for status in _statuses([folder]))


def _statuses(folders: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield what is told of folders and all in them that is still there when its turn comes."""
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            with suppress(FileNotFoundError):
                yield path.stat()


def prune(store: TemplateStore, names: Iterable[str], keep_warps_days: float) -> int:
    """Remove versions, then the kept warps that no version names and no job used for `keep_warps_days`.

    Returns how many files of warps that were. Raises DataError, before anything is removed, for the current version and
    for one that is not there; TransientError while a job is at work.
    """
    with only_job(store.root):
        for name in removable(store, names):
            _remove(store, name)
        manifest = store.manifest()
        if manifest is None:
            return 0
        return len(WarpStore(store.warps, manifest.grid).prune(named_inputs(store.root), keep_warps_days))


def _remove(store: TemplateStore, name: str) -> None:
    """Remove a version but for its day; one that was never published wholly. Interrupted, it is done again."""
    folder = store.root / "versions" / name
    if store.holds(name):
        found = store.manifest(name)
        day = None if found is None else found.day
        write_atomically(folder / REMOVED, json.dumps({"version": name, "day": day}).encode("ascii"))
        (folder / "manifest.json").unlink()
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != REMOVED:
            path.unlink()
    if not (folder / REMOVED).exists():
        folder.rmdir()


def removable(store: TemplateStore, names: Iterable[str]) -> tuple[str, ...]:
    """Return `names`, each once; raises DataError for the current version and for one that is not there."""
    chosen, there = tuple(dict.fromkeys(names)), _there(store)
    for name in chosen:
        if name == store.current():
            raise DataError(f"template version {name} is the current one; build another before removing it")
        if name not in there:
            raise DataError(f"there is no template version {name!r}; there are {store.versions()}")
    return chosen


def size_of(store: TemplateStore, names: Iterable[str]) -> int:
    """Return the bytes that the removal of versions gives back: of files that no other version shares."""
    names_of, sizes = Counter[tuple[int, int]](), dict[tuple[int, int], tuple[int, int]]()
    for status in _statuses(store.root / "versions" / name for name in names):
        if stat.S_ISREG(status.st_mode):
            names_of[status.st_dev, status.st_ino] += 1
            sizes[status.st_dev, status.st_ino] = status.st_nlink, status.st_size
    return sum(size for file, (links, size) in sizes.items() if names_of[file] >= links)
