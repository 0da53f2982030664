"""The loops behind the point-source fits: one source at a time, on scratch arrays that stay in the cache.

A stamp is shifted by less than half a pixel with the taps of `shift_stamps`, tabulated; the pixels that are compared
with it are those round the source's present position.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.psf import KERNEL_REACH, shift_gradients

__all__ = ["design_all", "fit_amplitudes", "fit_positions", "shift_table", "shifted_gradients", "shifted_stamps"]

_Float = NDArray[np.float64]

NODES = 257
"""Of the table, over shifts from -1/2 to 1/2; cubic between them: exact to 1e-9."""
CLOSE = 1e-4
"""Pixels: a step below it ends a fit."""
LONGEST = 0.5
"""Pixels: longest step along an axis."""


@cache
def shift_table() -> _Float:
    """Return the taps of `shift_stamps` and their slopes per pixel of shift: float64 (NODES, 2, 2 reach + 1)."""
    shifts = np.linspace(-0.5, 0.5, NODES)
    size = 2 * KERNEL_REACH + 3
    point = np.zeros((NODES, size, size))
    point[:, size // 2, size // 2] = 1.0
    still, by_x, _ = shift_gradients(point, shifts, np.zeros(NODES))
    inner = slice(1, size - 1)  # a tap beyond the reach is zero
    return np.ascontiguousarray(np.stack([still[:, size // 2, inner], by_x[:, size // 2, inner]], axis=1))


def shifted_stamps(stamps: _Float, dx: _Float, dy: _Float, oversampling: int = 1) -> _Float:
    """Return `shift_stamps` of stamps (m, n, n), float64, for shifts of at most half a pixel, in half the time."""
    size = (stamps.shape[1] - 1) // oversampling + 1
    out = np.empty((len(stamps), size, size))
    _shift_all(np.ascontiguousarray(stamps), dx, dy, oversampling, shift_table(), out)
    return out


def shifted_gradients(stamps: _Float, dx: _Float, dy: _Float, oversampling: int = 1) -> _Float:
    """Return `shifted_stamps` and their derivatives by dx and dy, float64 (m, 3, size, size)."""
    size = (stamps.shape[1] - 1) // oversampling + 1
    out = np.empty((len(stamps), 3, size, size))
    design_all(np.ascontiguousarray(stamps), dx, dy, oversampling, shift_table(), out)
    return out


@njit(cache=True, nogil=True)
def _taps(table: Any, shift: float, fine: int, taps: Any) -> int:  # pragma: no cover - compiled
    """Write the taps for a shift of so many pixels and their slopes to `taps` (2, k); return the whole steps of it.

    `fine` steps of the stamp to a pixel; cubic Hermite between the table's nodes.
    """
    whole = int(np.floor(fine * shift + 0.5)) if fine > 1 else 0
    step = 1.0 / (table.shape[0] - 1)
    place = min(max((fine * shift - whole + 0.5) / step, 0.0), table.shape[0] - 1.0)
    node = min(int(place), table.shape[0] - 2)
    t = place - node
    a, b = (1.0 + 2.0 * t) * (1.0 - t) ** 2, t * t * (3.0 - 2.0 * t)
    c, d = step * t * (1.0 - t) ** 2, step * t * t * (t - 1.0)
    slope = 6.0 * t * (1.0 - t) / step
    e, f = (1.0 - t) * (1.0 - 3.0 * t), t * (3.0 * t - 2.0)
    for k in range(table.shape[2]):
        low, high = table[node, 0, k], table[node + 1, 0, k]
        low_slope, high_slope = table[node, 1, k], table[node + 1, 1, k]
        taps[0, k] = a * low + b * high + c * low_slope + d * high_slope
        taps[1, k] = fine * (slope * (high - low) + e * low_slope + f * high_slope)
    return whole


@njit(cache=True, nogil=True)
def _along_rows(
    stamp: Any, taps: Any, whole: int, fine: int, half: int, rows: Any
) -> None:  # pragma: no cover - compiled
    """Shift along y: write the pixel rows within `half` of the middle to `rows`, padded as `_along_columns` needs."""
    middle, width = stamp.shape[0] // 2, stamp.shape[1]
    pad = taps.size // 2 + fine
    for i in range(2 * half + 1):
        rows[i, :] = 0.0
        target = rows[i, pad : pad + width]
        first = middle + fine * (i - half) - whole + taps.size // 2
        for k in range(max(0, first - stamp.shape[0] + 1), min(taps.size, first + 1)):
            weight, source = taps[k], stamp[first - k]
            for j in range(width):
                target[j] += weight * source[j]


@njit(cache=True, nogil=True)
def _along_columns(
    rows: Any, taps: Any, whole: int, fine: int, half: int, width: int, out: Any
) -> None:  # pragma: no cover - compiled
    """Shift `rows` of `_along_rows` along x: write the pixel columns within `half` of the middle to `out`."""
    first = taps.size // 2 + fine + width // 2 - fine * half - whole + taps.size // 2
    across = 2 * half + 1
    for i in range(across):
        target = out[i]
        for j in range(across):
            target[j] = 0.0
        for k in range(taps.size):
            weight, source = taps[k], rows[i, first - k :]
            if fine == 1:  # apart, so that it is compiled into vectors
                for j in range(across):
                    target[j] += weight * source[j]
            else:
                for j in range(across):
                    target[j] += weight * source[fine * j]


@njit(cache=True, nogil=True)
def _shift_all(stamps: Any, dx: Any, dy: Any, fine: int, table: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Shift every stamp; see `shifted_stamps`."""
    half, width = out.shape[1] // 2, stamps.shape[1]
    across, along = np.empty((2, table.shape[2])), np.empty((2, table.shape[2]))
    rows = np.empty((out.shape[1], width + 2 * (table.shape[2] // 2 + fine)))
    for source in range(stamps.shape[0]):
        columns, lines = _taps(table, dx[source], fine, across), _taps(table, dy[source], fine, along)
        _along_rows(stamps[source], along[0], lines, fine, half, rows)
        _along_columns(rows, across[0], columns, fine, half, width, out[source])


@njit(cache=True, nogil=True)
def fit_amplitudes(
    data: Any, noise: Any, stamps: Any, local: bool, support: float, out: Any
) -> None:  # pragma: no cover - compiled
    """Fit each square's flux, and a constant where `local`: out (m, 5) flux, error, chi2, background, pixels used.

    Planes of `cut_squares`, stamps (m, n, n) as those pixels see them. NaN where less than the share `support` of
    sum(stamp^2) is usable.
    """
    for source in range(data.shape[0]):
        n, whole, pp, pd, p, d = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(data.shape[1]):
            for j in range(data.shape[2]):
                value = stamps[source, i, j]
                whole += value * value
                if noise[source, i, j] >= 0.0:
                    n += 1
                    pp += value * value
                    pd += value * data[source, i, j]
                    p += value
                    d += data[source, i, j]
        out[source, :4] = np.nan
        out[source, 4] = n
        mean = p / n if local and n > 0 else 0.0
        norm = pp - mean * p
        if not (pp > support * whole and norm > 0.0):
            continue
        flux = (pd - mean * d) / norm
        level = (d - flux * p) / n if local else 0.0
        variance, chi2 = 0.0, 0.0
        for i in range(data.shape[1]):
            for j in range(data.shape[2]):
                if noise[source, i, j] >= 0.0:
                    variance += (stamps[source, i, j] - mean) ** 2 * noise[source, i, j]
                    residual = data[source, i, j] - flux * stamps[source, i, j] - level
                    if noise[source, i, j] > 0.0:
                        chi2 += residual * residual / noise[source, i, j]
        out[source, 0], out[source, 1] = flux, np.sqrt(variance) / norm
        out[source, 2], out[source, 3] = chi2, level


@njit(cache=True, nogil=True)
def _window(data: Any, noise: Any, row: int, column: int, pixels: Any) -> None:  # pragma: no cover - compiled
    """Copy a window's data, weight (1 usable, 0 not) and variance to `pixels` (3, side, side)."""
    side = pixels.shape[1]
    for i in range(side):
        values, spread = data[row + i, column : column + side], noise[row + i, column : column + side]
        for j in range(side):
            good = 1.0 if spread[j] >= 0.0 else 0.0
            pixels[0, i, j] = values[j]
            pixels[1, i, j] = good
            pixels[2, i, j] = spread[j] * good


@njit(cache=True, nogil=True, fastmath=True)
def _moments(design: Any, weight: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Sum design x design x weight over the pixels: out (3, 3)."""
    p, u, v = design[0].ravel(), design[1].ravel(), design[2].ravel()
    w = weight.ravel()
    pp, pu, pv, uu, uv, vv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(w.size):
        wp, wu, wv = p[k] * w[k], u[k] * w[k], v[k] * w[k]
        pp += wp * p[k]
        pu += wp * u[k]
        pv += wp * v[k]
        uu += wu * u[k]
        uv += wu * v[k]
        vv += wv * v[k]
    out[0, 0], out[1, 1], out[2, 2] = pp, uu, vv
    out[0, 1], out[0, 2], out[1, 2] = pu, pv, uv
    out[1, 0], out[2, 0], out[2, 1] = pu, pv, uv


@njit(cache=True, nogil=True, fastmath=True)
def _product(first: Any, second: Any) -> float:  # pragma: no cover - compiled
    """Return the sum of first x second."""
    a, b = first.ravel(), second.ravel()
    total = 0.0
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True)
def _invert(matrix: Any, out: Any) -> bool:  # pragma: no cover - compiled
    """Invert a symmetric 3 x 3 matrix; False where it is singular."""
    scale = 1e-12 * (matrix[0, 0] + matrix[1, 1] + matrix[2, 2])
    a, b, c = matrix[0, 0] + scale, matrix[1, 1] + scale, matrix[2, 2] + scale
    d, e, f = matrix[0, 1], matrix[0, 2], matrix[1, 2]
    out[0, 0], out[1, 1], out[2, 2] = b * c - f * f, a * c - e * e, a * b - d * d
    out[0, 1], out[0, 2], out[1, 2] = e * f - c * d, d * f - b * e, d * e - a * f
    determinant = a * out[0, 0] + d * out[0, 1] + e * out[0, 2]
    if not determinant > 0.0:
        return False
    out[1, 0], out[2, 0], out[2, 1] = out[0, 1], out[0, 2], out[1, 2]
    out /= determinant
    return True


@njit(cache=True, nogil=True)
def _design(
    stamp: Any, dx: float, dy: float, fine: int, table: Any, half: int, taps: Any, rows: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Write the shifted PSF and its derivatives by its own position to out (3, 2 half + 1, 2 half + 1)."""
    width = stamp.shape[1]
    columns, lines = _taps(table, dx, fine, taps[0]), _taps(table, dy, fine, taps[1])
    _along_rows(stamp, taps[1, 0], lines, fine, half, rows[0])
    _along_rows(stamp, taps[1, 1], lines, fine, half, rows[1])
    _along_columns(rows[0], taps[0, 0], columns, fine, half, width, out[0])
    _along_columns(rows[0], taps[0, 1], columns, fine, half, width, out[1])
    _along_columns(rows[1], taps[0, 0], columns, fine, half, width, out[2])


@njit(cache=True, nogil=True)
def design_all(stamps: Any, dx: Any, dy: Any, fine: int, table: Any, out: Any) -> None:  # pragma: no cover - compiled
    """See `shifted_gradients`."""
    half, reach = out.shape[2] // 2, table.shape[2] // 2
    taps, rows = np.empty((2, 2, table.shape[2])), np.empty((2, out.shape[2], stamps.shape[1] + 2 * (reach + fine)))
    for source in range(stamps.shape[0]):
        _design(stamps[source], dx[source], dy[source], fine, table, half, taps, rows, out[source])


@njit(cache=True, nogil=True)
def _covariance(inverse: Any, weighted: Any, a: int, b: int) -> float:  # pragma: no cover - compiled
    """Return one element of inverse x weighted x inverse."""
    total = 0.0
    for k in range(3):
        for m in range(3):
            total += inverse[a, k] * weighted[k, m] * inverse[m, b]
    return total


@njit(cache=True, nogil=True)
def fit_positions(
    data: Any, noise: Any, stamps: Any, fine: int, dx: Any, dy: Any, half: int, iterations: int, table: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Fit flux and position to each square: out (m, 6) dx, dy, flux, errors of x and y, bias.

    Planes of `cut_squares`, wider than 2 half + 1 by as much as a source may move; stamps with `fine` steps to a
    pixel; `dx`, `dy` first offsets from the squares' middle pixels. Gauss-Newton on d = f P + (f dx) P_x + (f dy) P_y
    within `half` pixels of the present position. Bias: what a flux at the fitted position is expected to be too high
    by, 1/2 f tr(G C) with G the curvature of sum(P d) / sum(P P) divided by f and C the covariance of the position;
    see `psf_centroids`.
    """
    size, reach, side = stamps.shape[1], table.shape[2] // 2, 2 * half + 1
    room = data.shape[1] // 2 - half
    taps, rows = np.empty((2, 2, table.shape[2])), np.empty((2, side, size + 2 * (reach + fine)))
    design, pixels = np.empty((3, side, side)), np.empty((3, side, side))
    normal, weighted, inverse, step = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    for source in range(data.shape[0]):
        x, y, before = dx[source], dy[source], LONGEST
        out[source, 2:] = np.nan
        for turn in range(iterations):
            column = min(max(int(np.floor(x + 0.5)), -room), room)
            row = min(max(int(np.floor(y + 0.5)), -room), room)
            _design(stamps[source], x - column, y - row, fine, table, half, taps, rows, design)
            _window(data[source], noise[source], room + row, room + column, pixels)
            _moments(design, pixels[1], normal)
            if not _step(design, pixels[0], normal, inverse, step):
                break
            across, along = step[1], step[2]
            x, y = x + across, y + along
            last = max(abs(across), abs(along))
            # what the next step would be, as steps shrink by a factor
            if last * min(last / before, 1.0) <= CLOSE or turn == iterations - 1:
                _moments(design, pixels[2], weighted)
                _errors(step[0], normal, inverse, weighted, out[source])
                break
            before = last
        out[source, 0], out[source, 1] = x, y


@njit(cache=True, nogil=True)
def _step(design: Any, data: Any, normal: Any, inverse: Any, step: Any) -> bool:  # pragma: no cover - compiled
    """Solve one Gauss-Newton step: flux, and shift along x and y (bounded); False where there is none."""
    if not _invert(normal, inverse):
        return False
    a, b, c = _product(design[0], data), _product(design[1], data), _product(design[2], data)
    for k in range(3):
        step[k] = inverse[k, 0] * a + inverse[k, 1] * b + inverse[k, 2] * c
    if step[0] == 0.0:
        return False
    for k in (1, 2):
        step[k] = min(max(step[k] / step[0], -LONGEST), LONGEST)
    return True


@njit(cache=True, nogil=True)
def _errors(flux: float, normal: Any, inverse: Any, weighted: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write flux, errors of x and y, and bias of the flux to out[2:6]; see `fit_positions`."""
    xx, yy = _covariance(inverse, weighted, 1, 1), _covariance(inverse, weighted, 2, 2)
    xy = _covariance(inverse, weighted, 1, 2)
    curvature = normal[1, 1] * xx + normal[2, 2] * yy + 2.0 * normal[1, 2] * xy
    out[2], out[5] = flux, 0.5 * curvature / (normal[0, 0] * flux)
    out[3], out[4] = np.sqrt(max(xx, 0.0)) / abs(flux), np.sqrt(max(yy, 0.0)) / abs(flux)
