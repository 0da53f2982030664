"""Proper subtraction against truth: white noise, matched PSFs, flux scale, completeness, false detections."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage, signal
from scipy.spatial import cKDTree

from schemas.errors import DataError
from tests.subtract.conftest import Optics, Pair, Scene, build
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.subtract.convolve import grid_positions, grow
from workers.subtract.difference import Matched
from workers.subtract.matched_filter import robust_std, score_image
from workers.subtract.model_error import model_errors
from workers.subtract.proper_filters import proper_filters
from workers.subtract.zogy import zogy_difference

Floats = NDArray[np.float64]
CASES: dict[str, dict[str, Any]] = {
    "deep": {},
    "equal depth": {"epochs": 1.0, "seed": 2},
    "broad template": {"template_fwhm": 3.8, "epochs": 3.0, "seed": 3},
}
SATURATED = int(MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE)


@cache
def pair_of(case: str) -> Pair:
    return build(replace(Scene(), offset=(0.0, 0.0), **CASES[case]))


@cache
def matched_of(case: str) -> Matched:
    pair = pair_of(case)
    return zogy_difference(pair.science, pair.template, 15)


@cache
def score_of(case: str) -> Floats:
    matched = matched_of(case)
    difference = matched.exposure
    errors = model_errors(difference.image, difference.variance, matched.model, matched.stars, 4)
    planes = difference.image, difference.variance, matched.planes.excluded, difference.need_psf()
    return np.asarray(score_image(*planes, model=(matched.model, errors)))


def forced(matched: Matched, x: Floats, y: Floats) -> Any:
    difference = matched.exposure
    return psf_fluxes(difference.image, difference.variance, ~matched.planes.excluded, difference.need_psf(), x, y)


def clear(matched: Matched, x: Floats, y: Floats) -> NDArray[np.bool_]:
    at = np.round(y).astype(int), np.round(x).astype(int)
    return np.asarray(~matched.planes.excluded[at] & ((matched.exposure.mask[at] & SATURATED) == 0))


def peaks(score: Floats, threshold: float) -> tuple[Floats, Floats]:
    """Places (n, 2) of the extrema of either sign beyond the threshold, and their scores."""
    size = np.abs(score)
    y, x = np.nonzero((size > threshold) & (size == ndimage.maximum_filter(size, 5)))
    return np.column_stack([x, y]).astype(float), score[y, x]


@pytest.mark.parametrize(("template_fwhm", "variance"), [(2.7, 0.125), (2.7, 1.0), (3.2, 0.5), (3.8, 0.33)])
def test_filters_match_the_psfs_and_keep_the_noise_white(template_fwhm: float, variance: float) -> None:
    x, y = grid_positions((1024, 1024), 3)
    psfs = Optics(3.2, 3.0, 1024).model().stamps(x, y), Optics(template_fwhm, 3.3, 1024).model().stamps(x, y)
    one = np.ones(len(x))
    ours, theirs = proper_filters(psfs, (one, variance * one), 0.9 * one, 15)
    np.testing.assert_allclose(ours.sum(axis=(1, 2)), 1.0)
    np.testing.assert_allclose(theirs.sum(axis=(1, 2)), 0.9, atol=2e-3)
    seen = [signal.fftconvolve(kernels, psf, axes=(1, 2)) for kernels, psf in zip((ours, theirs), psfs, strict=True)]
    wide = max(one.shape[1] for one in seen)
    seen = [np.pad(one, [(0, 0), *[((wide - one.shape[1]) // 2,) * 2] * 2]) for one in seen]
    left = np.square(0.9 * seen[0] - seen[1]).sum(axis=(1, 2)) / np.square(seen[0]).sum(axis=(1, 2))
    assert np.sqrt(left).max() < 1.5e-3
    power = [np.square(np.abs(fft.fft2(kernels, s=(96, 96)))) for kernels in (ours, theirs)]
    noise = power[0] + variance * power[1]
    np.testing.assert_allclose(noise / noise.mean(axis=(1, 2), keepdims=True), 1.0, atol=0.08)
    np.testing.assert_allclose(noise.mean(axis=(1, 2)), 1.0 + 0.81 * variance, rtol=0.02)  # Zackay et al., eq. 17


def test_filters_follow_a_misalignment() -> None:
    axis = np.arange(-12, 13)
    new, reference = (
        np.exp(-0.5 * np.add.outer((axis - up) ** 2, (axis - along) ** 2) / sigma**2)[None] / (2 * np.pi * sigma**2)
        for sigma, along, up in ((1.6, 0.0, 0.0), (1.3, 0.3, -0.2))
    )
    centred = np.exp(-0.5 * np.add.outer(axis**2, axis**2) / 1.3**2)[None] / (2 * np.pi * 1.3**2)
    one = np.ones(1)
    ours, theirs = proper_filters((new, centred), (one, 0.2 * one), one, 12, np.array([[0.3, -0.2]]))
    seen = [signal.fftconvolve(*both, axes=(1, 2))[0] for both in ((ours, new), (theirs, reference))]
    wide = max(len(one) for one in seen)
    seen = [np.pad(one, (wide - len(one)) // 2) for one in seen]
    assert np.abs(seen[0] - seen[1]).max() < 2e-3 * seen[0].max()


@pytest.mark.parametrize("case", CASES)
def test_noise_of_the_score_is_one(case: str) -> None:
    pair, matched, score = pair_of(case), matched_of(case), score_of(case)
    typical = np.sqrt(np.median(matched.exposure.variance))
    sky = ~(grow(matched.model > 2.0 * typical, 7.0) | grow(np.abs(score) > 4.0, 7.0) | matched.planes.excluded)
    sky &= ~matched.planes.halo
    assert sky.mean() > 0.1
    assert robust_std(score[sky]) == pytest.approx(1.0, abs=0.02)
    assert abs(np.mean(matched.exposure.image[sky])) < 0.02 * typical
    pixels = matched.exposure.image[sky] / np.sqrt(matched.exposure.variance[sky])
    assert robust_std(pixels) == pytest.approx(1.0, abs=0.02)
    assert matched.exposure.image.dtype == matched.exposure.variance.dtype == matched.model.dtype == np.float32
    assert matched.model.shape == pair.science.shape


def test_fluxes_are_unbiased() -> None:
    pulls, bright = [], []
    for case in CASES:
        pair, matched = pair_of(case), matched_of(case)
        new = (pair.flux > 0) & clear(matched, pair.x, pair.y)
        rows, truth = forced(matched, pair.x[new], pair.y[new]), pair.flux[new]
        pulls.append((rows["flux"] - truth) / rows["fluxErr"])
        sure = rows["fluxErr"] < 0.05 * truth
        bright.append(rows["flux"][sure] / truth[sure] - 1.0)
    together = np.concatenate(pulls)
    assert len(together) > 200
    assert abs(together.mean()) < 0.1 + 1.0 / np.sqrt(len(together))
    assert 0.9 < together.std() < 1.12
    assert abs(np.median(np.concatenate(bright))) < 0.01


@pytest.mark.parametrize("case", CASES)
def test_steady_stars_vanish_all_over_the_field(case: str) -> None:
    pair, matched = pair_of(case), matched_of(case)
    x, y, electrons, variable = pair.stars.T
    inside = (np.minimum(x, y) > 40) & (np.maximum(x, y) < 983) & (variable == 0) & (electrons > 2e4)
    x, y, flux = x[inside], y[inside], electrons[inside] * Scene().nJy
    alone = clear(matched, x, y) & (
        cKDTree(pair.stars[pair.stars[:, 3] > 0, :2]).query(np.column_stack([x, y]))[0] > 30
    )
    x, y, flux = x[alone], y[alone], flux[alone]
    rows = forced(matched, x, y)
    good = np.isfinite(rows["flux"])
    left, error = rows["flux"][good] / flux[good], rows["fluxErr"][good] / flux[good]
    tilt = 0.02 * (x[good] - 0.5 * y[good]) / 1024  # what a constant ratio would leave
    slope = np.polyfit(tilt, left, 1, w=1.0 / np.hypot(error, 0.003))[0]
    assert good.sum() > 25
    assert abs(np.average(left, weights=1.0 / np.hypot(error, 0.003) ** 2)) < 0.003
    assert abs(slope) < 0.4


@pytest.mark.parametrize("case", CASES)
def test_transients_are_found_and_little_else(case: str) -> None:
    pair, matched = pair_of(case), matched_of(case)
    places, scores = peaks(score_of(case), 5.0)
    truth = np.column_stack([pair.x, pair.y])
    area = matched.exposure.need_psf().noise_area(512, 512)[0]
    snr = np.abs(pair.flux) / np.sqrt(np.median(matched.exposure.variance) * area)
    sure = (snr > 8.0) & clear(matched, pair.x, pair.y)
    assert sure.sum() > 90
    distance, index = cKDTree(places).query(truth[sure])
    found = (distance < 2.0) & (np.sign(scores[index]) == np.sign(pair.flux[sure]))
    assert found.mean() >= 0.95
    real = np.concatenate([truth, pair.stars[pair.stars[:, 3] > 0, :2]])
    false = (cKDTree(real).query(places)[0] > 5.0) & clear(matched, *places.T)
    assert false.sum() <= 4


def test_a_misaligned_template_can_be_registered() -> None:
    pair = build(Scene(size=512, stars=250, galaxies=0, transients=0, offset=(0.3, -0.2), brightest=3e5, seed=5))
    chi2: dict[bool, float] = {}
    for register in (False, True):
        matched = zogy_difference(pair.science, pair.template, 15, register=register)
        x, y = np.round(matched.stars).astype(int).T
        offset = np.arange(-4, 5)
        at = y[:, None, None] + offset[:, None], x[:, None, None] + offset
        chi2[register] = float(np.median(np.square(matched.exposure.image[at]) / matched.exposure.variance[at]))
    assert chi2[True] < 0.6  # the median of chi² of one degree of freedom is 0.455
    assert chi2[True] < 0.7 * chi2[False]


def test_without_stars_the_zero_points_are_trusted() -> None:
    pair = build(Scene(size=320, stars=0, galaxies=0, transients=4, seed=7, snr=(20.0, 30.0), offset=(0.0, 0.0)))
    matched = zogy_difference(pair.science, pair.template, 10)
    assert matched.metrics["nKernelStars"] == 0.0
    assert matched.metrics["kernelSum"] == pytest.approx(1.0, abs=4e-3)
    assert "fluxRatioScatter" not in matched.metrics
    assert all(np.isfinite(value) for value in matched.metrics.values())
    new = pair.flux > 0
    rows = forced(matched, pair.x[new], pair.y[new])
    assert np.all(np.abs(rows["flux"] - pair.flux[new]) < 5.0 * rows["fluxErr"])


def spoiled(change: Callable[[Pair], Any]) -> tuple[Any, Any]:
    pair = build(Scene(size=320, stars=90, galaxies=0, transients=0, seed=7, brightest=2e5, offset=(0.0, 0.0)))
    return pair.science, change(pair)


def test_errors_are_typed() -> None:
    science, template = spoiled(lambda pair: pair.template.replaced(mask=np.full((320, 320), 1, np.int32)))
    with pytest.raises(DataError, match="no pixel is usable"):
        zogy_difference(science, template, 10)
    science, template = spoiled(lambda pair: pair.template.replaced(image=pair.template.image * np.float32(0.1)))
    with pytest.raises(DataError, match="zero points"):
        zogy_difference(science, template, 10)
