"""PostgreSQL goes away in every way it can; nothing is kept by halves, and the next transaction finds it again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from schemas.errors import ConfigurationError, UnreachableError
from tests.database.servers import Schemas, Wire, refused
from tests.stream.copied_night import Night, Relay, numbers
from workers.database import Position, StoredOutput
from workers.database.conformance import make_announcement, make_exposure, make_object, make_sources
from workers.database.postgres import PostgresDatabase

HERE = Position("associate", "scored", 0, 7)
OUTPUTS = [StoredOutput("alerts", b"k", b"v", 1, {"night": b"20251120"})]
GONE = "does not answer: .*the next one opens a new session"


def write(database: PostgresDatabase) -> None:
    database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
    database.announce(make_announcement(1), [], 10)
    database.remember(HERE, OUTPUTS)


def assert_empty(database: PostgresDatabase) -> None:
    assert sum(database.counts().values()) == 0
    assert database.applied(HERE) is None


def assert_works(database: PostgresDatabase) -> None:
    with database.transaction([5]):
        assert database.applied(HERE) is None
        write(database)
    assert database.applied(HERE) == OUTPUTS
    database.close()


@pytest.mark.postgres
def test_a_session_lost_while_idle_is_not_noticed(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    postgres.end_session_of(database)
    assert_empty(database)
    postgres.end_session_of(database)
    assert_works(database)


@pytest.mark.postgres
def test_a_session_lost_before_a_question_undoes_the_transaction(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    with refused(GONE), database.transaction([5]):
        write(database)
        postgres.end_session_of(database)
        database.head(5)
    assert_empty(database)
    assert_works(database)


@pytest.mark.postgres
def test_a_session_lost_before_the_commit_undoes_the_transaction(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    with refused(GONE), database.transaction([5]):
        postgres.end_session_of(database)
        write_without_asking(database)
    assert_empty(database)
    assert_works(database)


def write_without_asking(database: PostgresDatabase) -> None:
    database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
    database.remember(HERE, OUTPUTS)


@pytest.mark.postgres
def test_an_error_that_was_swallowed_inside_still_undoes_the_transaction(postgres, tmp_path):
    database = postgres(tmp_path / "dia")
    with refused("undid a transaction"), database.transaction([5]):
        write(database)
        postgres.end_session_of(database)
        with pytest.raises(UnreachableError):
            database.head(5)
        with pytest.raises(UnreachableError, match="undid a transaction"):
            database.head(5)  # not on a new session, outside of the transaction
    assert_empty(database)
    assert_works(database)


@pytest.mark.postgres
def test_an_error_of_a_held_back_statement_is_not_lost(postgres, tmp_path):
    """As of a full disk: the server refuses a row, and the transaction with it."""
    database = postgres(tmp_path / "dia")
    database.connection.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger AS 'BEGIN RAISE SQLSTATE ''53100''; END' LANGUAGE plpgsql"
    )
    database.connection.execute("CREATE TRIGGER full_disk BEFORE INSERT ON dia_sources EXECUTE FUNCTION full_disk()")
    for ask in (False, True):
        with refused("is full .*: nothing of this transaction was written"), database.transaction([5]):
            write_without_asking(database)
            if ask:
                database.head(5)
        assert_empty(database)
    database.connection.execute("DROP TRIGGER full_disk ON dia_sources")
    assert_works(database)


@pytest.mark.postgres
def test_a_commit_whose_answer_is_lost_was_done(postgres, tmp_path):
    wire = Wire(postgres.url)
    database = PostgresDatabase(wire.url, postgres.name(tmp_path / "dia"))
    with refused(GONE), database.transaction([5]):
        write(database)
        wire.lose_commit = True
    assert wire.lost.is_set()
    wire.lose_commit = False
    with database.transaction([5]):
        assert database.applied(HERE) == OUTPUTS
    assert database.counts()["dia_sources"] == 1
    database.close()
    wire.close()


@pytest.mark.postgres
def test_a_silent_worker_loses_its_tiles(postgres, tmp_path):
    """Silent after questions, with statements held back: libpq's pipeline must not hide that it is idle."""
    zombie = postgres(tmp_path / "dia", idle_timeout=0.5)
    successor = postgres(tmp_path / "dia", idle_timeout=10.0)
    begin = time.monotonic()
    with refused(GONE), zombie.transaction([5]):
        assert zombie.applied(HERE) is None
        write(zombie)
        assert zombie.head(5) is None
        with successor.transaction([5]):
            assert 0.3 < time.monotonic() - begin < 8.0
            assert successor.applied(HERE) is None
            write(successor)
        write_without_asking(zombie)
    assert successor.counts()["dia_sources"] == 1
    assert zombie.applied(HERE) == OUTPUTS
    zombie.close()
    successor.close()


