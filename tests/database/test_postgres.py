"""What is particular to PostgreSQL: its own schema, logins, shared creation, round trips."""

from __future__ import annotations

import subprocess
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError, UnreachableError
from tests.associate.scored_night import survey_of
from tests.database.servers import Wire
from workers.connect import open_database
from workers.database import LineState, Position, StoredOutput
from workers.database.conformance import make_announcement, make_exposure, make_object, make_sources
from workers.database.postgres import PostgresDatabase
from workers.survey.config import SurveyConfig

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("name", ["diaSource", "layout"])
def test_a_schema_with_another_layout_is_refused(name, postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    database.connection.execute("UPDATE meta SET value = 'other' WHERE name = ?", (name,))
    database.close()
    with pytest.raises(ConfigurationError, match=rf"another {name} layout \(other"):
        postgres(tmp_path / "dia")


def test_schemas_share_nothing(postgres, tmp_path):
    one, other = postgres(tmp_path / "one"), postgres(tmp_path / 'Odd "name" of another')
    with one.transaction([1]):
        one.applied(Position("associate", "scored", 0, 1))
        one.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
        with other.transaction([1]):  # waits for nothing
            assert other.applied(Position("associate", "scored", 0, 1)) is None
    assert one.counts()["dia_sources"] == 1
    assert other.counts()["dia_sources"] == 0
    one.close()
    other.close()


def test_a_wrong_url_is_told(postgres_url):
    parts = urlsplit(postgres_url)
    with pytest.raises(ConfigurationError, match="is no PostgreSQL connection string"):
        PostgresDatabase("postgresql://127.0.0.1:port/x?no_such_option=1")
    with pytest.raises(ConfigurationError, match=r'refuses .*"no_such_database" does not exist; check user'):
        PostgresDatabase(parts._replace(path="/no_such_database").geturl())
    with pytest.raises(ConfigurationError, match=r"refuses .*nobody.* does not exist; check user"):
        PostgresDatabase(postgres_url.replace("postgres@", "nobody:secret@"))
    with pytest.raises(UnreachableError, match=r"does not answer: .*check that the server runs"):
        PostgresDatabase(postgres_url.replace(f":{parts.port}", ":1"))
    with pytest.raises(ConfigurationError, match="1 to 63 bytes"):
        PostgresDatabase(postgres_url, "x" * 64)


def test_no_message_shows_the_password(postgres_url):
    with pytest.raises(ConfigurationError) as caught:
        PostgresDatabase(postgres_url.replace("postgres@", "nobody:pass4word@"))
    assert "pass4word" not in str(caught.value)


def test_a_user_who_may_not_write_is_told_and_may_read(postgres, tmp_path):
    name = postgres.name(tmp_path / "dia")
    role = name[:20]
    postgres.ask(f"CREATE ROLE {role} LOGIN")
    try:
        url = postgres.url.replace("postgres@", f"{role}@")
        with pytest.raises(ConfigurationError, match="permission denied"):
            PostgresDatabase(url, name)
        owner = postgres(tmp_path / "dia")
        postgres.ask(f"GRANT USAGE ON SCHEMA {name} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {role}")
        reader = PostgresDatabase(url, name)
        assert reader.open_visits() == []
        with pytest.raises(UnreachableError, match="permission denied.*it worked before"), reader.transaction():
            reader.announce(make_announcement(1), [], 1)
        assert owner.announcements() == []
        reader.close()
        owner.close()
    finally:
        postgres.ask(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_values_that_can_not_be_kept_are_an_error_of_their_data(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    with pytest.raises(DataError, match="can't keep this"), database.transaction():
        database.announce(make_announcement(1, sha256="\x00"), [], 1)
    with database.transaction():
        assert database.announce(make_announcement(1), [], 1) == "new"
    database.close()


def test_a_short_session_timeout_does_not_end_a_transaction_that_computes(postgres, tmp_path):
    survey = survey_of(tmp_path)
    database = {"kind": "postgresql", "url": postgres.url, "namespace": postgres.name(tmp_path / "dia")}
    values = survey.config.model_dump() | {"database": database, "bus": {"session_timeout_s": 0.1}}
    opened = open_database(survey.model_copy(update={"config": SurveyConfig.model_validate(values)}))
    with opened.transaction([5]):
        assert opened.open_visits() == []
        time.sleep(0.8)
        assert opened.open_visits() == []
    opened.close()


def test_reading_leaves_no_transaction_open(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    ((pid,),) = database.connection.query("SELECT pg_backend_pid()")
    with database.transaction([1]):
        database.announce(make_announcement(1), [], 1)
    for read in (database.open_visits, database.counts, database.announcements, lambda: database.head(1)):
        read()
        assert postgres.ask(f"SELECT state FROM pg_stat_activity WHERE pid = {pid}") == [("idle",)]
    assert postgres.ask(f"SELECT * FROM pg_locks WHERE pid = {pid}") == []
    database.close()
    database.close()
    with pytest.raises(UnreachableError, match="was closed here"):
        database.counts()


def test_commits_are_durable_whatever_the_server_prefers(postgres, tmp_path):
    url = postgres.url + "?options=-c%20synchronous_commit%3Doff%20-c%20default_transaction_isolation%3Dserializable"
    database = PostgresDatabase(url, postgres.name(tmp_path / "dia"))
    with database.transaction():
        found = database.connection.query("SELECT current_setting('synchronous_commit'), current_setting('fsync')")
        assert found == [("on", "on")]
        assert database.connection.query("SHOW transaction_isolation") == [("read committed",)]
    database.close()


def test_transactions_do_not_nest(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    with database.transaction([1]), pytest.raises(RuntimeError, match="inside another one"), database.transaction([2]):
        pass
    database.close()


def test_round_trips_are_few(postgres, tmp_path):
    """5,000 rows take no longer than what the exposure asks: at 200 ms each would take a quarter of an hour."""
    wire = Wire(postgres.url, delay=0.1)
    database = PostgresDatabase(wire.url, postgres.name(tmp_path / "dia"))
    sources = np.concatenate([make_sources(1, [61000.0])] * 5000)
    sources["diaObjectId"] = sources["diaSourceId"] = np.arange(1, 5001)
    announcement = make_announcement(1, 0, 3, 4)
    begin = time.monotonic()
    with database.transaction([3, 4]):  # one
        assert database.applied(Position("g", "t", 0, 1)) is None  # two
        database.announce(announcement, [0], 1)  # three
        database.enqueue(1, 0, False)
        database.store(make_object(1), sources, make_exposure(1, 61000.0))
        database.keep_line_state(20251120, LineState(1, 61001.0, 1))
        database.finish(1, 0, "alerts", 9, 61001.0)
        database.remember(Position("g", "t", 0, 1), [StoredOutput("alerts", b"k", bytes(10**6), 1)] * 9)
        # the commit is the fourth, and takes all rows along
    seconds = time.monotonic() - begin
    assert database.counts()["dia_sources"] == 5000
    assert 0.8 < seconds < 8.0
    database.close()
    wire.close()


def test_searches_go_by_their_index(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    asked = []
    with database.transaction():
        connection = database.connection
        connection.execute(
            "INSERT INTO visits SELECT n, n, 0, 0, CASE WHEN n < 20000 THEN 1 ELSE 0 END, '0' "
            "FROM generate_series(1, 20010) n"
        )
        connection.execute(
            "INSERT INTO announcements(visit, detector, tile, mjd, sha256, night, outcome, alerts, tiles, late) "
            "SELECT n, 0, mod(n, 50), n, 's', 0, 'open', 0, '0', 0 FROM generate_series(1, 20010) n"
        )
        connection.execute("INSERT INTO line SELECT n, 0, mod(n, 50), n FROM generate_series(1, 20010) n")
    query = database.connection.query

    def spy(text, values=()):
        asked.append((text, values))
        return query(text, values)

    database.connection.query = spy
    assert database.head(3).visit == 3
    assert len(database.open_visits()) == 11
    for text, values in asked:
        plan = "\n".join(row[0] for row in query(f"EXPLAIN {text}", values))
        assert "Index" in plan
        assert "Seq Scan" not in plan, plan
    database.close()


def test_processes_make_the_same_schema_at_once(postgres, tmp_path):
    path = tmp_path / "dia"
    program = f"""
import sys
from workers.database.conformance import make_announcement
from workers.database.postgres import PostgresDatabase
sys.stdin.readline()
database = PostgresDatabase({postgres.url!r}, {postgres.name(path)!r})
with database.transaction([int(sys.argv[1])]):
    print(database.announce(make_announcement(int(sys.argv[1])), [], 1))
"""
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    assert [process.communicate("go\n")[0].strip() for process in crowd] == ["new"] * 4
    database = postgres(path)
    assert sorted(one.visit for one in database.announcements()) == [0, 1, 2, 3]
    database.close()


def test_without_its_package_it_says_what_to_install():
    program = """
import sys
sys.modules["psycopg"] = None
import workers.database.sqlite
from schemas.errors import ConfigurationError
try:
    import workers.database.postgres
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install skydelta[postgres]" in done.stdout
