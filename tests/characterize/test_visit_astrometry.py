"""A visit solved jointly: on catalogues, on calibrated exposures, and from the command line."""

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import DataError
from tests.characterize.conftest import info, moffat
from tests.characterize.visit_scenes import SOURCE, off, visit
from tests.cli.command import skydelta
from workers.characterize.astrometry import solve_astrometry
from workers.characterize.visit_astrometry import VisitDetector, solve_visit
from workers.characterize.visit_files import field_of, measure_stars, solve_exposures
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure, write_exposure
from workers.imaging.psf import PsfModel
from workers.imaging.reference import save_reference
from workers.imaging.wcs import SkyWcs
from workers.survey.characterize_config import AstrometryConfig

CONFIG, SHAPE = AstrometryConfig(search_radius_pixels=80), (1024, 1024)


def solved(one):
    return solve_visit(one.detectors, one.reference, "r", CONFIG)


def test_a_detector_with_a_few_stars_is_solved_by_its_neighbours():
    for seed in range(2):
        one = visit(seed, [200, 5, 5, 60, 5, 5, 5, 5, 5])
        with pytest.raises(DataError):
            solve_astrometry(one.detectors[1].wcs, one.detectors[1].sources, one.reference, "r", SHAPE, CONFIG)
        for found, truth, stars in zip(solved(one), one.truth, one.stars, strict=True):
            if isinstance(found, DataError):
                assert stars <= 3
                assert "3 are needed" in str(found)
            else:
                assert off(found.wcs, truth, SHAPE).max() < 0.3
                assert len(found.source) <= stars


def test_a_visit_none_of_whose_detectors_can_be_matched_alone():
    one = visit(3, 5)
    results = solved(one)
    good = [(found, truth) for found, truth in zip(results, one.truth, strict=True) if not isinstance(found, DataError)]
    assert len(good) >= 7
    assert max(off(found.wcs, truth, SHAPE).max() for found, truth in good) < 0.3


def test_errors_told_are_errors_made():
    pulls = []
    for seed in range(20, 24):
        one = visit(seed, 12)
        for found, truth in zip(solved(one), one.truth, strict=True):
            if not isinstance(found, DataError):
                pulls.append(off(found.wcs, truth, SHAPE).max() / (found.edge_error / 0.5))
    assert 0.4 < np.median(pulls) < 2.0
    assert np.max(pulls) < 5


def test_a_detector_of_another_field_is_told_and_spoils_nothing():
    one, other = visit(5, 60), visit(6, 60)
    stranger = VisitDetector(one.detectors[4].wcs, other.detectors[4].sources, SHAPE)
    one.detectors[4] = stranger
    results = solved(one)
    assert isinstance(results[4], DataError)
    for k in (0, 1, 2, 3, 5, 6, 7, 8):
        assert off(results[k].wcs, one.truth[k], SHAPE).max() < 0.2


def test_a_visit_without_its_stars_is_refused():
    one, other = visit(7, 30), visit(8, 30)
    strangers = [VisitDetector(a.wcs, b.sources, SHAPE) for a, b in zip(one.detectors, other.detectors, strict=True)]
    with pytest.raises(DataError):
        solve_visit(strangers, one.reference, "r", CONFIG)


def test_a_detector_without_sources_is_told():
    one = visit(9, 60)
    one.detectors[0] = VisitDetector(one.detectors[0].wcs, np.zeros(0, SOURCE), SHAPE)
    results = solved(one)
    assert isinstance(results[0], DataError)
    assert off(results[8].wcs, one.truth[8], SHAPE).max() < 0.2


