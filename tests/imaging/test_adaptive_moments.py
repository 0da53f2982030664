"""Adaptive moments against elliptical Gaussians seen through pixels, as distributions."""

import numpy as np
import pytest

from workers.imaging.adaptive_moments import MOMENT_DTYPE, MomentFlag, adaptive_moments, psf_moments
from workers.imaging.psf import PsfModel

SKY, SIDE = 100.0, 18


def gaussians(dx, dy, moments, size, fine=5):
    """Unit-flux elliptical Gaussians (m, size, size), integrated over pixels by sampling them."""
    xx, yy, xy = moments
    axis = (np.arange(size * fine) - (size * fine - 1) / 2) / fine
    determinant = xx * yy - xy * xy
    u, v = axis[None, None, :] - dx[:, None, None], axis[None, :, None] - dy[:, None, None]
    value = np.exp(-0.5 * (yy * u * u + xx * v * v - 2 * xy * u * v) / determinant) / (2 * np.pi * determinant**0.5)
    return value.reshape(len(dx), size, fine, size, fine).sum(axis=(2, 4)) / fine**2


def scene(seed, ratio, moments, pitch=41):
    """A grid of equal sources of one S/N: image, true variance, places, flux."""
    rng = np.random.default_rng(seed)
    at = np.arange(SIDE) * pitch + pitch // 2
    x = (at[None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    y = (at[:, None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    xx, yy, xy = moments
    flux = ratio * np.sqrt(SKY * 4 * np.pi * np.sqrt(xx * yy - xy * xy))
    light = np.concatenate(
        [
            flux * gaussians(px - np.round(px), py - np.round(py), moments, pitch).transpose(1, 0, 2).reshape(pitch, -1)
            for px, py in zip(x.reshape(SIDE, SIDE), y.reshape(SIDE, SIDE), strict=True)
        ]
    )
    variance = light + SKY
    return light + rng.normal(0, 1, light.shape) * np.sqrt(variance), light, variance, x, y, flux


@pytest.mark.parametrize("moments", [(2.4, 2.4, 0.0), (6.0, 3.0, 1.2), (4.0, 9.0, -2.0)])
def test_without_noise_the_moments_are_the_gaussians_and_the_pixels(moments):
    _, light, variance, x, y, flux = scene(1, 50.0, moments)
    rows = adaptive_moments(light, variance, np.ones(light.shape, bool), x + 0.3, y - 0.2, 1.7)
    assert rows.dtype == MOMENT_DTYPE
    assert (rows["flags"] == 0).all()
    pixel = 1.0 / 12.0, 1.0 / 12.0, 0.0
    for name, value, wider in zip(("ixx", "iyy", "ixy"), moments, pixel, strict=True):
        np.testing.assert_allclose(rows[name], value + wider, atol=5e-3)
    np.testing.assert_allclose(rows["x"], x, atol=1e-3)
    np.testing.assert_allclose(rows["gaussianFlux"], flux, rtol=2e-3)


@pytest.mark.parametrize(("ratio", "mean", "width"), [(20.0, 0.3, 1.15), (50.0, 0.2, 1.1), (400.0, 0.17, 1.1)])
def test_pulls(ratio, mean, width):
    moments = (4.0, 2.5, 0.8)
    image, light, variance, x, y, _ = scene(2, ratio, moments)
    usable = np.ones(image.shape, bool)
    truth = adaptive_moments(light, variance, usable, x[:1], y[:1], 1.7)[0]
    rows = adaptive_moments(image, variance, usable, x, y, 1.7)
    good = rows["flags"] == 0
    assert good.mean() > 0.98
    for name in ("ixx", "iyy", "ixy", "gaussianFlux"):
        pulls = ((rows[name] - truth[name]) / rows[f"{name}Err"])[good]
        assert abs(pulls.mean()) < mean
        assert 0.9 < pulls.std() < width


def test_those_of_sn_10_converge_or_are_flagged():
    image, _, variance, x, y, _ = scene(3, 10.0, (3.0, 3.0, 0.0))
    rows = adaptive_moments(image, variance, np.ones(image.shape, bool), x, y, 1.7)
    lost = rows["flags"] != 0
    assert lost.mean() < 0.06
    assert np.isnan(rows["ixxErr"][lost]).all()
    assert np.isfinite(rows["ixxErr"][~lost]).all()
    np.testing.assert_allclose(np.median(rows["ixx"][~lost]), 3.08, rtol=0.05)


def test_masked_pixels_and_neighbours_do_not_pull():
    moments = (3.0, 3.0, 0.0)
    _, light, variance, x, y, _ = scene(4, 100.0, moments)
    rng = np.random.default_rng(0)
    usable = rng.random(light.shape) > 0.05
    broken = np.where(usable, light, 1e6)
    segments, labels = np.zeros(light.shape, np.int32), np.arange(1, x.size + 1)
    for number, (i, j) in enumerate(zip(np.round(y).astype(int), np.round(x).astype(int), strict=True), start=1):
        segments[i - 3 : i + 4, j - 3 : j + 4] = number
        broken[i - 2 : i + 3, j + 5] += 1e4  # a neighbour's
        segments[i - 2 : i + 3, j + 5] = number + 10_000
    rows = adaptive_moments(broken, variance, usable, x, y, 1.7, segments=segments, labels=labels)
    kept = (rows["flags"] & ~int(MomentFlag.MASKED)) == 0
    assert kept.mean() > 0.99
    np.testing.assert_allclose(rows["ixx"][kept], 3.083, atol=0.03)
    np.testing.assert_allclose(rows["x"][kept], x[kept], atol=0.03)


def test_what_is_no_source_is_flagged_not_raised():
    image, variance = np.full((60, 60), -1.0), np.ones((60, 60))
    image[30, 30] = 1e4  # a spike
    usable = np.ones(image.shape, bool)
    usable[:, :12] = False
    where = np.array([30.0, 5.0, 45.0, np.nan, -40.0]), np.array([30.0, 30.0, 45.0, 1.0, 10.0])
    rows = adaptive_moments(image, variance, usable, *where, 1.7)
    assert (rows["flags"][1:] != 0).all()
    assert (rows["flags"][[1, 3, 4]] == MomentFlag.NO_SUPPORT).all()
    assert np.isnan(rows["ixxErr"][rows["flags"] != 0]).all()


def test_the_moments_of_a_psf_that_changes_over_the_detector():
    narrow = PsfModel.gaussian(3.4, size=25, width=400, height=300).coefficients[0]
    wide = PsfModel.gaussian(3.9, size=25, width=400, height=300).coefficients[0]
    psf = PsfModel(np.stack([0.5 * (narrow + wide), 0.5 * (wide - narrow), 0.0 * wide]), 1, 400, 300)
    x, y = np.array([0.0, 133.0, 200.0, 399.0]), np.array([10.0, 20.0, 250.0, 100.0])
    found = psf_moments(psf, x, y)
    stamps = psf.stamps(x, y)
    one = np.ones((25, 25), bool)
    for stamp, moments in zip(stamps, found, strict=True):
        row = adaptive_moments(stamp, np.ones_like(stamp), one, [12.0], [12.0], 1.6)[0]
        np.testing.assert_allclose(moments, [row["ixx"], row["iyy"], row["ixy"]], atol=2e-3)
