"""Overlapping stars fitted together, against truth."""

import numpy as np
import pytest

from tests.characterize.conftest import moffat
from workers.imaging.blends import BLEND_DTYPE, fit_blends, groups_of
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel

PITCH, SIDE, SKY = 60, 16, 425.0


def profile():
    stamp = moffat(np.zeros(1), np.zeros(1), np.array([3.6]), 3.5, 25)
    return (stamp / stamp.sum()).astype(np.float32)


def pairs(seed, separation, fluxes=(5e3, 5e4)):
    """A grid of pairs: image, variance, PSF, places (firsts, then seconds), fluxes."""
    rng = np.random.default_rng(seed)
    size = (SIDE + 1) * PITCH
    psf = PsfModel(profile(), 0, size, size)
    at = np.arange(SIDE) * PITCH + PITCH
    x = (at[None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    y = (at[:, None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    angle = rng.uniform(0, 2 * np.pi, x.size)
    x, y = np.r_[x, x + separation * np.cos(angle)], np.r_[y, y + separation * np.sin(angle)]
    flux = np.exp(rng.uniform(*np.log(fluxes), x.size))
    light = np.zeros((size, size))
    stamps = psf.stamps_at(x, y) * flux[:, None, None]
    for stamp, i, j in zip(stamps, np.round(y).astype(int), np.round(x).astype(int), strict=True):
        light[i - 12 : i + 13, j - 12 : j + 13] += stamp
    variance = light + SKY
    image = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
    return image.astype(np.float32), variance.astype(np.float32), psf, x, y, flux


@pytest.mark.parametrize(("separation", "width"), [(2.7, 1.12), (4.0, 1.07), (8.0, 1.06)])
def test_pulls_of_close_pairs(separation, width):
    image, variance, psf, x, y, flux = pairs(1, separation)
    usable = np.ones(image.shape, bool)
    rng = np.random.default_rng(2)
    start = x + rng.normal(0, 0.2, x.size), y + rng.normal(0, 0.2, x.size)
    group = np.tile(np.arange(x.size // 2), 2)
    rows = fit_blends(image, variance, usable, psf, *start, group)
    assert rows.dtype == BLEND_DTYPE
    assert rows["solved"].all()
    assert rows["moved"].mean() > 0.99
    pulls = (rows["flux"] - rows["fluxBias"] - flux) / rows["fluxErr"]
    assert abs(np.nanmean(pulls)) < 0.12
    assert 0.93 < np.nanstd(pulls) < width
    for axis, truth in (("x", x), ("y", y)):
        assert np.nanstd((rows[axis] - truth) / rows[f"{axis}Err"]) == pytest.approx(1.0, abs=0.08)
    assert (rows["chi2"] / rows["nPixels"]).mean() == pytest.approx(1.0, abs=0.05)
    nearest = {2.7: 0.35, 4.0: 0.22, 8.0: 0.03}[separation]
    assert np.median(rows["blendedness"]) == pytest.approx(nearest, abs=0.03)


def test_one_alone_is_the_single_fit():
    image, variance, psf, x, y, _ = pairs(3, 26.0)
    usable = np.ones(image.shape, bool)
    x, y = x[: SIDE * SIDE], y[: SIDE * SIDE]
    rows = fit_blends(image, variance, usable, psf, x, y, np.arange(len(x)))
    single = psf_centroids(image, variance, usable, psf, x, y)
    fluxes = psf_fluxes(image, variance, usable, psf, single["x"], single["y"])
    np.testing.assert_allclose(rows["flux"], fluxes["flux"], rtol=2e-4)
    np.testing.assert_allclose(rows["fluxErr"], fluxes["fluxErr"], rtol=2e-3)
    np.testing.assert_allclose(rows["x"], single["x"], atol=5e-3)
    assert (rows["blendedness"] == 0.0).all()


def test_groups_hold_those_that_matter_to_each_other():
    psf = PsfModel(profile(), 0, 200, 200)
    x, y = np.array([50.0, 54.0, 100.0, 115.0, 150.0, 165.0, 20.0]), np.full(7, 50.0)
    flux = np.array([1e3, 1e3, 1e7, 1e3, 1e3, 1e3, np.nan])
    group, size = groups_of(x, y, flux, np.full(7, 100.0), psf)
    np.testing.assert_array_equal(group, [0, 0, 1, 1, 2, 3, 4])  # a bright one reaches far, faint ones do not
    np.testing.assert_array_equal(size, [2, 2, 1, 1, 1])
    assert groups_of(x[:0], y[:0], flux[:0], flux[:0], psf)[0].shape == (0,)


def test_a_group_without_pixels_has_no_flux_and_large_groups_still_do():
    image, variance, psf, x, y, flux = pairs(5, 6.0)
    usable = np.ones(image.shape, bool)
    usable[: PITCH + 30, : PITCH + 30] = False
    group = np.zeros(x.size, int)
    group[x.size // 2 :] = np.arange(x.size // 2)
    group[: x.size // 2] = np.arange(x.size // 2)
    group[(group >= 2) & (group < 22)] = 2  # forty sources together, most of which do not touch
    rows = fit_blends(image, variance, usable, psf, x, y, group)
    lost = (x < PITCH + 15) & (y < PITCH + 15)
    assert lost.any()
    assert not rows["solved"][lost].any()
    at = group == 2
    assert at.sum() == 40
    pulls = (rows["flux"] - flux)[at] / rows["fluxErr"][at]
    assert 0.6 < pulls.std() < 1.5
