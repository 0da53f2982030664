"""Databases that an earlier version wrote, with fewer columns per source, are opened and go on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import schemas
from schemas.errors import ConfigurationError
from workers.database import OBJECT_DTYPE
from workers.database.conformance import make_exposure, make_object, make_sources
from workers.database.rows import earlier_fingerprints, source_rows

OLD = schemas.table_dtype("alert", "diaSource", "1.0")
NEW = schemas.table_dtype("alert", "diaSource")
WRITTEN = "8fbe0e82109165acf0adaf68a5fef1e27c30416df313c93494d2b075ff4a70ce"
"""What skydelta with alerts of version 1.0 left in `meta`."""


def as_of_old(database) -> None:
    """Bring a database to where version 1.0 left it."""
    for number, data in database.connection.query("SELECT diaSourceId, data FROM dia_sources"):
        database.connection.execute(
            "UPDATE dia_sources SET data = ? WHERE diaSourceId = ?", (data[: OLD.itemsize], number)
        )
    database.connection.execute("UPDATE meta SET value = ? WHERE name = 'diaSource'", (WRITTEN,))


def test_the_columns_of_every_version_begin_with_those_of_the_one_before():
    assert earlier_fingerprints()[0] == WRITTEN == hashlib.sha256(repr(OLD.descr).encode()).hexdigest()
    assert len(earlier_fingerprints()) == len(schemas.versions("alert")) - 1
    for version in schemas.versions("alert"):
        before = schemas.table_dtype("alert", "diaSource", version)
        assert NEW.descr[: len(before.descr)] == before.descr
        assert {NEW[name].kind for name in NEW.names[len(before.names) :]} <= {"f"}  # null is known by NaN


def test_rows_of_an_earlier_version_are_read_with_nulls_and_others_written_beside_them(make, tmp_path):
    database = make(tmp_path / "dia")
    sources = make_sources(1, [61000.0, 61001.0])
    with database.transaction([1]):
        database.store(make_object(1), sources, make_exposure(1, 61000.0))
    as_of_old(database)
    database.close()
    database = make(tmp_path / "dia")
    later = make_sources(1, [61002.0])
    later["snapDiffFlux"] = 7.0
    with database.transaction([1]):
        database.store(np.zeros(0, OBJECT_DTYPE), later, make_exposure(2, 61002.0))
    for rows in (database.sources_of(1), database.history([1], 0.0, (61003.0, 0))):
        assert rows.dtype == NEW
        for name in OLD.names:
            np.testing.assert_array_equal(rows[name], np.concatenate([sources, later])[name])
        np.testing.assert_array_equal(rows["snapDiffFlux"], np.array([np.nan, np.nan, 7.0], "f4"))
        assert np.isnan(rows["dipoleProbability"][:2]).all()
    copy = make(tmp_path / "copy")
    database.copy_before(61002.5, copy)
    assert copy.sources_of(1).tobytes() == database.sources_of(1).tobytes()
    copy.close()
    database.close()
    make(tmp_path / "dia").close()


def test_a_file_that_differs_in_more_is_refused_and_left_alone(make, tmp_path):
    database = make(tmp_path / "dia")
    as_of_old(database)
    database.connection.execute("UPDATE meta SET value = 'other' WHERE name = 'exposure'")
    (before,) = [database.connection.query("SELECT value FROM meta ORDER BY name")]
    with pytest.raises(ConfigurationError, match="layout"):
        make(tmp_path / "dia")
    assert database.connection.query("SELECT value FROM meta ORDER BY name") == before
    database.close()


def test_no_answer_is_no_row():
    assert source_rows([]).dtype == NEW
    assert len(source_rows([])) == 0
