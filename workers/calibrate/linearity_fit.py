"""Response curves of all amplifiers and the lamp's flux in every exposure, from the levels of flats in one fit.

For exposure i and zone z of amplifier a with measured level m: ln m + rho_a(m) = ln t_i + drift_i + w_i + g_az. Here t
is the exposure time or a photodiode's charge, w the lamp's own scatter, new in each exposure and common to all, drift
its slow change with the order of the exposures, g how much light a zone gets, and rho the logarithm of linear over
measured counts. All is linear in the unknowns: rho is a penalised cubic B-spline (Eilers & Marx 1996) in the square
root of the level, so that its knots lie denser at low level; its roughness, the lamp's scatter and its drift are those
that make the data most probable (MacKay 1992). Differences between amplifiers are thus as sharp as the counting noise,
whatever the lamp does. What is common to all is tied by time, and by the zones: where a zone gets less light than its
neighbour, the ratio of the two changes from exposure to exposure as the response bends, and no lamp can feign that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

__all__ = ["ResponseFit", "fit_response"]

_Float = NDArray[np.float64]
_SPLINES = 14
_MIRROR = np.vstack([np.eye(_SPLINES)[1], np.eye(_SPLINES)])
"""From the coefficients to those of all B-splines: rho has no slope in the root of the level at zero, for a response
that can be expanded in powers of the level has none."""
_DRIFT_NODES = 8
_ROUNDS = 3
_VAGUE = 1.0e-2
"""Precision of the logarithm of a zone's light: of a zone that no level tells of, nothing is known."""
_TUNING = 3.5
_AT_FIRST = 3.0e-3
"""Relative error added to all levels until the outliers among them are known."""
_START = np.log(np.array([3.0, 3.0, 3.0e-3, 1.0e-3]))
"""Logarithms of: roughness of the mean curve, of the amplifiers' own, lamp scatter, drift from node to node."""


@dataclass(frozen=True)
class ResponseFit:
    """Curves rho(m), the logarithm of linear over measured counts, and what the lamp did."""

    top: _Float
    """Highest level used, ADU (amplifiers,)."""
    coefficients: _Float
    """Of the B-splines (amplifiers, splines)."""
    covariance: _Float
    """Of the coefficients (amplifiers, splines, splines)."""
    lamp: _Float
    """Logarithm of each exposure's flux per unit of time, drift and scatter (exposures,)."""
    lampScatter: float
    """Of one exposure, relative."""
    residual: _Float
    """ln m + rho minus the model (exposures, amplifiers, zones), NaN where a level was not used."""

    def rho(self, amplifier: int, level: _Float) -> _Float:
        """Return rho of measured levels (ADU), up to a constant."""
        return np.asarray(_basis(level / self.top[amplifier]) @ self.coefficients[amplifier])

    def contrast(self, amplifier: int, level: _Float, weights: _Float, reference: _Float) -> tuple[_Float, _Float]:
        """Return rho at `level` less its weighted mean at the levels `reference`, and the error of that."""
        mean = weights / weights.sum() @ _basis(reference / self.top[amplifier])
        rows = _basis(level / self.top[amplifier]) - mean
        variance = np.einsum("ij,jk,ik->i", rows, self.covariance[amplifier], rows)
        return rows @ self.coefficients[amplifier], np.sqrt(np.maximum(variance, 0.0))


def fit_response(levels: _Float, errors: _Float, exposure: _Float) -> ResponseFit:
    """Return the fit to levels (exposures, amplifiers, zones), ADU, in order of time; NaN where one is not to be used.

    `errors` (the same shape, ADU) hold what is independent from zone to zone, not the lamp; `exposure` (exposures,) is
    the exposure time or the photodiode's charge. Outliers of the lamp and of single levels lose their weight.
    """
    problem = _Problem(levels, errors, exposure)
    parameters = problem.best(_START)
    for _ in range(_ROUNDS):
        problem.reweight(parameters)
        parameters = problem.best(parameters)
    return problem.solution(parameters)


