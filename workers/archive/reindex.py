"""Make the index anew from the container files, which hold all of every alert but what the bus said about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from schemas.errors import SchemaError, UnreachableError
from workers.archive.alert import Entry
from workers.archive.files import set_aside
from workers.archive.index import CONTAINERS, Index, is_damage
from workers.archive.scan import Scan

__all__ = ["Reindexed", "reindex"]


@dataclass
class Reindexed:
    """What a new index holds, and what was not found."""

    alerts: int = 0
    containers: int = 0
    bare: int = 0
    """Alerts whose key, timestamp, headers and position nothing tells any more; giving them again fills them in."""
    doubled: int = 0
    """Blocks whose alert stands in an earlier block too; the first stands."""
    lost: int = 0
    """Alerts that the old index knew and no file holds."""
    changed: int = 0
    """Alerts whose bytes are not those that the old index knew; they are refused when read."""
    damaged: dict[str, int] = field(default_factory=dict)
    """Bytes that belong to no whole block, by file; all of a file whose head is damaged."""


def reindex(index: Index, folder: Path) -> Reindexed:
    """Read every container and make the index say what is there; a damaged index is set aside first.

    What the old index knew of an alert stays. Writers wait. Raises UnreachableError.
    """
    try:
        return _reindexed(index, folder)
    except UnreachableError as error:
        if not is_damage(error.__cause__):
            raise
    _set_aside(index)
    return _reindexed(index, folder)


def _set_aside(index: Index) -> None:
    """Rename a damaged index with all that belongs to it."""
    index.close()
    with index.reached("setting a damaged index aside"):
        for suffix in ("", "-wal", "-shm"):
            path = index.path.with_name(index.path.name + suffix)
            if path.exists():
                set_aside(path)


def _reindexed(index: Index, folder: Path) -> Reindexed:
    report = Reindexed()
    with index.transaction("making the index anew"):
        ((last,),) = index.rows("SELECT coalesce(max(id), 0) FROM container")
        index.rows("UPDATE container SET name = '/' || id")  # a name that no file has: not found again yet
        for path in sorted(folder.glob(CONTAINERS)):
            _add(index, folder, path.relative_to(folder).as_posix(), report)
        ((report.lost,),) = index.rows("SELECT count(*) FROM alert WHERE container <= ?", (last,))
        index.rows("DELETE FROM alert WHERE container <= ?", (last,))
        index.rows("DELETE FROM container WHERE id <= ?", (last,))
    return report


def _add(index: Index, folder: Path, name: str, report: Reindexed) -> None:
    try:
        found = Scan(folder, name)
    except SchemaError:
        report.damaged[name] = (folder / name).stat().st_size
        return
    index.keep_container(name, found.night, found.length)
    for entry in found.entries():
        known = index.find(entry.alertId)
        if known is not None and not known.container.startswith("/"):
            report.doubled += 1
            continue
        report.changed += known is not None and known.sha256 != entry.sha256
        kept = _with_origin(entry, known)
        index.write([kept])
        report.alerts += 1
        report.bare += not kept.topic
    index.keep_container(name, found.night, found.length)
    report.containers += 1
    if lost := found.damaged + (folder / name).stat().st_size - found.length:
        report.damaged[name] = lost


def _with_origin(entry: Entry, known: Entry | None) -> Entry:
    """Return the entry at its new place with what the old index knew: also the sha256, which tells damage."""
    if known is None:
        return entry
    return replace(known, container=entry.container, start=entry.start, length=entry.length, night=entry.night)
