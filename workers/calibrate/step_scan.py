"""Steps and short excursions in nightly series: their exact likelihood ratios, with slow drift marginalised.

Model of a series, in units of its night-to-night noise: a constant, a slow drift, steps, excursions, and noise that is
independent from night to night. The drift is a Gaussian process (Matérn 5/2; Rasmussen & Williams 2006, eq. 4.17), so
that seasons and temperature are no steps and missing nights need no care. With P the inverse covariance that the
constant is projected out of, an offset b over some nights has the score z = b'Py / sqrt(b'Pb): z²/2 is the logarithm of
the likelihood ratio with and without it. Sums of P from the end give it for every step and every excursion at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scan", "filled", "freedom", "night_noise", "offsets", "projected", "projection"]

_Float = NDArray[np.float64]

_ROUNDS = 6
_CLIP = 3.0
_CLIPPED_STD = 0.98658
"""Standard deviation of a unit Gaussian that is cut at 3 sigma."""
_DIFFUSE = 1.0e-9


def projection(times: _Float, noise: _Float, drift_days: float, drift_ratio: float) -> _Float:
    """Return P, float64 (n, n): the inverse covariance of the nights, a free constant projected out.

    `times` are days (n,), `noise` the relative noise of the nights (n,), 1 for a typical one. The drift's standard
    deviation is `drift_ratio` times that of a typical night's noise, its time scale `drift_days`.
    """
    distance = np.sqrt(5.0) * np.abs(times[:, None] - times[None, :]) / drift_days
    drift = drift_ratio**2 * (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    inverse = np.linalg.inv(np.diag(np.square(noise)) + drift)
    symmetric: _Float = np.asarray(0.5 * (inverse + inverse.T))
    return projected(symmetric, np.ones((len(times), 1)))


def projected(matrix: _Float, columns: _Float) -> _Float:
    """Return `matrix` (n, n) with the directions `columns` (n, k) projected out."""
    if columns.shape[1] == 0:
        return matrix
    carried = matrix @ columns
    normal = columns.T @ carried
    normal += _DIFFUSE * np.diag(np.maximum(np.diag(normal), 1e-30))
    left: _Float = matrix - carried @ np.linalg.solve(normal, carried.T)
    return np.asarray(0.5 * (left + left.T))


def offsets(spans: list[tuple[int, int]], nights: int) -> _Float:
    """Return one column per span, float64 (nights, spans): 1 from its first night up to its end (exclusive)."""
    index = np.arange(nights)[:, None]
    if not spans:
        return np.zeros((nights, 0))
    begin, end = np.array(spans).T
    return np.asarray((index >= begin[None, :]) & (index < end[None, :]), float)


def night_noise(values: _Float, relative: _Float) -> _Float:
    """Return the noise of a typical night of each series (s,) from the differences of nights that follow each other.

    `values` (s, n) and the nights' `relative` noise (n,). Differences know neither level nor drift, and a step is one
    of them; the standard deviation is of what clipping at 3 sigma leaves, which scatters half as much as the MAD.
    """
    if values.shape[1] < 3:
        return np.zeros(len(values))
    difference = np.diff(values, axis=1) / np.sqrt(relative[1:] ** 2 + relative[:-1] ** 2)[None, :]
    scale = 1.4826 * np.median(np.abs(difference), axis=1)
    for _ in range(_ROUNDS):
        kept = np.abs(difference) <= (_CLIP * scale)[:, None]
        count = np.maximum(kept.sum(axis=1), 1)
        scale = np.sqrt(np.where(kept, difference**2, 0.0).sum(axis=1) / count) / _CLIPPED_STD
    return np.asarray(scale)


@dataclass(frozen=True)
class Scan:
    """The scores of every step and excursion of series `values` (s, n), which are in units of their noise."""

    matrix: _Float
    values: _Float

    def scores(self, longest: int) -> Iterator[tuple[int, _Float]]:
        """Yield (length, z): z float64 (s, n) is the score of an offset that begins at each night; 0 where none does.

        Length 0 stands for a step: the offset lasts to the end, with at least 2 nights on either side. Lengths 1 to
        `longest` are excursions in nights; one that touches an end is a step and not repeated, single nights are.
        """
        sums, norms = self._sums()
        n = self.values.shape[1]
        diagonal = np.diag(norms)
        z = _score(sums[:, :n], diagonal[:n])
        z[:, :2], z[:, n - 1 :] = 0.0, 0.0
        yield 0, z
        for length in range(1, min(longest, n - 3) + 1):
            begin = np.arange(n - length + 1)
            square = diagonal[begin] + diagonal[begin + length] - 2.0 * norms[begin, begin + length]
            z = np.zeros((len(self.values), n))
            z[:, : len(begin)] = _score(sums[:, begin] - sums[:, begin + length], square)
            if length > 1:
                z[:, 0], z[:, n - length] = 0.0, 0.0
            yield length, z

    def span_scores(self, spans: list[tuple[int, int]]) -> _Float:
        """Return z float64 (s, spans) of offsets over given spans (first night, end)."""
        columns = offsets(spans, self.values.shape[1])
        carried = self.matrix @ columns
        return _score(self.values @ carried, np.einsum("nk,nk->k", columns, carried))

    def _sums(self) -> tuple[_Float, _Float]:
        """Return the sums of Py from each night to the end (s, n + 1), and of P over both axes (n + 1, n + 1)."""
        n = self.values.shape[1]
        carried = self.values @ self.matrix
        sums = np.zeros((len(self.values), n + 1))
        sums[:, :n] = np.cumsum(carried[:, ::-1], axis=1)[:, ::-1]
        norms = np.zeros((n + 1, n + 1))
        norms[:n, :n] = np.cumsum(np.cumsum(self.matrix[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
        return sums, norms


def _score(sums: _Float, square: _Float) -> _Float:
    """Return sums / sqrt(square), 0 where the offset is already explained."""
    good = square > 1e-6
    return np.where(good[None, :], sums / np.sqrt(np.where(good, square, 1.0))[None, :], 0.0)


def filled(values: _Float) -> _Float:
    """Return series (s, n) with what is missing drawn straight between its neighbours; a series of NaN becomes 0.

    A value on the line between its neighbours adds no step and no jump; it makes the noise look a little smaller.
    """
    complete = values.copy()
    index = np.arange(values.shape[1])
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        good = np.isfinite(values[row])
        complete[row] = np.interp(index, index[good], values[row, good]) if good.any() else 0.0
    return complete


def freedom(values: _Float, relative: _Float) -> float:
    """Return the degrees of freedom of a sum of squares over series: fewer than those where they are correlated.

    From the spread of the sums of squared differences of nights (Satterthwaite 1946, Biometrics 2, 110).
    """
    sums = np.square(np.diff(values, axis=1) / np.hypot(relative[1:], relative[:-1])).sum(axis=0)
    middle = max(float(np.median(sums)), 1e-30)
    spread = 1.4826 * float(np.median(np.abs(sums - middle)))
    return len(values) / max(1.0, 0.5 * len(values) * (spread / middle) ** 2)
