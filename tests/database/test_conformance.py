"""Both databases pass the conformance suite, and the suite notices a database that does not."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from workers.database.conformance import CHECKS, make_announcement, make_exposure, make_object, make_sources
from workers.database.conformance.line import line_goes_by_rank_on_every_tile
from workers.database.conformance.positions import transaction_is_all_or_nothing
from workers.database.conformance.sharing import positions_have_one_owner, tiles_have_one_writer
from workers.database.sqlite import SqliteDatabase


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, make, tmp_path):
    check(make, tmp_path / "dia")


class Forgetful(SqliteDatabase):
    """Its transactions are none."""

    @contextmanager
    def transaction(self, tiles=()):
        yield


class Impatient(SqliteDatabase):
    """Says that it has no other place in the line than the newest."""

    def head(self, tile):
        found = [one for one in self.announcements() if tile in one.tiles and one.outcome == "open"]
        return found[-1] if found else None


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (transaction_is_all_or_nothing, Forgetful),
        (tiles_have_one_writer, Forgetful),
        (positions_have_one_owner, Forgetful),
        (line_goes_by_rank_on_every_tile, Impatient),
    ],
)
def test_a_wrong_database_does_not_conform(check, wrong, tmp_path):
    with pytest.raises(AssertionError):
        check(wrong, tmp_path / "dia")


@pytest.mark.postgres
@pytest.mark.parametrize("there", [False, True], ids=["into sqlite", "into postgres"])
def test_copies_go_into_a_database_of_the_other_kind(there, postgres, tmp_path):
    source, target = (SqliteDatabase, postgres) if there else (postgres, SqliteDatabase)
    database, copy = source(tmp_path / "from"), target(tmp_path / "to")
    sources = make_sources(1, [61000.0, 61001.0, 61002.0])
    sources["raErr"] = np.nan
    with database.transaction([5]):
        database.store(make_object(1, mjd=61001.0), sources, make_exposure(7, 61000.0))
        database.announce(make_announcement(1), [], 10)
    database.copy_before(61001.5, copy)
    assert copy.sources_of(1).tobytes() == sources[:2].tobytes()
    assert copy.object(1).tobytes() == make_object(1, mjd=61001.0).tobytes()
    assert copy.counts() == {"dia_objects": 1, "dia_sources": 2, "exposures": 1, "announcements": 0}
    database.close()
    copy.close()
