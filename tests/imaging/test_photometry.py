"""PSF fluxes, centroids and apertures, against truth as distributions and against photutils."""

import numpy as np
import pytest
from scipy.special import erf

from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import (
    CENTROID_DTYPE,
    FLUX_DTYPE,
    PhotometryFlag,
    aperture_fluxes,
    psf_centroids,
    psf_fluxes,
)
from workers.imaging.point_fits import shifted_gradients, shifted_stamps
from workers.imaging.psf import PsfModel, shift_gradients, shift_stamps

FWHM, SIZE = 3.6, 25


def prf(dx, dy, size=SIZE, fwhm=FWHM):
    """Pixel-integrated Gaussians (m, size, size) of unit flux."""
    edge = np.arange(size + 1) - size // 2 - 0.5
    scale = fwhm / 2.354820045 * np.sqrt(2)
    steps = [0.5 * np.diff(erf((edge[None, :] - np.atleast_1d(d)[:, None]) / scale), axis=1) for d in (dx, dy)]
    return steps[1][:, :, None] * steps[0][:, None, :]


def model(width, height):
    stamp = prf(0.0, 0.0)
    return PsfModel((stamp / stamp.sum()).astype(np.float32), 0, width, height)


def scene(seed, flux_range, sky=100.0, offset=0.0, count=33, sign=1.0):
    """A grid of isolated sources on a sky of zero: image, true variance, positions and fluxes."""
    rng = np.random.default_rng(seed)
    pitch = 31
    side = count * pitch
    at = np.arange(count) * pitch + pitch // 2
    x = (at[None, :] + rng.uniform(-0.5, 0.5, (count, count))).ravel()
    y = (at[:, None] + rng.uniform(-0.5, 0.5, (count, count))).ravel()
    flux = np.exp(rng.uniform(*np.log(flux_range), x.size))
    stamps = prf(x - np.round(x), y - np.round(y), pitch) * flux[:, None, None]
    light = stamps.reshape(count, count, pitch, pitch).transpose(0, 2, 1, 3).reshape(side, side)
    variance = light + sky
    image = sign * light + offset + rng.normal(0, 1, light.shape) * np.sqrt(variance)
    return image.astype(np.float32), variance.astype(np.float32), x, y, sign * flux


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("background", [False, True])
def test_flux_pulls_of_thousands(sign, background):
    pulls, chi = [], []
    for seed in range(4):
        image, variance, x, y, flux = scene(seed, (300.0, 3e4), sign=sign, offset=4.0 if background else 0.0)
        psf = model(image.shape[1], image.shape[0])
        usable = np.ones(image.shape, bool)
        rows = psf_fluxes(image, variance, usable, psf, x, y, local_background=background)
        assert rows.dtype == FLUX_DTYPE
        assert (rows["flags"] == 0).all()
        pulls.append((rows["flux"] - flux) / rows["fluxErr"])
        chi.append(rows["chi2"] / rows["nPixels"])
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.03
    assert 0.95 < pulls.std() < 1.05
    assert np.mean(chi) == pytest.approx(1.0, abs=0.01)


def test_bright_fluxes_are_not_biased_by_a_variance_made_of_the_counts():
    ratio = []
    for seed in range(2):
        image, _, x, y, flux = scene(seed, (3000.0, 1e4), sky=25.0)
        noisy = np.maximum(image + 25.0, 1.0)  # what a detector gives: variance from the same counts
        psf = model(image.shape[1], image.shape[0])
        rows = psf_fluxes(image, noisy, np.ones(image.shape, bool), psf, x, y)
        ratio.append(rows["flux"] / flux)
    assert np.mean(ratio) == pytest.approx(1.0, abs=1e-3)


