"""Preconvolved subtraction against truth: bounded white filters, stars that vanish, fluxes, noise, scale, errors."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft, ndimage, signal
from scipy.spatial import cKDTree

from schemas.errors import DataError
from tests.subtract.conftest import Optics, Pair, Scene, build
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.imaging.psf import FWHM_PER_SIGMA
from workers.subtract.convolve import grow
from workers.subtract.difference import Matched
from workers.subtract.matched_filter import robust_std, score_image
from workers.subtract.model_error import model_errors
from workers.subtract.preconvolve import preconvolution, preconvolved_difference
from workers.subtract.proper_filters import preconvolved_filters
from workers.subtract.zogy import zogy_difference

Floats = NDArray[np.float64]
CASES: dict[str, dict[str, Any]] = {
    "close": {"template_fwhm": 3.2},
    "close, equal depth": {"template_fwhm": 3.1, "epochs": 1.0, "seed": 2},
    "broad template": {"template_fwhm": 3.9, "epochs": 9.0, "seed": 3},
}
SATURATED = int(MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE)


@cache
def pair_of(case: str) -> Pair:
    return build(replace(Scene(), galaxies=60, **CASES[case]))


@cache
def matched_of(case: str) -> Matched:
    pair = pair_of(case)
    return preconvolved_difference(pair.science, pair.template, 2, 15)


def forced(matched: Matched, x: Floats, y: Floats) -> Any:
    difference = matched.exposure
    return psf_fluxes(difference.image, difference.variance, ~matched.planes.excluded, difference.need_psf(), x, y)


def clear(matched: Matched, x: Floats, y: Floats) -> NDArray[np.bool_]:
    at = np.round(y).astype(int), np.round(x).astype(int)
    return np.asarray(~matched.planes.excluded[at] & ((matched.exposure.mask[at] & SATURATED) == 0))


def score_of(matched: Matched) -> Floats:
    difference = matched.exposure
    errors = model_errors(difference.image, difference.variance, matched.model, matched.stars, 4)
    planes = difference.image, difference.variance, matched.planes.excluded, difference.need_psf()
    return np.asarray(score_image(*planes, model=(matched.model, errors)))


def chi2_of_stars(matched: Matched) -> Floats:
    """chi² per pixel, within 3 pixels, of the stars that the kernel was fitted on."""
    x, y = np.round(matched.stars).astype(int).T
    offset = np.arange(-3, 4)
    at = y[:, None, None] + offset[:, None], x[:, None, None] + offset
    return np.asarray(np.mean(np.square(matched.exposure.image[at]) / matched.exposure.variance[at], axis=(1, 2)))


@settings(max_examples=25, deadline=None)
@given(st.floats(3.6, 6.0), st.floats(0.75, 1.4), st.floats(0.05, 2.0), st.floats(0.7, 1.4), st.floats(-0.4, 0.4))
def test_filters_are_bounded_white_and_make_stars_vanish(
    fwhm: float, worse: float, variance: float, scale: float, moved: float
) -> None:
    profile = preconvolution(fwhm, worse * fwhm, 15)
    q = np.outer(profile, profile)
    sigmas = fwhm / FWHM_PER_SIGMA, worse * fwhm / FWHM_PER_SIGMA
    axis = np.arange(-20, 21)

    def gaussian(sigma: float, along: float = 0.0) -> Floats:
        stamp = np.exp(-0.5 * np.add.outer(axis**2, (axis - along) ** 2) / sigma**2)
        return np.asarray(stamp / stamp.sum())[None]

    psfs = gaussian(sigmas[0]), gaussian(sigmas[1])
    square = 0.5 / np.log(profile[len(profile) // 2] / profile[len(profile) // 2 + 1])  # of a sampled Gaussian
    narrow = np.sqrt(sigmas[0] ** 2 - sigmas[1] ** 2 + square)
    kernel = scale * gaussian(narrow, moved)
    one = np.ones(1)
    ours, theirs = preconvolved_filters(kernel, q, psfs, (one, variance * one), 15)
    assert max(ours.shape[1], theirs.shape[1]) <= 31
    np.testing.assert_allclose(ours.sum(), 1.0)
    np.testing.assert_allclose(theirs.sum(), scale, rtol=3e-3)
    star = signal.fftconvolve(gaussian(sigmas[0], moved)[0], ours[0], "same")
    left = scale * star - signal.fftconvolve(psfs[1][0], theirs[0], "same")
    assert np.abs(left).max() < 1e-2 * np.abs(star).max()
    power = [np.square(np.abs(fft.fft2(one[0], s=(64, 64)))) for one in (ours, theirs)]
    noise = power[0] + variance * power[1]
    inner = np.abs(fft.fftfreq(64)) < 0.4  # no real filter moves the highest frequencies by a part of a pixel
    held = noise[np.ix_(inner, inner)]
    assert held.std() < 0.05 * held.mean()
    assert noise.max() < 1.5 * held.mean()


@given(st.floats(1.5, 8.0), st.floats(0.6, 1.6), st.integers(3, 25))
def test_preconvolution_leaves_a_smoothing_kernel(fwhm: float, worse: float, half_width: int) -> None:
    profile = preconvolution(fwhm, worse * fwhm, half_width)
    assert len(profile) % 2 == 1
    assert len(profile) <= 2 * half_width + 1
    assert profile.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(profile, profile[::-1])
    assert np.all(np.diff(profile[: len(profile) // 2 + 1]) > 0.0)
    wide = preconvolution(fwhm, 1.1 * worse * fwhm, half_width)
    assert wide.max() <= profile.max() + 1e-12


@pytest.mark.parametrize("case", CASES)
def test_noise_is_white_and_that_of_the_score_one(case: str) -> None:
    pair, matched = pair_of(case), matched_of(case)
    score = score_of(matched)
    typical = np.sqrt(np.median(matched.exposure.variance))
    sky = ~(grow(matched.model > 2.0 * typical, 7.0) | grow(np.abs(score) > 4.0, 7.0) | matched.planes.excluded)
    sky &= ~matched.planes.halo
    assert sky.mean() > 0.1
    assert robust_std(score[sky]) == pytest.approx(1.0, abs=0.02)
    assert abs(np.mean(matched.exposure.image[sky])) < 0.02 * typical
    pixels = np.where(sky, matched.exposure.image / np.sqrt(matched.exposure.variance), np.float32(0.0))
    assert robust_std(pixels[sky]) == pytest.approx(1.0, abs=0.02)
    for step in ((0, 1), (1, 0), (1, 1), (0, 2)):
        both = sky & np.roll(sky, step, (0, 1))
        assert abs(np.mean((pixels * np.roll(pixels, step, (0, 1)))[both])) < 0.03
    assert matched.exposure.image.dtype == matched.exposure.variance.dtype == matched.model.dtype == np.float32
    assert matched.exposure.shape == matched.model.shape == pair.science.shape
    assert robust_std(matched.model[sky]) < 0.9 * typical  # what tells light from sky must not be noise itself
    assert all(np.isfinite(value) for value in matched.metrics.values())


def test_fluxes_are_unbiased_and_their_errors_true() -> None:
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
def test_stars_vanish(case: str) -> None:
    matched = matched_of(case)
    assert len(matched.stars) > 40
    chi2 = chi2_of_stars(matched)
    assert 0.9 < np.median(chi2) < 1.1
    assert np.percentile(chi2, 90) < 1.6
    assert matched.metrics["kernelSumMax"] - matched.metrics["kernelSumMin"] > 0.01  # the scale's gradient is followed


@pytest.mark.parametrize("case", CASES)
def test_transients_are_found_and_little_else(case: str) -> None:
    pair, matched = pair_of(case), matched_of(case)
    score = score_of(matched)
    size = np.abs(score)
    y, x = np.nonzero((size > 5.0) & (size == ndimage.maximum_filter(size, 5)))
    places, scores = np.column_stack([x, y]).astype(float), score[y, x]
    area = matched.exposure.need_psf().noise_area(512, 512)[0]
    snr = np.abs(pair.flux) / np.sqrt(np.median(matched.exposure.variance) * area)
    sure = (snr > 8.0) & clear(matched, pair.x, pair.y)
    assert sure.sum() > 80
    truth = np.column_stack([pair.x, pair.y])
    distance, index = cKDTree(places).query(truth[sure])
    found = (distance < 2.0) & (np.sign(scores[index]) == np.sign(pair.flux[sure]))
    assert found.mean() >= 0.95
    real = np.concatenate([truth, pair.stars[pair.stars[:, 3] > 0, :2]])
    false = (cKDTree(real).query(places)[0] > 5.0) & clear(matched, *places.T)
    assert false.sum() <= 4


def test_stars_correct_a_psf_model_that_is_wrong() -> None:
    pair = build(Scene(size=512, stars=250, galaxies=0, transients=0, template_fwhm=3.2, brightest=3e5, seed=5))
    wrong = pair.science.replaced(psf=Optics(3.4, 3.0, 512).model())
    median = {
        method: float(np.median(chi2_of_stars(difference)))
        for method, difference in (
            ("preconvolved", preconvolved_difference(wrong, pair.template, 2, 15)),
            ("zogy", zogy_difference(wrong, pair.template, 15, register=True)),
        )
    }
    assert median["preconvolved"] < 1.1
    assert median["zogy"] > 1.15 * median["preconvolved"]


def test_without_stars_the_psfs_tell_the_kernel() -> None:
    pair = build(Scene(size=320, stars=0, galaxies=0, transients=4, seed=7, snr=(20.0, 30.0), offset=(0.0, 0.0)))
    matched = preconvolved_difference(pair.science, pair.template, 2, 10)
    assert matched.metrics["nKernelStars"] == 0.0
    assert matched.metrics["kernelFallbackAnalytic"] == 0.0
    assert matched.metrics["kernelSum"] == pytest.approx(1.0, abs=4e-3)
    new = pair.flux > 0
    rows = forced(matched, pair.x[new], pair.y[new])
    assert np.all(np.abs(rows["flux"] - pair.flux[new]) < 5.0 * rows["fluxErr"])


def test_few_stars_take_a_narrower_kernel() -> None:
    pair = build(Scene(size=200, stars=45, galaxies=0, transients=0, seed=9, brightest=2e5, template_fwhm=3.2))
    matched = preconvolved_difference(pair.science, pair.template, 2, 25)
    assert matched.metrics["nKernelStars"] >= 3
    assert np.median(chi2_of_stars(matched)) < 1.3


def spoiled(change: Callable[[Pair], Any]) -> tuple[Any, Any]:
    pair = build(Scene(size=320, stars=90, galaxies=0, transients=0, seed=7, brightest=2e5, template_fwhm=3.2))
    return pair.science, change(pair)


def test_no_common_pixel_is_a_typed_error() -> None:
    science, template = spoiled(lambda pair: pair.template.replaced(mask=np.full((320, 320), 1, np.int32)))
    with pytest.raises(DataError, match="no pixel is usable"):
        preconvolved_difference(science, template, 2, 10)


def test_an_implausible_scale_gives_way_to_the_psfs() -> None:
    science, template = spoiled(lambda pair: pair.template.replaced(image=pair.template.image * np.float32(0.1)))
    matched = preconvolved_difference(science, template, 2, 10)
    assert matched.metrics["kernelFallbackAnalytic"] == 0.0
    assert matched.metrics["kernelSum"] == pytest.approx(1.0, abs=4e-3)


def test_a_psf_that_is_missing_is_a_typed_error() -> None:
    science, template = spoiled(lambda pair: pair.template.replaced(psf=None))
    with pytest.raises(DataError):
        preconvolved_difference(science, template, 2, 10)
