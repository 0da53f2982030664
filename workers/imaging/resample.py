"""The loops of the warp: three planes of an exposure at given places, with a moment-true Lanczos-3 kernel."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, MaskImage, frozen_array
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.six_taps import LANES, six_by_six

__all__ = ["LOST_LIMIT", "kernel_table", "resample"]

_Float = NDArray[np.float64]
_Single = NDArray[np.float32]
_Index = NDArray[np.int64]
_Where = tuple[_Float, _Index, _Index, _Single]
LOST_LIMIT = 0.05
"""Share of the kernel's absolute weight that may fall on masked pixels before the output pixel is masked."""
_STRIP = 256
"""Columns of the target done at once: of a turned source these lie on few of its rows, which stay near."""
_SAMPLED = 4
"""One row of so many tells how the noise is correlated."""
_BLOCKING, _NO_DATA, _EDGE = int(BLOCKING), int(MaskPlane.NO_DATA), int(MaskPlane.EDGE)


@lru_cache(maxsize=1)
def kernel_table() -> _Single:
    """Return the weights of pixels -2 .. 3 (and 0 for 4 and 5) for positions 0, 1/1024 .. 1 past pixel 0, (1025, 8).

    Lanczos-3 shifts a star by up to 0.02 pixels, with the period of the pixels, even where its weights are divided by
    their sum, and so changes fluxes by 0.4 % where the scale changes by 5 %. The smallest change of the weights that
    makes their moments 1, 0, 0 (sum, first, second) is added: neither is left, and the response stays Lanczos's.
    """
    fraction = np.linspace(0.0, 1.0, 1025)[:, None]
    distance = np.arange(-2.0, 4.0)[None, :] - fraction
    weights = np.sinc(distance) * np.sinc(distance / 3.0)
    powers = np.stack([np.ones_like(distance), distance, distance**2], axis=1)
    wrong = np.einsum("fpk,fk->fp", powers, weights) - np.array([1.0, 0.0, 0.0])
    normal = np.einsum("fpk,fqk->fpq", powers, powers)
    weights -= np.einsum("fpk,fp->fk", powers, np.linalg.solve(normal, wrong[..., None])[..., 0])
    return np.asarray(frozen_array(np.pad(weights, ((0, 0), (0, LANES - 6))).astype(np.float32)))


@numba.njit(cache=True, nogil=True)
def _taps(table: _Single, index: int, part: float, weights: _Single) -> None:
    """Fill the weights of a position `part` of the way from row `index` of the table to the next."""
    for k in range(len(weights)):
        weights[k] = table[index, k] + part * (table[index + 1, k] - table[index, k])


@numba.njit(cache=True, nogil=True)
def _blend_masked(
    image: FloatImage, variance: FloatImage, mask: MaskImage, x0: int, y0: int, wx: _Single, wy: _Single
) -> tuple[float, float, int]:
    """Return value, variance and mask of the output pixel whose kernel covers the 6x6 pixels from (x0, y0).

    Pixels that are masked, without data or outside are left out, the rest renormalised. Where too much weight is lost,
    the planes that took it are set (EDGE for what has no data), and the value is that of all pixels with data, so that
    a kernel run over it later meets no hole.
    """
    height, width = image.shape
    total, lost, outside, bits = 0.0, 0.0, 0.0, 0
    good, good_value, good_noise = 0.0, 0.0, 0.0
    seen, seen_value, seen_noise = 0.0, 0.0, 0.0
    for j in range(6):
        for i in range(6):
            weight = wx[i] * wy[j]
            total += abs(weight)
            x, y = x0 + i, y0 + j
            if x < 0 or y < 0 or x >= width or y >= height:
                outside += abs(weight)
                continue
            value, noise, blocked = image[y, x], variance[y, x], mask[y, x] & _BLOCKING
            if blocked & _NO_DATA or not (np.isfinite(value) and np.isfinite(noise)):
                outside += abs(weight)
                continue
            seen += weight
            seen_value += weight * value
            seen_noise += weight * weight * noise
            if blocked:
                lost += abs(weight)
                if abs(weight) > 1e-3 * LOST_LIMIT:
                    bits |= blocked
            else:
                good += weight
                good_value += weight * value
                good_noise += weight * weight * noise
    if lost + outside <= LOST_LIMIT * total:
        return good_value / good, good_noise / good**2, 0
    edge = _EDGE if outside > 1e-6 * total else 0
    if seen > 0.5:
        return seen_value / seen, seen_noise / seen**2, bits | edge
    return 0.0, 0.0, bits | edge | _NO_DATA


@numba.njit(cache=True, nogil=True)
def _soft_bits(mask: MaskImage, x0: int, y0: int) -> int:
    """Return the OR of the planes that block nothing over the inner 2x2 pixels of a 6x6 kernel at (x0, y0)."""
    height, width = mask.shape
    bits = 0
    for y in range(max(y0 + 2, 0), min(y0 + 4, height)):
        for x in range(max(x0 + 2, 0), min(x0 + 4, width)):
            bits |= mask[y, x]
    return bits & ~_BLOCKING