def test_the_local_background_comes_out():
    image, variance, x, y, _ = scene(1, (300.0, 3000.0), offset=7.5)
    psf = model(image.shape[1], image.shape[0])
    rows = psf_fluxes(image, variance, np.ones(image.shape, bool), psf, x, y, local_background=True)
    assert rows["background"].mean() == pytest.approx(7.5, abs=0.05)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_centroid_pulls(sign):
    pulls = []
    rng = np.random.default_rng(9)
    for seed in range(2):
        image, variance, x, y, _ = scene(seed, (1200.0, 3e4), sign=sign)
        psf = model(image.shape[1], image.shape[0])
        start = x + rng.uniform(-0.7, 0.7, x.size), y + rng.uniform(-0.7, 0.7, x.size)
        rows = psf_centroids(image, variance, np.ones(image.shape, bool), psf, *start)
        assert rows.dtype == CENTROID_DTYPE
        assert (rows["flags"] == 0).all()
        pulls += [(rows["x"] - x) / rows["xErr"], (rows["y"] - y) / rows["yErr"]]
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.045
    assert 0.95 < pulls.std() < 1.05


def test_fluxes_at_fitted_positions_are_unbiased_once_their_bias_is_taken_off():
    excess, corrected, pulls = [], [], []
    for seed in range(3):
        image, variance, x, y, flux = scene(seed, (765.0, 766.0))  # S/N 12
        psf, usable = model(image.shape[1], image.shape[0]), np.ones(image.shape, bool)
        places = psf_centroids(image, variance, usable, psf, x + 0.1, y - 0.1)
        rows = psf_fluxes(image, variance, usable, psf, places["x"], places["y"])
        # the flux at the true place has the same noise and no bias: the difference shows the bias alone
        fixed = psf_fluxes(image, variance, usable, psf, x, y)["flux"]
        excess.append((rows["flux"] - fixed) / flux)
        corrected.append((rows["flux"] - places["fluxBias"] - fixed) / flux)
        pulls.append((rows["flux"] - places["fluxBias"] - flux) / rows["fluxErr"])
    assert np.mean(excess) == pytest.approx(1 / 12.0**2, rel=0.15)  # Portillo et al. 2020
    assert abs(np.mean(corrected)) < 1e-3
    assert np.std(pulls) == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_the_fast_shift_is_the_shift(oversampling):
    psf = PsfModel.gaussian(3.0, size=21, width=9, height=9, oversampling=oversampling)
    rng = np.random.default_rng(0)
    dx, dy = rng.uniform(-0.5, 0.5, (2, 30))
    stamps = psf.fine_stamps(np.zeros(30), np.zeros(30))
    expected = shift_stamps(stamps, dx, dy, oversampling)
    np.testing.assert_allclose(shifted_stamps(stamps, dx, dy, oversampling), expected, atol=1e-8)
    slopes = np.stack(shift_gradients(stamps, dx, dy, oversampling=oversampling), axis=1)
    np.testing.assert_allclose(shifted_gradients(stamps, dx, dy, oversampling), slopes, atol=1e-4)


def test_no_noise_no_error():
    image, variance, x, y, flux = scene(3, (1e3, 1e4), count=5)
    clean = variance - 100.0
    psf = model(image.shape[1], image.shape[0])
    usable = np.ones(image.shape, bool)
    places = psf_centroids(clean, variance, usable, psf, x + 0.4, y - 0.3)
    assert np.abs(places["x"] - x).max() < 2e-4
    rows = psf_fluxes(clean, variance, usable, psf, x, y)
    np.testing.assert_allclose(rows["flux"], flux, rtol=1e-4)
    np.testing.assert_allclose(places["flux"], flux, rtol=1e-4)


def test_masked_pixels_do_not_bias():
    pulls = []
    for seed in range(3):
        image, variance, x, y, flux = scene(seed, (1e3, 1e4))
        rng = np.random.default_rng(seed)
        usable = rng.random(image.shape) > 0.1
        image = np.where(usable, image, np.float32(1e6))
        rows = psf_fluxes(image, variance, usable, model(image.shape[1], image.shape[0]), x, y)
        pulls.append((rows["flux"] - flux) / rows["fluxErr"])
        near = [
            usable[round(b) - 1 : round(b) + 2, round(a) - 1 : round(a) + 2].all() for a, b in zip(x, y, strict=True)
        ]
        np.testing.assert_array_equal((rows["flags"] & PhotometryFlag.MASKED_CENTRE) == 0, near)
    pulls = np.concatenate(pulls)
    assert abs(np.nanmean(pulls)) < 0.06
    assert 0.95 < np.nanstd(pulls) < 1.05