def calexp(detector, number, rng, size=25, fwhm=3.0):
    """An exposure, background-subtracted, that shows the sources of a detector."""
    side = detector.shape[0]
    image = np.zeros((side + 2 * size, side + 2 * size))
    rows = detector.sources
    x, y = np.round(rows["x"]).astype(int), np.round(rows["y"]).astype(int)
    stamps = moffat(rows["x"] - x, rows["y"] - y, np.full(len(rows), fwhm), np.inf, size)
    for stamp, column, row, snr in zip(stamps, x, y, rows["snr"], strict=True):
        corner = np.s_[row + size - 12 : row + size + 13, column + size - 12 : column + size + 13]
        image[corner] += stamp * snr * 45.0
    image = image[size:-size, size:-size]
    variance = 100.0 + image
    image = image + rng.normal(0, np.sqrt(variance))
    psf = moffat(np.zeros(1), np.zeros(1), np.array([fwhm]), np.inf, size).astype(np.float32)
    model = PsfModel(psf, 0, side, side)
    return Exposure(
        info(detector=number, visit=11), image, np.zeros(image.shape, np.int32), variance, "nJy", detector.wcs, model
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A visit of four small detectors as files, its survey folder, and the truth."""
    root = tmp_path_factory.mktemp("survey")
    rng = np.random.default_rng(12)
    one = visit(12, [60, 14, 40, 40], side=256, grid=2, gap=20, pixels=20.0)
    for number, detector in enumerate(one.detectors):
        write_exposure(root / f"calexp-{number}.fits", calexp(detector, number, rng))
    save_reference(root / "reference.fits", one.reference)
    return root, one


def test_calibrated_exposures_are_solved_jointly(files):
    root, one = files
    exposures = [read_exposure(root / f"calexp-{k}.fits") for k in range(4)]
    rows = measure_stars(exposures[0])
    true = one.detectors[0].sources
    apart = np.hypot(true["x"][:, None] - true["x"], true["y"][:, None] - true["y"]) + 99 * np.eye(len(true))
    inside = (np.abs(true["x"] - 128) < 115) & (np.abs(true["y"] - 128) < 115) & (apart.min(axis=0) > 15)
    inside &= true["snr"] > 30  # fainter ones have fewer than five pixels above the threshold
    near = np.hypot(rows["x"][:, None] - true["x"], rows["y"][:, None] - true["y"]).min(axis=0)
    assert np.count_nonzero(inside) > 8
    assert (near[inside] < 0.5).mean() > 0.95
    results = solve_exposures(exposures, one.reference, CONFIG)
    for found, truth in zip(results, one.truth, strict=True):
        assert not isinstance(found, DataError), found
        assert off(found.wcs, truth, (256, 256)).max() < 0.3
        assert found.metrics["nMatched"] >= 3
        assert found.provenance["astrometry"] == "visit of 4"
    assert field_of(exposures)[2] == pytest.approx(np.hypot(266, 266) * 0.5 / 3600, rel=0.05)
    with pytest.raises(DataError, match="of one visit and band"):
        solve_exposures([exposures[0], exposures[1].replaced(info=info(visit=12))], one.reference, CONFIG)


def test_the_command_writes_the_wcs_back(files, tmp_path: Path):
    root, one = files
    assert skydelta("init", tmp_path / "new").code == 0
    survey = tmp_path / "new"
    (survey / "reference.fits").write_bytes((root / "reference.fits").read_bytes())
    done = skydelta(
        "astrometry", *(root / f"calexp-{k}.fits" for k in range(4)), "-s", survey, "-o", tmp_path / "out", "--json"
    )
    assert done.code == 0, done.err
    assert [row["error"] for row in done.json] == [None] * 4
    for k in range(4):
        found = read_exposure(tmp_path / "out" / f"calexp-{k}.fits")
        assert off(found.wcs, one.truth[k], (256, 256)).max() < 0.3
        assert found.wcs.header()["CTYPE1"].startswith("RA---TAN")
    empty = read_exposure(root / "calexp-1.fits")
    write_exposure(tmp_path / "odd.fits", empty.replaced(wcs=SkyWcs.tangent(10.0, 80.0, (128, 128), 0.5)))
    failed = skydelta("astrometry", tmp_path / "odd.fits", "-s", survey)
    assert failed.code == 5
    assert "no detector of the visit sees a reference star" in failed.err
