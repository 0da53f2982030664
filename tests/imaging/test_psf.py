"""The PSF model: shifting, derivatives, width, normalisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.detection import detect
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import exposure_from_bytes, exposure_to_bytes
from workers.imaging.psf import PsfModel, polynomial_terms, shift_gradients, shift_stamps
from workers.imaging.psf_shapes import adaptive_moments
from workers.imaging.psf_wing import measure_wing


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Compile the loops before hypothesis holds its watch to them."""
    shift_stamps(np.ones((1, 9, 9)), 0.1, 0.1)
    adaptive_moments(np.ones((1, 9, 9)))


def gaussian(dx, dy, fwhm, size=25):
    axis = np.arange(size) - size // 2
    sigma = fwhm / 2.354820045
    profile = np.outer(np.exp(-0.5 * ((axis - dy) / sigma) ** 2), np.exp(-0.5 * ((axis - dx) / sigma) ** 2))
    return profile / (2 * np.pi * sigma**2)


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(3.0, 5.0))
def test_a_shifted_stamp_is_the_profile_at_its_new_place(dx, dy, fwhm):
    shifted = shift_stamps(gaussian(0, 0, fwhm)[None], dx, dy)[0]
    assert np.abs(shifted - gaussian(dx, dy, fwhm)).max() < 4e-4 * gaussian(0, 0, fwhm).max()


def test_gradients_are_the_derivatives_of_the_shift():
    stamps = np.random.default_rng(1).normal(size=(3, 15, 15))
    dx, dy = np.array([0.3, -0.2, 0.0]), np.array([0.1, 0.4, -0.5])
    value, by_x, by_y = shift_gradients(stamps, dx, dy)
    h = 1e-5
    np.testing.assert_allclose(value, shift_stamps(stamps, dx, dy))
    numeric_x = (shift_stamps(stamps, dx + h, dy) - shift_stamps(stamps, dx - h, dy)) / (2 * h)
    numeric_y = (shift_stamps(stamps, dx, dy + h) - shift_stamps(stamps, dx, dy - h)) / (2 * h)
    np.testing.assert_allclose(by_x, numeric_x, atol=1e-3)
    np.testing.assert_allclose(by_y, numeric_y, atol=1e-3)


def test_a_constant_stays_a_constant_away_from_the_rim():
    shifted = shift_stamps(np.ones((1, 25, 25)), 0.37, -0.21)[0]
    np.testing.assert_allclose(shifted[8:-8, 8:-8], 1.0, atol=1e-12)


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 4.4, 7.0])
def test_fwhm_of_a_gaussian(fwhm):
    model = PsfModel.gaussian(fwhm, size=25, width=100, height=100)
    assert model.fwhm(50, 50) == pytest.approx(fwhm, rel=0.006)


def test_noise_area_of_a_gaussian():
    model = PsfModel.gaussian(4.0, size=31, width=100, height=100)
    assert model.noise_area(5, 5)[0] == pytest.approx(4 * np.pi * (4.0 / 2.3548) ** 2, rel=1e-3)


def test_the_fit_recovers_coefficients_and_normalises_everywhere():
    rng = np.random.default_rng(2)
    true = PsfModel(rng.uniform(0.5, 1.0, (3, 5, 5)).astype(np.float32) * [[[1.0]], [[0.1]], [[0.1]]], 1, 200, 100)
    x, y = rng.uniform(0, 199, 40), rng.uniform(0, 99, 40)
    stamps = np.tensordot(true.terms(x, y), true.coefficients, axes=1)
    fitted = PsfModel.fit(stamps, x, y, degree=1, width=200, height=100)
    np.testing.assert_allclose(fitted.coefficients, true.coefficients, atol=1e-5)
    np.testing.assert_allclose(fitted.stamps(x, y).sum(axis=(1, 2)), 1.0)


def test_too_few_stars_for_the_degree():
    with pytest.raises(DataError, match="degree 2 needs 6 stars, there are 4"):
        PsfModel.fit(np.ones((4, 5, 5)), np.arange(4), np.arange(4), degree=2, width=9, height=9)


def test_wrong_shape_is_named():
    with pytest.raises(DataError, match="odd n"):
        PsfModel(np.zeros((1, 4, 4), np.float32), 0, 10, 10)


def test_terms_come_constant_first():
    np.testing.assert_allclose(polynomial_terms(2.0, 3.0, 2), [[1, 2, 3, 4, 6, 9]])


def test_an_oversampled_model_means_the_same_in_pixels_of_the_detector():
    coarse = PsfModel.gaussian(3.4, size=25, width=100, height=80)
    fine = PsfModel.gaussian(3.4, size=25, width=100, height=80, oversampling=2)
    x, y = np.array([10.0, 50.3, 70.5]), np.array([20.0, 40.8, 11.4])
    assert fine.coefficients.shape == (1, 49, 49)
    assert fine.size == coarse.size == 25
    np.testing.assert_allclose(fine.stamps(x, y), coarse.stamps(x, y), atol=1e-6)
    np.testing.assert_allclose(fine.stamps_at(x, y), coarse.stamps_at(x, y), atol=2e-5)
    np.testing.assert_allclose(fine.noise_area(x, y), coarse.noise_area(x, y), rtol=1e-4)
    np.testing.assert_allclose(fine.on_pixels().coefficients, coarse.coefficients, atol=1e-6)
    assert coarse.on_pixels() is coarse
    assert fine.fwhm(50, 40) == pytest.approx(coarse.fwhm(50, 40), rel=0.003)


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(1.6, 3.0))
def test_a_finer_grid_holds_what_is_narrower_than_pixels_hold(dx, dy, fwhm):
    model = PsfModel.gaussian(fwhm, size=25, width=100, height=100, oversampling=2)
    seen, true = model.stamps_at(50.0 + dx, 50.0 + dy)[0], gaussian(dx - round(dx), dy - round(dy), fwhm)
    true /= gaussian(0, 0, fwhm).sum() if fwhm > 2.4 else 1.0
    assert np.abs(seen - true).max() < 5e-4 * true.max()
    assert (seen * true).sum() / np.square(true).sum() == pytest.approx(1.0, abs=1e-4)


