"""Second moments of sources under the elliptical Gaussian weight that fits each of them best.

The weight's centre and moments are moved until they are the source's own (Bernstein & Jarvis 2002, AJ 123, 583,
section 3.1; Hirata & Seljak 2003, MNRAS 343, 459, section 2.1): the least-squares fit of an elliptical Gaussian with
equal weights. Of a Gaussian they are its moments; of a pixel-integrated one those of the profile after the pixel.
Pixels that can't be used, and those of neighbours, count as the fitted Gaussian has them, so that they don't pull.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from workers.imaging.exposure import frozen_array
from workers.imaging.psf import PsfModel, polynomial_terms

__all__ = ["MOMENT_DTYPE", "MomentFlag", "adaptive_moments", "psf_moments"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

_NAMES = ("x", "y", "ixx", "iyy", "ixy", "ixxErr", "iyyErr", "ixyErr", "gaussianFlux", "gaussianFluxErr")
MOMENT_DTYPE = np.dtype([(name, "f8") for name in _NAMES] + [("iterations", "i4"), ("flags", "i4")])
"""Centre, 0-based pixels; central second moments and their errors, pixels²; flux of the Gaussian and its error, in the
image's unit; iterations taken; flags of `MomentFlag`. Where a flag but MASKED is set all but the centre is NaN."""

