"""The databases under test: SQLite files always, PostgreSQL schemas where a server is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.database.servers import Schemas, Server, has_server_programs
from workers.database.conformance import MakeDatabase
from workers.database.sqlite import SqliteDatabase


@pytest.fixture(scope="session")
def postgres_url() -> str:
    url = os.environ.get("SKYDELTA_TEST_POSTGRES", "")
    if not url:
        pytest.skip("no PostgreSQL: set SKYDELTA_TEST_POSTGRES to its URL")
    return url


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Schemas]:
    """Opens databases in schemas of this test's own, by path; they are dropped in the end."""
    schemas = Schemas(postgres_url, f"test_{uuid.uuid4().hex[:12]}")
    yield schemas
    schemas.drop()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def make(request: pytest.FixtureRequest) -> MakeDatabase:
    """Opens databases of each kind by path."""
    return SqliteDatabase if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL server of the test's own, to be killed."""
    if not has_server_programs():
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(tempfile.mkdtemp(prefix="skydelta-pg-"))  # not tmp_path: the server's user may not pass there
    server = Server(folder)
    server.run("start")
    yield server
    subprocess.run([str(server.script), "kill", str(folder)], check=False, capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some megabytes; only root may."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        path = Path(tempfile.mkdtemp(prefix="skydelta-disk-"))
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(path)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
            path.rmdir()
            pytest.skip("a small file system can't be mounted here")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()
