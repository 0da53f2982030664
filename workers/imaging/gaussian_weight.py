"""The elliptical Gaussian weight that fits a source best: the loop behind adaptive moments.

The weight's centre and moments are moved until they are the source's own (Bernstein & Jarvis 2002, AJ 123, 583,
section 3.1; Hirata & Seljak 2003, MNRAS 343, 459, section 2.1): the least-squares fit of an elliptical Gaussian with
equal weights. Pixels that can't be used count as the fitted Gaussian has them, so that they don't pull.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["columns_inside", "counts", "fit_weight", "inverse_moments", "rows_inside"]

MOST_TURNS, PATIENCE = 60, 12
"""Turns at all, and those of full length: noise can make full ones swing about their end."""
NARROWEST, WIDEST = 0.3, 15.0
"""Pixels, rms along an axis: what is outside is no source."""
NO_SUPPORT, NOT_CONVERGED, SHIFTED = 1, 2, 4
"""Why a fit failed: the bits of `MomentFlag`."""


@njit(cache=True, nogil=True)
def fit_weight(
    image: Any,
    usable: Any,
    owner: Any,
    own: int,
    weight: Any,
    reach: float,
    max_shift: float,
    settled: float,
    sums: Any,
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Move `weight` (x, y, xx, yy, xy, amplitude) from a start to the source; return the turns and 0, or why it failed.

    `image` and `usable` (height, width); `owner`, of the same shape, the label of each pixel's source, of which 0 and
    `own` count, or (1, 1) where all do. `reach`, sigma: pixels further out do not count. A centre that leaves its
    start by more than `max_shift` pixels has failed. `settled`: relative change of the moments, and of the centre in
    units of the width, that ends it. `sums` (9,) are those of the last turn: 6 of w^2, 7 of w^2 over usable pixels.
    """
    x, y = weight[0], weight[1]
    change = np.empty(5)
    for turn in range(MOST_TURNS):
        _weighted(image, usable, owner, own, weight, reach, sums)
        if not sums[7] > 0.5 * sums[6]:
            return turn + 1, NO_SUPPORT
        if not _moved(weight, sums, 1.0 if turn < PATIENCE else 0.5, change):
            return turn + 1, NOT_CONVERGED
        if np.hypot(weight[0] - x, weight[1] - y) > max_shift:
            return turn + 1, SHIFTED
        width = weight[2] + weight[3]
        moved = max(abs(change[2]), abs(change[3]), abs(change[4])) / width
        if moved < settled and max(abs(change[0]), abs(change[1])) < settled * np.sqrt(width):
            return turn + 1, 0
    return MOST_TURNS, NOT_CONVERGED


@njit(cache=True, nogil=True)
def inverse_moments(weight: Any) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Return the inverse of the weight's moments, (xx, yy, xy)."""
    determinant = weight[2] * weight[3] - weight[4] * weight[4]
    return weight[3] / determinant, weight[2] / determinant, -weight[4] / determinant


@njit(cache=True, nogil=True)
def rows_inside(weight: Any, reach: float, height: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the first row of the weight's ellipse and the one after the last."""
    along = reach * np.sqrt(weight[3])
    return max(int(np.ceil(weight[1] - along)), 0), min(int(np.floor(weight[1] + along)) + 1, height)


@njit(cache=True, nogil=True)
def columns_inside(
    a: float, b: float, c: float, x: float, v: float, reach: float, width: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the first column of the ellipse a uu + 2 c uv + b vv < reach^2 in one row and the one after the last."""
    root = np.sqrt(max(c * c * v * v - a * (b * v * v - reach * reach), 0.0))
    left, right = x + (-c * v - root) / a, x + (-c * v + root) / a
    return max(int(np.ceil(left)), 0), min(int(np.floor(right)) + 1, width)


@njit(cache=True, nogil=True)
def counts(usable: Any, owner: Any, own: int, i: int, j: int) -> bool:  # pragma: no cover - compiled
    """Tell whether a pixel can be used and is no neighbour's."""
    return bool(usable[i, j] and (owner.size == 1 or owner[i, j] == 0 or owner[i, j] == own))


@njit(cache=True, nogil=True)
def _weighted(
    image: Any, usable: Any, owner: Any, own: int, weight: Any, reach: float, sums: Any
) -> None:  # pragma: no cover - compiled
    """Sum weight w times light d: sums 0..5 of d, d u, d v, d uu, d vv, d uv; 6 of w^2, 7 of w^2 usable, 8 of w d.

    Pixels that can't be used hold the amplitude of the last turn times w. Along a row w follows from its ratio to the
    pixel before, which itself changes by a constant factor.
    """
    sums[:] = 0.0
    a, b, c = inverse_moments(weight)
    sums[6] = np.pi / np.sqrt(a * b - c * c)  # what lies outside the image is not usable either
    first, last = rows_inside(weight, reach, image.shape[0])
    fall = np.exp(-a)
    for i in range(first, last):
        v = i - weight[1]
        left, right = columns_inside(a, b, c, weight[0], v, reach, image.shape[1])
        u = left - weight[0]
        w, ratio = np.exp(-0.5 * (a * u * u + b * v * v) - c * u * v), np.exp(-a * (u + 0.5) - c * v)
        for j in range(left, right):
            u = j - weight[0]
            light = weight[5] * w * w
            if counts(usable, owner, own, i, j):
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
