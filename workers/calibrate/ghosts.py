"""A line of the reflection table from a few ghosts that were measured on frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.errors import DataError
from workers.survey.reflections import Ghost, Magnification, Row

__all__ = ["ReflectionFit", "fit_reflection"]

_Float = NDArray[np.float64]


@dataclass(frozen=True)
class ReflectionFit:
    """A fitted entry of ``[[reflections]]`` and how well it is known."""

    reflection: Ghost
    errors: Mapping[str, float]
    """One-sigma errors by name: magnification (or magnification_xx, _xy, _yx, _yy), shift_x, shift_y, outer,
    outer_growth, inner, inner_growth, hole_drift, fraction: those that were fitted."""
    scatter: float
    """Rms distance per axis of the measured centres from the fit, pixels; NaN without surplus data."""


def fit_reflection(
    centres: ArrayLike,
    stars: ArrayLike,
    *,
    name: str,
    outer: ArrayLike,
    inner: ArrayLike | float = 0.0,
    hole_centres: ArrayLike | None = None,
    ghost_electrons: ArrayLike | None = None,
    star_electrons: ArrayLike | None = None,
    fraction: float | None = None,
    matrix: Literal["scalar", "full"] = "scalar",
    bands: tuple[str, ...] = (),
    centre_error: float | None = None,
) -> ReflectionFit:
    """Fit the table's entry to n ghosts of one kind; least squares, errors from the scatter or `centre_error`.

    `centres` and `stars` are (n, 2) pixels (x, y) from the boresight: where the ghosts lie, and their stars. `outer`,
    `inner` are measured radii, pixels, (n,) or one for all, `hole_centres` (n, 2) the centres of the holes. Give
    either `fraction`, or for each ghost its light and the star's, electrons. `matrix` "scalar" needs 2 ghosts, "full"
    3. Radii grow with the field radius where three or more ghosts, and a growth of 3 sigma, say so. Raises DataError
    where the ghosts don't suffice.
    """
    places, origins = _pairs(centres), _pairs(stars)
    _check(places, origins, matrix)
    magnification, shift, errors, scatter = _fit_map(places, origins, matrix, centre_error)
    radius = np.hypot(origins[:, 0], origins[:, 1])
    edge, edge_growth, known = _fit_radius(np.broadcast_to(np.asarray(outer, float), radius.shape), radius)
    errors |= {f"outer{key}": value for key, value in known.items()}
    hole, hole_growth, known = _fit_radius(np.broadcast_to(np.asarray(inner, float), radius.shape), radius)
    errors |= {f"inner{key}": value for key, value in known.items()}
    drift = 0.0
    if hole_centres is not None:
        drift, errors["hole_drift"] = _fit_drift(_pairs(hole_centres) - places, origins)
    if fraction is None:
        fraction, errors["fraction"] = _fit_fraction(ghost_electrons, star_electrons)
    reflection = Ghost(
        kind="ghost",
        name=name,
        magnification=magnification,
        shift=shift,
        fraction=fraction,
        bands=bands,
        outer=edge,
        inner=max(hole, 0.0),
        outer_growth=edge_growth,
        inner_growth=hole_growth,
        hole_drift=drift,
        max_radius=_open_until(edge, edge_growth, max(hole, 0.0), hole_growth),
    )
    return ReflectionFit(reflection, errors, scatter)


def _open_until(outer: float, outer_growth: float, inner: float, inner_growth: float) -> float | None:
    """Return nine tenths of the field radius where the annulus closes; None where it never does."""
    closing = max(inner_growth, 0.0) - outer_growth
    return 0.9 * (outer - inner) / closing if closing > 0.0 and outer > inner else None


def _pairs(values: ArrayLike) -> _Float:
    array = np.atleast_2d(np.asarray(values, float))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise DataError(f"positions must be finite (n, 2) pixels, x and y; these have shape {array.shape}")
    return array


def _check(places: _Float, origins: _Float, matrix: str) -> None:
    least = 2 if matrix == "scalar" else 3
    if places.shape != origins.shape or len(places) < least:
        raise DataError(
            f"a {matrix} reflection map needs at least {least} ghosts with one star each; there are {len(places)} "
            f"ghosts and {len(origins)} stars"
        )


def _fit_map(
    places: _Float, origins: _Float, matrix: str, centre_error: float | None
) -> tuple[Magnification, Row, dict[str, float], float]:
    """Linear least squares of the map; the columns are those of magnification, then of the shift."""
    n = len(origins)
    one, zero, (x, y) = np.ones(n), np.zeros(n), origins.T
    if matrix == "scalar":
        names = ["magnification", "shift_x", "shift_y"]
        design = np.concatenate([np.stack([x, one, zero], axis=1), np.stack([y, zero, one], axis=1)])
    else:
        names = [f"magnification_{part}" for part in ("xx", "xy", "yx", "yy")] + ["shift_x", "shift_y"]
        rows = [np.stack([x, y, zero, zero, one, zero], axis=1), np.stack([zero, zero, x, y, zero, one], axis=1)]
        design = np.concatenate(rows)
    values = places.T.ravel()
    solution, errors, scatter = _least_squares(design, values, centre_error)
    known = {name: float(error) for name, error in zip(names, errors, strict=True)}
    shift = (float(solution[-2]), float(solution[-1]))
    if matrix == "scalar":
        return float(solution[0]), shift, known, scatter
    xx, xy, yx, yy = (float(value) for value in solution[:4])
    return ((xx, xy), (yx, yy)), shift, known, scatter


def _least_squares(design: _Float, values: _Float, error: float | None = None) -> tuple[_Float, _Float, float]:
    """Return solution, its errors and the scatter; errors are NaN where neither scatter nor `error` tells them."""
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise DataError("the ghosts lie too much alike to fit the map: measure stars on different sides of the field")
    solution = np.asarray(np.linalg.lstsq(design, values, rcond=None)[0], float)
    surplus = len(values) - design.shape[1]
    rest = values - design @ solution
    scatter = float(np.sqrt(rest @ rest / surplus)) if surplus > 0 else float("nan")
    unit = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    return solution, np.asarray(unit * (scatter if error is None else error)), scatter


def _fit_radius(radii: _Float, field: _Float) -> tuple[float, float, dict[str, float]]:
    """Return radius at the boresight, growth with the field radius, and errors by suffix."""
    mean = float(radii.mean())
    spread = float(radii.std(ddof=1)) / np.sqrt(len(radii)) if len(radii) > 1 else float("nan")
    if len(radii) < 3 or np.ptp(field) == 0.0 or np.ptp(radii) == 0.0:
        return mean, 0.0, {"": float(spread)}
    design = np.stack([np.ones(len(field)), field], axis=1)
    solution, errors, _ = _least_squares(design, radii)
    if not abs(solution[1]) > 3.0 * errors[1]:
        return mean, 0.0, {"": float(spread)}
    return float(solution[0]), float(solution[1]), {"": float(errors[0]), "_growth": float(errors[1])}


def _fit_drift(drifts: _Float, origins: _Float) -> tuple[float, float]:
    solution, errors, _ = _least_squares(origins.ravel()[:, None], drifts.ravel())
    return float(solution[0]), float(errors[0])


def _fit_fraction(ghost: ArrayLike | None, star: ArrayLike | None) -> tuple[float, float]:
    """Mean of the ratios, and its error from their scatter."""
    if ghost is None or star is None:
        raise DataError("give the fraction of the light, or the electrons of each ghost and of its star")
    ratio = np.atleast_1d(np.asarray(ghost, float) / np.asarray(star, float))
    if not ((ratio > 0.0) & (ratio < 1.0)).all():
        raise DataError(f"a ghost holds a fraction of its star's light between 0 and 1; these are {ratio.tolist()}")
    error = float(ratio.std(ddof=1)) / np.sqrt(len(ratio)) if len(ratio) > 1 else float("nan")
    return float(ratio.mean()), float(error)