class _Problem:
    """The linear least-squares problem: unknowns are splines by amplifier, lamp scatter by exposure, drift nodes."""

    def __init__(self, levels: _Float, errors: _Float, exposure: _Float) -> None:
        self.used = np.isfinite(levels)
        self.exposures, self.amplifiers, self.zones = levels.shape
        self.top = np.nanmax(levels, axis=(0, 2))
        self.nodes = _DRIFT_NODES if _drift_is_separable(exposure) else 0
        at, which, zone = np.nonzero(self.used)
        level = levels[self.used]
        self.target = np.log(exposure)[at] - np.log(level)
        self.sigma = np.hypot(errors[self.used] / level, 1.0e-5)
        self.design = self._design(level, at, which, zone)
        self.weights = 1.0 / (self.sigma**2 + _AT_FIRST**2)
        self.lamp_weights = np.ones(self.exposures)

    def _design(self, level: _Float, at: NDArray[np.intp], which: NDArray[np.intp], zone: NDArray[np.intp]) -> _Float:
        splines = self.amplifiers * _SPLINES
        light = splines + self.exposures + self.nodes
        design = np.zeros((len(level), light + self.amplifiers * (self.zones - 1)))
        basis = _basis(level / self.top[which])
        rows = np.arange(len(level))
        for spline in range(_SPLINES):
            design[rows, which * _SPLINES + spline] = basis[:, spline]
        design[rows, splines + at] = -1.0
        if self.nodes:
            design[:, splines + self.exposures : light] = -_drift(self.exposures, self.nodes)[at]
        dimmer = zone > 0  # the first zone's light is in the splines' constant
        design[rows[dimmer], light + which[dimmer] * (self.zones - 1) + zone[dimmer] - 1] = -1.0
        return design

    def _prior(self, parameters: _Float) -> tuple[_Float, float]:
        """Return the prior's precision matrix and half the logarithm of its determinant (of what it constrains)."""
        common, own, scatter, step = np.exp(parameters)
        count = self.amplifiers
        mean = np.full((count, count), 1.0 / count)
        second = np.diff(_MIRROR, 2, axis=0)
        rough = second.T @ second
        splines = count * _SPLINES
        prior = np.zeros((self.design.shape[1],) * 2)
        prior[:splines, :splines] = np.kron(mean, rough) * common**2 * 1.0e4
        prior[:splines, :splines] += np.kron(np.eye(count) - mean, rough) * own**2 * 1.0e4
        lamp = np.arange(splines, splines + self.exposures)
        prior[lamp, lamp] = self.lamp_weights / scatter**2
        light = np.arange(splines + self.exposures + self.nodes, len(prior))
        prior[light, light] = _VAGUE
        rank = _SPLINES - 1
        half = rank * parameters[0] + (count - 1) * rank * parameters[1] - self.exposures * parameters[2]
        if self.nodes:
            steps = np.diff(np.eye(self.nodes + 1), axis=0)[:, 1:]
            drift = slice(lamp[-1] + 1, lamp[-1] + 1 + self.nodes)
            prior[drift, drift] = steps.T @ steps / step**2
            half -= self.nodes * parameters[3]
        return prior, half

    def _solve(self, parameters: _Float) -> tuple[_Float, _Float, float]:
        """Return the unknowns, the Cholesky factor of their precision, and minus the log of the evidence."""
        prior, half = self._prior(parameters)
        factor = cho_factor(self.normal + prior, lower=True)
        unknowns = cho_solve(factor, self.right)
        quadratic = self.square - float(self.right @ unknowns)
        cost = 0.5 * quadratic + float(np.log(np.diag(factor[0])).sum()) - half
        return unknowns, factor[0], cost

    def best(self, start: _Float) -> _Float:
        """Return the logarithms of the four scales that make the data most probable."""
        weighted = self.design * self.weights[:, None]
        self.normal, self.right = self.design.T @ weighted, self.target @ weighted
        self.square = float(np.sum(self.weights * self.target**2))

        def cost(parameters: _Float) -> float:
            try:
                return (
                    self._solve(np.clip(parameters, -14.0, 14.0))[2]
                    + 0.5 * float(np.sum((parameters - _START) ** 2)) / 25.0
                )
            except LinAlgError:
                return np.inf

        found = minimize(cost, start, method="Nelder-Mead", options={"xatol": 0.05, "fatol": 0.05, "maxfev": 400})
        return np.asarray(np.clip(found.x, -14.0, 14.0))

    def reweight(self, parameters: _Float) -> None:
        """Take the weight from outliers; widen the errors where levels scatter more than they say."""
        unknowns = self._solve(parameters)[0]
        pulls = np.abs(self.target - self.design @ unknowns) / self.sigma
        scale = max(1.0, 1.4826 * float(np.median(pulls)))
        self.weights = _trust(pulls / scale) / (scale * self.sigma) ** 2
        splines = self.amplifiers * _SPLINES
        lamp = unknowns[splines : splines + self.exposures]
        self.lamp_weights = _trust(lamp / max(1.4826 * float(np.median(np.abs(lamp))), 1.0e-6))

    def solution(self, parameters: _Float) -> ResponseFit:
        """Return the fit at these scales."""
        unknowns, factor, _ = self._solve(parameters)
        splines = self.amplifiers * _SPLINES
        inverse = cho_solve((factor, True), np.eye(len(unknowns))[:, :splines])[:splines]
        blocks = inverse.reshape(self.amplifiers, _SPLINES, self.amplifiers, _SPLINES)
        own = np.arange(self.amplifiers)
        lamp = unknowns[splines : splines + self.exposures].copy()
        if self.nodes:
            drift = unknowns[splines + self.exposures :][: self.nodes]
            lamp += _drift(self.exposures, self.nodes) @ drift
        residual = np.full(self.used.shape, np.nan)
        residual[self.used] = self.design @ unknowns - self.target
        return ResponseFit(
            top=self.top,
            coefficients=unknowns[:splines].reshape(self.amplifiers, _SPLINES),
            covariance=np.asarray(blocks[own, :, own, :]),
            lamp=lamp,
            lampScatter=float(np.exp(parameters[2])),
            residual=residual,
        )


