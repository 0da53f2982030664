import numpy as np
import pytest

from workers.imaging.photometry import psf_fluxes
from workers.imaging.psf import PsfModel
from workers.subtract.convolve import VaryingKernel, convolve
from workers.subtract.decorrelate import noise_gains, whitening_kernels
from workers.subtract.matched_filter import robust_std, score_image
from workers.subtract.residual_background import residual_background

SHAPE = (400, 400)


def gaussian(sigma: float, n: int = 21) -> np.ndarray:
    axis = np.arange(n) - n // 2
    out = np.exp(-0.5 * np.add.outer(axis**2, axis**2) / sigma**2)
    return out / out.sum()


@pytest.mark.parametrize("ratio", [0.1, 1.0, 4.0])
def test_noise_is_white_with_the_variance_promised(ratio: float) -> None:
    """DMTN-021: after psi the power is flat, and a v_u + b v_c is the pixel variance."""
    rng = np.random.default_rng(1)
    kernel = gaussian(1.0)
    psi = whitening_kernels(kernel[None], np.array([1.0]), np.array([ratio]), 10)
    plain, convolved = rng.normal(0, 1, SHAPE), rng.normal(0, np.sqrt(ratio), SHAPE)
    raw = plain - convolve(convolved, VaryingKernel.constant(kernel, SHAPE))
    white = convolve(raw, VaryingKernel.constant(psi[0], SHAPE))[12:-12, 12:-12].astype(float)
    psf = gaussian(1.6, 25)
    a, b = noise_gains(psi, kernel[None], psf[None])
    assert white.var() == pytest.approx(a[0] + b[0] * ratio, rel=0.02)
    for shift in ((0, 1), (1, 0), (1, 1), (0, 3)):
        product = white * np.roll(white, shift, axis=(0, 1))
        assert abs(product.mean()) < 0.01 * white.var()
    assert psi.sum() == pytest.approx(1.0)


def test_score_is_flux_over_error_and_unit_normal_on_noise() -> None:
    rng = np.random.default_rng(2)
    psf = PsfModel.gaussian(3.3, size=25, width=400, height=400)
    variance = np.full(SHAPE, 4.0, np.float32)
    variance[:, 200:] = 25.0
    image = (rng.normal(size=SHAPE) * np.sqrt(variance)).astype(np.float32)
    excluded = np.zeros(SHAPE, bool)
    excluded[100:104, 100:200] = True
    image[100:104, 100:200] = 1e5
    score = score_image(image, variance, excluded, psf)
    assert robust_std(score) == pytest.approx(1.0, abs=0.02)
    x, y = np.array([50, 150, 300, 197]), np.array([60, 107, 200, 300])
    fluxes = psf_fluxes(image, variance, ~excluded, psf, x, y)
    np.testing.assert_allclose(score[y, x], fluxes["flux"] / fluxes["fluxErr"], atol=0.05)
    assert score[102, 150] == 0.0
    assert np.abs(score).max() < 6.0


def test_residual_background_ignores_sources() -> None:
    rng = np.random.default_rng(3)
    yy, xx = np.mgrid[:400, :400] / 200.0 - 1.0
    truth = 0.3 + 0.2 * xx - 0.1 * yy * yy
    image = rng.normal(size=SHAPE) + truth
    image[::40, ::40] += 500.0
    fit = residual_background(image.astype(np.float32), np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool))
    assert np.abs(fit.sum_image() - truth).max() < 0.05
    nothing = residual_background(image.astype(np.float32), np.ones(SHAPE, np.float32), np.ones(SHAPE, bool))
    assert not nothing.sum_image().any()
