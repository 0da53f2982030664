"""One flush: what waits goes to the ends of its files, and with them into the index, or nothing does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from schemas import Schema
from schemas.errors import ConflictError, DataError, SchemaError, UnreachableError
from workers.archive.alert import ArchivedAlert, Entry
from workers.archive.container import block, first_long, header, split, sync_marker
from workers.archive.files import cut_back, extend, set_aside
from workers.archive.index import Index
from workers.archive.scan import Scan

__all__ = ["Described", "Waiting", "describe", "is_known", "write"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Described:
    """An alert with what follows from its bytes."""

    entry: Entry
    """Its place is not known yet."""
    schema: Schema
    body: bytes

    def packed(self) -> Waiting:
        """Return it as it will stand in the file."""
        data = block(self.body, sync_marker(self.schema, self.entry.night))
        return Waiting(replace(self.entry, length=len(data)), self.schema, data)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An alert that waits for the next flush."""

    entry: Entry
    schema: Schema
    block: bytes


def describe(alert: ArchivedAlert) -> Described:
    """Return where an alert belongs; raises SchemaError or DataError where it is none or contradicts itself."""
    schema, body = split(alert.value)
    number = first_long(body)
    if number != alert.alertId:
        raise DataError(
            f"a message that names alert {alert.alertId} holds alert {number}; its headers or its bytes are wrong"
        )
    if not 0 <= alert.night <= 99991231:
        raise DataError(f"alert {alert.alertId} names the night {alert.night}, which is no YYYYMMDD")
    entry = Entry(
        alertId=alert.alertId,
        night=alert.night,
        container=f"{alert.night}/alerts-{schema.version}.avro",
        start=0,
        length=0,
        sha256=alert.sha256,
        topic=alert.topic,
        partition=alert.partition,
        offset=alert.offset,
        timestamp=alert.timestamp,
        key=alert.key,
        headers=alert.headers,
    )
    return Described(entry, schema, body)


def is_known(known: Entry | None, entry: Entry) -> bool:
    """Tell whether `known` says all of `entry`; raises ConflictError where the same alert has other bytes."""
    if known is None:
        return False
    if known.sha256 != entry.sha256:
        raise ConflictError(
            f"alert {entry.alertId} came from {entry.position} with sha256 {entry.sha256.hex()}, but the archive has "
            f"it from {known.position} with sha256 {known.sha256.hex()}; the first stands. Two different alerts must "
            "not have one id: find out which worker published the second"
        )
    return bool(known.topic) or not entry.topic


def write(index: Index, folder: Path, waiting: Collection[Waiting], consumed: dict[tuple[str, int], int]) -> None:
    """Write alerts and consumed positions; repeats of what the archive has change nothing.

    Raises ConflictError or UnreachableError; nothing is written then.
    """
    groups: dict[str, list[Waiting]] = {}
    for one in waiting:
        groups.setdefault(one.entry.container, []).append(one)
    created: set[str] = set()
    try:
        with index.transaction("writing alerts"):
            for name, group in groups.items():
                _write_group(index, folder, name, group, created)
            for (topic, partition), following in consumed.items():
                index.rows(
                    "INSERT INTO consumed VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = max(next, excluded.next)",
                    (topic, partition, following),
                )
    except (ConflictError, UnreachableError):
        _cut_tails(index, folder, groups, created)
        raise


def _write_group(index: Index, folder: Path, name: str, group: list[Waiting], created: set[str]) -> None:
    """Add to one container what the archive does not have."""
    head = header(group[0].schema, group[0].entry.night)
    if index.container_length(name) is None:
        if (folder / name).exists():
            _adopt(index, folder, name, head)
        else:
            created.add(name)
    fresh = [one for one in group if not _is_settled(index, one.entry)]
    if not fresh:
        return
    length = index.container_length(name) or 0
    parts = [b"" if length else head, *(one.block for one in fresh)]
    end = extend(folder / name, length, parts)
    index.keep_container(name, fresh[0].entry.night, end)
    start = length + len(parts[0])
    for one in fresh:
        index.write([replace(one.entry, start=start)])
        start += one.entry.length


def _cut_tails(index: Index, folder: Path, names: Iterable[str], created: Collection[str]) -> None:
    """Take away what was written and not committed, so that readers of the files do not meet it.

    A commit that fails lets go of the archive, and others may have written meanwhile: what the index says now counts.
    Where this fails too, the next flush cuts.
    """
    with suppress(UnreachableError), index.transaction("cutting back what was not committed"):
        for name in names:
            length = index.container_length(name)
            if length is not None or name in created:
                cut_back(folder / name, length or 0)


def _is_settled(index: Index, entry: Entry) -> bool:
    """Tell whether the archive has the alert; what it lacks about it (after a reindex) is filled in."""
    known = index.find(entry.alertId)
    if known is not None and not is_known(known, entry):
        filled = replace(entry, night=known.night, container=known.container, start=known.start, length=known.length)
        index.write([filled])
    return known is not None


def _adopt(index: Index, folder: Path, name: str, head: bytes) -> None:
    """Take in a file that the index does not know: its writer died, or the index was lost.

    A file whose head is damaged is set aside, and a new one begun.
    """
    path = folder / name
    try:
        found = Scan(folder, name)
    except SchemaError:
        data = path.read_bytes()
        if not head.startswith(data):
            _log.error("%s is damaged; it is kept as %s", path, set_aside(path))
        return
    index.keep_container(name, found.night, found.length)
    for entry in found.entries():
        if index.find(entry.alertId) is None:
            index.write([entry])
    index.keep_container(name, found.night, found.length)
    _log.warning("%s was not in the index: %d bytes of it are now", path, found.length)
