"""The PSF model: shifting, derivatives, width, normalisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.psf import PsfModel, polynomial_terms, shift_gradients, shift_stamps


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
