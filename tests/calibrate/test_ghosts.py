"""A line of the reflection table from measured ghosts: errors, growing radii, and what can't be fitted."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import DataError
from workers.calibrate.ghosts import fit_reflection


def test_errors_of_the_fitted_map_are_right() -> None:
    rng = np.random.default_rng(3)
    stars = rng.uniform(-2000, 2000, (8, 2))
    truth = np.array([[-1.2, 0.05], [-0.03, -1.1]])
    pulls = []
    for _ in range(300):
        centres = stars @ truth.T + [30.0, -12.0] + rng.normal(0, 2.0, stars.shape)
        fit = fit_reflection(centres, stars, name="g", outer=200.0, inner=80.0, fraction=1e-4, matrix="full")
        matrix = np.asarray(fit.reflection.magnification)
        errors = [fit.errors[f"magnification_{part}"] for part in ("xx", "xy", "yx", "yy")]
        pulls.append([*((matrix - truth).ravel() / errors), (fit.reflection.shift[0] - 30.0) / fit.errors["shift_x"]])
    # ten degrees of freedom: Student's t has a variance of 10 / 8
    assert np.std(pulls) == pytest.approx(np.sqrt(10 / 8), abs=0.08)
    assert abs(np.mean(pulls)) < 0.12


def test_radii_grow_with_the_field_where_they_do() -> None:
    rng = np.random.default_rng(5)
    stars = rng.uniform(-2000, 2000, (9, 2))
    radius = np.hypot(*stars.T)
    outer = 300.0 - 0.02 * radius + rng.normal(0, 1.0, 9)
    fit = fit_reflection(-stars, stars, name="g", outer=outer, inner=100.0, fraction=1e-4, centre_error=2.0)
    assert fit.reflection.outer_growth == pytest.approx(-0.02, abs=4 * fit.errors["outer_growth"])
    assert fit.reflection.max_radius is not None
    assert fit.reflection.inner_growth == 0.0
    assert fit.errors["shift_x"] == pytest.approx(2.0 / 3.0, rel=0.05)


def test_too_few_ghosts_make_no_table() -> None:
    with pytest.raises(DataError, match="at least 3"):
        fit_reflection(np.eye(2), np.eye(2), name="g", outer=9.0, fraction=0.1, matrix="full")
    same = np.ones((3, 2))
    with pytest.raises(DataError, match="different sides"):
        fit_reflection(same, same, name="g", outer=9.0, fraction=0.1)
    with pytest.raises(DataError, match="fraction"):
        fit_reflection(np.eye(2), np.eye(2), name="g", outer=9.0)
    with pytest.raises(DataError, match="between 0 and 1"):
        fit_reflection(np.eye(2), np.eye(2), name="g", outer=9.0, ghost_electrons=[2.0, 2.0], star_electrons=[1.0, 9.0])
    with pytest.raises(DataError, match="finite"):
        fit_reflection([[np.nan, 0.0]] * 2, np.eye(2), name="g", outer=9.0, fraction=0.1)
