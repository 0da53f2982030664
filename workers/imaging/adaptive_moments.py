"""Second moments of sources under the elliptical Gaussian weight that fits each of them best.

The weight's centre and moments are moved until they are the source's own: see `gaussian_weight`. Of a Gaussian they
are its moments; of a pixel-integrated one those of the profile after the pixel. Pixels of neighbours count as those
that can't be used.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from workers.imaging.exposure import frozen_array
from workers.imaging.gaussian_weight import columns_inside, counts, fit_weight, inverse_moments, rows_inside
from workers.imaging.psf import PsfModel, polynomial_terms
from workers.imaging.psf_shapes import weights_of

__all__ = ["MOMENT_DTYPE", "MomentFlag", "adaptive_moments", "psf_moments"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

_NAMES = ("x", "y", "ixx", "iyy", "ixy", "ixxErr", "iyyErr", "ixyErr", "gaussianFlux", "gaussianFluxErr")
MOMENT_DTYPE = np.dtype([(name, "f8") for name in _NAMES] + [("iterations", "i4"), ("flags", "i4")])
"""Centre, 0-based pixels; central second moments and their errors, pixels²; flux of the Gaussian and its error, in the
image's unit; iterations taken; flags of `MomentFlag`. Where a flag but MASKED is set all but the centre is NaN."""

SETTLED = 1e-4
"""Relative change of the moments, and of the centre in units of the width, that ends the iteration."""
REACH = 4.0
"""Sigma, of the ellipse whose pixels count: beyond it weight times source is below 2e-7 of the peak."""
PSF_GRID, PSF_DEGREE = 7, 4
MASKED_SHARE = 0.1
"""Of the weight on unusable pixels, from which a source is flagged MASKED."""


class MomentFlag(IntFlag):
    """What was wrong with the moments of one source."""

    NO_SUPPORT = 1 << 0
    """More than half of the weight lies on pixels that can't be used, or there is no light."""
    NOT_CONVERGED = 1 << 1
    """No Gaussian was settled upon: S/N too low, or not one source."""
    SHIFTED = 1 << 2
    """The centre left the start by more than `max_shift`."""
    MASKED = 1 << 3
    """A noticeable part of the weight lies on pixels that can't be used; the moments are given."""


def adaptive_moments(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    x: ArrayLike,
    y: ArrayLike,
    sigma: float,
    *,
    segments: NDArray[np.int32] | None = None,
    labels: NDArray[np.integer] | None = None,
    max_shift: float = 2.0,
) -> NDArray[Any]:
    """Measure each source near (x, y); return n rows of `MOMENT_DTYPE`, in the order given.

    `image` (height, width) less its background in any unit, `variance` in its square, `usable` of `usable_pixels`;
    `x`, `y` 0-based pixels, (n,); `sigma` pixels, of the first weight. With `segments` (height, width), of
    `Detections`, pixels that belong to others than a source's own label, of `labels` (n,), are not used. Errors are
    propagated from the variance, for a source that is a Gaussian. Positive sources only.
    """
    at_x, at_y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    light = frozen_array(np.ascontiguousarray(image, np.float32))
    noise = frozen_array(np.ascontiguousarray(variance, np.float32))
    owner = np.zeros((1, 1), np.int32) if segments is None else np.ascontiguousarray(segments, np.int32)
    own = np.zeros(len(at_x), np.int64) if labels is None else np.asarray(labels, np.int64)
    out, state = np.full((len(at_x), 10), np.nan), np.zeros((len(at_x), 2), np.int64)
    good = frozen_array(np.ascontiguousarray(usable, bool))
    _measure_all(light, noise, good, frozen_array(owner), own, at_x, at_y, sigma, max_shift, out, state)
    return _rows(out, state)


def psf_moments(psf: PsfModel, x: ArrayLike, y: ArrayLike) -> _Float:
    """Return the PSF's adaptive moments (xx, yy, xy) at positions, pixels², float64 (n, 3).

    Measured on a grid over the detector and interpolated with a polynomial: exact to 1e-4 of themselves.
    """
    steps = np.linspace(0.0, 1.0, PSF_GRID)
    grid_x, grid_y = np.tile(steps * (psf.width - 1), PSF_GRID), np.repeat(steps * (psf.height - 1), PSF_GRID)
    guess = float(np.median(psf.noise_area(grid_x, grid_y)) / (4.0 * np.pi))
    moments = weights_of(psf.stamps(grid_x, grid_y), guess, SETTLED, REACH, 1.0)[:, 2:5]
    known = np.isfinite(moments[:, 0])
    degree = PSF_DEGREE if psf.degree and known.sum() > 40 else 0
    if not known.any():
        return np.full((len(np.atleast_1d(x)), 3), np.nan)
    terms = _terms(psf, grid_x[known], grid_y[known], degree)
    solution = np.linalg.lstsq(terms, moments[known], rcond=None)[0]
    return np.asarray(_terms(psf, np.atleast_1d(x), np.atleast_1d(y), degree) @ solution)


def _terms(psf: PsfModel, x: ArrayLike, y: ArrayLike, degree: int) -> _Float:
    u = 2.0 * np.asarray(x, float) / max(psf.width - 1, 1) - 1.0
    v = 2.0 * np.asarray(y, float) / max(psf.height - 1, 1) - 1.0
    return polynomial_terms(np.clip(u, -1.0, 1.0), np.clip(v, -1.0, 1.0), degree)


def _rows(out: _Float, state: NDArray[np.int64]) -> NDArray[Any]:
    """Return the loop's numbers as a table."""
    rows = np.zeros(len(out), MOMENT_DTYPE)
    for column, name in enumerate(_NAMES):
        rows[name] = out[:, column]
    rows["iterations"], rows["flags"] = state[:, 0], state[:, 1]
    return rows


