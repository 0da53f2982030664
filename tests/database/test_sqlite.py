"""The SQLite database passes the conformance suite, survives crashes and refuses foreign files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from schemas.errors import ConfigurationError, UnreachableError
from workers.database import Position
from workers.database.conformance import CHECKS, make_exposure, make_object, make_sources
from workers.database.sqlite import SqliteDatabase


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, tmp_path):
    check(SqliteDatabase, tmp_path / "dia.sqlite")


def test_a_process_that_dies_inside_a_transaction_leaves_nothing(tmp_path):
    path = tmp_path / "dia.sqlite"
    program = f"""
import os
from workers.database import Position
from workers.database.conformance import make_exposure, make_object, make_sources
from workers.database.sqlite import SqliteDatabase
database = SqliteDatabase({str(path)!r})
with database.transaction():
    database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
    database.remember(Position("g", "t", 0, 0), [])
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    database = SqliteDatabase(path)
    assert sum(database.counts().values()) == 0
    assert database.applied(Position("g", "t", 0, 0)) is None
    database.close()


def test_a_file_with_another_layout_is_refused(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    database.connection.execute("UPDATE meta SET value = 'other' WHERE name = 'diaSource'")
    database.close()
    with pytest.raises(ConfigurationError, match="another diaSource layout"):
        SqliteDatabase(tmp_path / "dia.sqlite")


def test_a_file_that_is_no_database_is_unreachable(tmp_path):
    path = tmp_path / "dia.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(UnreachableError, match=r"dia\.sqlite can't be opened"):
        SqliteDatabase(path)


def test_rows_come_back_bit_for_bit(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    rows = make_sources(5, [61000.0, 61001.5], flux=np.float32(1234.5678))
    rows["isNegative"][1] = True
    rows["raErr"] = np.nan
    with database.transaction():
        database.store(make_object(5), rows, make_exposure(1, 61000.0))
    found = database.sources_of(5)
    assert found.tobytes() == rows.tobytes()
    assert database.source(int(rows["diaSourceId"][1])).tobytes() == rows[1:].tobytes()
    assert len(database.source(42)) == 0
    database.close()