@pytest.mark.postgres
def test_a_worker_that_stopped_in_the_middle_of_a_send_is_ended_by_who_waits(postgres, tmp_path):
    """The server itself does not take such a session for idle."""
    zombie, successor = (postgres(tmp_path / "dia", idle_timeout=0.4) for _ in range(2))
    with refused("undid a transaction|does not answer"), zombie.transaction([5]):
        assert zombie.applied(HERE) is None
        zombie.connection.session.get().execute("SELECT 1")  # sent, without the Sync at the end of what is sent
        with refused("another worker holds what this one needs"), successor.transaction([5]):
            pass
        with successor.transaction([5]):
            write(successor)
        write(zombie)
    assert zombie.applied(HERE) == OUTPUTS
    zombie.close()
    successor.close()


@pytest.mark.postgres
def test_waiting_for_a_tile_ends(postgres, tmp_path):
    holder = postgres(tmp_path / "dia")
    waiting = postgres(tmp_path / "dia", idle_timeout=0.2)
    with holder.transaction([5]):
        write(holder)
        with (
            pytest.raises(UnreachableError, match="another worker holds what this one needs"),
            waiting.transaction([5]),
        ):
            pass
    with waiting.transaction([5]):
        assert waiting.applied(HERE) == OUTPUTS
    holder.close()
    waiting.close()


