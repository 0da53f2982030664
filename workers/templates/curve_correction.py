"""A light curve freed of its own light in its templates: fluxes, errors and the covariance that they share.

A point k, compared with template t, is d_k = f_k - o_t + s_k: f_k the object's flux, s_k the noise of its visit, o_t
the offset of all points of the template: what it holds of the object, and its noise at that place. Of the offsets

- kept warps say o_t = c_t + e_t, c_t the amount measured (`workers.templates.contamination`), e_t the rest's noise;
- where they are gone the inputs' weights say o_t = sum_j w_j V_j, V_j the flux in input j above the static sky. Where
  visit j is a point of the curve, V_j = d_j + o_t(j) to the last photon, so that with one template for all points
  o (1 - W_on) = sum_on w_j d_j + e. Elsewhere V_j = f(t_j) + n_j, with f between the object's own points;
- points outside of its active time, where f = 0, say o_t = -d_k: the off-season mean.

All is linear, and solved at once by weighted least squares: templates share inputs and so noise, and the points of a
template share its offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["CorrectedCurve", "CurvePoints", "TemplateLight", "correct_curve"]

_Float = NDArray[np.float64]
_Int = NDArray[np.int64]
_INTERPOLATION = 0.15
"""Of a flux between two points: how far it may be off a straight line."""
_LEAST_NOISE = 0.1
"""Of a point's variance, at least its visit's own."""
_JITTER, _DEGENERATE = 1e-6, 1e-12
"""Variance of its own that each row has, over what it shares; eigenvalue of the scaled normal matrix of no solution."""
_ROUNDS = 2
"""Of the fit: the error of interpolated fluxes needs the fluxes."""


@dataclass(frozen=True)
class CurvePoints:
    """The points of an object in one band, as published; the active ones and those before and after. Shapes (n,)."""

    visit: _Int
    mjd: _Float
    """MJD TAI."""
    flux: _Float
    """psfFlux, nJy."""
    fluxErr: _Float
    template: _Int
    """Place of the template that each was compared with."""
    active: NDArray[np.bool_]
    """Whether the object may shine then; elsewhere its flux is 0."""


@dataclass(frozen=True)
class TemplateLight:
    """A template at the place of the object."""

    visit: _Int
    """Of its inputs, (m,)."""
    mjd: _Float
    shares: _Float
    """Of the weight in the source's pixels, unit sum."""
    variance: float
    """That its noise adds to that of a point, nJy²."""
    amount: float | None = None
    """What left-out inputs brought in, nJy (`Amount.flux`), where their warps are kept."""
    rest: float = 0.0
    """Variance from the template without them (`Amount.rest`), nJy²."""
    out: tuple[int, ...] = ()
    """The places of the inputs left out."""


@dataclass(frozen=True)
class CorrectedCurve:
    """The active points, freed of what the templates held."""

    points: _Int
    """Places of the active points, (n,)."""
    flux: _Float
    """nJy, (n,)."""
    covariance: _Float
    """nJy², (n, n): points of one template share its offset."""
    offsets: _Float
    """What each template took off its points, nJy, (templates,)."""
    offsetErr: _Float

    @property
    def errors(self) -> _Float:
        """Of each flux by itself, nJy."""
        return np.sqrt(np.diag(self.covariance))


@dataclass(frozen=True)
class _Equations:
    """Rows of matrix @ (fluxes, offsets) = value, with noise of visits (rows, visits) and further variance of a row."""

    matrix: _Float
    value: _Float
    noise: _Float
    power: _Float
    """Variance of each visit."""


def correct_curve(points: CurvePoints, templates: Sequence[TemplateLight], begin: float, end: float) -> CorrectedCurve:
    """Return the fluxes of the active points as if no template held light of the object.

    Between `begin` and `end` (MJD TAI) it shines; from `begin` to its first point, and from its last to `end`, its
    flux is taken to rise and fall in a straight line. Raises DataError where nothing tells an offset: every input of a
    template is an active point.
    """
    active = np.flatnonzero(points.active)
    if not len(active):
        raise DataError("none of the points lies in the object's active time: there is nothing to correct")
    equations = _equations(points, templates, active, begin, end)
    extra, solution, covariance = np.zeros(len(equations.value)), np.zeros(0), np.zeros((0, 0))
    for _ in range(_ROUNDS):
        solution, covariance = _solved(equations, extra)
        flux = np.maximum(solution[: len(active)], 0.0)
        extra[len(points.mjd) :] = [
            _interpolation_variance(points, one, active, flux, (begin, end)) for one in templates
        ]
    solution, covariance = _solved(equations, extra)
    count = len(active)
    return CorrectedCurve(
        points=active,
        flux=solution[:count],
        covariance=covariance[:count, :count],
        offsets=solution[count:],
        offsetErr=np.sqrt(np.diag(covariance)[count:]),
    )


