"""What is particular to the SQLite file: crashes, foreign files, full disks, many processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError, UnreachableError
from tests.database.servers import refused
from workers.database import Position
from workers.database.conformance import make_announcement, make_exposure, make_object, make_sources
from workers.database.sqlite import SqliteDatabase


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


@pytest.mark.parametrize("name", ["diaSource", "diaObject", "exposure", "layout"])
def test_a_file_with_another_layout_is_refused(name, tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    database.connection.execute("UPDATE meta SET value = 'other' WHERE name = ?", (name,))
    database.close()
    with pytest.raises(ConfigurationError, match=rf"dia\.sqlite has another {name} layout \(other"):
        SqliteDatabase(tmp_path / "dia.sqlite")


def test_a_file_of_the_first_layout_is_refused_and_left_alone(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    for (name,) in database.connection.query("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'meta'"):
        database.connection.execute(f"DROP TABLE {name}")
    database.connection.execute("UPDATE meta SET value = '1' WHERE name = 'layout'")
    database.close()
    with pytest.raises(ConfigurationError, match=r"another layout layout \(1, here 3\); use the skydelta version"):
        SqliteDatabase(tmp_path / "dia.sqlite")


def test_a_file_that_is_no_database_is_unreachable(tmp_path):
    path = tmp_path / "dia.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(UnreachableError, match=r"dia\.sqlite can't be opened"):
        SqliteDatabase(path)


def test_a_row_that_can_not_be_kept_is_an_error_of_its_data(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    with pytest.raises(DataError, match=r"dia\.sqlite can't keep this: NOT NULL"), database.transaction():
        database.announce(make_announcement(1, midpointMjdTai=float("nan")), [], 1)
    database.close()


def test_a_full_file_is_told_and_goes_on_when_there_is_room(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    ((pages,),) = database.connection.query("PRAGMA page_count")
    database.connection.query(f"PRAGMA max_page_count = {pages + 3}")
    mjds = np.arange(61000.0, 61500.0).tolist()
    with pytest.raises(UnreachableError, match=r"disk of the DIA database .* is full"), database.transaction([1]):
        database.store(make_object(1), make_sources(1, mjds), make_exposure(1, 61000.0))
    assert sum(database.counts().values()) == 0
    database.connection.query("PRAGMA max_page_count = 100000")
    with database.transaction([1]):
        database.store(make_object(1), make_sources(1, mjds), make_exposure(1, 61000.0))
    assert database.counts()["dia_sources"] == len(mjds)
    database.close()


def test_a_full_disk_is_told_and_goes_on_when_there_is_room(small_disk):
    folder = small_disk(4)
    database = SqliteDatabase(folder / "dia.sqlite")
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(3_000_000))
    kept = 0
    with refused("is full"):
        for number in range(1, 100):
            with database.transaction([1]):
                mjds = (61000.0 + np.arange(50) + number / 100).tolist()
                database.store(make_object(number), make_sources(number, mjds), make_exposure(number, 61000.0))
            kept = number
    assert 0 < kept < 99
    assert database.counts()["dia_objects"] == kept
    ballast.unlink()
    with database.transaction([1]):
        database.store(make_object(1000), make_sources(1000, [61000.0]), make_exposure(1000, 61000.0))
    assert database.counts()["dia_sources"] == 50 * kept + 1
    database.close()


def test_a_reader_opens_the_file_while_a_transaction_is_under_way(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    with database.transaction():
        database.announce(make_announcement(1), [], 1)
        reader = SqliteDatabase(tmp_path / "dia.sqlite")
        assert reader.open_visits() == []
        reader.close()
    database.close()
    with pytest.raises(UnreachableError, match="closed database"):
        database.counts()


def test_searches_go_by_their_index(tmp_path):
    database = SqliteDatabase(tmp_path / "dia.sqlite")
    plans = []
    database.connection.raw.set_trace_callback(plans.append)
    database.head(3)
    database.open_visits()
    database.history([1, 2], 0.0, (1.0, 1))
    database.objects_near(np.array([1.0]), np.array([1.0]), 1.0)
    database.connection.raw.set_trace_callback(None)
    for text in plans:
        steps = [row[-1] for row in database.connection.query(f"EXPLAIN QUERY PLAN {text}")]
        assert steps
        scans = [step for step in steps if step.startswith("SCAN") and "json_each" not in step]
        assert scans in ([], ["SCAN visits USING INDEX visits_open"]), text
    database.close()


def test_processes_make_the_same_file_at_once(tmp_path):
    path = tmp_path / "new" / "dia.sqlite"
    program = f"""
import sys
from workers.database.conformance import make_announcement
from workers.database.sqlite import SqliteDatabase
sys.stdin.readline()
database = SqliteDatabase({str(path)!r})
with database.transaction():
    print(database.announce(make_announcement(int(sys.argv[1])), [], 1))
"""
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    assert [process.communicate(os.linesep)[0].strip() for process in crowd] == ["new"] * 4
    database = SqliteDatabase(path)
    assert sorted(one.visit for one in database.announcements()) == [0, 1, 2, 3]
    database.close()