MOST_TURNS, PATIENCE = 60, 12
"""Turns at all, and those of full length: noise can make full ones swing about their end."""
SETTLED = 1e-4
"""Relative change of the moments, and of the centre in units of the width, that ends the iteration."""
REACH = 4.0
"""Sigma, of the ellipse whose pixels count: beyond it weight times source is below 2e-7 of the peak."""
NARROWEST, WIDEST = 0.3, 15.0
"""Pixels, rms along an axis: what is outside is no source."""
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
    stamps = psf.stamps(grid_x, grid_y).astype(np.float32)
    sigma = float(np.sqrt(np.median(psf.noise_area(grid_x, grid_y)) / (4.0 * np.pi)))
    out, state = np.full((len(stamps), 10), np.nan), np.zeros((len(stamps), 2), np.int64)
    _measure_stamps(stamps, psf.size // 2, sigma, out, state)
    known = state[:, 1] == 0
    degree = PSF_DEGREE if psf.degree and known.sum() > 40 else 0
    if not known.any():
        return np.full((len(np.atleast_1d(x)), 3), np.nan)
    terms = _terms(psf, grid_x[known], grid_y[known], degree)
    solution = np.linalg.lstsq(terms, out[known, 2:5], rcond=None)[0]
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
def _measure_stamps(
    stamps: Any, middle: int, sigma: float, out: Any, state: Any
) -> None:  # pragma: no cover - compiled
    """Measure one source in the middle of each stamp."""
    usable = np.ones(stamps.shape[1:], np.bool_)
    noise = np.zeros(stamps.shape[1:], np.float32)
    owner = np.zeros((1, 1), np.int32)
    for k in range(stamps.shape[0]):
        _measure(stamps[k], noise, usable, owner, 0, float(middle), float(middle), sigma, 1.0, out[k], state[k])


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
    """Iterate the weight of one source. weight: x, y, xx, yy, xy, amplitude."""
    weight = np.array([x, y, sigma * sigma, sigma * sigma, 0.0, 0.0])
    sums, change = np.empty(9), np.empty(6)
    out[0], out[1] = x, y
    if not (np.isfinite(x) and np.isfinite(y)):
        state[1] = 1
        return
    for turn in range(MOST_TURNS):
        state[0] = turn + 1
        _weighted(image, usable, owner, own, weight, sums)
        if not sums[7] > 0.5 * sums[6]:
            state[1] = 1
            return
        if not _moved(weight, sums, 1.0 if turn < PATIENCE else 0.5, change):
            state[1] = 2
            return
        if np.hypot(weight[0] - x, weight[1] - y) > max_shift:
            state[1] = 4
            return
        width = weight[2] + weight[3]
        moved = max(abs(change[2]), abs(change[3]), abs(change[4])) / width
        if moved < SETTLED and max(abs(change[0]), abs(change[1])) < SETTLED * np.sqrt(width):
            break
        if turn == MOST_TURNS - 1:
            state[1] = 2
            return
    state[1] = 8 if sums[7] < (1.0 - MASKED_SHARE) * sums[6] else 0
    weight[5] = sums[8] / sums[7]
    _errors(variance, usable, owner, own, weight, out)


@njit(cache=True, nogil=True)
def _shape(weight: Any) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Return the inverse of the weight's moments, (xx, yy, xy)."""
    determinant = weight[2] * weight[3] - weight[4] * weight[4]
    return weight[3] / determinant, weight[2] / determinant, -weight[4] / determinant


@njit(cache=True, nogil=True)
def _rows_inside(weight: Any, height: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the first row of the weight's ellipse and the one after the last."""
    along = REACH * np.sqrt(weight[3])
    return max(int(np.ceil(weight[1] - along)), 0), min(int(np.floor(weight[1] + along)) + 1, height)


@njit(cache=True, nogil=True)
def _columns_inside(
    a: float, b: float, c: float, x: float, v: float, width: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the first column of the ellipse a uu + 2 c uv + b vv < REACH^2 in one row and the one after the last."""
    root = np.sqrt(max(c * c * v * v - a * (b * v * v - REACH * REACH), 0.0))
    left, right = x + (-c * v - root) / a, x + (-c * v + root) / a
    return max(int(np.ceil(left)), 0), min(int(np.floor(right)) + 1, width)


@njit(cache=True, nogil=True)
def _counts(usable: Any, owner: Any, own: int, i: int, j: int) -> bool:  # pragma: no cover - compiled
    """Tell whether a pixel can be used and is no neighbour's."""
    return bool(usable[i, j] and (owner.size == 1 or owner[i, j] == 0 or owner[i, j] == own))


@njit(cache=True, nogil=True)
def _weighted(image: Any, usable: Any, owner: Any, own: int, weight: Any, sums: Any) -> None:  # pragma: no cover
    """Sum weight w times light d: sums 0..5 of d, d u, d v, d uu, d vv, d uv; 6 of w^2, 7 of w^2 usable, 8 of w d.

    Pixels that can't be used hold the amplitude of the last turn times w. Along a row w follows from its ratio to the
    pixel before, which itself changes by a constant factor.
    """
    sums[:] = 0.0
    a, b, c = _shape(weight)
    sums[6] = np.pi / np.sqrt(a * b - c * c)  # what lies outside the image is not usable either
    first, last = _rows_inside(weight, image.shape[0])
    fall = np.exp(-a)
    for i in range(first, last):
        v = i - weight[1]
        left, right = _columns_inside(a, b, c, weight[0], v, image.shape[1])
        u = left - weight[0]
        w, ratio = np.exp(-0.5 * (a * u * u + b * v * v) - c * u * v), np.exp(-a * (u + 0.5) - c * v)
        for j in range(left, right):
            u = j - weight[0]
            light = weight[5] * w * w
            if _counts(usable, owner, own, i, j):
                light = w * np.float64(image[i, j])
                sums[7] += w * w
                sums[8] += light
            sums[0] += light
            sums[1] += light * u
            sums[2] += light * v
            sums[3] += light * u * u
            sums[4] += light * v * v
            sums[5] += light * u * v
            w *= ratio
            ratio *= fall


@njit(cache=True, nogil=True)
def _moved(weight: Any, sums: Any, share: float, change: Any) -> bool:  # pragma: no cover - compiled
    """Move the weight by a share of the way to the source and write by how much; False where there is no Gaussian.

    Under a Gaussian weight W a Gaussian of moments M has moments (M^-1 + W^-1)^-1 and, at W = M, half its offset.
    """
    if not sums[0] > 0.0:
        return False
    x, y = sums[1] / sums[0], sums[2] / sums[0]
    xx, yy, xy = sums[3] / sums[0] - x * x, sums[4] / sums[0] - y * y, sums[5] / sums[0] - x * y
    seen = xx * yy - xy * xy
    if not (seen > 0.0 and xx > 0.0):
        return False
    own = weight[2] * weight[3] - weight[4] * weight[4]
    a, b, c = yy / seen - weight[3] / own, xx / seen - weight[2] / own, -xy / seen + weight[4] / own
    # light that the weight does not end makes these small or negative: grow by a factor, no more
    least = 0.25 / (weight[2] + weight[3])
    middle, half = 0.5 * (a + b), np.hypot(0.5 * (a - b), c)
    if middle - half < least:
        low, high = least, max(middle + half, least)
        turn = 0.5 * (high - low) / half if half > 0.0 else 0.0
        a, b, c = 0.5 * (low + high) + turn * 0.5 * (a - b), 0.5 * (low + high) - turn * 0.5 * (a - b), turn * c
    determinant = a * b - c * c
    change[2], change[3], change[4] = b / determinant, a / determinant, -c / determinant
    change[0], change[1] = 2.0 * x, 2.0 * y
    for k in range(2, 5):
        change[k] -= weight[k]
    for k in range(5):
        weight[k] += share * change[k]
    if sums[7] > 0.0:
        weight[5] = sums[8] / sums[7]
    middle = 0.5 * (weight[2] + weight[3])
    half = np.hypot(0.5 * (weight[2] - weight[3]), weight[4])
    return bool(middle - half > NARROWEST**2 and middle + half < WIDEST**2)


@njit(cache=True, nogil=True)
def _slope_sums(
    variance: Any, usable: Any, owner: Any, own: int, weight: Any, normal: Any, noise: Any
) -> None:  # pragma: no cover - compiled
    """Sum D D^T and D D^T V, (6, 6), of the Gaussian's derivatives D by x, y, xx, yy, xy and, last, amplitude."""
    slopes = np.empty(6)
    a, b, c = _shape(weight)
    first, last = _rows_inside(weight, variance.shape[0])
    for i in range(first, last):
        v = i - weight[1]
        left, right = _columns_inside(a, b, c, weight[0], v, variance.shape[1])
        for j in range(left, right):
            if not _counts(usable, owner, own, i, j):
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
    a, b, c = _shape(weight)
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
