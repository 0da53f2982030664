"""The commands of the documentation's pages run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.docs.page import BLOCK, CALIBRATION, FRAMES, PAGE, run
from tests.system.nights import alerts, outcomes
from workers.imaging.fits import read_exposure
from workers.isr.masters import open_store
from workers.isr.pipeline import needed_kinds
from workers.survey.config import load_survey

if TYPE_CHECKING:
    from tests.conftest import ClusterSurvey


@pytest.mark.parametrize(("page", "labels"), [(PAGE, {"synthetic", "cluster"}), (CALIBRATION, {"camera"})])
def test_every_shell_block_of_a_page_is_run(page: Path, labels: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"```sh\n", text)) == sum(1 for what, *_ in BLOCK.findall(text) if what == "run")
    assert {label for _, label, _, _ in BLOCK.findall(text)} == labels


def test_every_master_of_a_detector(tmp_path: Path) -> None:
    (printed,) = run("camera", tmp_path, CALIBRATION)
    survey = load_survey(tmp_path / "labcam")
    store, camera = open_store(survey), survey.camera
    kinds = set(needed_kinds(survey.config.isr, band="r"))
    assert {entry.kind for entry in store.entries()} == kinds
    assert kinds >= {"crosstalk", "linearity", "ptc", "cti", "brighter_fatter", "flat", "defects"}
    assert all(re.search(rf"^{kind} +\* ", printed, re.MULTILINE) for kind in kinds)
    transfer = store.newest("ptc", 0)
    assert transfer is not None
    true_gain = np.array([float(amplifier.gain or 0) for amplifier in camera.detector(0).amplifiers])
    pulls = (transfer.tables["gain"] - true_gain) / transfer.tables["gainErr"]
    assert np.abs(pulls).max() < 4
    assert np.abs(transfer.tables["gain"] / true_gain - 1).max() < 0.02
    assert "brighter_fatter" in (tmp_path / "labcam" / "calibrations" / "report.html").read_text(encoding="utf-8")
    (calibrated,) = (survey.archive / "calexps").glob("*/*.fits")
    assert set(read_exposure(calibrated).provenance) >= kinds


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
