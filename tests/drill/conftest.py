"""One prepared survey and one undisturbed night for all of this room's tests."""

from __future__ import annotations

import os

import pytest

from workers.drill.night import Stage
from workers.drill.place import Place
from workers.drill.run import prepare_stage
from workers.drill.settings import DrillSettings

KAFKA, POSTGRES = os.environ.get("SKYDELTA_TEST_KAFKA", ""), os.environ.get("SKYDELTA_TEST_POSTGRES", "")


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The smallest night: two detectors, four live visits."""
    folder = tmp_path_factory.mktemp("drill")
    return prepare_stage(DrillSettings(folder, KAFKA, POSTGRES, kills=6, size="quick", limit=120.0), print)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """The laptop (embedded-sqlite), or servers where the environment names them (kafka-postgresql)."""
    bus, database = request.param.split("-")
    if (bus == "kafka" and not KAFKA) or (database == "postgresql" and not POSTGRES):
        pytest.skip("no broker or no database server: set SKYDELTA_TEST_KAFKA and SKYDELTA_TEST_POSTGRES")
    return Place(bus, database)
