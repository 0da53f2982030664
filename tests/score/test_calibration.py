"""Probabilities that mean what they say, and thresholds that balance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from workers.score.boosting import even_classes
from workers.score.calibration import Calibration, figures_by_snr, fit_platt, operating_threshold


def gaussians(real: int, bogus: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins whose log likelihood ratio is the margin itself: normal of variance 4 about +-2."""
    rng = np.random.default_rng(seed)
    label = np.arange(real + bogus) < real
    return rng.normal(np.where(label, 2.0, -2.0), 2.0), label


def test_a_calibrated_margin_stays_as_it_is() -> None:
    margin, real = gaussians(4000, 2000, 1)
    slope, intercept = fit_platt(margin, real, even_classes(np.ones(len(real)), real))
    assert slope == pytest.approx(1.0, abs=0.06)
    assert intercept == pytest.approx(0.0, abs=0.1)


def test_the_fit_is_the_minimum_that_an_optimiser_finds() -> None:
    margin, real = gaussians(60, 40, 2)
    weight = even_classes(np.ones(100), real)
    target = np.where(real, 61 / 62, 1 / 42)

    def loss(p: np.ndarray) -> float:
        odds = p[0] * margin + p[1]
        return float((weight * (np.logaddexp(0, odds) - target * odds)).sum())

    best = optimize.minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert fit_platt(margin, real, weight) == pytest.approx(best, abs=1e-4)


@given(seed=st.integers(0, 10_000), gap=st.floats(0.0, 50.0))
def test_separated_classes_give_a_finite_fit(seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    real = np.arange(40) < 20
    margin = rng.uniform(0, 1, 40) + np.where(real, gap, -gap)
    slope, intercept = fit_platt(margin, real, even_classes(np.ones(40), real))
    assert np.isfinite([slope, intercept]).all()


def test_the_prior_makes_the_probability_that_of_the_stream() -> None:
    margin, real = gaussians(2000, 38_000, 3)
    chance = Calibration(1.0, 0.0, 0.05).reliability(margin)
    for low, high in ((0.0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (chance >= low) & (chance < high)
        assert chance[inside].mean() == pytest.approx(real[inside].mean(), abs=0.03)


def test_the_threshold_balances_purity_and_completeness() -> None:
    margin, real = gaussians(3000, 3000, 4)
    weight = even_classes(np.ones(6000), real)
    for pi in (0.1, 0.5, 0.9):
        calibration = Calibration(1.0, 0.0, pi)
        threshold = operating_threshold(calibration.log_odds(margin), real, weight, pi)

        def balance(level: float, calibration: Calibration = calibration, pi: float = pi) -> float:
            accepted = calibration.reliability(margin) >= level
            overall = figures_by_snr(accepted, real, np.full(6000, 10.0), pi)[0]
            return 2.0 / (1.0 / overall["completeness"] + 1.0 / overall["purity"])

        assert balance(threshold) >= max(balance(level) for level in np.linspace(0.02, 0.95, 100)) - 1e-12


def test_between_separated_classes_the_threshold_is_in_the_middle() -> None:
    odds = np.array([-6.0, -4.0, 4.0, 8.0])
    real = odds > 0
    assert operating_threshold(odds, real, np.full(4, 0.25), 0.5) == pytest.approx(0.5)


def test_figures_say_null_where_there_is_nothing() -> None:
    figures = figures_by_snr(np.array([True, False]), np.array([True, False]), np.array([7.0, 9.0]), 0.5)
    overall, bins = figures[0], {row["snrFrom"]: row for row in figures[1:]}
    assert overall["nReal"] == overall["nBogus"] == 1
    assert overall["purity"] == overall["completeness"] == 1.0
    assert bins[6.0]["completeness"] == 1.0
    assert bins[6.0]["falsePositiveRate"] is None
    assert bins[20.0]["purity"] is None
    assert bins[50.0]["snrTo"] is None
