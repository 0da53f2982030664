"""How the zero point changes over the detector: a polynomial of mean 1, where left-out stars say that there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SpatialTerm", "choose_order", "fit_spatial_term", "legendre_terms", "level_inflation", "weighted_fit"]

_Float = NDArray[np.float64]

LEAST_STARS = (0, 40, 300)
"""Good stars for a polynomial of order 0, 1, 2."""
GAIN = 6.0
"""Chi-squared of the left-out stars by which a higher order must be better: where there is none, 1 in 100 is."""
FOLDS = 5


@dataclass(frozen=True)
class SpatialTerm:
    """factor = 1 + sum_k coefficients[k] P_k(u, v), of Legendre terms from order 1 on: mean 1 over the detector."""

    order: int
    coefficients: _Float
    """In the order of `legendre_terms`, without the constant; relative."""
    covariance: _Float
    width: int
    """Of the detector, pixels."""
    height: int

    def __call__(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the factor at pixel positions, float64 (n,)."""
        terms = legendre_terms(x, y, (self.height, self.width), self.order)
        return np.asarray(1.0 + terms[:, 1:] @ self.coefficients)

    def plane(self) -> NDArray[np.float32]:
        """Return the factor at every pixel, (height, width)."""
        plane = np.ones((self.height, self.width), np.float32)
        across = legendre_terms(np.arange(self.width), np.full(self.width, 0.5 * (self.height - 1)), self._shape, 2)
        up = legendre_terms(np.full(self.height, 0.5 * (self.width - 1)), np.arange(self.height), self._shape, 2)
        columns, rows = (across[:, 1], across[:, 3]), (up[:, 2], up[:, 5])
        c = np.zeros(5)
        c[: len(self.coefficients)] = self.coefficients
        plane += (c[0] * columns[0] + c[2] * columns[1]).astype(np.float32)
        plane += (c[1] * rows[0] + c[4] * rows[1]).astype(np.float32)[:, None]
        if c[3] != 0.0:
            plane += np.outer(c[3] * rows[0], columns[0]).astype(np.float32)
        return plane

    @property
    def _shape(self) -> tuple[int, int]:
        return self.height, self.width


def legendre_terms(x: ArrayLike, y: ArrayLike, shape: tuple[int, int], order: int) -> _Float:
    """Return 1, u, v, P2(u), u v, P2(v) up to `order` (0, 1 or 2) at pixel positions, float64 (n, terms).

    u and v run from -1 to 1 over the detector of `shape` (height, width): all terms but the first have mean 0 over it.
    """
    u = (2.0 * np.atleast_1d(np.asarray(x, float)) + 1.0) / shape[1] - 1.0
    v = (2.0 * np.atleast_1d(np.asarray(y, float)) + 1.0) / shape[0] - 1.0
    terms = [np.ones_like(u), u, v, 1.5 * u**2 - 0.5, u * v, 1.5 * v**2 - 0.5]
    return np.stack(terms[: (1, 3, 6)[order]], axis=1)


def fit_spatial_term(
    relative: _Float, error: _Float, membership: _Float, x: _Float, y: _Float, shape: tuple[int, int]
) -> SpatialTerm | None:
    """Return the term that predicts left-out stars best, or None where a constant does.

    `relative`: measured over expected flux, about 1; its `error` with all scatter; `membership` the probability that a
    star is a good one; float64 (n,). Flux times factor is then the same everywhere.
    """
    deficit, weight = 1.0 - relative, membership / np.square(error)
    terms = legendre_terms(x, y, shape, 2)
    order = choose_order(deficit, weight, terms, membership)
    if order == 0:
        return None
    coefficients, covariance = weighted_fit(terms[:, : (1, 3, 6)[order]], deficit, weight)
    return SpatialTerm(order, coefficients[1:], covariance[1:, 1:], shape[1], shape[0])


def choose_order(value: _Float, weight: _Float, terms: _Float, membership: _Float) -> int:
    """Return the order (0, 1 or 2) whose fit to `value` (n,) predicts left-out stars best; `terms` up to order 2.

    Stars of `membership` below a half don't count; an order needs the stars that `LEAST_STARS` says.
    """
    use = membership > 0.5
    stars = int(np.count_nonzero(use))
    chi2 = [
        _left_out(terms[use, : (1, 3, 6)[order]], value[use], weight[use]) + GAIN * order
        for order, least in enumerate(LEAST_STARS)
        if stars >= max(least, 5)
    ]
    return int(np.argmin(chi2)) if chi2 else 0


def weighted_fit(terms: _Float, value: _Float, weight: _Float) -> tuple[_Float, _Float]:
    """Return the weighted least-squares coefficients and their covariance."""
    normal = terms.T @ (weight[:, None] * terms)
    covariance = np.asarray(np.linalg.pinv(normal), float)
    return np.asarray(covariance @ (terms.T @ (weight * value)), float), covariance


def _left_out(terms: _Float, value: _Float, weight: _Float) -> float:
    """Return chi-squared of each fifth of the stars about the fit to the others; very deviant ones count as 4 sigma."""
    fold = np.arange(len(value)) % FOLDS
    total = 0.0
    for out in range(FOLDS):
        test = fold == out
        coefficients = weighted_fit(terms[~test], value[~test], weight[~test])[0]
        square = weight[test] * np.square(value[test] - terms[test] @ coefficients)
        total += float(np.minimum(square, 16.0).sum())
    return total


def level_inflation(spatial: SpatialTerm, weight: _Float, x: _Float, y: _Float) -> float:
    """Return by how much the mean's error grows as the term is fitted along with it; `weight` of each star, (n,)."""
    terms = legendre_terms(x, y, (spatial.height, spatial.width), spatial.order)
    covariance = np.linalg.pinv(terms.T @ (weight[:, None] * terms))
    return float(np.sqrt(max(covariance[0, 0] * weight.sum(), 1.0)))
