"""A smooth surface through the means of cells: penalized tensor-product B-splines, and a constant per amplifier.

The surface is cubic, its third differences are penalized (Eilers & Marx 1996, Statist. Sci. 11, 89; on grids: Currie,
Durban & Eilers 2006, J. R. Statist. Soc. B 68, 259), so that where no cell is known it goes on as a quadratic. The
shortest wave that it follows is the longest that explains the cells: each shorter one has to pay for its freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.interpolate import BSpline

__all__ = ["Cells", "Surface", "fit_surface"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

_CUBIC = 3
_STIFF = 1.0e4
"""Largest penalty, in weights of a knot: a quadratic surface."""
_TAME = 1.0e-5
"""Penalty of first differences, in the same unit: where the cells say nothing the surface is level."""
_RIDGE = 1.0e-8
_CLIP = 4.0
"""Sigma: what a cell's chi² counts at most, and beyond which it is an outlier."""
_ROUNDS = 3
_HOPELESS = 20.0
"""Degrees of freedom by which a wave may be dearer than the best before shorter ones are not tried."""


@dataclass(frozen=True)
class Cells:
    """Means of cells of a regular grid, row by row."""

    value: _Float
    """(rows, columns), any unit."""
    weight: _Float
    """One over the squared error of the value; 0: unknown."""
    shares: _Float
    """(amplifiers, rows, columns): of each in the usable pixels of the cells; of length 0: no steps are sought."""
    areas: _Float
    """(amplifiers,), any unit."""
    size: int
    """Of a cell, pixels."""


@dataclass(frozen=True)
class Surface:
    """What was fitted."""

    coefficients: _Float
    """(rows, columns) of the splines."""
    counts: tuple[int, int]
    """Cells along y and x."""
    size: int
    knot: float
    """Wanted distance of the knots, pixels."""
    steps: _Float
    """Of the amplifiers; area-weighted sum zero."""
    errors: _Float
    gain: float
    """Of the steps, in chi², all together: as large as their number less one where there are none."""
    wave: float
    """Shortest wave that the surface follows, pixels."""
    chi2: float
    """Of all cells, outliers cut."""
    free: float
    """Degrees of freedom that the fit took."""

    def nodes(self, step: int) -> _Float:
        """Return the surface in the middles of cells of `step` pixels, a divisor of the fitted cells' size."""
        y, x = (_splines(count, self.size, self.knot, step) for count in self.counts)
        return np.asarray(y @ self.coefficients @ x.T)


@dataclass(frozen=True)
class _Basis:
    y: _Float
    x: _Float
    roughness: _Float
    slope: _Float
    knot: float


def fit_surface(cells: Cells, waves: Sequence[float], *, knot: float, price: float = 4.0, lean: float = 1.0) -> Surface:
    """Return the surface for the best of `waves` (pixels, longest first), knots `knot` pixels apart.

    `price` is what a degree of freedom must gain in chi². `lean` < 1 distrusts cells above the surface, which unseen
    sources lift: their weight falls by it per sigma.
    """
    basis = _basis(cells, knot)
    best = _robust(cells, basis, waves[0], lean)
    for wave in waves[1:]:
        surface = _robust(cells, basis, wave, lean)
        dearer = surface.chi2 - best.chi2 + price * (surface.free - best.free)
        if dearer < 0.0:
            best = surface
        elif dearer > _HOPELESS * price:
            break
    return best


def _basis(cells: Cells, knot: float) -> _Basis:
    y, x = (_splines(count, cells.size, knot, cells.size) for count in cells.value.shape)
    ny, nx = y.shape[1], x.shape[1]
    return _Basis(y, x, _differences(ny, nx, 3), _differences(ny, nx, 1), knot)


def _differences(ny: int, nx: int, order: int) -> _Float:
    """Return the matrix of the sum of squared differences along both axes."""
    dy, dx = (np.diff(np.eye(count), order, axis=0) for count in (ny, nx))
    return np.asarray(np.kron(dy.T @ dy, np.eye(nx)) + np.kron(np.eye(ny), dx.T @ dx))


