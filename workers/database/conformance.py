"""What every DIA database must do: one list of checks, run on each implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas
from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE, Announcement, Position, StoredOutput

__all__ = ["CHECKS", "make_exposure", "make_object", "make_sources"]

Rows = NDArray[Any]
MakeDatabase = Callable[[Path], Any]
"""Opens the implementation under test; the path names the database (a file, or whatever stands for one)."""

_HERE = Position("associate", "scored", 0, 7)


def make_sources(object_id: int, mjds: list[float], *, ra: float = 10.0, dec: float = -5.0, flux: float = 1e3) -> Rows:
    """Return diaSource rows of one object at times `mjds` (MJD TAI); visit and ids follow from the time."""
    rows = np.zeros(len(mjds), schemas.table_dtype("alert", "diaSource"))
    rows["diaObjectId"], rows["ra"], rows["dec"], rows["band"] = object_id, ra, dec, "r"
    rows["midpointMjdTai"] = mjds
    rows["visit"] = np.round(np.asarray(mjds) * 1e4)
    rows["diaSourceId"] = rows["visit"] * 1000 + object_id % 1000
    rows["psfFlux"], rows["psfFluxErr"], rows["reliability"] = flux, 50.0, 0.9
    return rows


def make_object(object_id: int, *, ra: float = 10.0, dec: float = -5.0, mjd: float = 61000.0, count: int = 1) -> Rows:
    """Return one OBJECT_DTYPE row."""
    row = np.zeros(1, OBJECT_DTYPE)
    row["diaObjectId"], row["ra"], row["dec"], row["nDiaSources"] = object_id, ra, dec, count
    row["validityStartMjdTai"] = row["lastDiaSourceMjdTai"] = mjd
    return row


def make_exposure(visit: int, mjd: float, *, ra: float = 10.0, dec: float = -5.0, half: float = 0.1) -> Rows:
    """Return one EXPOSURE_DTYPE row: a square of 2 `half` degrees round (ra, dec)."""
    row = np.zeros(1, EXPOSURE_DTYPE)
    row["visit"], row["midpointMjdTai"], row["band"], row["psfLimit"] = visit, mjd, "r", 200.0
    row["cornersRa"] = (ra + half * np.array([-1, 1, 1, -1])) % 360.0
    row["cornersDec"] = dec + half * np.array([-1, -1, 1, 1])
    return row


def _require(condition: bool, text: str) -> None:
    """Raise AssertionError: this file is a test suite that ships, and plain asserts vanish under -O."""
    if not condition:
        raise AssertionError(text)


def transaction_is_all_or_nothing(make: MakeDatabase, path: Path) -> None:
    """A block that raises leaves no row, no position and no output."""
    database = make(path)
    try:
        with database.transaction():
            database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
            database.remember(_HERE, [StoredOutput("alerts", b"k", b"v", 1)])
            raise KeyError("inside")
    except KeyError:
        pass
    _require(database.applied(_HERE) is None, "the position survived a rollback")
    _require(sum(database.counts().values()) == 0, "rows survived a rollback")
    database.close()


def outputs_are_remembered(make: MakeDatabase, path: Path) -> None:
    """A message applied before gives the same outputs in the same order, after a restart as well."""
    outputs = [StoredOutput("alerts", b"a", b"1", 5), StoredOutput("alerts", b"b", bytes(range(256)), 6)]
    database = make(path)
    with database.transaction():
        database.remember(_HERE, outputs)
    database.close()
    database = make(path)
    _require(database.applied(_HERE) == outputs, "outputs differ after a restart")
    _require(database.applied(Position("associate", "scored", 0, 6)) == [], "an earlier message counts as not applied")
    _require(database.applied(Position("associate", "scored", 0, 8)) is None, "a later message counts as applied")
    _require(database.applied(Position("other", "scored", 0, 7)) is None, "groups share positions")
    database.close()


def announcements_keep_their_order(make: MakeDatabase, path: Path) -> None:
    """The head of a tile's line blocks the later ones until its message is delivered and it is closed."""
    database = make(path)
    first, second = Announcement(1, 0, 5, 61000.0, "aa", 20251120), Announcement(2, 0, 5, 61001.1, "bb", 20251121)
    with database.transaction():
        _require(database.announce(first) == "new" and database.announce(second) == "new", "announce is not new")
        _require(database.announce(first) == "same", "a repeat is not the same")
        _require(database.announce(Announcement(1, 0, 5, 61000.0, "zz")) == "conflict", "no conflict seen")
        _require(database.deliver(2, 0, b"two"), "delivery refused")
        _require(database.next_ready(5) is None, "the second went before the first")
        _require(database.deliver(1, 0, b"one") and not database.deliver(1, 0, b"other"), "a repeat was taken")
        _require(database.next_ready(5) == (first, b"one"), "the first is not ready")
        database.close_visit(1, 0, "alerts", 3)
        _require(database.next_ready(5) == (second, b"two"), "the second is not ready")
        _require(not database.deliver(1, 0, b"again"), "a closed visit took a message")
        database.reopen(1, 0)
        database.close_visit(2, 0, "failed", 0)
        database.reopen(2, 0)
        _require(database.deliver(2, 0, b"retried"), "a failed visit that was put back takes no message")
    _require(database.announced(1, 0).outcome == "alerts", "the outcome was not kept")
    _require([a.visit for a in database.announcements()] == [1, 2], "announcements out of order")
    _require([a.visit for a in database.announcements(20251121)] == [2], "the night does not hold")
    database.close()


