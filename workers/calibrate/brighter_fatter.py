"""Brighter-fatter kernel: the potential whose gradient moves the pixel borders, from the covariances of flats.

A pixel's area changes by a_ij per electron (Astier et al. 2019): the divergence of the shifts of its borders. Where
those are the gradient of a potential K (Coulton et al. 2018, AJ 155, 258), K solves Poisson's equation on the grid,

    anisotropy * (K[y, x+1] - 2 K + K[y, x-1]) + (K[y+1, x] - 2 K + K[y-1, x]) = a,

solved here directly, by sine transforms on a grid much larger than the kernel with K = 0 at its edge.

`anisotropy`: borders along x are held by channel stops and those along y by gates, so that one force moves them by
different amounts. A charge in the middle of a pixel pulls alike in all directions, and this ratio is the one for which
K does: K[0, n] = K[n, 0], summed over n = 1 and 2.

Zero sum: what one pixel loses others get, so all a_ij add up to nothing. Beyond 3 pixels, where they drown in noise,
they follow A r^-2.7 out to 16 pixels; A and the near ones are fitted together under the constraint, which therefore
moves each value by a share of its own error and never lands on a00 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dstn, idstn
from scipy.optimize import brentq

from schemas.errors import DataError
from workers.calibrate.covariances import mirrored
from workers.calibrate.frames import Solution
from workers.imaging.calibrations import Calibration

__all__ = ["Kernel", "area_matrix", "kernel_from_area", "potential", "solve", "zero_sum"]

_Float = NDArray[np.float64]
_NEAR = 3
_TAIL = 16
_TAIL_SLOPE = -2.7
_HALF_GRID = 48
_RADIUS = 8
_ANISOTROPY = (0.2, 5.0)
_LEAST_SIGNIFICANCE = 5.0


@dataclass(frozen=True)
class Kernel:
    """What the correction needs, and how well it is known."""

    kernel: _Float
    """K per electron, (2 radius + 1, 2 radius + 1), the pixel itself in the middle."""
    anisotropy: float
    area: _Float
    """The a_ij of the constrained fit, [lag y, lag x]."""
    chi2: float
    """Of the constrained fit, per degree of freedom."""


def solve(transfer: Calibration) -> Solution:
    """Return the tables of the kind ``brighter_fatter`` from a ``ptc`` master: one kernel for the whole detector.

    The effect is the silicon's, so that amplifiers are averaged: kernel (17, 17), anisotropy (1,), areaMatrix and
    areaMatrixErr [lag y, lag x]. Raises DataError where the flats show no brighter-fatter effect.
    """
    area, error, chi2 = area_matrix(transfer.tables["aMatrix"], transfer.tables["aMatrixErr"])
    if not area[0, 0] < -_LEAST_SIGNIFICANCE * error[0, 0]:
        raise DataError(
            f"{transfer.id}: a00 is {area[0, 0]:.2e} +- {error[0, 0]:.1e} per electron, no brighter-fatter effect; "
            "take more and brighter pairs of flats, or leave 'brighter_fatter' out of isr.steps in survey.toml"
        )
    found = kernel_from_area(area, error)
    return Solution(
        tables={
            "kernel": found.kernel,
            "anisotropy": np.array([found.anisotropy]),
            "areaMatrix": area,
            "areaMatrixErr": error,
        },
        metadata={
            "a00": float(area[0, 0]),
            "a00Err": float(error[0, 0]),
            "anisotropy": found.anisotropy,
            "amplifiersChi2": chi2,
            "zeroSumChi2": found.chi2,
            "areaSum": float(mirrored(area).sum()),
        },
    )


def area_matrix(area: _Float, error: _Float) -> tuple[_Float, _Float, float]:
    """Return the weighted mean over amplifiers of a_ij, its error, and chi² per degree of freedom of their agreement.

    `area`, `error`: float64 [amplifier, lag y, lag x], per electron. Amplifiers whose a00 is 5 sigma from the median
    are left out.
    """
    known = np.isfinite(area).all(axis=(1, 2))
    used = known & (np.abs(area[:, 0, 0] - np.median(area[known, 0, 0])) <= 5.0 * error[:, 0, 0])
    weight = error[used] ** -2.0
    mean = np.average(area[used], axis=0, weights=weight)
    freedom = (int(used.sum()) - 1) * mean.size
    chi2 = float((weight * (area[used] - mean) ** 2).sum()) / max(freedom, 1)
    return mean, weight.sum(axis=0) ** -0.5, chi2


def kernel_from_area(area: _Float, error: _Float, radius: int = _RADIUS) -> Kernel:
    """Return the kernel of measured a_ij and their errors, float64 [lag y, lag x], per electron."""
    smooth, chi2 = zero_sum(area, error)
    anisotropy = _isotropic(smooth)
    return Kernel(potential(smooth, anisotropy, radius), anisotropy, smooth, chi2)


def zero_sum(area: _Float, error: _Float) -> tuple[_Float, float]:
    """Return a_ij out to 16 pixels, [lag y, lag x], that add up to zero over the plane, and chi² per degree of freedom.

    Near values and the amplitude of the tail by least squares under the constraint (a Lagrange multiplier).
    """
    y, x = np.indices(area.shape)
    near = np.hypot(y, x) <= _NEAR + 0.5
    count = int(near.sum())
    tail = ~near
    design = np.zeros((area.size, count + 1))
    design[np.flatnonzero(near), np.arange(count)] = 1.0
    design[np.flatnonzero(tail), count] = np.hypot(y, x)[tail] ** _TAIL_SLOPE
    wide_y, wide_x = np.indices((_TAIL + 1, _TAIL + 1))
    distance = np.hypot(wide_y, wide_x)
    beyond = (distance > _NEAR + 0.5) & (distance <= _TAIL)
    shape = np.where(beyond, np.where(beyond, distance, 1.0) ** _TAIL_SLOPE, 0.0)
    share = np.append(_multiplicity(area.shape[0])[near], (_multiplicity(_TAIL + 1) * shape).sum())
    weight = error.ravel() ** -2.0
    normal = design.T @ (weight[:, None] * design)
    scale = np.sqrt(np.diag(normal))
    inverse = np.linalg.inv(normal / np.outer(scale, scale)) / np.outer(scale, scale)
    free = inverse @ (design.T @ (weight * area.ravel()))
    found = free - inverse @ share * (share @ free) / (share @ inverse @ share)
    chi2 = float((weight * (area.ravel() - design @ found) ** 2).sum()) / (area.size - count)
    result = shape * found[count]
    inner_y, inner_x = np.nonzero(near)
    result[inner_y, inner_x] = found[:count]
    return result, chi2


def _multiplicity(size: int) -> _Float:
    """How many pixels of the plane each element of a quadrant stands for."""
    twice = np.full(size, 2.0)
    twice[0] = 1.0
    return np.outer(twice, twice)


def potential(area: _Float, anisotropy: float, radius: int = _RADIUS) -> _Float:
    """Return K of a quadrant of a_ij [lag y, lag x], float64 (2 radius + 1, 2 radius + 1), mean 0 on its border."""
    lags, size = area.shape[0] - 1, 2 * _HALF_GRID + 1
    plane = np.zeros((size, size))
    middle = slice(_HALF_GRID - lags, _HALF_GRID + lags + 1)
    plane[middle, middle] = mirrored(area)
    laplacian = 2.0 * np.cos(np.pi * np.arange(1, size + 1) / (size + 1)) - 2.0
    spectrum = dstn(plane, type=1) / (laplacian[:, None] + anisotropy * laplacian[None, :])
    inner = slice(_HALF_GRID - radius, _HALF_GRID + radius + 1)
    kernel = idstn(spectrum, type=1)[inner, inner]
    border = np.concatenate([kernel[0], kernel[-1], kernel[1:-1, 0], kernel[1:-1, -1]])
    return np.asarray(kernel - border.mean())


def _isotropic(area: _Float) -> float:
    """Return the ratio of the shifts along x and y for which K falls off alike in both, 1 where no ratio does it."""

    def excess(logarithm: float) -> float:
        kernel = potential(area, float(np.exp(logarithm)))[_RADIUS:, _RADIUS:]
        return float(kernel[1:3, 0].sum() - kernel[0, 1:3].sum())

    low, high = np.log(_ANISOTROPY)
    if excess(low) * excess(high) >= 0.0:
        return 1.0
    return float(np.exp(brentq(excess, low, high, xtol=1.0e-4)))
