"""The DIA database behind one narrow port.

The promise: one bus message is applied in one database transaction, which writes the rows, the consumed position and
the *remembered outputs*: the exact messages that this input gave. When a worker dies between that commit and the commit
on the bus, the message comes again; the database knows its position and gives the same outputs, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXPOSURE_DTYPE",
    "OBJECT_DTYPE",
    "Announcement",
    "Database",
    "DiaDatabase",
    "DiaReader",
    "Position",
    "StoredOutput",
]

Rows = NDArray[Any]

OBJECT_DTYPE = np.dtype(
    [
        ("diaObjectId", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("raErr", "f4"),
        ("decErr", "f4"),
        ("nDiaSources", "i4"),
        ("firstDiaSourceMjdTai", "f8"),
        ("lastDiaSourceMjdTai", "f8"),
        ("validityStartMjdTai", "f8"),
    ]
)
"""What association needs of an object; positions in degrees ICRS, errors in degrees (raErr on RA cos Dec)."""

EXPOSURE_DTYPE = np.dtype(
    [
        ("visit", "i8"),
        ("detector", "i4"),
        ("midpointMjdTai", "f8"),
        ("band", "U16"),
        ("psfLimit", "f4"),
        ("cornersRa", "f8", (4,)),
        ("cornersDec", "f8", (4,)),
    ]
)
"""One associated exposure: corners in degrees ICRS in order round it, psfLimit the 5-sigma flux in nJy."""


@dataclass(frozen=True)
class Position:
    """Where a message stood on the bus, for one consumer group."""

    group: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class StoredOutput:
    """A message that an input gave, kept until the bus has it for certain."""

    topic: str
    key: bytes
    value: bytes
    timestamp: int


@dataclass(frozen=True)
class Announcement:
    """One visit and detector that will end as exactly one scored message; a tile associates in this order."""

    visit: int
    detector: int
    tile: int
    midpointMjdTai: float
    sha256: str
    night: int = 0
    """YYYYMMDD."""
    outcome: str = "open"
    """``open``, then ``alerts``, ``no_alerts``, ``no_template`` or ``failed``."""
    alerts: int = 0


class DiaDatabase(Protocol):
    """Objects, sources, exposures and positions. All writes happen inside `transaction`."""

    def transaction(self) -> AbstractContextManager[None]:
        """Everything written inside is kept together, or not at all when the block raises."""

    def applied(self, position: Position) -> list[StoredOutput] | None:
        """Return the remembered outputs of a message applied before, or None for a new one."""

    def remember(self, position: Position, outputs: Sequence[StoredOutput]) -> None:
        """Mark a message as applied, with its outputs, and drop outputs that the bus has had long since."""

    def announce(self, announcement: Announcement) -> str:
        """Add to the line of its tile: ``new``, ``same`` for a repeat, ``conflict`` for another sha256."""

    def deliver(self, visit: int, detector: int, message: bytes) -> bool:
        """Keep the scored message until its turn; False where that visit and detector has one, or is closed."""

    def reopen(self, visit: int, detector: int) -> None:
        """Put a visit and detector that ended as ``failed`` back into the line, at its old place."""

    def next_ready(self, tile: int) -> tuple[Announcement, bytes] | None:
        """Return the first open announcement of the tile if its scored message is here; else None."""

    def close_visit(self, visit: int, detector: int, outcome: str, alerts: int) -> None:
        """Write how a visit and detector ended and drop its kept message."""

    def announcements(self, night: int | None = None) -> list[Announcement]:
        """Return the announcements of a night (YYYYMMDD), or all, in order."""

    def announced(self, visit: int, detector: int) -> Announcement | None:
        """Return the announcement of a visit and detector, if there is one."""

    def objects_near(self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> Rows:
        """Return objects, OBJECT_DTYPE by id, within at least `radius` arcsec of any of the positions (degrees)."""

    def history(self, object_ids: Sequence[int], since: float, before: tuple[float, int]) -> Rows:
        """Return diaSource rows of the objects from MJD `since` on, of visits before (midpointMjdTai, visit) only."""

    def exposures_near(self, ra: float, dec: float, radius: float, since: float, before: tuple[float, int]) -> Rows:
        """Return exposures, EXPOSURE_DTYPE in time order, with a corner or centre within `radius` degrees."""

    def store(self, objects: Rows, sources: Rows, exposures: Rows) -> None:
        """Insert or replace rows by their ids; storing the same twice changes nothing."""

    def copy_before(self, mjd: float, path: Path) -> None:
        """Write a database with the sources, exposures and objects as they were before MJD `mjd` (for replay)."""


class DiaReader(Protocol):
    """What the reading commands ask of the database."""

    def object(self, number: int) -> Rows:
        """Return the object with this id as OBJECT_DTYPE rows (none or one)."""

    def sources_of(self, number: int) -> Rows:
        """Return every source of an object in time order."""

    def sources_in(self, visit: int, detector: int) -> Rows:
        """Return every source of a visit and detector by id."""

    def source(self, number: int) -> Rows:
        """Return the source with this id (none or one)."""

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table."""

    def close(self) -> None:
        """Release the file or connection; closing twice is allowed."""


class Database(DiaDatabase, DiaReader, Protocol):
    """Both ports: what `workers.connect.open_database` opens."""