def storing_twice_changes_nothing(make: MakeDatabase, path: Path) -> None:
    """Rows are upserted by id."""
    database = make(path)
    for _ in range(2):
        with database.transaction():
            database.store(make_object(1), make_sources(1, [61000.0, 61001.0]), make_exposure(9, 61000.0))
    counts = database.counts()
    _require(counts["dia_objects"] == 1 and counts["dia_sources"] == 2 and counts["exposures"] == 1, str(counts))
    rows = make_sources(1, [61000.0, 61001.0])
    _require(bool(np.all(database.sources_of(1)["psfFlux"] == rows["psfFlux"])), "fluxes changed on the way")
    moved = make_sources(2, [61000.0])
    moved["diaSourceId"] = rows["diaSourceId"][0]
    with database.transaction():
        database.store(make_object(2), moved, make_exposure(9, 61000.0))
    _require(len(database.sources_of(1)) == 1 and len(database.sources_of(2)) == 1, "a reassigned source is in both")
    database.close()


def history_is_as_of_the_visit(make: MakeDatabase, path: Path) -> None:
    """Later visits, and the visit itself, are not in its history; nor is what is older than asked for."""
    database = make(path)
    rows = make_sources(1, [60000.0, 61000.0, 61001.0, 61002.0])
    with database.transaction():
        database.store(make_object(1), rows, make_exposure(1, 61000.0))
    visit = int(rows["visit"][2])
    found = database.history([1], 60500.0, (61001.0, visit))
    _require(found["midpointMjdTai"].tolist() == [61000.0], f"history {found['midpointMjdTai']}")
    found = database.history([1], 60500.0, (61001.0, visit + 1))
    _require(found["midpointMjdTai"].tolist() == [61000.0, 61001.0], "the other visit of the same time is missing")
    _require(len(database.history([], 0.0, (1e9, 0))) == 0, "history of nothing is something")
    database.close()


def objects_are_found_near(make: MakeDatabase, path: Path) -> None:
    """Every object within the radius comes, at pixel borders, across RA 0 and at the poles."""
    database = make(path)
    random = np.random.default_rng(3)
    places = [(0.0, 0.0), (359.99999, 10.0), (45.0, 89.9999), (120.0, -90.0), (200.0, -41.8)]
    places += list(zip(random.uniform(0, 360, 200), random.uniform(-89, 89, 200), strict=True))
    with database.transaction():
        for number, (ra, dec) in enumerate(places, start=1):
            database.store(make_object(number, ra=ra, dec=dec), make_sources(1, [])[:0], make_exposure(1, 1.0)[:0])
    for number, (ra, dec) in enumerate(places, start=1):
        near = np.array([ra]), np.array([min(max(dec + 0.5 / 3600.0, -90.0), 90.0)])
        found = database.objects_near(*near, 1.0)["diaObjectId"].tolist()
        _require(number in found, f"the object at {ra} {dec} was not found")
    database.close()


def exposures_are_found_near(make: MakeDatabase, path: Path) -> None:
    """Exposures near a position, of earlier visits only, in time order; across RA 0 as well."""
    database = make(path)
    nothing = make_object(1)[:0], make_sources(1, [])[:0]
    with database.transaction():
        for visit, (mjd, ra) in enumerate(
            [(61001.0, 0.05), (61000.0, 359.95), (61002.0, 0.0), (60000.0, 0.0), (61000.5, 90.0)]
        ):
            database.store(*nothing, make_exposure(visit, mjd, ra=ra))
    found = database.exposures_near(0.0, -5.0, 0.5, 60500.0, (61001.5, 0))
    _require(found["visit"].tolist() == [1, 0], f"found {found['visit']}")
    _require(bool(np.allclose(found["cornersDec"][0], make_exposure(1, 0.0)["cornersDec"][0])), "corners changed")
    database.close()


def copy_is_as_of_then(make: MakeDatabase, path: Path) -> None:
    """A copy for replay holds the sources and the version of each object from before the given time."""
    database = make(path)
    for mjd, count in ((61000.0, 1), (61010.0, 2)):
        with database.transaction():
            database.store(make_object(1, mjd=mjd, count=count), make_sources(1, [mjd]), make_exposure(int(mjd), mjd))
    copy_path = path.with_name("copy-" + path.name)
    database.copy_before(61005.0, copy_path)
    copy = make(copy_path)
    _require(copy.object(1)["nDiaSources"].tolist() == [1], "the object is not the version of then")
    _require(copy.sources_of(1)["midpointMjdTai"].tolist() == [61000.0], "later sources were copied")
    _require(copy.counts()["exposures"] == 1, "later exposures were copied")
    copy.close()
    database.close()


CHECKS: tuple[Callable[[MakeDatabase, Path], None], ...] = (
    transaction_is_all_or_nothing,
    outputs_are_remembered,
    announcements_keep_their_order,
    storing_twice_changes_nothing,
    history_is_as_of_the_visit,
    objects_are_found_near,
    exposures_are_found_near,
    copy_is_as_of_then,
)
"""Each takes the maker and a fresh path, and raises AssertionError with a text."""
