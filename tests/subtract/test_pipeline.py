"""The whole stage against truth: noise, completeness, fluxes, positions, false detections, masks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import signal
from scipy.spatial import cKDTree

from schemas import table_dtype
from schemas.errors import DataError
from tests.subtract.conftest import Scene, build
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.identity import dia_source_ids
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.stamps import to_bytes
from workers.subtract.limits import OUTCOMES, find_fault
from workers.subtract.pipeline import Subtraction, subtract
from workers.subtract.psf_ratio import psf_ratio_kernel
from workers.survey.config import SubtractConfig

CASES = {
    "deep": {},
    "equal depth": {"epochs": 1.0, "seed": 2},
    "broad template": {"template_fwhm": 3.8, "epochs": 3.0, "seed": 3},
}
SATURATED = int(MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE)


def points(rows: Any) -> np.ndarray:
    return np.column_stack([rows["x"], rows["y"]]).astype(float)


def matches(pair: Any, result: Subtraction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transients with S/N >= 8 off saturated stars: indices, whether found, and the row of each."""
    height, width = result.difference.shape
    area = result.difference.psf.noise_area(width / 2, height / 2)[0]
    snr = np.abs(pair.flux) / np.sqrt(np.median(result.difference.variance) * area)
    at = result.difference.mask[np.round(pair.y).astype(int), np.round(pair.x).astype(int)]
    index = np.flatnonzero((snr >= 8.0) & ((at & SATURATED) == 0))
    distance, row = cKDTree(points(result.sources)).query(np.column_stack([pair.x, pair.y])[index])
    return index, distance < 2.0, row


@pytest.mark.parametrize("case", CASES)
def test_noise_of_the_score_is_one(subtracted: Any, case: str) -> None:
    _, result = subtracted(**CASES[case])
    assert result.metrics["scoreNoise"] == pytest.approx(1.0, abs=0.02)
    assert abs(result.metrics["residualBackground"]) < 0.02 * np.sqrt(np.median(result.difference.variance))
    assert result.metrics["convolved"] == 1.0
    assert ("preconvolutionFwhm" in result.metrics) == (case == "broad template")


def test_a_kernel_may_be_the_template_s_or_the_science_image_s(subtracted: Any) -> None:
    pair, _ = subtracted(**CASES["broad template"])
    result = subtract(pair.science, pair.template, SubtractConfig(method="alard-lupton"))
    assert result.metrics["scoreNoise"] == pytest.approx(1.0, abs=0.02)
    assert result.metrics["convolved"] == 0.0
    assert matches(pair, result)[1].mean() > 0.98


@pytest.mark.parametrize("case", CASES)
def test_completeness_positions_and_fluxes(subtracted: Any, case: str) -> None:
    pair, result = subtracted(**CASES[case])
    index, found, row = matches(pair, result)
    assert len(index) > 90
    assert found.mean() >= 0.95
    rows, index = result.sources[row[found]], index[found]
    truth = pair.flux[index]
    assert np.array_equal(rows["isNegative"], truth < 0)
    pull = (rows["psfFlux"] - truth) / rows["psfFluxErr"] * np.sign(truth)
    assert abs(pull.mean()) < 0.1 + 2.0 / np.sqrt(len(pull))
    assert 0.9 - 1.0 / np.sqrt(2 * len(pull)) < pull.std() < 1.1 + 1.0 / np.sqrt(2 * len(pull))
    offset = np.column_stack([rows["x"] - pair.x[index], rows["y"] - pair.y[index]])
    # the Cramer-Rao bound scales with the width of the PSF: 0.15 px per axis at 3.2 px and median S/N 18
    assert np.sqrt(np.square(offset).mean()) < 0.16 * result.difference.psf.fwhm(512, 512) / 3.2
    errors = np.column_stack([rows["xErr"], rows["yErr"]])
    assert 0.88 < (offset / errors).std() < 1.12


