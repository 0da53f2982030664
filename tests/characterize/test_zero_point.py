"""The zero point."""

import numpy as np
import pytest

from schemas.errors import DataError
from workers.characterize.zero_point import fit_zero_point


def stars(rng, count, zero=25.0, scatter=0.0, outliers=0.0, faintest=150.0):
    """Electrons and reference fluxes with their errors."""
    true = faintest * (1.0 - rng.random(count)) ** -1.0
    error = np.hypot(10.0, np.sqrt(true))
    electrons = true * (1.0 + scatter * rng.normal(size=count)) + error * rng.normal(size=count)
    reference_error = 0.01 * zero * true
    reference = zero * true + reference_error * rng.normal(size=count)
    bad = rng.random(count) < outliers
    reference[bad] *= rng.uniform(1.5, 4.0, bad.sum())
    return electrons, error, reference, reference_error


@pytest.mark.parametrize(("count", "scatter", "outliers"), [(300, 0.0, 0.0), (60, 0.01, 0.0), (300, 0.01, 0.1)])
def test_pulls(count, scatter, outliers):
    pulls = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        found = fit_zero_point(*stars(rng, count, scatter=scatter, outliers=outliers), min_stars=8)
        pulls.append((found.nJyPerElectron / 25.0 - 1.0) / found.relativeError)
    assert abs(np.mean(pulls)) < 0.25
    assert 0.85 < np.std(pulls) < 1.2


def test_faint_stars_do_not_bias():
    ratio = [
        fit_zero_point(*stars(np.random.default_rng(s), 400, faintest=60.0), min_stars=8).nJyPerElectron / 25
        for s in range(120)
    ]
    assert np.mean(ratio) == pytest.approx(1.0, abs=1e-3)


def test_the_scatter_is_told():
    found = fit_zero_point(*stars(np.random.default_rng(1), 2000, scatter=0.03, faintest=3000.0), min_stars=8)
    assert found.scatter == pytest.approx(0.03, rel=0.15)
    assert found.nStars > 1900


def test_unusable_rows_are_left_out():
    electrons, error, reference, reference_error = stars(np.random.default_rng(2), 100)
    electrons[:5], error[5:8], reference[8:12] = np.nan, np.nan, -1.0
    found = fit_zero_point(electrons, error, reference, reference_error, min_stars=8)
    assert found.nJyPerElectron == pytest.approx(25.0, rel=0.02)


def test_too_few_stars():
    with pytest.raises(DataError, match=r"zero point failed: 4 of 4 matched stars .* 8 are needed"):
        fit_zero_point(*stars(np.random.default_rng(3), 4, faintest=1e4), min_stars=8)


def test_no_stars():
    none = np.zeros(0)
    with pytest.raises(DataError, match="zero point failed: 0 of 0"):
        fit_zero_point(none, none, none, none, min_stars=1)
