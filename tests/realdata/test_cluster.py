"""Five dithered frames of a star cluster, uncalibrated: three make the template, two run to alerts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage
from scipy.spatial import cKDTree

from tests.docs.page import FRAMES
from tests.system.nights import alerts, dead_letters, messages, outcomes, packets_of
from workers.connect import open_database
from workers.imaging.fits import read_exposure
from workers.imaging.masks import BLOCKING
from workers.survey.config import load_survey
from workers.templates.store import TemplateStore

if TYPE_CHECKING:
    from tests.conftest import ClusterSurvey

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FRAMES.is_dir(), reason="real data not available: ../shared/data is absent"),
]
SIGMA = 8.0


@pytest.fixture(scope="module")
def hot_pixels() -> np.ndarray:
    """Return (x, y) of pixels that stand out in all five raw frames at one place, alone: no star does."""
    excess = []
    for path in sorted(FRAMES.glob("*.fit")):
        raw = fits.getdata(path).astype(float)
        above = raw - ndimage.median_filter(raw, 5)
        excess.append(above / (1.4826 * np.median(np.abs(above))))
    typical = np.median(excess, axis=0)
    beside = ndimage.maximum_filter(typical, footprint=[[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    y, x = np.nonzero((np.min(excess, axis=0) > SIGMA) & (beside < 0.5 * typical))
    return np.stack([x, y], axis=1).astype(float)


def test_three_frames_make_the_template_and_two_are_searched(cluster_survey: ClusterSurvey) -> None:
    survey = load_survey(cluster_survey.root)
    manifest = TemplateStore(survey.templates).manifest()
    assert manifest is not None
    assert {cell.nEpochs for cell in manifest.cells} == {3}
    assert max(cell.lastEpochMjdTai for cell in manifest.cells) < survey.config.templates.end
    assert set(outcomes(cluster_survey.root).values()) <= {"alerts", "no_alerts"}
    assert len(outcomes(cluster_survey.root)) == 2
    assert dead_letters(cluster_survey.root) == []
    for _, record in messages(cluster_survey.root, "scored"):
        if "template" in record:
            assert record["template"]["nEpochs"] == 3
            assert record["metrics"]["templateCoverage"] > 0.95


def test_hot_pixels_do_not_become_alerts(cluster_survey: ClusterSurvey, hot_pixels: np.ndarray) -> None:
    assert len(hot_pixels) > 100
    tree = cKDTree(hot_pixels)
    found = [packet["diaSource"] for packet in packets_of(alerts(cluster_survey.root))]
    near = [source for source in found if tree.query((source["x"], source["y"]))[0] <= 2.0]
    assert near == []


def test_there_are_few_alerts_of_a_field_where_nothing_happens(cluster_survey: ClusterSurvey) -> None:
    """Twenty seconds lie between the frames: what differs is the air, the tracking and the detector."""
    database = open_database(load_survey(cluster_survey.root))
    found = alerts(cluster_survey.root)
    sources = [len(database.sources_in(one.visit, one.detector)) for one in database.announcements()]
    print(f"{len(found)} alerts, {sources} sources in the two frames")
    assert sum(sources) <= 20
    assert len(found) <= 4


def test_the_solution_agrees_with_the_shifts_that_iraf_measured(cluster_survey: ClusterSurvey) -> None:
    text = (FRAMES / "input_output_shifts.txt").read_text(encoding="ascii")
    blocks = re.findall(r"begin\s+\S+_(\d{4})\.fit.*?xshift\s+(\S+)\s+yshift\s+(\S+)", text, re.DOTALL)
    shifts = {int(number): (float(x), float(y)) for number, x, y in blocks if int(number) <= 5}
    paths = sorted((load_survey(cluster_survey.root).archive / "calexps").glob("*/*.fits"))
    solved = {int(read_exposure(path).info.fileName[-8:-4]): read_exposure(path).need_wcs() for path in paths}
    assert shifts.keys() == solved.keys() == {1, 2, 3, 4, 5}
    x, y = np.meshgrid([200.0, 375.0, 550.0], [150.0, 290.0, 430.0])
    for number, (dx, dy) in shifts.items():
        there = solved[number].sky_to_pixel(*solved[5].pixel_to_sky(x, y))
        offset = np.median(there[0] - x), np.median(there[1] - y)
        assert offset == pytest.approx((-dx, -dy), abs=0.5), number


def test_hot_pixels_are_flagged_in_the_frames_that_are_searched(
    cluster_survey: ClusterSurvey, hot_pixels: np.ndarray
) -> None:
    x, y = hot_pixels.astype(int).T
    paths = sorted((load_survey(cluster_survey.root).archive / "calexps").glob("*/*.fits"))
    for path in paths[3:]:
        flagged = (read_exposure(path).mask[y, x] & int(BLOCKING)) != 0
        print(path.name, flagged.mean(), len(flagged))
        assert flagged.mean() > 0.9
