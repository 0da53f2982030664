"""Databases that an earlier version wrote, with fewer columns per source, are opened and go on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import schemas
from schemas.errors import ConfigurationError
from workers.database import OBJECT_DTYPE
from workers.database.conformance import make_exposure, make_object, make_sources
from workers.database.rows import earlier_fingerprints, fingerprints, source_rows

NEW = schemas.table_dtype("alert", "diaSource")
WRITTEN = {
    "1.0": "8fbe0e82109165acf0adaf68a5fef1e27c30416df313c93494d2b075ff4a70ce",
    "1.1": "7e65e61ba67a3e7d87368aa6f88c4829dd3f7d2ef059beceb488c842230bf8c9",
}
"""What skydelta with alerts of each earlier version left in `meta`."""


def as_of_old(database, version="1.0", sources=None) -> None:
    """Bring a database to where a version left it: those `sources` (default: all), and what it says of them."""
    size = schemas.table_dtype("alert", "diaSource", version).itemsize
    for number, data in database.connection.query("SELECT diaSourceId, data FROM dia_sources"):
        if sources is None or number in sources:
            database.connection.execute("UPDATE dia_sources SET data = ? WHERE diaSourceId = ?", (data[:size], number))
    database.connection.execute("UPDATE meta SET value = ? WHERE name = 'diaSource'", (WRITTEN[version],))


def test_the_columns_of_every_version_begin_with_those_of_the_one_before():
    assert earlier_fingerprints() == list(WRITTEN.values())
    assert list(WRITTEN) == schemas.versions("alert")[:-1]
    for version in schemas.versions("alert"):
        before = schemas.table_dtype("alert", "diaSource", version)
        assert NEW.descr[: len(before.descr)] == before.descr
        assert hashlib.sha256(repr(before.descr).encode()).hexdigest() == WRITTEN.get(
            version, fingerprints()["diaSource"]
        )
        # null is known by NaN, and a flag that nobody looked at is not set
        assert {NEW[name].kind for name in NEW.names[len(before.names) :]} <= {"f", "b"}


@pytest.mark.parametrize("version", WRITTEN)
def test_rows_of_an_earlier_version_are_read_with_nulls_and_others_written_beside_them(make, tmp_path, version):
    old = schemas.table_dtype("alert", "diaSource", version)
    database = make(tmp_path / "dia")
    sources = make_sources(1, [61000.0, 61001.0])
    with database.transaction([1]):
        database.store(make_object(1), sources, make_exposure(1, 61000.0))
    as_of_old(database, version)
    database.close()
    database = make(tmp_path / "dia")
    later = make_sources(1, [61002.0])
    later["dcrShift"], later["dcrDipole"], later["templateContaminated"] = 7.0, True, True
    with database.transaction([1]):
        database.store(np.zeros(0, OBJECT_DTYPE), later, make_exposure(2, 61002.0))
    for rows in (database.sources_of(1), database.history([1], 0.0, (61003.0, 0))):
        assert rows.dtype == NEW
        for name in old.names:
            np.testing.assert_array_equal(rows[name], np.concatenate([sources, later])[name])
        for name in NEW.names[len(old.names) :]:
            assert rows[name][2] == later[name][0]
            assert rows[name].dtype.kind == "b" or np.isnan(rows[name][:2]).all()
        np.testing.assert_array_equal(rows["dcrDipole"], [False, False, True])
        np.testing.assert_array_equal(rows["templateContaminated"], [False, False, True])
    copy = make(tmp_path / "copy")
    database.copy_before(61002.5, copy)
    assert copy.sources_of(1).tobytes() == database.sources_of(1).tobytes()
    copy.close()
    database.close()
    make(tmp_path / "dia").close()


def test_rows_of_all_versions_lie_side_by_side(make, tmp_path):
    database = make(tmp_path / "dia")
    sources = make_sources(1, [61000.0, 61001.0, 61002.0])
    sources["snapDiffFlux"], sources["dcrShift"] = [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]
    with database.transaction([1]):
        database.store(make_object(1), sources, make_exposure(1, 61000.0))
    for version, row in zip(WRITTEN, sources, strict=False):
        as_of_old(database, version, [row["diaSourceId"]])
    database.close()
    database = make(tmp_path / "dia")
    rows = database.sources_of(1)
    np.testing.assert_array_equal(rows["snapDiffFlux"], np.array([np.nan, 2.0, 3.0], "f4"))
    np.testing.assert_array_equal(rows["dcrShift"], np.array([np.nan, np.nan, 0.3], "f4"))
    database.close()


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
