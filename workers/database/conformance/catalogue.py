"""Checks of objects, sources and exposures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workers.database.conformance.samples import (
    Check,
    MakeDatabase,
    make_exposure,
    make_object,
    make_sources,
    require,
)

__all__ = ["CATALOGUE_CHECKS"]


def storing_twice_changes_nothing(make: MakeDatabase, path: Path) -> None:
    """Rows are upserted by id."""
    database = make(path)
    for _ in range(2):
        with database.transaction():
            database.store(make_object(1), make_sources(1, [61000.0, 61001.0]), make_exposure(9, 61000.0))
    counts = database.counts()
    require(counts["dia_objects"] == 1 and counts["dia_sources"] == 2 and counts["exposures"] == 1, str(counts))
    rows = make_sources(1, [61000.0, 61001.0])
    require(bool(np.all(database.sources_of(1)["psfFlux"] == rows["psfFlux"])), "fluxes changed on the way")
    moved = make_sources(2, [61000.0])
    moved["diaSourceId"] = rows["diaSourceId"][0]
    with database.transaction():
        database.store(make_object(2), moved, make_exposure(9, 61000.0))
    require(len(database.sources_of(1)) == 1 and len(database.sources_of(2)) == 1, "a reassigned source is in both")
    database.close()


def history_is_as_of_the_visit(make: MakeDatabase, path: Path) -> None:
    """Later visits, and the visit itself, are not in its history; nor is what is older than asked for."""
    database = make(path)
    rows = make_sources(1, [60000.0, 61000.0, 61001.0, 61002.0])
    with database.transaction():
        database.store(make_object(1), rows, make_exposure(1, 61000.0))
    visit = int(rows["visit"][2])
    found = database.history([1], 60500.0, (61001.0, visit))
    require(found["midpointMjdTai"].tolist() == [61000.0], f"history {found['midpointMjdTai']}")
    found = database.history([1], 60500.0, (61001.0, visit + 1))
    require(found["midpointMjdTai"].tolist() == [61000.0, 61001.0], "the other visit of the same time is missing")
    require(len(database.history([], 0.0, (1e9, 0))) == 0, "history of nothing is something")
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
        require(number in found, f"the object at {ra} {dec} was not found")
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
    require(found["visit"].tolist() == [1, 0], f"found {found['visit']}")
    require(bool(np.allclose(found["cornersDec"][0], make_exposure(1, 0.0)["cornersDec"][0])), "corners changed")
    database.close()


def rows_come_back_bit_for_bit(make: MakeDatabase, path: Path) -> None:
    """Sources, objects and exposures are what was stored, every NaN and every sign of zero as well."""
    database = make(path)
    sources = make_sources(5, [61000.0, 61001.5], flux=float(np.float32(1234.5678)))
    sources["isNegative"][1], sources["raErr"], sources["x"] = True, np.nan, -0.0
    sources["psfFlux"][0] = sources["psfFluxErr"][1] = np.nan
    thing, exposure = make_object(5, ra=0.1 + 0.2), make_exposure(3, 61000.0, ra=0.01)
    thing["raErr"] = exposure["psfLimit"] = np.array([0xFFC12345], np.uint32).view(np.float32)  # a NaN of its own kind
    with database.transaction():
        database.store(thing, sources, exposure)
    require(database.sources_of(5).tobytes() == sources.tobytes(), "sources changed")
    require(database.history([5], -np.inf, (1e9, 0)).tobytes() == sources.tobytes(), "sources changed in the history")
    require(database.source(int(sources["diaSourceId"][1])).tobytes() == sources[1:].tobytes(), "a source changed")
    require(
        database.sources_in(int(sources["visit"][0]), 0).tobytes() == sources[:1].tobytes(), "another visit's source"
    )
    require(database.object(5).tobytes() == thing.tobytes(), "the object changed")
    require(database.objects_near(thing["ra"], thing["dec"], 1.0).tobytes() == thing.tobytes(), "the object changed")
    found = database.exposures_near(0.0, -5.0, 1.0, -np.inf, (1e9, 0))
    require(found.tobytes() == exposure.tobytes(), "the exposure changed")
    require(len(database.source(42)) == len(database.object(42)) == 0, "something was found that is not there")
    database.close()


def large_visits_are_stored(make: MakeDatabase, path: Path) -> None:
    """Thousands of rows in one call, and the history of thousands of objects; in order of id and time."""
    database = make(path)
    count = 3000
    ids = np.random.default_rng(5).permutation(count) + 1
    sources = np.concatenate([make_sources(1, [61000.0])] * count)
    sources["diaObjectId"], sources["diaSourceId"] = ids, ids + 10**6
    objects = np.concatenate([make_object(1)] * count)
    objects["diaObjectId"], objects["ra"] = ids, 10.0 + ids / 1e4
    with database.transaction():
        database.store(objects, sources, make_exposure(1, 61000.0))
    require(database.counts()["dia_sources"] == count, "rows are missing")
    found = database.history(ids.tolist(), -np.inf, (1e9, 0))
    require(found["diaObjectId"].tolist() == list(range(1, count + 1)), "the history is not in order of object")
    near = database.objects_near(objects["ra"], objects["dec"], 1.0)
    require(near["diaObjectId"].tolist() == list(range(1, count + 1)), "objects are missing, or not in order of id")
    require(
        len(database.objects_near(ids[:0].astype(float), ids[:0].astype(float), 1.0)) == 0, "near nothing is nothing"
    )
    database.close()


def copy_is_as_of_then(make: MakeDatabase, path: Path) -> None:
    """A copy for replay holds the sources and the version of each object from before the given time."""
    database = make(path)
    for mjd, count in ((61000.0, 1), (61004.0, 2), (61010.0, 3)):
        with database.transaction():
            database.store(make_object(1, mjd=mjd, count=count), make_sources(1, [mjd]), make_exposure(int(mjd), mjd))
            database.store(make_object(int(mjd), mjd=mjd), make_sources(2, [mjd]), make_exposure(2, 61009.0))
    copy = make(path.with_name("copy-" + path.name))
    database.copy_before(61005.0, copy)
    require(copy.object(1).tobytes() == make_object(1, mjd=61004.0, count=2).tobytes(), "not the version of then")
    require(len(copy.object(61004)) == 1 and len(copy.object(61010)) == 0, "not the objects of then")
    require(copy.sources_of(1).tobytes() == make_sources(1, [61000.0, 61004.0]).tobytes(), "not the sources of then")
    require(copy.counts()["exposures"] == 2, "later exposures were copied")
    require(copy.counts()["announcements"] == 0 and database.counts()["dia_sources"] == 6, "the copy is too much")
    copy.close()
    database.close()


CATALOGUE_CHECKS: tuple[Check, ...] = (
    storing_twice_changes_nothing,
    rows_come_back_bit_for_bit,
    large_visits_are_stored,
    history_is_as_of_the_visit,
    objects_are_found_near,
    exposures_are_found_near,
    copy_is_as_of_then,
)
