"""The DIA database behind one narrow port.

The promise: one bus message is applied in one database transaction, which writes the rows, the consumed position and
the *remembered outputs*: the exact messages that this input gave. When a worker dies between that commit and the commit
on the bus, the message comes again; the database knows its position and gives the same outputs, byte for byte.

Two implementations keep the promise and pass the same checks (`workers.database.conformance`): SQLite, one file for one
machine, and PostgreSQL for workers on many. Every method raises UnreachableError where the database does not answer;
nothing of the transaction is kept then, and the next one tries anew.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXPOSURE_DTYPE",
    "OBJECT_DTYPE",
    "Announcement",
    "Catalogue",
    "Database",
    "DiaDatabase",
    "DiaReader",
    "Line",
    "LineState",
    "OpenVisit",
    "Position",
    "Positions",
    "StoredOutput",
    "Visits",
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
    timestamp: int = 0
    """Of the message, milliseconds since 1970."""


@dataclass(frozen=True)
class StoredOutput:
    """A message that an input gave, kept until the bus has it for certain."""

    topic: str
    key: bytes
    value: bytes
    timestamp: int
    """Milliseconds since 1970."""
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Announcement:
    """One visit and detector that will end as exactly one scored message, and what became of it."""

    visit: int
    detector: int
    tile: int
    midpointMjdTai: float
    sha256: str
    """Of the raw file; empty for a detector that was expected and is missing."""
    night: int = 0
    """YYYYMMDD."""
    outcome: str = "open"
    """``open``, then ``alerts``, ``no_alerts``, ``no_template``, ``failed``, ``missing``, or the limit not kept."""
    alerts: int = 0
    tiles: tuple[int, ...] = ()
    """The sky tiles that its footprint touches, sorted, `tile` among them; empty given, it is (tile,)."""
    late: bool = False
    """Announced after its visit had closed, or of a visit that closed after a later one, or tried again."""
    processedMjdTai: float = field(default=math.nan, compare=False)
    """When it was associated, by the clock; NaN before. Not part of equality: the clock is no property of the night."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiles", tuple(sorted({int(tile) for tile in (*self.tiles, self.tile)})))


@dataclass(frozen=True)
class OpenVisit:
    """A visit that was announced and has not closed."""

    visit: int
    midpointMjdTai: float
    closing: int
    """When its shutter closed, milliseconds since 1970, in event time."""
    expected: tuple[int, ...]
    """Detectors of the camera that should be announced, sorted."""
    seen: tuple[int, ...]
    """Detectors announced so far, sorted."""
    night: int = 0
    """YYYYMMDD."""


@dataclass(frozen=True)
class LineState:
    """How far event time has come in one night: one wrong date in a header must not move the others."""

    watermark: int = 0
    """The largest record timestamp seen on the topic of announcements, milliseconds since 1970."""
    midpointMjdTai: float = -math.inf
    """Of the last visit that closed."""
    visit: int = 0
    """The last visit that closed; visits close in order of (midpointMjdTai, visit)."""


class Positions(Protocol):
    """Transactions, and which messages of the bus were applied in one."""

    @property
    def exclusive(self) -> bool:
        """True where a transaction excludes every other one, so that holding a tile means nothing more."""

    def transaction(self, tiles: Collection[int] = ()) -> AbstractContextManager[None]:
        """Everything written inside is kept together, or not at all when the block raises.

        It begins when it holds the sky `tiles`; another transaction that wants one of them waits until this one ends.
        Whoever asks for the head of a tile's line, or brings a message for it, holds the tile: else two workers may
        each miss what the other brings. Transactions do not nest.
        """

    def applied(self, position: Position) -> list[StoredOutput] | None:
        """Return the remembered outputs of a message applied before, or None for a new one.

        Until the transaction ends, no other one gets an answer for the same group, topic and partition: a zombie and
        its successor can't both apply a message. A message that was settled gives []; DeliveryError where it is newer
        than all that were applied, and so the first of a topic that was made anew.
        """

    def remember(self, position: Position, outputs: Sequence[StoredOutput]) -> None:
        """Mark a message as applied, with its outputs."""

    def settle(self, position: Position) -> None:
        """Mark all messages of the partition up to this one as done for good: the bus has committed them.

        Their outputs are dropped. A message before it that was never applied counts as done too.
        """


