"""The loops behind the trail fits: a PSF that moved along a line during the exposure, one source at a time.

Model: T(r) = F times the mean of P(r - c - s a) over s from -1/2 to 1/2, with c the middle and a the vector from end to
end. P is a cubic B-spline, the mean a Gauss-Legendre sum over nodes closer than the PSF is wide; both are smooth, so
the derivatives by all five parameters are sums over the same nodes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.subtract.trail_start import first_line, smooth_square

__all__ = ["LONGEST", "fit_lines", "line_nodes"]

_Float = NDArray[np.float64]

LONGEST = 80.0
"""Pixels: a fit that grows longer has failed; what is longer is a streak, and masked before."""
SHORTEST = 0.2
"""Pixels: no fitted trail is shorter; the model no longer changes below, and there would be no error."""
TURNS, ROUNDS = 20, 4
"""Most steps of a fit, and most choices of its pixels."""
CLOSE = 1e-3
"""A step that changes chi-square by less ends a fit: 3 % of an error."""
STEP = 3.0
"""Pixels: longest step of the middle or of half the line."""
_NODES_PER_SIGMA, _MORE_NODES = 1.2, 4
_NODE_STEP, _NODE_SETS = 4, 24


@cache
def line_nodes() -> _Float:
    """Return Gauss-Legendre nodes on [-1/2, 1/2] and weights of sum one: float64 (24, 2, 96), 4 more in each set."""
    table = np.zeros((_NODE_SETS, 2, _NODE_STEP * _NODE_SETS))
    for k in range(_NODE_SETS):
        count = _NODE_STEP * (k + 1)
        nodes, weights = np.polynomial.legendre.leggauss(count)
        table[k, 0, :count], table[k, 1, :count] = 0.5 * nodes, 0.5 * weights
    return table


@njit(cache=True, nogil=True)
def _spline(t: float, weights: Any) -> None:  # pragma: no cover - compiled
    """Write the four cubic B-spline weights at `t` in [0, 1) beyond the second knot, and their slopes: (2, 4)."""
    u = 1.0 - t
    weights[0, 0], weights[0, 3] = u * u * u / 6.0, t * t * t / 6.0
    weights[0, 1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    weights[0, 2] = 1.0 - weights[0, 0] - weights[0, 1] - weights[0, 3]
    weights[1, 0], weights[1, 3] = -0.5 * u * u, 0.5 * t * t
    weights[1, 1] = 0.5 * (3.0 * t * t - 4.0 * t)
    weights[1, 2] = -weights[1, 0] - weights[1, 1] - weights[1, 3]


@njit(cache=True, nogil=True)
def _add_point(
    spline: Any, fine: int, x: float, y: float, weight: float, s: float, scratch: Any, model: Any
) -> None:  # pragma: no cover - compiled
    """Add one node, `weight` times the PSF at pixel (x, y) of the model's planes (5, h, w), to those planes.

    Planes: T / F and its derivatives by the middle's x and y and by the vector's x and y; `s` is the node's place.
    """
    size, centre = spline.shape[0], spline.shape[0] // 2
    at_x, at_y = centre - fine * x, centre - fine * y
    base_x, base_y = int(np.floor(at_x)), int(np.floor(at_y))
    across, along, rows = scratch[0, :, :4], scratch[1, :, :4], scratch[2]
    _spline(at_x - base_x, across)
    _spline(at_y - base_y, along)
    j0, j1 = max((fine - base_x) // fine, 0), min((size - 3 - base_x) // fine + 1, model.shape[2])
    i0, i1 = max((fine - base_y) // fine, 0), min((size - 3 - base_y) // fine + 1, model.shape[1])
    if j1 <= j0:
        return
    first, last = fine * j0 + base_x - 1, fine * (j1 - 1) + base_x + 3
    for i in range(i0, i1):
        line = fine * i + base_y - 1
        a, b = spline[line, first:last], spline[line + 1, first:last]
        c, d = spline[line + 2, first:last], spline[line + 3, first:last]
        for k in range(last - first):
            rows[0, k] = along[0, 0] * a[k] + along[0, 1] * b[k] + along[0, 2] * c[k] + along[0, 3] * d[k]
            rows[1, k] = along[1, 0] * a[k] + along[1, 1] * b[k] + along[1, 2] * c[k] + along[1, 3] * d[k]
        for j in range(j0, j1):
            k = fine * (j - j0)
            value, by_x, by_y = 0.0, 0.0, 0.0
            for tap in range(4):
                value += across[0, tap] * rows[0, k + tap]
                by_x += across[1, tap] * rows[0, k + tap]
                by_y += across[0, tap] * rows[1, k + tap]
            by_x, by_y = -fine * weight * by_x, -fine * weight * by_y
            model[0, i, j] += weight * value
            model[1, i, j] += by_x
            model[2, i, j] += by_y
            model[3, i, j] += s * by_x
            model[4, i, j] += s * by_y


@njit(cache=True, nogil=True)
def _draw(
    spline: Any, fine: int, sigma: float, nodes: Any, line: Any, corner: Any, scratch: Any, model: Any
) -> None:  # pragma: no cover - compiled
    """Write the planes of `_add_point` for a line (flux, x, y, ax, ay); the first pixel is at `corner` (x, y)."""
    model[:] = 0.0
    x, y, length = line[1] - corner[0], line[2] - corner[1], np.hypot(line[3], line[4])
    if length == 0.0:
        _add_point(spline, fine, x, y, 1.0, 0.0, scratch, model)
        return
    want = int(_NODES_PER_SIGMA * length / sigma) + _MORE_NODES
    chosen = min((want + _NODE_STEP - 1) // _NODE_STEP, nodes.shape[0])
    places, weights = nodes[chosen - 1, 0], nodes[chosen - 1, 1]
    for k in range(_NODE_STEP * chosen):
        s = places[k]
        _add_point(spline, fine, x + s * line[3], y + s * line[4], weights[k], s, scratch, model)


@njit(cache=True, nogil=True)
def _normal(
    model: Any, data: Any, use: Any, flux: float, normal: Any, gradient: Any
) -> float:  # pragma: no cover - compiled
    """Sum the normal equations (5, 5), (5,) with the pixels' weights `use`; return the sum of squared residuals."""
    normal[:], gradient[:] = 0.0, 0.0
    total = 0.0
    slope = np.empty(5)
    for i in range(data.shape[0]):
        for j in range(data.shape[1]):
            weight = use[i, j]
            if weight > 0.0:
                slope[0] = model[0, i, j]
                for k in range(1, 5):
                    slope[k] = flux * model[k, i, j]
                residual = data[i, j] - flux * slope[0]
                total += weight * residual * residual
                for k in range(5):
                    part = weight * slope[k]
                    gradient[k] += part * residual
                    for m in range(k + 1):
                        normal[k, m] += part * slope[m]
    for k in range(5):
        for m in range(k):
            normal[m, k] = normal[k, m]
    return total