@njit(cache=True, nogil=True)
def _measure_all(
    image: Any,
    variance: Any,
    usable: Any,
    owner: Any,
    own: Any,
    x: Any,
    y: Any,
    sigma: float,
    max_shift: float,
    out: Any,
    state: Any,
) -> None:  # pragma: no cover - compiled
    """Measure every source; out columns as in MOMENT_DTYPE, state iterations and flags."""
    for source in range(x.size):
        _measure(
            image,
            variance,
            usable,
            owner,
            own[source],
            x[source],
            y[source],
            sigma,
            max_shift,
            out[source],
            state[source],
        )


@njit(cache=True, nogil=True)
def _measure(
    image: Any,
    variance: Any,
    usable: Any,
    owner: Any,
    own: int,
    x: float,
    y: float,
    sigma: float,
    max_shift: float,
    out: Any,
    state: Any,
) -> None:  # pragma: no cover - compiled
    """Fit the weight of one source, and write it with its errors."""
    weight = np.array([x, y, sigma * sigma, sigma * sigma, 0.0, 0.0])
    sums = np.empty(9)
    out[0], out[1] = x, y
    if not (np.isfinite(x) and np.isfinite(y)):
        state[1] = 1
        return
    state[0], state[1] = fit_weight(image, usable, owner, own, weight, REACH, max_shift, SETTLED, sums)
    if state[1] == 0:
        state[1] = 8 if sums[7] < (1.0 - MASKED_SHARE) * sums[6] else 0
        weight[5] = sums[8] / sums[7]
        _errors(variance, usable, owner, own, weight, out)


@njit(cache=True, nogil=True)
def _slope_sums(
    variance: Any, usable: Any, owner: Any, own: int, weight: Any, normal: Any, noise: Any
) -> None:  # pragma: no cover - compiled
    """Sum D D^T and D D^T V, (6, 6), of the Gaussian's derivatives D by x, y, xx, yy, xy and, last, amplitude."""
    slopes = np.empty(6)
    a, b, c = inverse_moments(weight)
    first, last = rows_inside(weight, REACH, variance.shape[0])
    for i in range(first, last):
        v = i - weight[1]
        left, right = columns_inside(a, b, c, weight[0], v, REACH, variance.shape[1])
        for j in range(left, right):
            if not counts(usable, owner, own, i, j):
                continue
            u = j - weight[0]
            p, q = a * u + c * v, c * u + b * v
            w = np.exp(-0.5 * (p * u + q * v))
            slopes[0], slopes[1], slopes[2] = w * p, w * q, 0.5 * w * p * p
            slopes[3], slopes[4], slopes[5] = 0.5 * w * q * q, w * p * q, w
            for k in range(6):
                for m in range(k + 1):
                    normal[k, m] += slopes[k] * slopes[m]
                    noise[k, m] += slopes[k] * slopes[m] * variance[i, j]
    for k in range(6):
        for m in range(k):
            normal[m, k], noise[m, k] = normal[k, m], noise[k, m]


@njit(cache=True, nogil=True)
def _errors(variance: Any, usable: Any, owner: Any, own: int, weight: Any, out: Any) -> None:  # pragma: no cover
    """Write the weight and the errors of its parameters: N^-1 (sum D D^T V) N^-1, N = sum D D^T, D the derivatives."""
    normal, noise, slopes = np.zeros((6, 6)), np.zeros((6, 6)), np.zeros(6)
    _slope_sums(variance, usable, owner, own, weight, normal, noise)
    inverse = _inverse(normal)
    covariance = _times(_times(inverse, noise), inverse)
    a, b, c = inverse_moments(weight)
    amplitude, area = weight[5], 2.0 * np.pi / np.sqrt(a * b - c * c)
    for k in range(5):
        out[k] = weight[k]
    for k in range(2, 5):
        out[3 + k] = np.sqrt(max(covariance[k, k], 0.0)) / abs(amplitude)
    out[8] = amplitude * area
    # flux = 2 pi A sqrt(det M): its slopes by M are A/2 M^-1 times the area; the rows for M are in units of A
    slopes[2], slopes[3], slopes[4], slopes[5] = 0.5 * a, 0.5 * b, c, 1.0
    total = 0.0
    for k in range(6):
        for m in range(6):
            total += slopes[k] * covariance[k, m] * slopes[m]
    out[9] = area * np.sqrt(max(total, 0.0))


@njit(cache=True, nogil=True)
def _times(first: Any, second: Any) -> Any:  # pragma: no cover - compiled
    """Return the product of two small matrices."""
    n = first.shape[0]
    out = np.zeros((n, n))
    for i in range(n):
        for k in range(n):
            for j in range(n):
                out[i, j] += first[i, k] * second[k, j]
    return out


@njit(cache=True, nogil=True)
def _inverse(matrix: Any) -> Any:  # pragma: no cover - compiled
    """Invert a small positive definite matrix by elimination, scaled to a unit diagonal first."""
    n = matrix.shape[0]
    scale = np.empty(n)
    for i in range(n):
        scale[i] = 1.0 / np.sqrt(max(matrix[i, i], 1e-300))
    left, right = np.empty((n, n)), np.eye(n)
    for i in range(n):
        for j in range(n):
            left[i, j] = matrix[i, j] * scale[i] * scale[j]
    for i in range(n):
        pivot = max(left[i, i], 1e-12)
        left[i, :] /= pivot
        right[i, :] /= pivot
        for j in range(n):
            if j != i:
                factor = left[j, i]
                left[j, :] -= factor * left[i, :]
                right[j, :] -= factor * right[i, :]
    for i in range(n):
        for j in range(n):
            right[i, j] *= scale[i] * scale[j]
    return right
