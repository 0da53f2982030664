"""The commands of the documentation's pages run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.page import BLOCK, FRAMES, PAGE, run
from tests.system.nights import alerts, outcomes
from workers.survey.config import load_survey

if TYPE_CHECKING:
    from tests.conftest import ClusterSurvey


def test_every_shell_block_of_the_page_is_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"```sh\n", text)) == sum(1 for what, *_ in BLOCK.findall(text) if what == "run")
    assert {label for _, label, _, _ in BLOCK.findall(text)} == {"synthetic", "cluster"}


def test_the_synthetic_survey(tmp_path: Path) -> None:
    survey, files = run("synthetic", tmp_path)
    root = tmp_path / "mysurvey"
    assert set(outcomes(root).values()) == {"alerts"}
    found = alerts(root)
    assert len(found) > 3
    assert all(str(number) in survey for number in found)
    assert (root / "alerts.avro").exists()
    assert (root / "report-20260228.html").exists()
    assert not re.search(r"^FAIL", survey, re.MULTILINE)
    assert re.search(r"scored.avro: \d+ of \d+ sources at or above", files)


@pytest.mark.realdata
@pytest.mark.skipif(not FRAMES.is_dir(), reason="real data not available: ../shared/data is absent")
def test_the_star_cluster(cluster_survey: ClusterSurvey) -> None:
    root, printed = cluster_survey.root, cluster_survey.printed
    assert "FAIL  reference: " in printed[1]
    assert "skydelta reference from-frame" in printed[1]
    survey = load_survey(root)
    assert survey.config.isr.steps == ("saturation", "gain", "variance", "cosmic_rays")
    assert len(outcomes(root)) == 2
    assert set(outcomes(root).values()) <= {"alerts", "no_alerts"}