def test_fluxes_over_all_cases_are_unbiased(subtracted: Any) -> None:
    pulls = []
    for changes in CASES.values():
        pair, result = subtracted(**changes)
        index, found, row = matches(pair, result)
        rows, truth = result.sources[row[found]], pair.flux[index[found]]
        pulls.append((rows["psfFlux"] - truth) / rows["psfFluxErr"] * np.sign(truth))
    together = np.concatenate(pulls)
    assert abs(together.mean()) < 0.1
    assert 0.9 < together.std() < 1.1


@pytest.mark.parametrize("case", CASES)
def test_few_false_detections(subtracted: Any, case: str) -> None:
    pair, result = subtracted(**CASES[case])
    real = np.concatenate([np.column_stack([pair.x, pair.y]), pair.stars[pair.stars[:, 3] > 0, :2]])
    rows = result.sources
    false = cKDTree(real).query(points(rows))[0] > 5.0
    clean = false & ~rows["pixelFlags_saturated"]
    assert clean.sum() <= 4
    assert false.sum() <= 20


def test_sky_positions_follow_pixels(subtracted: Any) -> None:
    _, result = subtracted()
    rows, wcs = result.sources, result.difference.need_wcs()
    ra, dec = wcs.pixel_to_sky(rows["x"], rows["y"])
    assert np.abs((rows["ra"] - ra) * np.cos(np.radians(dec))).max() * 3600 < 1e-4
    assert np.abs(rows["dec"] - dec).max() * 3600 < 1e-4
    scale = wcs.pixel_scale(512, 512) / 3600.0
    total = np.hypot(rows["raErr"], rows["decErr"]) / np.hypot(rows["xErr"], rows["yErr"])
    assert rows["centroid_flag"].mean() < 0.05
    np.testing.assert_allclose(total[~rows["centroid_flag"]], scale, rtol=1e-3)


def test_rows_are_complete_and_ordered(subtracted: Any) -> None:
    pair, result = subtracted()
    rows = result.sources
    assert rows.dtype == table_dtype("alert", "diaSource")
    assert np.array_equal(np.lexsort((rows["x"], rows["y"])), np.arange(len(rows)))
    info = pair.science.info
    assert np.array_equal(rows["diaSourceId"], dia_source_ids(info.visit, info.detector, len(rows)))
    assert set(rows["band"].tolist()) == {"r"}
    assert np.all(rows["midpointMjdTai"] == info.midpointMjdTai)
    assert np.all(rows["snr"] >= 5.0)
    seen = rows["scienceFlux"] > 5.0 * rows["scienceFluxErr"]
    assert np.isnan(rows["extendedness"][~seen]).all()
    assert ((rows["extendedness"][seen] >= 0.0) & (rows["extendedness"][seen] <= 1.0)).mean() > 0.8
    assert np.isnan(rows["reliability"]).all()
    good = ~rows["shape_flag"] & (rows["snr"] > 30) & ~rows["isDipole"] & ~rows["pixelFlags_saturated"]
    ratio = (rows["ixx"] + rows["iyy"])[good] / (rows["ixxPSF"] + rows["iyyPSF"])[good]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    assert len(result.stamps) == len(rows)
    assert result.stamps.template.shape == (len(rows), 31, 31)
    expected = {"kernelSum", "nKernelStars", "nKernelRejected", "kernelDegree", "convolved", "scoreNoise", "psfLimit"}
    expected |= {"residualBackground", "nPositive", "nNegative", "nDropped", "residualChi2"}
    assert expected <= set(result.metrics)
    assert result.metrics["nPositive"] + result.metrics["nNegative"] == len(rows)


def test_forced_fluxes_add_up(subtracted: Any) -> None:
    pair, result = subtracted()
    index, found, row = matches(pair, result)
    rows = result.sources[row[found]]
    lone = (np.abs(rows["templateFlux"]) < 5 * rows["templateFluxErr"]) & (pair.flux[index[found]] > 0)
    pull = (rows["scienceFlux"] - rows["psfFlux"])[lone] / rows["scienceFluxErr"][lone]
    assert lone.sum() > 20
    assert abs(np.median(pull)) < 0.5


