"""The DIA database in PostgreSQL: several workers, on one machine or many, each writing its own sky tiles."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any

from schemas.errors import ConfigurationError, SkydeltaError, UnreachableError

try:
    import psycopg
except ImportError as missing:
    raise ConfigurationError(
        "survey.toml [database] names a PostgreSQL server, and the package psycopg is not installed: "
        "pip install skydelta[postgres]"
    ) from missing

from workers.database.catalogue import SqlCatalogue
from workers.database.connection import Values
from workers.database.line import SqlLine
from workers.database.positions import SqlPositions
from workers.database.postgres_errors import passing, translated
from workers.database.postgres_login import Login, RawSession
from workers.database.reader import SqlReader

__all__ = ["PostgresDatabase"]


class PostgresDatabase(SqlPositions, SqlLine, SqlCatalogue, SqlReader):
    """`Database` in one schema of a PostgreSQL database; see the port for the promises.

    Parameters
    ----------
    url : str
        ``postgresql://user@host:port/database``, or any connection string of libpq. The session must be one with the
        server, not a share of one (a pooler in transaction mode).
    schema : str
        PostgreSQL schema that holds the tables, made on first use; at most 63 bytes.
    idle_timeout : float
        Seconds after which the server ends a transaction whose worker sends nothing, a stopped one say; its sky tiles
        are free then. A transaction waits for tiles at most twice as long.

    Raises
    ------
    ConfigurationError
        psycopg is not installed, the URL is wrong, the server refuses the login or the right to make tables, or the
        schema has another layout. All this of the first session: where the server refuses later what it gave before,
        that is an UnreachableError, of any method.
    UnreachableError
        The server does not answer.
    """

    def __init__(self, url: str, schema: str = "skydelta", idle_timeout: float = 60.0) -> None:
        super().__init__(_Connection(Login(url, schema, idle_timeout)))


@lru_cache(maxsize=256)
def _marked(text: str) -> bytes:
    """Return a statement with the marks that psycopg wants."""
    return text.replace("?", "%s").encode()


class _Session:
    """The one session of a connection; given up after any error of the database, and opened again when asked for."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.begun = False
        """A transaction is under way: it can't go on in another session."""
        self.closed = False
        self._raw: RawSession | None = None

    def get(self) -> RawSession:
        """Return the session, opening one where there is none."""
        if self._raw is None:
            if self.closed:
                raise UnreachableError(f"the DIA database {self.login.place} was closed here before")
            if self.begun:
                raise UnreachableError(f"the DIA database {self.login.place} undid a transaction after an error in it")
            self._raw = self.login.open()
            self._end = weakref.finalize(self, self._raw.close)
            self._end.atexit = False
        return self._raw

    def drop(self) -> None:
        """Give it up; the server undoes its transaction and frees its locks."""
        if self._raw is not None:
            self._end()
            self._raw = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of psycopg into errors of the tree."""
        try:
            yield
        except psycopg.Error as error:
            self.drop()
            if isinstance(error, psycopg.errors.LockNotAvailable):
                self.login.end_the_silent()
            raise passing(translated(error, self.login.place)) from error


class _Connection:
    """A connection that gets over the loss of its session, and needs few round trips.

    A transaction is in libpq's pipeline mode: statements without an answer are held back, and go out in one piece with
    the next question or the commit. Each piece ends with a Sync and nothing behind it: only then does the server take
    a silent session for idle in its transaction, and end it after a while. (A Flush, as psycopg sends on its own, or a
    statement sent ahead would let a stopped worker hold its tiles for ever.) Isolation is READ COMMITTED: what is asked
    under a lock sees what its last holder wrote.
    """

    exclusive = False

    def __init__(self, login: Login) -> None:
        self.login = login
        self.session = _Session(login)
        self.session.get()
        self._pipeline: psycopg.Pipeline | None = None
        self._pipelines = ExitStack()
        self._held: list[tuple[str, Sequence[Values]]] = []

    def begin(self, tiles: Collection[int]) -> None:
        """Begin a transaction that holds the sky tiles; tries a new session once where the old one was lost."""
        if self.session.begun:
            raise RuntimeError("a transaction of the DIA database began inside another one")
        locks = [f"SELECT pg_advisory_xact_lock({self.login.key('tile', int(tile))})" for tile in sorted(set(tiles))]
        text = "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *locks]).encode()
        raw = self.session.get()
        with self.session.errors():
            try:
                raw.execute(text, prepare=False)
            except psycopg.OperationalError:
                if not raw.broken:
                    raise
                self.session.drop()  # lost while it was idle, by a restart of the server say
                raw = self.session.get()
                raw.execute(text, prepare=False)
            self._pipeline = self._pipelines.enter_context(raw.pipeline())
        self.session.begun = True

    def commit(self) -> None:
        """Make the transaction durable; where the answer is lost, the position tells whether it was."""
        raw = self.session.get()
        with self.session.errors():
            self._send_held(raw)
            cursor = raw.execute("COMMIT")
            self._pipelines.close()
        self._pipeline = None
        if cursor.statusmessage != "COMMIT":
            self.session.drop()
            self.session.get()
        self.session.begun = False

    def rollback(self) -> None:
        """Undo the transaction, if there is one; never raises."""
        self._held.clear()
        self._pipeline = None
        with suppress(psycopg.Error):
            self._pipelines.close()
        with suppress(SkydeltaError), self.session.errors():
            self.session.get().execute("ROLLBACK")
        self.session.begun = False

    def lock(self, *names: str | int) -> None:
        """Wait for what goes by these names, and hold it until the transaction ends."""
        if self.session.begun:
            self.execute("SELECT pg_advisory_xact_lock(?)", (self.login.key(*names),))

    def query(self, text: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; outside of a transaction it tries a new session once, too."""
        raw = self.session.get()
        with self.session.errors():
            try:
                return self._answer(raw, text, values)
            except psycopg.OperationalError:
                if self.session.begun or not raw.broken:
                    raise
                self.session.drop()
                return self._answer(self.session.get(), text, values)

    def _answer(self, raw: RawSession, text: str, values: Values) -> list[tuple[Any, ...]]:
        self._send_held(raw)
        cursor = raw.cursor(binary=True).execute(_marked(text), values)
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.fetchall()

    def _send_held(self, raw: RawSession) -> None:
        for text, rows in self._held:
            raw.cursor().executemany(_marked(text), rows)
        self._held.clear()

    def execute(self, text: str, values: Values = ()) -> None:
        """Run one statement that gives no rows; its errors may come with the next question or the commit."""
        self.executemany(text, [values])

    def executemany(self, text: str, rows: Sequence[Values]) -> None:
        """Run one statement, that gives no rows, for many rows of values."""
        raw = self.session.get()
        if rows:
            self._held.append((text, rows))
        if not self.session.begun:
            with self.session.errors():
                self._send_held(raw)

    def among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        """Return the condition that `column` is one of many numbers, and the value of its one `?`."""
        return f"{column} = ANY(?)", [int(number) for number in numbers]

    def close(self) -> None:
        """End the session; closing twice is allowed."""
        self.session.closed = True
        self.session.drop()
