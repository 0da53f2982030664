"""Aperture corrections of rendered stars, against what the PSF's profile says."""

import numpy as np
import pytest

from schemas.errors import DataError
from tests.characterize.conftest import moffat
from workers.characterize.aperture_correction import GROWTH_RADII, fit_aperture_correction
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.psf import PsfModel

SHAPE, SIZE, RENDERED = (480, 480), 25, 71
FWHM, BETA = 3.6, 3.0


def profile(fwhm, size=RENDERED):
    """Return one star of unit flux within a square of `size`."""
    return moffat(np.zeros(1), np.zeros(1), np.full(1, fwhm), BETA, size)[0]


def truth(fwhm, radius=12.0):
    """Flux within `radius` over the flux that the PSF of FWHM `FWHM` finds, for a star of `fwhm`."""
    from sep import sum_circle

    star = profile(fwhm)
    cut = np.s_[(RENDERED - SIZE) // 2 : (RENDERED + SIZE) // 2, (RENDERED - SIZE) // 2 : (RENDERED + SIZE) // 2]
    psf = profile(FWHM)[cut] / profile(FWHM)[cut].sum()
    fitted = (psf * star[cut]).sum() / np.square(psf).sum()
    return sum_circle(star, [RENDERED // 2], [RENDERED // 2], radius, subpix=0)[0][0] / fitted


def scene(seed, *, count=36, slope=0.0, sky=200.0, flux=(2e4, 4e5), level=0.0):
    """Return image, variance and positions of stars on a jittered grid; their FWHM changes by `slope` along x."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    pitch = SHAPE[0] / side
    gx, gy = np.meshgrid(np.arange(side), np.arange(side))
    x = (gx.ravel()[:count] + 0.5) * pitch + rng.uniform(-3, 3, count)
    y = (gy.ravel()[:count] + 0.5) * pitch + rng.uniform(-3, 3, count)
    fluxes = np.exp(rng.uniform(*np.log(flux), count))
    expected = np.full(SHAPE, sky)
    half = RENDERED // 2
    padded = np.zeros((SHAPE[0] + 2 * half, SHAPE[1] + 2 * half))
    fwhm = FWHM * (1 + slope * (2 * x / SHAPE[1] - 1))
    cx, cy = np.round(x).astype(int), np.round(y).astype(int)
    stamps = moffat(x - cx, y - cy, fwhm, BETA, RENDERED)
    for stamp, px, py, f in zip(stamps, cx, cy, fluxes, strict=True):
        padded[py : py + RENDERED, px : px + RENDERED] += f * stamp
    expected += padded[half:-half, half:-half]
    image = rng.poisson(expected) - sky + rng.normal(0, 5.0, SHAPE) + level
    variance = np.maximum(image + sky, 1.0) + 25.0
    return image.astype(np.float32), variance.astype(np.float32), x, y


def fit(image, variance, x, y, **options):
    cut = profile(FWHM, SIZE)
    psf = PsfModel((cut / cut.sum())[None].astype(np.float32), 0, SHAPE[1], SHAPE[0])
    usable = usable_pixels(image, variance, np.zeros(SHAPE, np.int32))
    return fit_aperture_correction(image, variance, usable, psf, x, y, **options)


def test_pulls_are_those_of_true_errors():
    pulls, off = [], []
    for seed in range(14):
        found = fit(*scene(seed))
        value, error = found([200.0], [300.0])
        off.append(value[0] / truth(FWHM) - 1.0)
        pulls.append((value[0] - truth(FWHM)) / error[0])
    assert abs(np.mean(off)) < 1.5e-3
    assert 0.5 < np.std(pulls) < 1.5
    assert abs(np.mean(pulls)) < 0.8


def test_it_follows_a_psf_that_changes_over_the_detector():
    image, variance, x, y = scene(3, count=64, slope=0.04, flux=(2e5, 2e6), sky=50.0)
    found = fit(image, variance, x, y)
    assert found.order >= 1
    at = np.array([60.0, 240.0, 420.0])
    value, error = found(at, np.full(3, 240.0))
    expected = [truth(FWHM * (1 + 0.04 * (2 * px / SHAPE[1] - 1))) for px in at]
    assert expected[2] - expected[0] > 0.03
    assert value == pytest.approx(expected, abs=4e-3)
    assert (error < 3e-3).all()
    assert found.covariance.shape == (len(found.coefficients),) * 2


def test_the_curve_of_growth_is_the_profiles():
    found = fit(*scene(5, flux=(2e5, 2e6)))
    expected = [truth(FWHM, radius) / truth(FWHM) for radius in GROWTH_RADII]
    assert found.growth == pytest.approx(expected, abs=5e-3)
    assert (np.abs(found.growth - expected) < 5 * found.growthErr + 1e-3).all()


def test_a_sky_left_in_the_image_changes_nothing():
    clean, raised = fit(*scene(6)), fit(*scene(6, level=3.0))
    assert raised.coefficients[0] == pytest.approx(clean.coefficients[0], abs=3e-4)


def test_blends_and_faint_stars_are_left_out():
    image, variance, x, y = scene(7)
    extra = np.r_[x, x[:10] + 6.0], np.r_[y, y[:10] + 3.0]
    half = RENDERED // 2
    for px, py in zip(extra[0][36:], extra[1][36:], strict=True):
        column, row = round(px), round(py)
        stamp = moffat(np.array([px - column]), np.array([py - row]), np.full(1, FWHM), BETA, RENDERED)[0]
        box = np.s_[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        top, left = max(half - row, 0), max(half - column, 0)
        image[box] += (1e4 * stamp[top:, left:])[: image[box].shape[0], : image[box].shape[1]].astype(np.float32)
    found = fit(image, variance, *extra)
    assert found.nStars <= 26
    assert found([240.0], [240.0])[0][0] == pytest.approx(truth(FWHM), abs=3e-3)


def test_corrected_fluxes_carry_the_error():
    found = fit(*scene(8))
    flux, error = found.corrected(np.array([1e6]), np.array([1e3]), np.array([240.0]), np.array([240.0]))
    factor, own = found(240.0, 240.0)
    assert flux[0] == pytest.approx(1e6 * factor[0])
    assert error[0] == pytest.approx(np.hypot(1e3 * factor[0], 1e6 * own[0]))


def test_too_few_stars():
    image, variance, x, y = scene(9, flux=(300.0, 600.0))
    with pytest.raises(DataError, match="aperture correction failed: 0 of 36 sources"):
        fit(image, variance, x, y)