class Visits(Protocol):
    """Announcements and the visits they belong to. One consumer, that of the topic ``visits``, writes here."""

    def announce(self, announcement: Announcement, expected: Sequence[int], closing: int) -> str:
        """Add an exposure; the first one of a visit begins the visit with `expected` detectors and `closing` time.

        `expected` empty means this detector alone. Returns ``new``; ``late`` where its visit is closed already (one
        that was ``missing`` becomes ``open``); ``same`` for a repeat; ``conflict`` for another sha256 (the first
        stands). It has no place in the line before `Line.enqueue`.
        """

    def open_visits(self) -> list[OpenVisit]:
        """Return the visits that have not closed, in order of (midpointMjdTai, visit)."""

    def close_visit(self, visit: int) -> None:
        """Close a visit; expected detectors that were not announced become ``missing`` (tile 0, sha256 empty)."""

    def line_state(self, night: int) -> LineState:
        """Return how far event time has come in a night (YYYYMMDD); the default before any was kept."""

    def keep_line_state(self, night: int, state: LineState) -> None:
        """Write how far event time has come in a night."""

    def announced(self, visit: int, detector: int) -> Announcement | None:
        """Return the announcement of a visit and detector, if there is one."""

    def announcements(self, night: int | None = None) -> list[Announcement]:
        """Return the announcements of a night (YYYYMMDD), or all, in order; missing ones where they were added."""


class Line(Visits, Protocol):
    """The one line in which exposures are associated: each tile sees its part of it, in order of rank."""

    def enqueue(self, visit: int, detector: int, late: bool) -> None:
        """Give an open exposure the next rank, on each of its tiles; nothing where it has a place already."""

    def deliver(self, visit: int, detector: int, sha256: str, message: bytes, *, instead: bool = False) -> bool:
        """Keep the scored message until its turn, also before it is announced (or while it counts as missing).

        With `instead` it takes the place of one that is kept. False where one is kept and stays, or where the exposure
        was announced with another sha256 or is not open any more.
        """

    def delivered(self, visit: int, detector: int) -> bytes | None:
        """Return the kept message of the sha256 that was announced, if it is here."""

    def head(self, tile: int) -> Announcement | None:
        """Return the open exposure of lowest rank on this tile."""

    def heads(self) -> list[Announcement]:
        """Return the open exposures that are the first on one of their tiles at least, in order of announcement."""

    def finish(self, visit: int, detector: int, outcome: str, alerts: int, processedMjdTai: float) -> None:
        """Write how an exposure ended, take it out of the line and drop its kept messages."""

    def reopen(self, visit: int, detector: int) -> None:
        """Turn ``failed`` into ``open``, without a place in the line; nothing for any other outcome."""


class Catalogue(Protocol):
    """Objects, sources and exposures."""

    def objects_near(self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> Rows:
        """Return objects, OBJECT_DTYPE by id, within at least `radius` arcsec of any of the positions (degrees)."""

    def history(self, object_ids: Sequence[int], since: float, before: tuple[float, int]) -> Rows:
        """Return diaSource rows of the objects from MJD `since` on, of visits before (midpointMjdTai, visit) only.

        They come in order of (diaObjectId, midpointMjdTai, diaSourceId), bit for bit as they were stored.
        """

    def exposures_near(self, ra: float, dec: float, radius: float, since: float, before: tuple[float, int]) -> Rows:
        """Return exposures, EXPOSURE_DTYPE in time order, with a corner or centre within `radius` degrees."""

    def store(self, objects: Rows, sources: Rows, exposures: Rows) -> None:
        """Insert or replace rows by their ids; storing the same twice changes nothing."""

    def copy_before(self, mjd: float, target: Database) -> None:
        """Write sources, exposures and objects as they were before MJD `mjd` into another database, of any kind."""


class DiaDatabase(Positions, Line, Catalogue, Protocol):
    """What the association needs. All writes happen inside `transaction`."""


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
