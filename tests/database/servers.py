"""PostgreSQL for tests: schemas of a given server, a server to be killed, and a wire that fails at will."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from schemas.errors import UnreachableError
from workers.database.postgres import PostgresDatabase

SCRIPT = Path(__file__).parents[2] / "docker" / "postgres" / "server.sh"


def has_server_programs() -> bool:
    return shutil.which("pg_ctl") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))


@contextmanager
def refused(text: str) -> Iterator[None]:
    """Expect UnreachableError with this text (a pattern) of a block, wherever in it."""
    with pytest.raises(UnreachableError, match=text):
        yield


@dataclass
class Schemas:
    """Calling it opens the database of a path: the schema that has the path's name."""

    url: str
    prefix: str
    names: set[str] = field(default_factory=set)

    def name(self, path: Path) -> str:
        name = f"{self.prefix}_{path.name}"
        self.names.add(name)
        return name

    def __call__(self, path: Path, **options: Any) -> PostgresDatabase:
        return PostgresDatabase(self.url, self.name(path), **options)

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as session:
            cursor = session.execute(text)
            return cursor.fetchall() if cursor.description else []

    def end_session_of(self, database: PostgresDatabase) -> None:
        """Have the server terminate it."""
        ((pid,),) = database.connection.query("SELECT pg_backend_pid()")
        assert self.ask(f"SELECT pg_terminate_backend({pid}, 5000)") == [(True,)]

    def drop(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as session:
            session.execute("SET client_min_messages TO warning")
            for name in self.names:
                session.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@dataclass
class Server:
    """A server of docker/postgres/server.sh."""

    folder: Path
    script: Path = SCRIPT
    url: str = ""

    def run(self, what: str) -> None:
        done = subprocess.run([str(self.script), what, str(self.folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.url = done.stdout.strip() or self.url


class Wire:
    """Carries bytes between clients and a server, each way `delay` seconds late; can lose the answer to a commit."""

    def __init__(self, url: str, delay: float = 0.0) -> None:
        parts = urlsplit(url)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self.delay = delay
        self.lose_commit = False
        self.lost = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = []
        port = self.listener.getsockname()[1]
        self.url = url.replace(f":{parts.port}", f":{port}")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.sockets += [client, server]
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            losing = threading.Event()
            for source, sink in ((client, server), (server, client)):
                under_way: Queue[tuple[float, bytes]] = Queue()
                threading.Thread(target=self._take, args=(source, under_way, losing), daemon=True).start()
                threading.Thread(target=self._give, args=(under_way, source, sink), daemon=True).start()

    def _take(self, source: socket.socket, under_way: Queue[tuple[float, bytes]], losing: threading.Event) -> None:
        data = b"begin"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            if losing.is_set():  # the server has answered the commit: it is done
                self.lost.set()
                data = b""
            elif self.lose_commit and b"COMMIT" in data:
                losing.set()
            under_way.put((time.monotonic() + self.delay, data))

    def _give(self, under_way: Queue[tuple[float, bytes]], source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while True:
                due, data = under_way.get()
                if not data:
                    break
                time.sleep(max(due - time.monotonic(), 0.0))
                sink.sendall(data)
        hang_up(source, sink)

    def close(self) -> None:
        self.listener.close()
        hang_up(*self.sockets)


def hang_up(*sides: socket.socket) -> None:
    for side in sides:
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)  # a close alone does not wake who reads from it
        side.close()
