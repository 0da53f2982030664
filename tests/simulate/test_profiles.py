from __future__ import annotations

import numpy as np
import pytest

from workers.simulate.profiles import DE_VAUCOULEURS, EXPONENTIAL, moffat, profile_tables


@pytest.mark.parametrize("beta", [2.5, 3.0, 4.0])
def test_mixture_follows_the_moffat_profile(beta):
    mixture = moffat(beta)
    alpha = 0.5 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    radius = np.linspace(0.0, 3.0, 200)
    expected = (beta - 1.0) / (np.pi * alpha**2) * (1.0 + (radius / alpha) ** 2) ** -beta
    got = sum(
        w / (2 * np.pi * s**2) * np.exp(-0.5 * (radius / s) ** 2)
        for w, s in zip(mixture.weights, mixture.sigmas, strict=True)
    )
    np.testing.assert_allclose(got, expected, rtol=0.02 if beta == 3.0 else 0.05)
    assert mixture.weights.sum() == pytest.approx(1.0)
    assert mixture.peak == pytest.approx(got[0])


def test_square_integral_against_a_sum():
    mixture = moffat(3.0)
    axis = np.arange(-20, 20, 0.1)
    r2 = axis[:, None] ** 2 + axis**2
    image = sum(
        w / (2 * np.pi * s**2) * np.exp(-0.5 * r2 / s**2) for w, s in zip(mixture.weights, mixture.sigmas, strict=True)
    )
    assert mixture.squared == pytest.approx(np.sum(image**2) * 0.01, rel=1e-6)


@pytest.mark.parametrize(("row", "tolerance"), [(EXPONENTIAL, 0.02), (DE_VAUCOULEURS, 0.12)])
def test_half_the_light_is_within_the_half_light_radius(row, tolerance):
    # the de Vaucouleurs profile is cut at eight radii, which takes light from outside
    weights, variances = profile_tables()
    assert weights[row].sum() == pytest.approx(1.0)
    radius = np.linspace(0.1, 3.0, 3000)
    inside = sum(w * (1.0 - np.exp(-0.5 * radius**2 / v)) for w, v in zip(weights[row], variances[row], strict=True))
    assert np.interp(0.5, inside, radius) == pytest.approx(1.0, abs=tolerance)