def _splines(count: int, size: int, knot: float, step: int) -> _Float:
    """Return cubic B-splines over `count` cells of `size` pixels, in the middles of cells of `step`."""
    intervals = max(round(count * size / knot), 1)
    length = count * size / intervals
    knots = length * np.arange(-_CUBIC, intervals + _CUBIC + 1)
    places = step * (np.arange(count * size // step) + 0.5)
    return np.asarray(BSpline.design_matrix(places, knots, _CUBIC).toarray())


def _robust(cells: Cells, basis: _Basis, wave: float, lean: float) -> Surface:
    """Return the fit with outlying cells left out."""
    weight, known = cells.weight, cells.weight > 0
    used = weight
    for turn in range(_ROUNDS):
        solution = _solve(cells, used, basis, wave, last=turn == _ROUNDS - 1)
        rest = cells.value - basis.y @ solution.coefficients @ basis.x.T
        if len(cells.shares):
            rest = rest - np.tensordot(solution.steps, cells.shares, axes=1)
        rest = rest * np.sqrt(weight)
        scale = max(1.0, 1.4826 * float(np.median(np.abs(rest[known])))) if known.any() else 1.0
        trust = np.clip(_CLIP * scale / np.maximum(np.abs(rest), 1e-9), 0.0, 1.0) ** 4
        if lean < 1.0:
            trust = trust * lean ** np.clip(rest / scale, 0.0, 30.0)
        used = weight * trust
    chi2 = float(np.sum(np.minimum(rest[known] ** 2, _CLIP**2)))
    spare = max(float(np.count_nonzero(known)) - solution.free, 1.0)
    excess = max(1.0, chi2 / spare)
    return replace(solution, chi2=chi2, errors=solution.errors * math.sqrt(excess), gain=solution.gain / excess)


def _solve(cells: Cells, weight: _Float, basis: _Basis, wave: float, *, last: bool) -> Surface:
    """Return one weighted fit; its degrees of freedom, which take long, only the `last` time."""
    known = weight > 0
    # penalties draw to nought: let that be the middle
    middle = float(np.average(cells.value[known], weights=weight[known])) if known.any() else 0.0
    value = np.where(known, cells.value - middle, 0.0)
    gram, right, per_knot = _normal(weight, value, basis)
    # the transfer function falls to a half at the wave
    stiffness = per_knot * min((wave / (2.0 * math.pi * basis.knot)) ** 6, _STIFF)
    matrix = gram + stiffness * basis.roughness + _TAME * per_knot * basis.slope
    matrix[np.diag_indices_from(matrix)] += _RIDGE * per_knot
    factor = linalg.cho_factor(matrix, lower=True, check_finite=False)
    steps, errors, gain = np.zeros(0), np.zeros(0), 0.0
    if len(cells.shares):
        across = np.stack([(basis.y.T @ (weight * share) @ basis.x).ravel() for share in cells.shares])
        steps, errors, gain = _steps(replace(cells, value=value), weight, factor, right, across)
        right = right - steps @ across
    found = linalg.cho_solve(factor, right, check_finite=False) + middle
    free = float(max(len(steps) - 1, 0))
    if last:
        free += float(linalg.cho_solve(factor, gram, check_finite=False).trace())
    shape = basis.y.shape[1], basis.x.shape[1]
    counts = len(basis.y), len(basis.x)
    return Surface(found.reshape(shape), counts, cells.size, basis.knot, steps, errors, gain, wave, 0.0, free)


def _normal(weight: _Float, value: _Float, basis: _Basis) -> tuple[_Float, _Float, float]:
    """Return normal matrix and right side, and the typical weight of a knot's square."""
    ny, nx = basis.y.shape[1], basis.x.shape[1]
    yy = (basis.y[:, :, None] * basis.y[:, None, :]).reshape(len(basis.y), -1)
    xx = (basis.x[:, :, None] * basis.x[:, None, :]).reshape(len(basis.x), -1)
    gram = (yy.T @ weight @ xx).reshape(ny, ny, nx, nx).transpose(0, 2, 1, 3).reshape(ny * nx, ny * nx)
    right = (basis.y.T @ (weight * value) @ basis.x).ravel()
    known = weight[weight > 0]
    cells_per_knot = (len(basis.y) / max(ny - _CUBIC, 1)) * (len(basis.x) / max(nx - _CUBIC, 1))
    return gram, right, cells_per_knot * (float(np.median(known)) if len(known) else 1.0)


def _steps(
    cells: Cells, weight: _Float, factor: tuple[_Float, bool], right: _Float, across: _Float
) -> tuple[_Float, _Float, float]:
    """Return the amplifiers' steps, their errors and their gain, the surface eliminated (Schur complement).

    `across` (amplifiers, splines) is what the amplifiers' planes have in common with the splines.
    """
    planes = cells.shares.reshape(len(cells.shares), -1)
    inner = linalg.cho_solve(factor, across.T, check_finite=False)
    normal = (planes * weight.ravel()) @ planes.T - across @ inner
    vector = planes @ (weight * cells.value).ravel() - inner.T @ right
    area = cells.areas / cells.areas.sum()
    scale = float(np.trace(normal)) / len(normal)
    # the surface takes what is common to all of them
    covariance = np.linalg.pinv(normal + 1e3 * scale * np.outer(area, area), rcond=1e-12, hermitian=True)
    steps = covariance @ vector
    return steps - float(area @ steps), np.sqrt(np.maximum(np.diag(covariance), 0.0)), float(vector @ steps)