@njit(cache=True, nogil=True)
def _eliminate(work: Any, inverse: Any, row: int) -> bool:  # pragma: no cover - compiled
    """Do one turn of Gauss-Jordan; False where the pivot vanishes."""
    count, pivot = work.shape[0], work[row, row]
    if not pivot > 1e-9:
        return False
    for m in range(count):
        work[row, m] /= pivot
        inverse[row, m] /= pivot
    for n in range(count):
        factor = work[n, row]
        if n != row:
            for m in range(count):
                work[n, m] -= factor * work[row, m]
                inverse[n, m] -= factor * inverse[row, m]
    return True


@njit(cache=True, nogil=True)
def _invert(matrix: Any, count: int, damping: float, inverse: Any) -> bool:  # pragma: no cover - compiled
    """Invert the first `count` rows and columns, diagonal times 1 + `damping`; False where not positive definite.

    Scaled to a diagonal of ones; the rest of `inverse` (5, 5) is zero.
    """
    work, scale, good = np.empty((count, count)), np.empty(count), True
    inverse[:] = 0.0
    for k in range(count):
        scale[k] = np.sqrt(max(matrix[k, k], 1e-300))
        inverse[k, k] = 1.0
        good = good and matrix[k, k] > 0.0
    for k in range(count):
        for m in range(count):
            work[k, m] = matrix[k, m] / (scale[k] * scale[m])
        work[k, k] += damping
    for k in range(count):
        good = good and _eliminate(work, inverse[:count, :count], k)
    for k in range(count):
        for m in range(count):
            inverse[k, m] /= scale[k] * scale[m]
    return good


@njit(cache=True, nogil=True)
def _step(inverse: Any, gradient: Any, count: int, step: Any) -> None:  # pragma: no cover - compiled
    """Write inverse x gradient, shortened where it moves the middle or half the line by more than `STEP`."""
    for k in range(5):
        step[k] = 0.0
        for m in range(count):
            step[k] += inverse[k, m] * gradient[m]
    far = max(np.hypot(step[1], step[2]), 0.5 * np.hypot(step[3], step[4]))
    if far > STEP:
        step *= STEP / far


@njit(cache=True, nogil=True)
def _relaxed(relax: float, gradient: Any, before: Any, norm: float) -> float:  # pragma: no cover - compiled
    """Return the factor of the next step: Aitken's, from how the present gradient compares with the step `before`.

    Where the residuals are large next to the source, plain steps overshoot or fall short by a factor each time.
    """
    if not norm > 0.0:
        return 1.0
    ratio: float = min(max(np.dot(gradient, before) / norm, -1.0), 0.6)
    return min(max(relax / (1.0 - ratio), 0.5), 2.0)