def test_forced_photometry_on_empty_sky_of_the_difference(subtracted: Any) -> None:
    """The variance plane and the PSF of the difference serve any later measurement."""
    pair, result = subtracted(**CASES["equal depth"])
    x, y = np.random.default_rng(5).uniform(30, 994, (2, 3000))
    known = np.concatenate([pair.stars[:, :2], np.column_stack([pair.x, pair.y])])
    empty = cKDTree(known).query(np.column_stack([x, y]))[0] > 14
    difference = result.difference
    usable = usable_pixels(difference.image, difference.variance, difference.mask)
    flux = psf_fluxes(difference.image, difference.variance, usable, difference.need_psf(), x[empty], y[empty])
    measured = np.isfinite(flux["flux"])  # masks of saturated stars reach farther than 14 pixels
    assert measured.mean() > 0.99
    pull = flux["flux"][measured] / flux["fluxErr"][measured]
    assert abs(np.median(pull)) < 0.12
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.05)


def test_correlated_template_noise_is_accounted_for(subtracted: Any) -> None:
    pair, result = subtracted(size=640, stars=250, galaxies=0, transients=90, epochs=1.5, correlated=0.6, seed=4)
    assert result.metrics["scoreNoise"] > 1.05
    index, found, row = matches(pair, result)
    rows, truth = result.sources[row[found]], pair.flux[index[found]]
    assert ((rows["psfFlux"] - truth) / rows["psfFluxErr"]).std() < 1.2
    assert found.mean() >= 0.95


def test_the_same_pair_gives_the_same_bytes_and_stays_as_it_was(small_pair: Any) -> None:
    before = [plane.copy() for plane in (small_pair.science.image, small_pair.template.image, small_pair.science.mask)]
    first, second = (subtract(small_pair.science, small_pair.template, SubtractConfig()) for _ in range(2))
    assert first.sources.tobytes() == second.sources.tobytes()
    assert to_bytes(first.stamps) == to_bytes(second.stamps)
    after = small_pair.science.image, small_pair.template.image, small_pair.science.mask
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_identical_images_have_no_sources(small_pair: Any) -> None:
    result = subtract(small_pair.science, small_pair.science, SubtractConfig())
    assert len(result.sources) == 0
    assert len(result.stamps) == 0
    assert result.metrics["kernelSum"] == pytest.approx(1.0, abs=0.01)


def test_a_hole_in_the_template_yields_no_sources(small_pair: Any) -> None:
    template = small_pair.template
    image, mask, variance = template.image.copy(), template.mask.copy(), template.variance.copy()
    image[:, :120], variance[:, :120] = np.nan, np.inf
    mask[:, :120] |= int(MaskPlane.NO_DATA)
    image[200, 200] = variance[200, 200] = np.nan
    result = subtract(
        small_pair.science, template.replaced(image=image, mask=mask, variance=variance), SubtractConfig()
    )
    assert result.metrics["templateCoverage"] == pytest.approx(200 / 320, abs=0.01)
    assert np.all(result.sources["x"] > 119.5)
    assert np.isfinite(result.difference.image).all()
    assert result.difference.mask[10, 50] & int(MaskPlane.NO_DATA)
    assert len(result.sources) > 0


def test_a_star_that_moved_is_a_dipole(small_pair: Any) -> None:
    science, template = small_pair.science, small_pair.template
    psf = science.need_psf()
    image = science.image.copy()
    reference = template.image.copy()
    flux = 80.0 * np.sqrt(np.median(science.variance) * psf.noise_area(160, 160)[0])
    x, y = 250.0, 100.0
    for plane, model, at in ((image, psf, x + 1.4), (reference, template.need_psf(), x - 1.4)):
        column = round(at)
        plane[88:113, column - 12 : column + 13] += flux * model.stamps_at(at, y)[0]
    result = subtract(science.replaced(image=image), template.replaced(image=reference), SubtractConfig())
    rows = result.sources
    near = rows[np.hypot(rows["x"] - x, rows["y"] - y) < 6]
    assert len(near) == 1
    assert near["isDipole"][0]
    scale = science.need_wcs().pixel_scale(x, y)
    assert near["dipoleLength"][0] > 2.0 * scale
    assert near["dipoleMeanFlux"][0] > 5 * near["dipoleMeanFluxErr"][0]
    step = science.need_wcs().jacobian(x, y) @ np.array([1.0, 0.0])
    bearing = np.degrees(np.arctan2(step[0], step[1])) % 360
    assert abs((near["dipoleAngle"][0] - bearing + 180) % 360 - 180) < 10


