"""The drill as an operator runs it, with servers of its own: a hundred kills in one night, and every other fault.

`pytest -m slow tests/drill -s` takes 45 minutes on two cores; it needs Java with `docker/kafka/broker.sh fetch`,
PostgreSQL, and root for the disk that runs full.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.database.servers import SCRIPT as SERVER
from tests.database.servers import has_server_programs
from tests.stream.kafka_brokers import call, missing
from workers.drill.faults import FAULTS
from workers.drill.night import Stage
from workers.drill.place import Place
from workers.drill.report import PASSED, SKIPPED
from workers.drill.run import prepare_stage, run_fault
from workers.drill.settings import Commands, DrillSettings

ROOT = Path(__file__).parents[2]
BROKER = ROOT / "docker/kafka/broker.sh"
PLACES = [Place(bus, database) for bus in ("embedded", "kafka") for database in ("sqlite", "postgresql")]
NOT_HERE = {"broker": "embedded", "database": "sqlite"}
"""Bus or database that the fault can't happen to."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.skipif(not has_server_programs(), reason="no PostgreSQL server is installed"),
]


@pytest.fixture(scope="module")
def settings() -> Iterator[DrillSettings]:
    """A broker and a database server that may be killed."""
    folder = Path(tempfile.mkdtemp(prefix="skydelta-drill-"))
    folder.chmod(0o755)  # the database server runs as a user of its own
    broker, server = folder / "broker", folder / "postgres"
    try:
        yield DrillSettings(
            folder,
            call("broker.sh", "start", broker),
            call("../postgres/server.sh", "start", server),
            broker=Commands(f"{BROKER} kill {broker}", f"{BROKER} start {broker}"),
            server=Commands(f"{SERVER} kill {server}", f"{SERVER} start {server}"),
        )
    finally:
        call("broker.sh", "stop", broker)
        call("../postgres/server.sh", "stop", server)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def tiny(settings: DrillSettings) -> Stage:
    return prepare_stage(settings, print)


@pytest.fixture(scope="module")
def long_night(settings: DrillSettings) -> Stage:
    return prepare_stage(replace(settings, size="long"), print)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.bus}-{place.database}")
def test_a_hundred_kills(long_night: Stage, place: Place) -> None:
    found = run_fault("kill", long_night, place)
    print(found)
    assert found.verdict == PASSED, found.notes
    assert found.injections >= 100


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.bus}-{place.database}")
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"kill"}))
def test_every_other_fault(tiny: Stage, fault: str, place: Place) -> None:
    found = run_fault(fault, tiny, place)
    print(found)
    away = NOT_HERE.get(fault) in (place.bus, place.database)
    assert found.verdict == (SKIPPED if away else PASSED), found.notes