@pytest.mark.postgres
def test_a_stopped_process_loses_its_tiles_and_notices(postgres, tmp_path):
    program = f"""
import sys
from schemas.errors import UnreachableError
from workers.database import Position
from workers.database.conformance import make_announcement
from workers.database.postgres import PostgresDatabase
database = PostgresDatabase({postgres.url!r}, {postgres.name(tmp_path / "dia")!r}, idle_timeout=1.0)
try:
    with database.transaction([5]):
        database.applied(Position("associate", "scored", 0, 7))
        database.announce(make_announcement(1), [], 1)
        print("holds", flush=True)
        sys.stdin.readline()
except UnreachableError:
    sys.exit(4)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGSTOP)
    database = postgres(tmp_path / "dia", idle_timeout=20.0)
    with database.transaction([5]):
        assert database.applied(HERE) is None
        database.remember(HERE, OUTPUTS)
    process.send_signal(signal.SIGCONT)
    process.communicate("go on\n")
    assert process.returncode == 4
    assert database.announcements() == []
    database.close()


@dataclass
class Refusing:
    """A schema of a user whom the server takes what it gave."""

    postgres: Schemas
    schema: str
    user: str

    @property
    def url(self) -> str:
        return self.postgres.url.replace("postgres@", f"{self.user}@")

    def change(self, what: str) -> None:
        self.postgres.ask(what.format(schema=self.schema, user=self.user))


@pytest.fixture
def refusing(postgres, tmp_path) -> Iterator[Refusing]:
    schema = postgres.name(tmp_path / "dia")
    made = Refusing(postgres, schema, f"{postgres.prefix}_user")
    made.change("CREATE ROLE {user} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {user}")
    yield made
    made.change("DROP OWNED BY {user} CASCADE; DROP ROLE {user}")


LOGIN = "ALTER ROLE {user} RENAME TO {user}2", "ALTER ROLE {user}2 RENAME TO {user}"
REFUSALS = {
    "login": (*LOGIN, 'refuses .*"test_.*_user" does not exist; check user'),
    "right to the schema": (
        "ALTER SCHEMA {schema} OWNER TO postgres; REVOKE ALL ON SCHEMA {schema} FROM {user}",
        "ALTER SCHEMA {schema} OWNER TO {user}",
        "refuses: .*were its tables changed",
    ),
    "right to a table": (
        "ALTER TABLE {schema}.positions OWNER TO postgres",
        "ALTER TABLE {schema}.positions OWNER TO {user}",
        "permission denied",
    ),
    "a table": (
        "ALTER TABLE {schema}.positions RENAME TO away",
        "ALTER TABLE {schema}.away RENAME TO positions",
        'refuses: relation "positions" does not exist',
    ),
    "all tables": (
        "ALTER SCHEMA {schema} RENAME TO {schema}2; CREATE SCHEMA {schema} AUTHORIZATION {user}",
        "DROP SCHEMA {schema}; ALTER SCHEMA {schema}2 RENAME TO {schema}",
        "(are gone: bring them back|refuses: relation .* does not exist)",
    ),
    "the layout": (
        "UPDATE {schema}.meta SET value = 'other' || value WHERE name = 'layout'",
        "UPDATE {schema}.meta SET value = substr(value, 6) WHERE name = 'layout'",
        "another layout layout",
    ),
}


@pytest.mark.postgres
@pytest.mark.parametrize("lost", [True, False], ids=["new-session", "same-session"])
@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_refused_after_it_worked_may_pass(refusing, what, lost):
    """The error says what is refused; one who comes first hears that the configuration is wrong."""
    take, give, text = REFUSALS[what]
    database = PostgresDatabase(refusing.url, refusing.schema)
    with database.transaction([5]):
        write(database)
    refusing.change(take)
    if lost:
        database.connection.session.drop()
    if lost or what not in ("login", "the layout"):  # these are looked at in a new session alone
        for _ in range(3):
            with refused(f"{text}.*; it worked before, so it is tried again"), database.transaction([5]):
                database.applied(HERE)
    if what in ("login", "right to the schema", "the layout"):
        with pytest.raises(ConfigurationError, match=text):
            PostgresDatabase(refusing.url, refusing.schema)
    refusing.change(give)
    with database.transaction([5]):
        assert database.applied(HERE) == OUTPUTS
    database.close()


@pytest.mark.postgres
def test_no_message_is_buried_for_a_refused_login(refusing, tmp_path):
    """The runner pauses until the login is given again; the messages come all, in order."""
    take, give, _ = REFUSALS["login"]
    night, tries = Night(tmp_path), []
    database = PostgresDatabase(refusing.url, refusing.schema)

    def work(message):
        if message.value == b"3":
            tries.append(message)
            if len(tries) == 1:
                refusing.change(take)
                database.connection.session.drop()
            if len(tries) == 5:
                refusing.change(give)
        database.counts()

    report = night.run(Relay(work))
    assert night.values() == numbers(10)
    assert (report.dead_letters, report.messages, len(tries)) == (0, 10, 5)
    assert report.pauses > 0
    database.close()


def test_a_server_killed_inside_a_transaction_is_found_again(server):
    database = PostgresDatabase(server.url)
    with refused(GONE), database.transaction([5]):
        write(database)
        assert database.head(5) is None
        server.run("kill")
        write_without_asking(database)
    with pytest.raises(UnreachableError, match="check that the server runs"), database.transaction([5]):
        pass
    with pytest.raises(UnreachableError):
        database.open_visits()
    server.run("start")
    assert_empty(database)
    assert_works(database)


def test_what_was_committed_before_a_kill_is_there_after_it(server):
    database = PostgresDatabase(server.url)
    with database.transaction([5]):
        write(database)
    server.run("kill")
    server.run("start")
    assert database.applied(HERE) == OUTPUTS
    server.run("stop")
    server.run("start")
    with database.transaction([5]):
        assert database.applied(HERE) == OUTPUTS
    database.close()


def test_a_worker_waits_out_a_restart(server):
    """One that tries again, as the runner does, applies each message once."""
    database, done = PostgresDatabase(server.url), []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            position = Position("associate", "scored", 0, len(done))
            try:
                with database.transaction([5]):
                    if database.applied(position) is None:
                        database.announce(make_announcement(position.offset), [], 10)
                        database.remember(position, [])
            except UnreachableError:
                time.sleep(0.05)
            else:
                done.append(position.offset)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(2):
        count = len(done)
        while len(done) < count + 20:
            time.sleep(0.01)
        server.run("kill")
        server.run("start")
    count = len(done)
    while len(done) < count + 20:
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert [one.visit for one in database.announcements()] == done == list(range(len(done)))
    database.close()


def test_the_disk_of_the_server_fills_up(server, small_disk):
    folder = small_disk(40)
    subprocess.run(["chown", "postgres", str(folder)], check=True)
    with psycopg.connect(server.url, autocommit=True) as session:
        session.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        session.execute("ALTER DATABASE postgres SET default_tablespace = small")
    database = PostgresDatabase(server.url)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(30_000_000))
    kept = 0
    with refused("disk of the DIA database .* is full"):
        for number in range(1, 200):
            with database.transaction([5]):
                mjds = [61000.0 + number + step / 1000.0 for step in range(100)]
                database.store(make_object(number), make_sources(number, mjds), make_exposure(number, 61000.0))
                database.remember(Position("associate", "scored", 0, number), [])
            kept = number
    assert 0 < kept < 199
    assert database.counts()["dia_sources"] == 100 * kept
    assert database.applied(Position("associate", "scored", 0, kept + 1)) is None
    ballast.unlink()
    assert_works_after(database, kept)


def assert_works_after(database: PostgresDatabase, kept: int) -> None:
    with database.transaction([5]):
        database.store(make_object(999), make_sources(999, [61000.0]), make_exposure(999, 61000.0))
    assert database.counts()["dia_sources"] == 100 * kept + 1
    database.close()