@numba.njit(cache=True, nogil=True)
def _positions(
    maps: _Float, column: _Index, weights: _Float, steps: int, place: _Float, pixel: _Index, step: _Index, part: _Single
) -> None:
    """Fill, for a row of the target, source x, y and area ratio in `place` (3, width), from `maps` (3, nodes).

    And along x and y, (2, width): the first of six `pixel`s, and where they lie in the table of weights, as a `step`
    and the `part` of the way to the next.
    """
    begin = 0
    while begin < len(column):  # a stretch between two nodes
        first, end = column[begin], begin + 1
        while end < len(column) and column[end] == first:
            end += 1
        for k in range(3):
            one, two, three, four = maps[k, first], maps[k, first + 1], maps[k, first + 2], maps[k, first + 3]
            for i in range(begin, end):
                place[k, i] = weights[0, i] * one + weights[1, i] * two + weights[2, i] * three + weights[3, i] * four
        begin = end
    for k in range(2):
        for i in range(len(column)):
            whole = np.floor(place[k, i])
            fraction = steps * (place[k, i] - whole)
            low = min(np.floor(fraction), steps - 1.0)  # rounding can make the fraction 1
            pixel[k, i], step[k, i], part[k, i] = int(whole) - 2, int(low), fraction - low


@numba.njit(cache=True, nogil=True)
def _noise_power(place: _Float, variance: FloatImage, out: FloatImage, mask: MaskImage) -> tuple[float, float]:
    """Return the sums, over good pixels of a row of the target, of large-scale noise power and of variance."""
    broad, narrow = 0.0, 0.0
    for i in range(out.size):
        if not mask[i] & _BLOCKING:
            nearest = variance[int(np.floor(place[1, i] + 0.5)), int(np.floor(place[0, i] + 0.5))]
            if nearest < np.inf:
                broad += nearest * place[2, i]
                narrow += out[i]
    return broad, narrow


@numba.njit(cache=True, nogil=True)
def _resample_row(
    image: FloatImage,
    variance: FloatImage,
    mask: MaskImage,
    where: _Where,
    table: _Single,
    out: tuple[FloatImage, FloatImage, MaskImage],
) -> None:
    """Fill image, variance and mask of a stretch of a row of the target; pixels outside the source stay as they are."""
    place, pixel, step, part = where
    bottom, right = image.shape
    wx, wy = np.empty(6, np.float32), np.empty(6, np.float32)
    for i in range(out[0].size):
        x, y, bits = pixel[0, i], pixel[1, i], _BLOCKING
        value, noise = 0.0, 0.0
        if x >= 0 and y >= 0 and x <= right - LANES and y <= bottom - 6:
            value, noise, bits = six_by_six(
                image, variance, mask, table, y, x, step[1, i], part[1, i], step[0, i], part[0, i]
            )
        if bits & _BLOCKING or not (np.isfinite(value) and np.isfinite(noise)):
            at_x, at_y = place[0, i], place[1, i]
            if not (at_x >= -0.5 and at_y >= -0.5 and at_x < right - 0.5 and at_y < bottom - 0.5):
                continue  # outside, or NaN
            _taps(table, step[0, i], part[0, i], wx)
            _taps(table, step[1, i], part[1, i], wy)
            value, noise, bits = _blend_masked(image, variance, mask, x, y, wx, wy)
            bits |= _soft_bits(mask, x, y)
        elif bits:
            bits = _soft_bits(mask, x, y)
        area = place[2, i]
        out[0][i], out[1][i], out[2][i] = value * area, noise * area * area, bits


@numba.njit(cache=True, nogil=True)
def resample(
    image: FloatImage,
    variance: FloatImage,
    mask: MaskImage,
    rows: _Float,
    column: _Index,
    column_weights: _Float,
    table: _Single,
) -> tuple[FloatImage, FloatImage, MaskImage, float, float]:
    """Return image, variance, mask, and over good pixels the sums of large-scale noise power and of variance.

    `rows` (height, 3, columns of nodes): the node grid interpolated to the target's rows; `column_weights` (4, width).
    """
    height, width = len(rows), len(column)
    out_image, out_variance = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    out_mask = np.full((height, width), _NO_DATA, np.int32)
    place, pixel, step = np.empty((3, _STRIP)), np.empty((2, _STRIP), np.int64), np.empty((2, _STRIP), np.int64)
    part, broad, narrow = np.empty((2, _STRIP), np.float32), 0.0, 0.0
    for begin in range(0, width, _STRIP):
        end = min(begin + _STRIP, width)
        for j in range(height):
            _positions(
                rows[j], column[begin:end], column_weights[:, begin:end], len(table) - 1, place, pixel, step, part
            )
            out = out_image[j, begin:end], out_variance[j, begin:end], out_mask[j, begin:end]
            _resample_row(image, variance, mask, (place, pixel, step, part), table, out)
            if j % _SAMPLED == 0:
                sums = _noise_power(place, variance, out[1], out[2])
                broad, narrow = broad + sums[0], narrow + sums[1]
    return out_image, out_variance, out_mask, broad, narrow