def test_positions_off_the_image_and_without_pixels_are_flagged_not_raised():
    image, variance, *_ = scene(1, (1e3, 1e4), count=3)
    psf = model(93, 93)
    usable = np.ones(image.shape, bool)
    usable[40:55, 40:55] = False
    x, y = np.array([-50.0, 0.0, 46.0, np.nan]), np.array([10.0, 15.0, 46.0, 3.0])
    rows = psf_fluxes(image, variance, usable, psf, x, y)
    lost = (rows["flags"] & PhotometryFlag.NO_SUPPORT) != 0
    np.testing.assert_array_equal(lost, [True, False, True, True])
    assert np.isnan(rows["flux"][lost]).all()
    assert rows["flags"][1] & PhotometryFlag.EDGE
    places = psf_centroids(image, variance, usable, psf, x, y)
    assert np.isnan(places["xErr"][lost]).all()


def test_no_positions_give_no_rows():
    image, variance, *_ = scene(1, (1e3, 1e4), count=2)
    usable = np.ones(image.shape, bool)
    assert psf_fluxes(image, variance, usable, model(62, 62), [], []).shape == (0,)
    assert psf_centroids(image, variance, usable, model(62, 62), [], []).shape == (0,)


def test_a_centroid_that_runs_away_keeps_its_start():
    image, variance, x, y, _ = scene(1, (1e4, 2e4), count=3)
    psf = model(93, 93)
    start = psf_centroids(image, variance, np.ones(image.shape, bool), psf, x + 3.4, y + 3.4, iterations=12)
    lost = (start["flags"] & PhotometryFlag.NOT_CONVERGED) != 0
    assert lost.any()
    np.testing.assert_array_equal(start["x"][lost], (x + 3.4)[lost])


def test_usable_pixels_follow_planes_and_numbers():
    image, variance, mask = np.zeros((2, 3)), np.ones((2, 3)), np.zeros((2, 3), np.int32)
    mask[0, 0], mask[0, 1] = MaskPlane.SATURATED, MaskPlane.DETECTED
    image[1, 0], variance[1, 1], variance[1, 2] = np.nan, 0.0, np.inf
    np.testing.assert_array_equal(usable_pixels(image, variance, mask), [[False, True, True], [False, False, False]])
    assert not usable_pixels(image, variance, mask, MaskPlane.DETECTED)[0, 1]


def test_inputs_stay_as_they_are():
    image, variance, x, y, _ = scene(1, (1e3, 1e4), count=3)
    for array in (image, variance, x, y):
        array.flags.writeable = False
    psf_centroids(image, variance, np.ones(image.shape, bool), model(93, 93), x, y)


def test_apertures_hold_the_light_inside():
    image, variance, x, y, flux = scene(5, (1e4, 3e4), count=10)
    total, error, flags = aperture_fluxes(image, variance, np.ones(image.shape, bool), x, y, 9.0)
    pulls = (total - flux) / error
    assert abs(pulls.mean()) < 0.35
    assert 0.8 < pulls.std() < 1.2
    assert (flags == 0).all()


def test_agrees_with_photutils():
    psf_tools = pytest.importorskip("photutils.psf")
    table = pytest.importorskip("astropy.table")
    image, variance, x, y, _ = scene(11, (2e3, 2e4), count=4)
    oracle = psf_tools.PSFPhotometry(psf_tools.CircularGaussianPRF(fwhm=FWHM), SIZE, aperture_radius=5)
    theirs = oracle(image, init_params=table.Table({"x": x, "y": y}))
    psf, usable = model(image.shape[1], image.shape[0]), np.ones(image.shape, bool)
    ours = psf_centroids(image, variance, usable, psf, x, y)
    np.testing.assert_allclose(ours["x"], theirs["x_fit"], atol=3e-3)
    np.testing.assert_allclose(ours["y"], theirs["y_fit"], atol=3e-3)
    np.testing.assert_allclose(ours["flux"], theirs["flux_fit"], rtol=2e-3)
