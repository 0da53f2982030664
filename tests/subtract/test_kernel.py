import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from schemas.errors import DataError
from workers.subtract.basis import design_basis
from workers.subtract.convolve import VaryingKernel, convolve
from workers.subtract.kernel import KernelFit, fit_kernel, stamp_grams
from workers.subtract.kernel_stars import choose_stars

SHAPE = (400, 400)
BASIS = design_basis(2.8, 3.6, 10)


def gaussian(sigma: float, n: int = 21) -> NDArray[np.float64]:
    axis = np.arange(n) - n // 2
    out = np.exp(-0.5 * np.add.outer(axis**2, axis**2) / sigma**2)
    return out / out.sum()


def star_field(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], ...]:
    x, y = rng.integers(25, 375, (2, count))
    image = np.zeros(SHAPE)
    np.add.at(image, (y, x), rng.uniform(2e3, 2e4, count))
    return convolve(image, VaryingKernel.constant(gaussian(1.2), SHAPE)).astype(float), x, y


def fitted(
    template: NDArray[np.float64],
    science: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    degree: int,
    noise: float = 1.0,
) -> KernelFit:
    variance = np.full(SHAPE, noise**2)
    grams = stamp_grams((template, 1e-6 * variance), (science, variance), x, y, BASIS, 9)
    return fit_kernel(grams, BASIS, degree, SHAPE)


def true_kernel() -> VaryingKernel:
    narrow, wide = gaussian(0.8), gaussian(1.6)
    return VaryingKernel(np.array([0.9 * (0.6 * narrow + 0.4 * wide), 0.05 * (wide - narrow), 0 * wide]), 1, SHAPE)


def test_basis_sums_and_separable_convolution() -> None:
    images = BASIS.images()
    np.testing.assert_allclose(images.sum(axis=(1, 2)), np.eye(len(BASIS))[0], atol=1e-12)
    stamps = np.random.default_rng(1).normal(size=(2, 31, 31))
    ours = BASIS.convolved(stamps)
    for k in (0, 3, 17, len(BASIS) - 1):
        np.testing.assert_allclose(ours[1, k], signal.fftconvolve(stamps[1], images[k], "valid"), atol=1e-10)


def test_kernel_and_background_are_recovered() -> None:
    rng = np.random.default_rng(2)
    template, x, y = star_field(rng, 120)
    truth = true_kernel()
    science = convolve(template, truth) + 7.0 + rng.normal(0, 1.0, SHAPE)
    fit = fitted(template, science, x, y, 1)
    assert fit.kernel.degree == 1
    assert 0.8 < fit.chi2 < 1.1  # the model error of bright stars is in the weights
    for px, py in ((40, 40), (200, 200), (370, 60)):
        assert fit.kernel.at(px, py).sum() == pytest.approx(truth.at(px, py).sum(), abs=0.003)
        np.testing.assert_allclose(fit.kernel.at(px, py), truth.at(px, py), atol=0.02)
    assert np.median(fit.background.sum_image()) == pytest.approx(7.0, abs=0.3)


def test_variable_stars_are_clipped() -> None:
    rng = np.random.default_rng(5)
    template, x, y = star_field(rng, 60)
    science = template.copy()
    for px, py in zip(x[:5], y[:5], strict=True):
        science[py - 6 : py + 7, px - 6 : px + 7] *= 1.5
    fit = fitted(template, science + rng.normal(0, 1.0, SHAPE), x, y, 0)
    assert fit.rejected >= 5
    assert fit.kernel.at(200, 200).sum() == pytest.approx(1.0, abs=0.003)


def test_noise_in_the_convolved_image_does_not_weaken_the_kernel() -> None:
    truth, star, nine = true_kernel().at(200, 200)[0], gaussian(1.2), np.full(SHAPE, 9.0)
    centres = []
    for seed in range(6, 10):
        rng = np.random.default_rng(seed)
        clean, x, y = star_field(rng, 150)
        clean *= 0.05  # S/N of tens
        science = convolve(clean, true_kernel()).astype(float) + rng.normal(0, 3.0, SHAPE)
        template = clean + rng.normal(0, 3.0, SHAPE)
        for known in (nine, 1e-6 * nine):
            grams = stamp_grams((template, known), (science, 18.0 - known), x, y, BASIS, 9)
            kernel = fit_kernel(grams, BASIS, 0, SHAPE).kernel.at(200, 200)[0]
            # what the kernel makes of a star's centre, against what it should
            centres.append((kernel * star).sum() / (truth * star).sum() - 1.0)
    assert np.mean(centres[1::2]) < -0.035  # errors in variables, were the noise not known
    assert abs(np.mean(centres[::2])) < 0.015


def test_no_direction_is_left_without_weight() -> None:
    """Taking off all of the noise, or what just stays positive, left kernels wrong by more than their own peak."""
    truth, nine, worst = true_kernel(), np.full(SHAPE, 9.0), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        clean, x, y = star_field(rng, 60)
        clean *= 0.1
        science = convolve(clean, truth).astype(float) + rng.normal(0, 3.0, SHAPE)
        grams = stamp_grams((clean + rng.normal(0, 3.0, SHAPE), nine), (science, nine), x, y, BASIS, 9)
        kernel = fit_kernel(grams, BASIS, 1, SHAPE).kernel
        errors = [kernel.at(px, py) - truth.at(px, py) for px, py in ((40, 40), (200, 200), (370, 60))]
        worst.append(np.abs(errors).max())
    assert max(worst) < 0.35


def test_ladder_and_errors() -> None:
    rng = np.random.default_rng(7)
    template, x, y = star_field(rng, 5)
    science = convolve(template, VaryingKernel.constant(gaussian(1.0), SHAPE)) + rng.normal(0, 1.0, SHAPE)
    fit = fitted(template, science, x, y, 2)
    assert fit.kernel.degree == 0
    assert fit.fallbacks == {"kernelFallbackFewStars": 1}
    with pytest.raises(DataError, match="kernel needs at least 3"):
        fitted(template, science, x[:2], y[:2], 1)
    with pytest.raises(DataError, match="kernel needs at least 3"):
        fitted(template, science, x[:0], y[:0], 1)
    with pytest.raises(DataError, match="not determined"):
        fitted(np.full(SHAPE, np.nan), science, x, y, 1)


def test_stars_are_spread_and_clean() -> None:
    rng = np.random.default_rng(8)
    x = np.r_[rng.integers(20, 40, 300), rng.integers(20, 380, 100)]
    y = np.r_[rng.integers(20, 40, 300), rng.integers(20, 380, 100)]
    snr = np.r_[np.full(300, 500.0), np.full(100, 30.0)]
    blocked = np.zeros(SHAPE, bool)
    blocked[200, :] = True
    chosen = choose_stars(x, y, snr, blocked, 12, most=80)
    assert len(chosen) == 80
    assert np.count_nonzero(chosen < 300) < 40  # the crowd in one corner does not take all places
    assert np.all(np.abs(y[chosen] - 200) > 12)
    assert len(choose_stars(x[:0], y[:0], snr[:0], blocked, 12)) == 0