def _solved(equations: _Equations, extra: _Float) -> tuple[_Float, _Float]:
    """Return the solution and its covariance."""
    noise = (equations.noise * equations.power) @ equations.noise.T + np.diag(extra)
    sizes = np.diag(noise)
    noise += _JITTER * np.diag(np.maximum(sizes, sizes.mean()))  # templates of the same inputs have the same noise
    weighted = np.linalg.solve(noise, equations.matrix)
    normal = equations.matrix.T @ weighted
    scale = 1.0 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
    scaled = normal * scale * scale[:, None]
    if np.linalg.eigvalsh(scaled)[0] < _DEGENERATE:
        raise DataError(
            "nothing tells how much of the object's light a template holds: all of its inputs are points of the light "
            "curve, and no warps of them are kept; add forced photometry of visits before or after it shone"
        )
    covariance = np.linalg.inv(scaled) * scale * scale[:, None]
    return covariance @ (weighted.T @ equations.value), covariance


def _equations(
    points: CurvePoints, templates: Sequence[TemplateLight], active: _Int, begin: float, end: float
) -> _Equations:
    visits = np.unique(np.concatenate([points.visit, *(one.visit for one in templates)]))
    number, count = len(points.mjd), len(active)
    matrix = np.zeros((number + len(templates), count + len(templates)))
    value, noise = np.zeros(len(matrix)), np.zeros((len(matrix), len(visits)))
    value[:number] = points.flux
    matrix[active, np.arange(count)] = 1.0
    matrix[np.arange(number), count + points.template] = -1.0
    noise[np.arange(number), np.searchsorted(visits, points.visit)] = 1.0
    power = _visit_noise(points, templates, visits)
    for row, one in enumerate(templates, number):
        matrix[row, count + row - number] = 1.0
        if one.amount is None:
            value[row] = _from_weights(points, one, active, (begin, end), matrix[row])
            free, target = ~np.isin(one.visit, points.visit), _left_noise(points, one, visits, power)
        else:
            value[row] = one.amount
            free, target = ~np.isin(np.arange(len(one.visit)), one.out), one.rest
        mine = np.zeros(len(visits))
        mine[np.searchsorted(visits, one.visit[free])] = -one.shares[free]
        size = float(mine**2 @ power)
        noise[row] = mine * np.sqrt(target / size) if size > 0 else 0.0
    return _Equations(matrix, value, noise, power)


def _visit_noise(points: CurvePoints, templates: Sequence[TemplateLight], visits: _Int) -> _Float:
    """Return the variance of a flux in each visit: a point's own, less its template's; or what its weight says.

    Weights are inverse variances, so that an input of share w in a template of variance v has v / w.
    """
    power = np.full(len(visits), np.nan)
    for one in templates:
        good = one.shares > 0
        power[np.searchsorted(visits, one.visit[good])] = one.variance / one.shares[good]
    power = np.where(np.isfinite(power), power, 0.0)
    behind = np.array([one.variance for one in templates])[points.template]
    own = np.maximum(points.fluxErr**2 - behind, _LEAST_NOISE * points.fluxErr**2)
    power[np.searchsorted(visits, points.visit)] = own
    return power


def _left_noise(points: CurvePoints, one: TemplateLight, visits: _Int, power: _Float) -> float:
    """Return the variance of the template from the inputs that are no points of the curve."""
    mine = np.isin(one.visit, points.visit)
    own = float(one.shares[mine] ** 2 @ power[np.searchsorted(visits, one.visit[mine])])
    return max(one.variance - own, one.variance * float(one.shares[~mine].sum()) * _LEAST_NOISE)


def _from_weights(
    points: CurvePoints, one: TemplateLight, active: _Int, span: tuple[float, float], row: _Float
) -> float:
    """Return the sum of w_j d_j over the inputs that are points, and take their offsets and the others' f off `row`."""
    value = 0.0
    order = np.argsort(points.visit, kind="stable")
    for visit, mjd, share in zip(one.visit, one.mjd, one.shares, strict=True):
        place = order[min(int(np.searchsorted(points.visit[order], visit)), len(order) - 1)]
        if points.visit[place] == visit:
            value += float(share * points.flux[place])
            row[len(active) + points.template[place]] -= share
        else:
            row[: len(active)] -= share * _between(points.mjd[active], float(mjd), span)
    return value


def _between(mjd: _Float, at: float, span: tuple[float, float]) -> _Float:
    """Return the weights of the points in the flux at one time: linear between neighbours, 0 outside of the span."""
    order = np.argsort(mjd, kind="stable")
    nodes = np.concatenate([[min(span[0], mjd.min() - 1e-3)], mjd[order], [max(span[1], mjd.max() + 1e-3)]])
    weights = np.zeros(len(mjd) + 2)
    if nodes[0] < at < nodes[-1]:
        right = int(np.searchsorted(nodes, at, side="right"))
        part = (at - nodes[right - 1]) / max(nodes[right] - nodes[right - 1], 1e-9)
        weights[right - 1], weights[right] = 1.0 - part, part
    out = np.zeros(len(mjd))
    out[order] = weights[1:-1]
    return out


def _interpolation_variance(
    points: CurvePoints, one: TemplateLight, active: _Int, flux: _Float, span: tuple[float, float]
) -> float:
    """Return the variance of a template's row from fluxes that were not measured but lie between points."""
    if one.amount is not None:
        return 0.0
    free = ~np.isin(one.visit, points.visit)
    rows = zip(one.mjd[free], one.shares[free], strict=True)
    off = [share * _INTERPOLATION * float(_between(points.mjd[active], float(t), span) @ flux) for t, share in rows]
    return float(np.sum(np.square(off)))