def test_gradients_of_a_finer_grid_are_per_pixel_of_the_detector():
    fine = PsfModel.gaussian(3.0, size=15, width=9, height=9, oversampling=2).fine_stamps(0, 0)
    value, by_x, by_y = shift_gradients(fine, 0.3, -0.2, oversampling=2)
    assert value.shape == (1, 15, 15)
    h = 1e-4
    numeric = (gaussian(0.3 + h, -0.2, 3.0, 15) - gaussian(0.3 - h, -0.2, 3.0, 15)) / (2 * h)
    np.testing.assert_allclose(by_x[0], numeric, atol=2e-4)
    numeric = (gaussian(0.3, -0.2 + h, 3.0, 15) - gaussian(0.3, -0.2 - h, 3.0, 15)) / (2 * h)
    np.testing.assert_allclose(by_y[0], numeric, atol=2e-4)


def test_a_finer_grid_has_a_coefficient_on_the_centre_of_each_pixel():
    with pytest.raises(DataError, match=r"oversampled 2 times needs 4 k \+ 1 coefficients along a side, not 7"):
        PsfModel(np.zeros((1, 7, 7), np.float32), 0, 10, 10, 2)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_files_carry_the_oversampling(oversampling):
    info = ExposureInfo("sim", 1, 2, "r", 60000.0, 30.0, 1.0, 2.0, 20230225, "science", "0" * 64, "a.fits")
    plane = np.ones((9, 9), np.float32)
    model = PsfModel.gaussian(2.2, size=9, width=9, height=9, oversampling=oversampling)
    before = Exposure(info, plane, np.zeros((9, 9), np.int32), plane, psf=model)
    after = exposure_from_bytes(exposure_to_bytes(before), "a.fits").need_psf()
    assert after.oversampling == oversampling
    np.testing.assert_array_equal(after.coefficients, model.coefficients)


@given(st.floats(1.6, 3.0), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_adaptive_moments_of_a_gaussian_are_its_own(sigma, e1, e2, dx, dy):
    rows, columns = np.indices((33, 33)) - 16.0
    moments = sigma**2 * np.array([[1 + e1, e2], [e2, 1 - e1]])
    place = np.stack([columns - dx, rows - dy], axis=-1)
    light = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", place, np.linalg.inv(moments), place))
    shapes = adaptive_moments(light[None], guess=3.0)
    assert shapes.size[0] == pytest.approx(2 * sigma**2, rel=1e-3)
    assert shapes.e1[0] == pytest.approx(e1, abs=1e-3)
    assert shapes.e2[0] == pytest.approx(e2, abs=1e-3)


def test_what_has_no_light_has_no_shape():
    assert np.isnan(adaptive_moments(np.stack([np.zeros((9, 9)), -np.ones((9, 9))])).size).all()


def wing_field(rng, number, beta=2.5, fwhm=5.0, size=900):
    """Bright stars, and twice as many faint ones, with Moffat wings on a flat sky of zero."""
    rows, columns = np.indices((size, size))
    image = rng.normal(0, 10.0, (size, size))
    scale = (0.5 * fwhm) ** 2 / (2 ** (1 / beta) - 1)
    x, y = rng.uniform(30, size - 30, (2, 3 * number))
    flux = np.r_[rng.uniform(4e5, 1e6, number), rng.uniform(2e3, 2e4, 2 * number)]
    for px, py, light in zip(x, y, flux, strict=True):
        squared = (columns - px) ** 2 + (rows - py) ** 2
        image += light * (beta - 1) / (np.pi * scale) * (1 + squared / scale) ** -beta
    return image, x, y, flux, lambda r: (beta - 1) / (np.pi * scale) * (1 + r**2 / scale) ** -beta


def test_the_wing_is_that_of_the_bright_stars():
    image, x, y, flux, true = wing_field(np.random.default_rng(3), 10)
    usable = np.ones(image.shape, bool)
    found = detect(image, np.full(image.shape, 10.0), ~usable, threshold=5.0)
    wing = measure_wing(image, usable, found.segments, x[:10], y[:10], flux[:10], inner=12.0)
    near = wing.radius < 28
    np.testing.assert_allclose(wing.profile[near], true(wing.radius[near]), rtol=0.25)
    np.testing.assert_allclose(wing.at(wing.radius[near]), true(wing.radius[near]), rtol=0.25)
    assert wing.power == pytest.approx(-4.6, abs=0.7)
    assert wing.nStars == 10
    assert np.median((wing.profile - true(wing.radius)) / wing.error) < 4.0


def test_noise_has_no_wing():
    image, usable = np.random.default_rng(4).normal(0, 10.0, (300, 300)), np.ones((300, 300), bool)
    empty = np.zeros((300, 300), np.int32)
    places = np.linspace(50, 250, 8)
    assert measure_wing(image, usable, empty, places, places, np.full(8, 1e4), inner=12.0) is None
    assert measure_wing(image, usable, empty, places[:2], places[:2], np.full(2, 1e4), inner=12.0) is None