@njit(cache=True, nogil=True)
def _descend(
    psf: Any, data: Any, use: Any, close: float, count: int, corner: Any, line: Any, model: Any
) -> bool:  # pragma: no cover - compiled
    """Fit the first `count` parameters of `line`: Levenberg-Marquardt; whether it converged.

    A step that lowers the sum of squared residuals by less than `close` is the last. `psf` is (spline, fine, sigma,
    nodes, scratch). `model` is left as it is at the line.
    """
    spline, fine, sigma, nodes, scratch = psf
    normal, inverse, gradient = np.empty((5, 5)), np.empty((5, 5)), np.empty(5)
    next_normal, next_gradient = np.empty((5, 5)), np.empty(5)
    trial, step, before, damping, relax, norm = np.empty(5), np.empty(5), np.empty(5), 1e-3, 1.0, 0.0
    _draw(spline, fine, sigma, nodes, line, corner, scratch, model)
    line[0] = _amplitude(model[0], data, use)
    best = _normal(model, data, use, line[0], normal, gradient)
    small = False
    for _ in range(TURNS):
        if not _invert(normal, count, damping, inverse):
            break
        _step(inverse, gradient, count, step)
        relax, norm = _relaxed(relax, gradient, before, norm), np.dot(gradient, step)
        small, before[:] = norm < close, step
        trial[:] = line + relax * step
        if np.hypot(trial[3], trial[4]) > LONGEST:
            break
        _draw(spline, fine, sigma, nodes, trial, corner, scratch, model)
        total = _normal(model, data, use, trial[0], next_normal, next_gradient)
        if total <= best:
            best, damping = total, max(0.1 * damping, 1e-7)
            line[:], normal[:], gradient[:] = trial, next_normal, next_gradient
        else:
            damping, norm = 10.0 * damping, 0.0
        if small:
            break
    _draw(spline, fine, sigma, nodes, line, corner, scratch, model)
    return small


@njit(cache=True, nogil=True)
def _amplitude(model: Any, data: Any, use: Any) -> float:  # pragma: no cover - compiled
    """Return the flux of the model's plane in the data, 0 without support."""
    square, product = 0.0, 0.0
    for i in range(data.shape[0]):
        for j in range(data.shape[1]):
            square += use[i, j] * model[i, j] * model[i, j]
            product += use[i, j] * model[i, j] * data[i, j]
    return product / square if square > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _window(line: Any, reach: float, half: int, box: Any) -> None:  # pragma: no cover - compiled
    """Write the pixels within `reach` of the line, as offsets from the middle pixel, to `box`: x0, x1, y0, y1."""
    for axis in range(2):
        middle, side = line[1 + axis], 0.5 * abs(line[3 + axis]) + reach
        box[2 * axis] = min(max(int(np.floor(middle - side)), -half), half)
        box[2 * axis + 1] = max(min(int(np.ceil(middle + side)), half), box[2 * axis]) + 1


@njit(cache=True, nogil=True)
def _choose(line: Any, reach: float, box: Any, noise: Any, near: Any, use: Any) -> float:  # pragma: no cover - compiled
    """Mark pixels of the box within `reach` of the line, and the usable ones of them; return those' mean variance."""
    total, count = 0.0, 0
    square = line[3] ** 2 + line[4] ** 2
    for i in range(near.shape[0]):
        for j in range(near.shape[1]):
            u, v = box[0] + j - line[1], box[2] + i - line[2]
            s = (u * line[3] + v * line[4]) / square if square > 0.0 else 0.0
            s = min(max(s, -0.5), 0.5)
            inside = (u - s * line[3]) ** 2 + (v - s * line[4]) ** 2 <= reach * reach
            near[i, j] = 1.0 if inside else 0.0
            use[i, j] = 1.0 if inside and noise[i, j] >= 0.0 else 0.0
            if use[i, j] > 0.0:
                total += noise[i, j]
                count += 1
    return total / count if count > 0 else 0.0


@njit(cache=True, nogil=True)
def _chi_square(model: Any, data: Any, noise: Any, use: Any, flux: float) -> float:  # pragma: no cover - compiled
    """Sum the squared residuals, each over its variance."""
    total = 0.0
    for i in range(data.shape[0]):
        for j in range(data.shape[1]):
            if use[i, j] > 0.0 and noise[i, j] > 0.0:
                total += (data[i, j] - flux * model[0, i, j]) ** 2 / noise[i, j]
    return total


