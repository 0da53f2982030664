"""What tests of several rooms share: a tiny survey that is prepared once, and one night of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.nights import Prepared


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A prepared survey folder, not to be changed: `copy` it."""
    from tests.system.nights import prepare

    return prepare(tmp_path_factory.mktemp("tiny") / "survey")


@pytest.fixture(scope="session")
def night_stages(tiny_survey: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the tiny survey in which two nights are `ingested`, `scored`, and `done`; not to be changed."""
    from tests.system.nights import PIXELS, drain, ingest

    folder = tmp_path_factory.mktemp("night")
    root = tiny_survey.copy(folder / "done")
    ingest(root, tiny_survey.nights)
    shutil.copytree(root, folder / "ingested")
    drain(root, [PIXELS])
    shutil.copytree(root, folder / "scored")
    drain(root, ["associate", "archive"])
    return {name: folder / name for name in ("ingested", "scored", "done")}


@pytest.fixture(scope="session")
def finished_night(night_stages: dict[str, Path]) -> Path:
    """The survey folder in which two nights ran on the embedded bus; not to be changed."""
    return night_stages["done"]


@dataclass(frozen=True)
class ClusterSurvey:
    """The star cluster of the page "A first survey", after its last command."""

    root: Path
    printed: list[str]
    """By each shell block."""


@pytest.fixture(scope="session")
def cluster_survey(tmp_path_factory: pytest.TempPathFactory) -> ClusterSurvey:
    """Run the page's commands on the five real frames: three make the template, two run to alerts."""
    from tests.docs.page import run

    folder = tmp_path_factory.mktemp("cluster")
    printed = run("cluster", folder)
    return ClusterSurvey(folder / "cluster", printed)