def test_bad_pairs_are_data_errors(small_pair: Any) -> None:
    science, template, config = small_pair.science, small_pair.template, SubtractConfig()
    empty = template.replaced(mask=np.full(template.shape, int(MaskPlane.NO_DATA), np.int32))
    half = replace(template, image=template.image[:100], mask=template.mask[:100], variance=template.variance[:100])
    for ours, theirs, text in (
        (science, empty, "min_template_coverage"),
        (science, half, "warp the template"),
        (science.replaced(unit="electron"), template, "must be in nJy"),
        (science.replaced(psf=None), template, "no PSF"),
        (science.replaced(image=np.full(science.shape, np.nan, np.float32)), template, "no pixel is usable"),
    ):
        with pytest.raises(DataError, match=text):
            subtract(ours, theirs, config)


def test_without_stars_the_psfs_tell_the_kernel() -> None:
    few = Scene(size=320, stars=2, galaxies=0, transients=12, seed=11, snr=(30.0, 60.0), gradient=0.0)
    pair = build(replace(few, offset=(0.0, 0.0)))
    result = subtract(pair.science, pair.template, SubtractConfig())
    assert result.metrics["kernelFallbackAnalytic"] == 0.0
    assert result.metrics["nKernelStars"] == 0.0
    index, found, row = matches(pair, result)
    assert found.all()
    ratio = result.sources["psfFlux"][row] / pair.flux[index]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)


def test_the_psf_ratio_turns_one_psf_into_the_other() -> None:
    sharp, broad = (PsfModel.gaussian(fwhm, size=31, width=400, height=300) for fwhm in (3.0, 4.0))
    kernel = psf_ratio_kernel(broad, sharp, 12, (300, 400)).at(200, 150)[0]
    made = signal.fftconvolve(sharp.stamps(0, 0)[0], kernel, "same")
    np.testing.assert_allclose(made, broad.stamps(0, 0)[0], atol=0.01 * broad.stamps(0, 0).max())


def test_control_sources_tell_of_noise_and_pedestals(subtracted: Any) -> None:
    _, result = subtracted()
    control = result.control
    sky, faint = (control[control["kind"] == kind] for kind in ("sky", "faint"))
    assert len(sky) == 100
    assert np.abs(sky["psfFlux"] / sky["psfFluxErr"]).mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.2)
    assert len(faint) > 0
    assert ((np.abs(faint["snr"]) > 4.0) & (np.abs(faint["snr"]) < 5.0)).all()
    assert result.metrics["skyPedestal"] < 0.4
    assert result.metrics["starResidual"] < 0.1


def test_a_bad_subtraction_has_a_name(subtracted: Any) -> None:
    _, result = subtracted()
    limits = SubtractConfig().limits
    assert find_fault(result.metrics, limits) is None
    for metric, value, outcome in (
        ("scoreNoise", 2.0, "noisy_difference"),
        ("starResidual", 0.4, "star_residuals"),
        ("skyPedestal", 2.0, "pedestal"),
        ("sourceExcess", 5000.0, "too_many_sources"),
    ):
        fault = find_fault({**result.metrics, metric: value}, limits)
        assert fault is not None
        assert fault.outcome == outcome
        assert "[subtract.limits]" in fault.text
    assert {"noisy_difference", "star_residuals", "pedestal", "too_many_sources"} == set(OUTCOMES)


@pytest.mark.parametrize(("method", "metric"), [("zogy", "fluxRatioScatter"), ("preconvolved", "preconvolutionFwhm")])
def test_other_methods_run_in_the_same_stage(small_pair: Any, method: Any, metric: str) -> None:
    result = subtract(small_pair.science, small_pair.template, SubtractConfig(method=method))
    _, found, _ = matches(small_pair, result)
    assert found.all()
    assert result.metrics["scoreNoise"] == pytest.approx(1.0, abs=0.05)
    assert metric in result.metrics
