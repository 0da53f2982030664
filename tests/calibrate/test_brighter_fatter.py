"""The kernel: Poisson's equation holds, nothing is lost, and it is found in simulated flats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.calibrate.lamp_flats import A00, measured
from workers.calibrate.brighter_fatter import area_matrix, kernel_from_area, potential, solve, zero_sum
from workers.calibrate.covariances import mirrored
from workers.imaging.calibrations import Calibration, make_calibration
from workers.simulate.brighter_fatter import area_coefficients, border_shifts

LAGS = np.s_[12:21, 12:21]


def transfer(area: np.ndarray, error: np.ndarray) -> Calibration:
    """A ptc master of these area coefficients [amplifier, lag, lag]."""
    tables = {"aMatrix": area, "aMatrixErr": error}
    return make_calibration("ptc", instrument="lamp", detector=0, tables=tables)


def true_area(anisotropy: float = 0.8) -> np.ndarray:
    return area_coefficients(border_shifts(A00, anisotropy=anisotropy))[LAGS]


def errors(size: float) -> np.ndarray:
    plane = np.full((9, 9), size)
    plane[1:, 1:] *= np.sqrt(0.5)
    return plane


@pytest.mark.parametrize("anisotropy", [0.6, 1.0, 1.3])
def test_the_potential_solves_poisson_s_equation(anisotropy: float) -> None:
    area = true_area()
    kernel = potential(area, anisotropy, radius=12)
    across = kernel[1:-1, 2:] + kernel[1:-1, :-2] - 2.0 * kernel[1:-1, 1:-1]
    along = kernel[2:, 1:-1] + kernel[:-2, 1:-1] - 2.0 * kernel[1:-1, 1:-1]
    np.testing.assert_allclose((anisotropy * across + along)[3:20, 3:20], mirrored(area), atol=1e-9 * abs(A00))
    np.testing.assert_array_equal(np.argmax(kernel), kernel.size // 2)


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_area_sums_to_zero_and_values_move_within_their_errors(seed: int) -> None:
    error = errors(1.0e-8)
    measured_area = true_area() + error * np.random.default_rng(seed).standard_normal((9, 9))
    smooth, chi2 = zero_sum(measured_area, error)
    assert abs(mirrored(smooth).sum()) < 1e-10 * abs(A00)
    near = np.hypot(*np.indices((3, 3))) < 3
    assert np.abs((smooth[:3, :3] - measured_area[:3, :3]) / error[:3, :3])[near].max() < 3.0
    assert 0.4 < chi2 < 2.0


@pytest.mark.parametrize("anisotropy", [0.7, 1.0, 1.2])
def test_the_ratio_of_shifts_along_x_and_y_is_found(anisotropy: float) -> None:
    found = kernel_from_area(true_area(anisotropy), errors(1e-9))
    assert found.anisotropy == pytest.approx(anisotropy, rel=0.01)
    middle = found.kernel[8:, 8:]
    np.testing.assert_allclose(middle[1:3, 0], middle[0, 1:3], rtol=0.05)


def test_border_shifts_are_those_of_the_simulation() -> None:
    """The gradient of K, which comes from areas alone, against the field integrals it was never shown."""
    found, truth = kernel_from_area(true_area(), errors(1e-9)), border_shifts(A00)
    for lag in range(4):
        right = found.anisotropy * (found.kernel[8, 9 + lag] - found.kernel[8, 8 + lag])
        top = found.kernel[9 + lag, 8] - found.kernel[8 + lag, 8]
        tolerance = 0.05 * abs(truth.right[12, 12])
        assert right == pytest.approx(truth.right[12, 12 - lag], abs=tolerance)
        assert top == pytest.approx(truth.top[12 - lag, 12], abs=tolerance)


def test_amplifiers_are_averaged_without_the_odd_one() -> None:
    rng = np.random.default_rng(3)
    error = np.broadcast_to(errors(2.0e-8), (16, 9, 9))
    area = true_area() + error * rng.standard_normal((16, 9, 9))
    area[5] *= 2.0
    area[6] = np.nan
    mean, err, chi2 = area_matrix(area, error)
    assert err[0, 0] == pytest.approx(2.0e-8 / np.sqrt(14.0))
    pulls = (mean - true_area()) / err
    assert abs(pulls.mean()) < 0.4
    assert 0.8 < pulls.std() < 1.2
    assert 0.85 < chi2 < 1.15


def test_flats_without_the_effect_make_no_kernel() -> None:
    error = np.broadcast_to(errors(2.0e-8), (2, 9, 9))
    with pytest.raises(DataError, match="no brighter-fatter effect; take"):
        solve(transfer(np.zeros((2, 9, 9)), error))


def test_the_kernel_of_simulated_flats_is_the_true_one() -> None:
    lamp, _, curve = measured()
    solution = solve(transfer(curve.tables["aMatrix"], curve.tables["aMatrixErr"]))
    kernel, ratio = solution.tables["kernel"], solution.tables["anisotropy"][0]
    assert kernel.shape == (17, 17)
    share = 1.0 - lamp.steps**-2.0
    truth = border_shifts(A00)
    error = solution.metadata["a00Err"]
    assert solution.metadata["a00"] == pytest.approx(share * A00, abs=4.0 * error)
    assert kernel[9, 8] - kernel[8, 8] == pytest.approx(share * truth.top[12, 12], abs=4.0 * error)
    assert ratio * (kernel[8, 9] - kernel[8, 8]) == pytest.approx(share * truth.right[12, 12], abs=4.0 * error)
    assert solution.metadata["zeroSumChi2"] < 1.6
    assert solution.metadata["amplifiersChi2"] == pytest.approx(1.0, abs=0.1)
