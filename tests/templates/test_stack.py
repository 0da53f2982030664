"""Rejection and mean on stacks made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.templates.synthetic import gaussians
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.templates.coadd import Stack, combine
from workers.templates.reject import find_outliers, reference_image

SIDE = 96


def psf(fwhm):
    return PsfModel.gaussian(fwhm, size=25, width=SIDE, height=SIDE).stamps(0.0, 0.0)[0]


def make_stack(fwhms, *, stars=12, sigma=5.0, seed=1):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(8, SIDE - 8, (2, stars))
    flux = 10 ** rng.uniform(3, 6, stars)
    truth = np.stack([gaussians(SIDE, x, y, flux, fwhm) for fwhm in fwhms])
    variance = sigma**2 + truth / 50.0
    image = truth + rng.normal(0, np.sqrt(variance))
    return Stack(
        image.astype(np.float32),
        np.zeros(image.shape, np.int32),
        variance.astype(np.float32),
        np.ones(len(fwhms)),
        np.stack([psf(fwhm) for fwhm in fwhms]),
    )


def outliers_of(stack):
    reference = reference_image(stack.image, stack.variance, stack.usable)
    return find_outliers(stack.image, stack.variance, stack.usable, stack.psfs, 3.0, reference)


@pytest.mark.parametrize("fwhms", [(3.0,) * 7, (2.5, 2.7, 3.0, 3.3, 3.6, 4.0, 4.5), (2.5, 4.0), (2.5, 3.0, 4.5)])
def test_stars_survive_any_seeing(fwhms):
    shares = [outliers_of(make_stack(fwhms, seed=seed)).mean() for seed in range(4)]
    assert np.mean(shares) < 2e-4


def test_one_epoch_has_no_outliers():
    assert not outliers_of(make_stack((3.0,))).any()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_cosmic_ray_is_found_whole_and_alone(count):
    stack = make_stack((3.0,) * count, stars=0)
    image = stack.image.copy()
    image[1, 40:43, 50] += 200.0
    stack = Stack(image, stack.mask, stack.variance, stack.weights, stack.psfs)
    found = outliers_of(stack)
    assert found[1, 40:43, 50].all()
    found[1, 36:47, 46:55] = False
    assert not found.any()


def test_a_faint_asteroid_is_found_though_no_pixel_stands_out():
    stack = make_stack((3.0,) * 8, stars=0, seed=5)
    image = stack.image.copy()
    image[3] += gaussians(SIDE, [48.0], [48.0], [500.0], 3.0).astype(np.float32)
    assert (image[3, 44:53, 44:53] < 60.0).all()
    stack = Stack(image, stack.mask, stack.variance, stack.weights, stack.psfs)
    assert outliers_of(stack)[3, 47:50, 47:50].all()


@given(st.integers(2, 7), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_reference_is_the_median(count, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, 5, 6)).astype(np.float32)
    usable = rng.random(image.shape) < 0.8
    reference, variance = reference_image(image, np.ones_like(image), usable)
    for y, x in np.ndindex(5, 6):
        values = image[usable[:, y, x], y, x]
        if len(values) == 2:
            assert reference[y, x] == values.min()
        elif len(values):
            assert reference[y, x] == pytest.approx(np.median(values), abs=1e-6)
        assert variance[y, x] > 0


def test_the_mean_is_weighted_and_its_variance_follows():
    rng = np.random.default_rng(3)
    weights = np.array([1.0, 2.0, 5.0])
    sigma = np.array([1.0, 2.0, 0.5])
    image = rng.normal(7.0, sigma[:, None, None], (3, 200, 200)).astype(np.float32)
    variance = np.broadcast_to((sigma**2)[:, None, None], image.shape).astype(np.float32)
    stack = Stack(image, np.zeros(image.shape, np.int32), variance, weights, np.stack([psf(3.0)] * 3))
    coadd = combine(stack, np.zeros(image.shape, bool), 3)
    np.testing.assert_allclose(coadd.image, np.average(image, axis=0, weights=weights), rtol=1e-5)
    pulls = (coadd.image - 7.0) / np.sqrt(coadd.variance)
    assert abs(pulls.mean()) < 0.02
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    assert (coadd.nEpochs == 3).all()
    assert coadd.psf.sum() == pytest.approx(1.0, abs=1e-5)


def test_masks_of_the_mean():
    image = np.ones((4, 12, 12), np.float32)
    mask = np.zeros(image.shape, np.int32)
    image[0, 2, 2], mask[0, 2, 2] = 99.0, MaskPlane.CR
    image[:, 4, 4], mask[:, 4, 4] = 500.0, MaskPlane.SATURATED
    mask[1, 6, 6] = MaskPlane.SATURATED
    mask[2, 8, 8] = MaskPlane.SUSPECT | MaskPlane.DETECTED
    mask[:2, 10, 10] = MaskPlane.NO_DATA
    mask[3, 0, 0], image[3, 0, 0] = MaskPlane.STREAK, 50.0
    stack = Stack(image, mask, np.ones_like(image), np.ones(4), np.stack([psf(3.0)] * 4))
    coadd = combine(stack, np.zeros(image.shape, bool), 3)
    assert (coadd.image[2, 2], coadd.mask[2, 2], coadd.nEpochs[2, 2]) == (1.0, 0, 3)
    assert (coadd.image[4, 4], coadd.mask[4, 4], coadd.nEpochs[4, 4]) == (500.0, MaskPlane.SATURATED, 0)
    assert (coadd.image[6, 6], coadd.mask[6, 6], coadd.nEpochs[6, 6]) == (1.0, MaskPlane.SATURATED, 3)
    assert coadd.mask[8, 8] == MaskPlane.SUSPECT
    assert (coadd.image[10, 10], coadd.mask[10, 10], coadd.nEpochs[10, 10]) == (0.0, MaskPlane.NO_DATA, 0)
    assert (coadd.image[0, 0], coadd.mask[0, 0]) == (1.0, 0)


def test_a_noisy_corner_is_marked():
    variance = np.ones((5, 20, 20), np.float32)
    variance[:, 10, 10] = 99.0  # a star's photons
    mask = np.zeros(variance.shape, np.int32)
    mask[1:, :4, :4] = MaskPlane.CR
    stack = Stack(np.zeros_like(variance), mask, variance, np.ones(5), np.stack([psf(3.0)] * 5))
    mask = combine(stack, np.zeros(variance.shape, bool), 3).mask
    assert (mask[:4, :4] == MaskPlane.HIGH_VARIANCE).all()
    assert np.count_nonzero(mask) == 16


def test_star_cores_stay_however_many_epochs_there_are():
    rng = np.random.default_rng(3)
    widths = rng.uniform(1.2, 1.6, 200)
    y, x = np.mgrid[:48, :48] - 24.0
    psfs = np.stack([np.exp(-(x**2 + y**2) / (2 * width**2)) for width in widths])
    psfs /= psfs.sum(axis=(1, 2), keepdims=True)
    light = (2e4 * psfs).astype(np.float32)
    variance = (25.0 + light / 50.0).astype(np.float32)
    image = (light + rng.normal(size=light.shape) * np.sqrt(variance)).astype(np.float32)
    stamps, usable = np.stack([psf[9:40, 9:40] for psf in psfs]), np.ones(image.shape, bool)
    reference = reference_image(image, variance, usable)
    assert reference.variance.min() > 0
    np.testing.assert_allclose(reference.variance, np.pi / 2 * variance.mean(axis=0) / 200, rtol=1e-4)
    found = find_outliers(image, variance, usable, stamps, 3.3, reference)
    assert found[:, 22:27, 22:27].mean() < 0.01
