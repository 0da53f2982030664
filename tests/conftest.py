"""What tests of several rooms share: a tiny survey that is prepared once, and one night of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.nights import Prepared


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A prepared survey folder, not to be changed: `copy` it."""
    from tests.system.nights import prepare

    return prepare(tmp_path_factory.mktemp("tiny") / "survey")


@pytest.fixture(scope="session")
def finished_night(tiny_survey: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny survey in which two nights ran on the embedded bus; not to be changed."""
    from tests.system.nights import drain, ingest

    root = tiny_survey.copy(tmp_path_factory.mktemp("night") / "survey")
    ingest(root, tiny_survey.nights)
    drain(root)
    return root
