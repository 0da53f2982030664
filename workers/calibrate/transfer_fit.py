"""The photon transfer curve of one amplifier: gain, area coefficients and noise from variance and covariances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from workers.calibrate.covariances import charge_covariances, growth, growth_slope

__all__ = ["TransferCurve", "fit_transfer_curve", "turnoff_level"]

_Float = NDArray[np.float64]
_ROUNDS = 10
_OUTLIER_ROUNDS = 2
_OUTLIER = 5.0
_FALL = 5.0


@dataclass(frozen=True)
class TransferCurve:
    """The fit. Arrays are float64, [lag y, lag x]."""

    gain: float
    """electrons per ADU"""
    gainErr: float
    area: _Float
    """a_ij, relative change of area per electron."""
    areaErr: _Float
    noise: _Float
    """electrons²; at lag 0, 0 read noise, rounding and what the offset's subtraction adds."""
    noiseErr: _Float
    used: NDArray[np.bool_]
    """Pairs in the fit."""
    turnoff: float
    """ADU, level of the highest pair in the fit."""
    chi2: float
    """Of the variances, per degree of freedom."""
    covarianceChi2: float
    """Of the other lags, per degree of freedom."""


def turnoff_level(level: _Float, variance: _Float, error: _Float) -> float:
    """Return the level, ADU, of the largest variance before the curve falls: no pair beyond it is lit linearly.

    The curve falls where a pair stays 5 sigma below one at a lower level; it is infinity where none does.
    """
    order = np.argsort(level)
    top = order[0]
    for index in order[1:]:
        if variance[index] < variance[top] - _FALL * np.hypot(error[index], error[top]):
            return float(level[top])
        if variance[index] > variance[top]:
            top = index
    return np.inf


def fit_transfer_curve(level: _Float, covariances: _Float, error: _Float, products: _Float) -> TransferCurve:
    """Fit variance and covariances of pairs at `level` (ADU, (pairs,)); `covariances` ADU² (pairs, lags + 1, lags + 1).

    `error`: of each variance, ADU²; `products`: of two pixels behind each covariance. Weights come from the model's
    variance, not from the measured one, which would favour what scattered down. Pairs above the turnoff are left out,
    and twice those whose variance is 5 sigma off. Needs four pairs below it at least.
    """
    used = level <= turnoff_level(level, covariances[:, 0, 0], error)
    share = float(np.median(error / covariances[:, 0, 0] * np.sqrt(products[:, 0, 0])))
    relative = 1.0 / np.sqrt(products)
    relative[:, 0, 0] *= share
    fit = _Fit(level, covariances, relative)
    for _ in range(_OUTLIER_ROUNDS):
        fit.solve(used)
        near = used & (np.abs(fit.pulls()) <= _OUTLIER)
        if near.sum() < 4 or (near == used).all():
            break
        used = near
    fit.solve(used)
    return fit.result(used)


class _Fit:
    """Lag 0, 0 and the other lags in turn, each with the higher orders that the others cause, until they agree."""

    def __init__(self, level: _Float, covariances: _Float, relative: _Float) -> None:
        self.level, self.covariances = level, covariances
        self.relative = relative
        lags = covariances.shape[1]
        self.area, self.noise = np.zeros((lags, lags)), np.zeros((lags, lags))
        self.areaErr, self.noiseErr = np.zeros((lags, lags)), np.zeros((lags, lags))
        low = np.argsort(level)[: max(len(level) // 2, 2)]
        self.gain = float(np.median(level[low] / covariances[low, 0, 0]))
        self.errors = np.zeros(3)

    def model(self) -> _Float:
        """Expected covariances, ADU²."""
        return np.asarray(charge_covariances(self.level * self.gain, self.area) / self.gain**2 + self.noise)

    def pulls(self) -> _Float:
        """Variance less model in units of its error."""
        expected = self.model()[:, 0, 0]
        return np.asarray((self.covariances[:, 0, 0] - expected) / (self.relative[:, 0, 0] * expected))

    def solve(self, used: NDArray[np.bool_]) -> None:
        self.noise[0, 0] = max(self.noise[0, 0], 0.0)
        for _ in range(_ROUNDS):
            before = self.gain
            self._solve_variance(used)
            self._solve_lags(used)
            if abs(self.gain / before - 1.0) < 1.0e-7:
                break

    def _solve_variance(self, used: NDArray[np.bool_]) -> None:
        """Fit gain, a00 and noise: eq. 16 times what the other lags add to it (eq. 20)."""
        level, values = self.level[used], self.covariances[used, 0, 0]
        charge = level * self.gain
        others = charge_covariances(charge, self.area)[:, 0, 0] / charge - growth(self.area[0, 0] * charge)
        sigma = self.relative[used, 0, 0] * (self.model()[used, 0, 0] if self.noise[0, 0] > 0.0 else values)

        def residual(parameters: _Float) -> _Float:
            gain, exponent, noise = parameters
            curve = level / gain * (growth(exponent * 1.0e-6 * level * gain) + others) + noise
            return np.asarray((values - curve) / sigma)

        start = np.array([self.gain, self.area[0, 0] * 1.0e6, self.noise[0, 0]])
        found = least_squares(residual, start, method="lm", x_scale=np.array([0.1, 0.1, 1.0]))
        covariance = np.linalg.pinv(found.jac.T @ found.jac)
        self.gain, self.area[0, 0], self.noise[0, 0] = float(found.x[0]), found.x[1] * 1.0e-6, found.x[2]
        self.errors = np.sqrt(np.diag(covariance))
        self.areaErr[0, 0], self.noiseErr[0, 0] = self.errors[1] * 1.0e-6, self.errors[2]

    def _solve_lags(self, used: NDArray[np.bool_]) -> None:
        """Fit a_ij and n_ij of every other lag: one Newton step, each lag on its own."""
        charge = self.level[used] * self.gain
        steep = ((charge / self.gain) ** 2 * growth_slope(self.area[0, 0] * charge))[:, None, None]
        curve = charge_covariances(charge, self.area) / self.gain**2
        target = self.covariances[used] - curve + steep * self.area
        weight = (self.relative[used] * self.model()[used, :1, :1]) ** -2.0
        moments = [(weight * steep**k).sum(axis=0) for k in range(3)]
        determinant = moments[0] * moments[2] - moments[1] ** 2
        level, slope = (weight * target).sum(axis=0), (weight * steep * target).sum(axis=0)
        other = np.ones(self.area.shape, bool)
        other[0, 0] = False
        for plane, values in (
            (self.area, (moments[0] * slope - moments[1] * level) / determinant),
            (self.noise, (moments[2] * level - moments[1] * slope) / determinant),
            (self.areaErr, np.sqrt(moments[0] / determinant)),
            (self.noiseErr, np.sqrt(moments[2] / determinant)),
        ):
            plane[other] = values[other]

    def result(self, used: NDArray[np.bool_]) -> TransferCurve:
        expected = self.model()
        sigma = self.relative * expected[:, :1, :1]
        lagged = ((self.covariances - expected) / sigma)[used].reshape(int(used.sum()), -1)[:, 1:]
        count = int(used.sum())
        return TransferCurve(
            gain=self.gain,
            gainErr=float(self.errors[0]),
            area=self.area,
            areaErr=self.areaErr,
            noise=self.noise * self.gain**2,
            noiseErr=self.noiseErr * self.gain**2,
            used=used,
            turnoff=float(self.level[used].max()),
            chi2=float((self.pulls()[used] ** 2).sum()) / max(count - 3, 1),
            covarianceChi2=float((lagged**2).sum()) / max(lagged.size - 2 * lagged.shape[1], 1),
        )