@njit(cache=True, nogil=True)
def _support(model: Any, near: Any, use: Any) -> float:  # pragma: no cover - compiled
    """Return the share of the model's squared light that falls on usable pixels."""
    whole, part = 0.0, 0.0
    for i in range(near.shape[0]):
        for j in range(near.shape[1]):
            square = model[0, i, j] ** 2
            whole += near[i, j] * square
            part += use[i, j] * square
    return part / whole if whole > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _errors(
    psf: Any, data: Any, noise: Any, use: Any, corner: Any, line: Any, model: Any, out: Any
) -> bool:  # pragma: no cover - compiled
    """Write the covariance (5, 5) of a fitted line with the variance of each pixel; False where there is none.

    A line shorter than `SHORTEST` is made that long.
    """
    spline, fine, sigma, nodes, scratch = psf
    normal, inverse = np.empty((5, 5)), np.empty((5, 5))
    spread, gradient = np.empty((5, 5)), np.empty(5)
    length = np.hypot(line[3], line[4])
    if length < SHORTEST:
        line[3] = SHORTEST if length < 1e-6 else line[3] * SHORTEST / length
        line[4] = 0.0 if length < 1e-6 else line[4] * SHORTEST / length
        _draw(spline, fine, sigma, nodes, line, corner, scratch, model)
    _normal(model, data, use, line[0], normal, gradient)
    _normal(model, data, np.maximum(use * noise, 0.0), line[0], spread, gradient)
    if not _invert(normal, 5, 0.0, inverse):
        return False
    out[:] = inverse @ spread @ inverse
    return True


@njit(cache=True, nogil=True)
def _fit_line(
    psf: Any, data: Any, noise: Any, reach: float, line: Any, covariance: Any, facts: Any
) -> None:  # pragma: no cover - compiled
    """Fit one square from a first line; facts: chi2, pixels, gain over a point, converged, share usable."""
    half = data.shape[0] // 2
    box, corner, point = np.zeros(4, np.int64), np.zeros(2), np.zeros(5)
    for turn in range(ROUNDS):
        _window(line, reach, half, box)
        corner[0], corner[1] = box[0], box[2]
        pixels = data[half + box[2] : half + box[3], half + box[0] : half + box[1]]
        spread = noise[half + box[2] : half + box[3], half + box[0] : half + box[1]]
        model = np.empty((5, pixels.shape[0], pixels.shape[1]))
        near, use = np.empty(pixels.shape), np.empty(pixels.shape)
        level = _choose(line, reach, box, spread, near, use)
        before = line.copy()
        facts[3] = 1.0 if _descend(psf, pixels, use, CLOSE * level, 5, corner, line, model) else 0.0
        moved = np.hypot(line[1] - before[1], line[2] - before[2])
        moved += 0.5 * np.hypot(line[3] - before[3], line[4] - before[4])
        if moved < 2.0 or turn == ROUNDS - 1:
            break
    facts[0] = _chi_square(model, pixels, spread, use, line[0])
    facts[1], facts[4] = use.sum(), _support(model, near, use)
    if not _errors(psf, pixels, spread, use, corner, line, model, covariance):
        facts[3] = 0.0
    point[1:3] = line[1:3]
    _descend(psf, pixels, use, 0.1 * level, 3, corner, point, model)
    facts[2] = _chi_square(model, pixels, spread, use, point[0]) - facts[0]


@njit(cache=True, nogil=True)
def fit_lines(
    data: Any,
    noise: Any,
    sign: Any,
    splines: Any,
    fine: int,
    sigma: float,
    reach: float,
    nodes: Any,
    line_noise: Any,
    lines: Any,
    covariances: Any,
    facts: Any,
) -> None:  # pragma: no cover - compiled
    """Fit a trail to each square (m, n, n) of `cut_pixels`, through or near its middle pixel.

    `sign` (m,) of the sources; `splines` (m, k, k) cubic B-splines of the PSFs with `fine` coefficients to a pixel;
    `sigma` of a Gaussian like the PSF and `reach` of the pixels used about the line, pixels; `nodes` of `line_nodes`,
    `line_noise` of its name. Out: lines (m, 5) flux, middle x, y from the middle pixel, vector x, y from end to end;
    covariances (m, 5, 5) of those; facts (m, 5) chi2, pixels used, what chi2 is better than a point's by, whether
    converged, share of the squared light on usable pixels.
    """
    size = data.shape[1]
    once, smooth = np.empty((size, size)), np.empty((size, size))
    scratch = np.empty((3, 2, splines.shape[1]))
    for source in range(data.shape[0]):
        smooth_square(data[source], sigma, once, smooth)
        lines[source] = 0.0
        first_line(smooth, sign[source], sigma, line_noise, lines[source])
        psf = (splines[source], fine, sigma, nodes, scratch)
        covariances[source], facts[source] = np.nan, 0.0
        _fit_line(psf, data[source], noise[source], reach, lines[source], covariances[source], facts[source])
