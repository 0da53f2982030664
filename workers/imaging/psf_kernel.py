"""The kernel that moves stamps by parts of a pixel: a sinc under a Kaiser window, from a table."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import special

__all__ = ["KERNEL_REACH", "interpolation_matrices"]

_Float = NDArray[np.float64]

KERNEL_REACH, KAISER_BETA = 7, 8.0
"""Half-width (pixels) and shape of the interpolation kernel: flat in frequency to what PSFs of FWHM 2.5 pixels hold."""
_STEPS = 4096
"""Of the table, per pixel; cubic between them: exact to 1e-10."""


def interpolation_matrices(shift: _Float, size: int, oversampling: int) -> _Float:
    """Return (m, k, size) matrices: out[i] = sum_j K(s (i - shift) - j) in[j], i and j counted from the middles.

    `shift` (m,) in output pixels, s the `oversampling` of the input, size = s (k - 1) + 1; rows of the kernel have
    sum one before the stamp's edge cuts them.
    """
    matrices = np.zeros((len(shift), (size - 1) // oversampling + 1, size))
    _fill(np.ascontiguousarray(shift, dtype=float), oversampling, _table(), _STEPS, KERNEL_REACH, matrices)
    return matrices


@cache
def _table() -> _Float:
    """Return the kernel at steps of 1 / 4096 pixel, from 1 step before zero to 3 beyond the reach."""
    return _kernel(np.arange(-1, KERNEL_REACH * _STEPS + 3) / _STEPS)


def _kernel(distance: _Float) -> _Float:
    """Return the sinc under a Kaiser window (Kaiser & Schafer 1980, IEEE ASSP 28, 105)."""
    kernel = np.zeros_like(distance)
    near = np.abs(distance) < KERNEL_REACH
    at = distance[near]
    window = special.i0(KAISER_BETA * np.sqrt(1.0 - np.square(at / KERNEL_REACH))) / special.i0(KAISER_BETA)
    kernel[near] = np.sinc(at) * window
    return kernel


@njit(cache=True, nogil=True)
def _fill(
    shift: Any, oversampling: int, table: Any, steps: int, reach: int, matrices: Any
) -> None:  # pragma: no cover - compiled
    """Write the kernel along the diagonals of each matrix."""
    outputs, inputs = matrices.shape[1], matrices.shape[2]
    taps = np.empty(2 * reach + 1)
    for star in range(matrices.shape[0]):
        fine = oversampling * shift[star]
        whole = int(np.round(fine))
        part = fine - whole
        total = 0.0
        for k in range(2 * reach + 1):
            distance = abs(k - reach - part) * steps
            step = int(distance)
            value = 0.0
            if step < reach * steps:
                t = distance - step
                a, b, c, d = table[step], table[step + 1], table[step + 2], table[step + 3]
                value = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
            taps[k] = value
            total += value
        for k in range(2 * reach + 1):
            taps[k] /= total
        for i in range(outputs):
            middle = oversampling * (i - outputs // 2) - whole + inputs // 2
            for k in range(2 * reach + 1):
                j = middle - (k - reach)
                if 0 <= j < inputs:
                    matrices[star, i, j] = taps[k]