def _trust(pulls: _Float) -> _Float:
    """Weight of values so many sigma off: 1 up to 3.5, a seventieth at 10."""
    return np.asarray(np.minimum(1.0, (_TUNING / np.maximum(np.abs(pulls), _TUNING)) ** 4))


def _basis(relative: _Float) -> _Float:
    """Values of the cubic B-splines (levels, splines), uniform in the root of the level relative to the top."""
    inner = len(_MIRROR) - 3
    knots = np.arange(-3, inner + 4) / inner
    at = np.sqrt(np.clip(relative, 0.0, 1.0))
    return np.asarray(BSpline.design_matrix(np.minimum(at, 1.0 - 1e-12), knots, 3).toarray() @ _MIRROR)


def _drift(exposures: int, nodes: int) -> _Float:
    """Linear interpolation from nodes along the sequence (exposures, nodes); the drift begins at 0."""
    place = np.linspace(0.0, nodes, exposures)
    return np.asarray(np.maximum(1.0 - np.abs(place[:, None] - np.arange(1, nodes + 1)), 0.0))


def _rank_correlation(values: _Float) -> float:
    """Return Spearman's correlation of values with their order; 1 where all are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        return 1.0
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[inverse]
    return float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])


def _drift_is_separable(exposure: _Float) -> bool:
    """Whether time in the sequence and exposure time are mixed enough to tell a drift from a bent response.

    They are where the order is no ramp, or where one exposure time comes back from the beginning to the end.
    """
    count = len(exposure)
    if abs(_rank_correlation(exposure)) < 0.5:
        return True
    values, inverse = np.unique(np.round(np.log(exposure), 2), return_inverse=True)
    for value in range(len(values)):
        places = np.flatnonzero(inverse == value)
        if len(places) >= 5 and np.ptp(places) > 0.8 * count:
            return True
    return False
