"""Warp an exposure to another WCS with a moment-true Lanczos-3 kernel: its planes in one pass, and its PSF.

Pixel values are fluxes, so a resampled value is multiplied by the ratio of the pixel areas. Neighbouring output
pixels share input pixels: the variance of each is right (squared weights), their covariance is not carried.
`Warped.noise_correlation` says by how much the noise of a large-scale sum exceeds the sum of the pixel variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.imaging.exposure import Exposure, FloatImage, MaskImage, frozen_array
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs

__all__ = [
    "NodeGrid",
    "PixelMap",
    "Warped",
    "node_grid",
    "pixel_map",
    "warp_exposure",
    "warp_planes",
    "warp_psf",
    "warp_stamps",
]

_Float = NDArray[np.float64]
NODE_SPACING = 48
"""Pixels between the nodes at which the WCS is evaluated exactly; cubic interpolation between them."""
LOST_LIMIT = 0.05
"""Share of the kernel's absolute weight that may fall on masked pixels before the output pixel is masked."""
_BLOCKING, _NO_DATA, _EDGE = int(BLOCKING), int(MaskPlane.NO_DATA), int(MaskPlane.EDGE)


@dataclass(frozen=True)
class PixelMap:
    """Where pixels of the target lie in the source."""

    x: _Float
    """0-based source pixels, shape (m,)."""
    y: _Float
    matrix: _Float
    """d(source x, y) / d(target x, y), shape (m, 2, 2)."""


@dataclass(frozen=True)
class NodeGrid:
    """The map from target to source pixels at the nodes of a coarse grid, with the weights to interpolate it."""

    maps: _Float
    """Source x, source y and area ratio (source pixels per target pixel), shape (3, rows, columns)."""
    row: NDArray[np.int64]
    """First of the four nodes used by each target row, shape (height,)."""
    row_weights: _Float
    """Cubic Lagrange weights of the four nodes, shape (height, 4)."""
    column: NDArray[np.int64]
    column_weights: _Float


@dataclass(frozen=True)
class Warped:
    """The three planes on the target's pixels, shape (height, width)."""

    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    noise_correlation: float
    """Noise power at large scales over the mean pixel variance, >= 1: what the missing covariance amounts to."""


def pixel_map(source: SkyWcs, target: SkyWcs, x: ArrayLike, y: ArrayLike) -> PixelMap:
    """Return the exact map of target pixel positions x, y (one shape, flattened) to the source, with its Jacobian."""
    x, y = np.ravel(np.asarray(x, float)), np.ravel(np.asarray(y, float))
    dx = np.array([0.0, -0.5, 0.5, 0.0, 0.0])[:, None]
    dy = np.array([0.0, 0.0, 0.0, -0.5, 0.5])[:, None]
    xs, ys = source.sky_to_pixel(*target.pixel_to_sky(x + dx, y + dy))
    matrix = np.stack(
        [
            np.stack([xs[2] - xs[1], xs[4] - xs[3]], axis=-1),
            np.stack([ys[2] - ys[1], ys[4] - ys[3]], axis=-1),
        ],
        axis=-2,
    )
    return PixelMap(xs[0], ys[0], matrix)


def node_grid(source: SkyWcs, target: SkyWcs, shape: tuple[int, int]) -> NodeGrid:
    """Evaluate the map of target to source pixels on a grid of <= 48 px over a target of `shape` (height, width).

    Cubic interpolation between the nodes errs by less than 0.001 px for distortions of any real camera.
    """
    rows, row, row_weights = _nodes(shape[0])
    columns, column, column_weights = _nodes(shape[1])
    yy, xx = np.meshgrid(rows, columns, indexing="ij")
    exact = pixel_map(source, target, xx, yy)
    area = _areas(exact.matrix)
    maps = np.stack([exact.x, exact.y, area]).reshape(3, len(rows), len(columns))
    return NodeGrid(maps, row, row_weights, column, column_weights)


def _areas(matrices: _Float) -> _Float:
    """Return |det| of matrices (m, 2, 2); NaN passes in silence, as a target may reach beyond the source's sky."""
    return np.asarray(np.abs(matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]))


def _nodes(length: int) -> tuple[_Float, NDArray[np.int64], _Float]:
    """Return node positions with one beyond each end, and per pixel its first node and four Lagrange weights."""
    intervals = max(1, int(np.ceil((length - 1) / NODE_SPACING)))
    step = max(length - 1, 1) / intervals
    nodes: _Float = (np.arange(intervals + 3, dtype=np.float64) - 1.0) * step
    position = np.arange(length, dtype=np.float64) / step
    first = np.minimum(position.astype(np.int64), intervals - 1)
    t = position - first
    weights: _Float = np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ],
        axis=-1,
    )
    return nodes, first, weights


@lru_cache(maxsize=1)
def _kernel_table() -> _Float:
    """Return the six weights of pixels -2 .. 3 for positions 0, 1/1024 .. 1 past pixel 0, shape (1025, 6).

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
    return np.asarray(frozen_array(np.ascontiguousarray(weights)))


@numba.njit(cache=True, nogil=True)
def _taps(table: _Float, fraction: float, weights: _Float) -> None:
    """Fill the six weights for a position `fraction` in [0, 1] past pixel 0, linearly between the table's rows."""
    place = fraction * (len(table) - 1)
    index = min(int(place), len(table) - 2)  # rounding can make the fraction 1
    part = place - index
    for k in range(6):
        weights[k] = (1.0 - part) * table[index, k] + part * table[index + 1, k]


@numba.njit(cache=True, nogil=True)
def _blend_clean(
    image: FloatImage, variance: FloatImage, mask: MaskImage, x0: int, y0: int, wx: _Float, wy: _Float
) -> tuple[float, float, int]:
    """Return value, variance and the OR of all masks of the 6x6 pixels from (x0, y0)."""
    value, noise, bits = 0.0, 0.0, 0
    for j in range(6):
        row, row_noise = 0.0, 0.0
        for i in range(6):
            row += wx[i] * image[y0 + j, x0 + i]
            row_noise += wx[i] * wx[i] * variance[y0 + j, x0 + i]
            bits |= mask[y0 + j, x0 + i]
        value += wy[j] * row
        noise += wy[j] * wy[j] * row_noise
    return value, noise, bits


@numba.njit(cache=True, nogil=True)
def _blend_masked(
    image: FloatImage, variance: FloatImage, mask: MaskImage, x0: int, y0: int, wx: _Float, wy: _Float
) -> tuple[float, float, int]:
    """As `_blend_clean` where pixels of the kernel are masked, without data or outside: renormalise over the good ones.

    The mask is that of the output pixel. Where too much weight is lost, the planes that took it are set (EDGE for what
    has no data), and the value is that of all pixels with data, so that a kernel run over it later meets no hole.
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
def _blend(
    image: FloatImage, variance: FloatImage, mask: MaskImage, x0: int, y0: int, wx: _Float, wy: _Float
) -> tuple[float, float, int]:
    """Return value, variance and mask of the output pixel whose kernel covers the 6x6 pixels from (x0, y0)."""
    if x0 >= 0 and y0 >= 0 and x0 + 6 <= image.shape[1] and y0 + 6 <= image.shape[0]:
        value, noise, bits = _blend_clean(image, variance, mask, x0, y0, wx, wy)
        if not bits & _BLOCKING and np.isfinite(value) and np.isfinite(noise):
            return value, noise, _soft_bits(mask, x0, y0) if bits else 0
    value, noise, bits = _blend_masked(image, variance, mask, x0, y0, wx, wy)
    return value, noise, bits | _soft_bits(mask, x0, y0)


@numba.njit(cache=True, nogil=True)
def _mixed(nodes: _Float, row: int, k: int, first: int, weights: _Float, column: int) -> float:
    """Return the interpolated nodes[row, k] at a column: a plain loop, as array expressions compile for seconds."""
    total = 0.0
    for m in range(4):
        total += weights[column, m] * nodes[row, k, first + m]
    return total


@numba.njit(cache=True, nogil=True)
def _resample(
    image: FloatImage,
    variance: FloatImage,
    mask: MaskImage,
    rows: _Float,
    column: NDArray[np.int64],
    column_weights: _Float,
    table: _Float,
) -> tuple[FloatImage, FloatImage, MaskImage, float, float]:
    """Return image, variance, mask, and over good pixels the sums of large-scale noise power and of variance.

    `rows` (height, 3, columns of nodes) is the node grid interpolated to the target's rows.
    """
    height, width = len(rows), len(column)
    out_image = np.zeros((height, width), np.float32)
    out_variance = np.zeros((height, width), np.float32)
    out_mask = np.full((height, width), _NO_DATA, np.int32)
    wx, wy = np.empty(6), np.empty(6)
    broad, narrow = 0.0, 0.0
    for j in range(height):
        for i in range(width):
            x = _mixed(rows, j, 0, column[i], column_weights, i)
            y = _mixed(rows, j, 1, column[i], column_weights, i)
            area = _mixed(rows, j, 2, column[i], column_weights, i)
            if not (x >= -0.5 and y >= -0.5 and x < image.shape[1] - 0.5 and y < image.shape[0] - 0.5):
                continue  # outside, or NaN
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            _taps(table, x - x0, wx)
            _taps(table, y - y0, wy)
            value, noise, bits = _blend(image, variance, mask, x0 - 2, y0 - 2, wx, wy)
            out_image[j, i] = value * area
            out_variance[j, i] = noise * area * area
            out_mask[j, i] = bits
            nearest = variance[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]
            if not bits & _BLOCKING and nearest < np.inf:
                broad += nearest * area
                narrow += noise * area * area
    return out_image, out_variance, out_mask, broad, narrow


def warp_planes(image: FloatImage, mask: MaskImage, variance: FloatImage, grid: NodeGrid) -> Warped:
    """Resample three planes (float32, int32, float32, one shape) through `grid`.

    Masked (`BLOCKING`) and non-finite pixels are left out and the rest renormalised while they hold <= 5 % of the
    kernel's absolute weight; beyond that the planes that took the weight are set, `EDGE` for pixels outside the input
    or without data (NO_DATA, NaN). `NO_DATA` (and value 0): the pixel itself is one of those. Of other planes
    the OR over the four nearest pixels is taken.
    """
    rows = np.einsum("kjmn,jm->jkn", grid.maps[:, grid.row[:, None] + np.arange(4)], grid.row_weights)
    out_image, out_variance, out_mask, broad, narrow = _resample(
        frozen_array(np.ascontiguousarray(image, np.float32)),
        frozen_array(np.ascontiguousarray(variance, np.float32)),
        frozen_array(np.ascontiguousarray(mask, np.int32)),
        np.ascontiguousarray(rows),
        grid.column,
        grid.column_weights,
        _kernel_table(),
    )
    return Warped(out_image, out_mask, out_variance, max(1.0, broad / narrow) if narrow > 0 else 1.0)


def warp_stamps(stamps: NDArray[np.floating], matrices: _Float, size: int) -> _Float:
    """Resample PSF stamps (m, n, n), centred and of unit sum, through local linear maps (m, 2, 2); (m, size, size).

    `matrices` are those of `PixelMap`. The result is centred and of unit sum. The smoothing of the pixels by the
    kernel at fractional positions is not in it: 1 % of the peak for FWHM >= 2.5 pixels, nothing in its first and second
    moments.
    """
    count, side = len(stamps), stamps.shape[-1]
    pad = 3
    padded = np.pad(np.asarray(stamps, np.float32), ((0, 0), (pad, pad), (pad, pad)))
    empty = np.zeros(padded.shape[1:], np.int32)
    _, row, weights = _nodes(size)
    nodes = _nodes(size)[0] - size // 2
    offsets = np.stack(np.meshgrid(nodes, nodes, indexing="xy"))
    out = np.empty((count, size, size))
    for index in range(count):
        place = np.tensordot(matrices[index], offsets, axes=1) + side // 2 + pad
        maps = np.stack([place[0], place[1], np.ones_like(place[0])])
        warped = warp_planes(padded[index], empty, padded[index], NodeGrid(maps, row, weights, row, weights))
        out[index] = warped.image / warped.image.sum(dtype=float)
    return out


def warp_psf(psf: PsfModel, source: SkyWcs, target: SkyWcs, shape: tuple[int, int]) -> PsfModel:
    """Return the PSF of an exposure warped from `source` to `target` with `shape` (height, width).

    Stamps on a grid over the target go through the local linear map and are fitted with the same degree.
    """
    height, width = shape
    steps = psf.degree + 2
    yy, xx = np.meshgrid(np.linspace(0, height - 1, steps), np.linspace(0, width - 1, steps), indexing="ij")
    x, y = xx.ravel(), yy.ravel()
    where = pixel_map(source, target, x, y)
    scale = np.sqrt(np.median(_areas(where.matrix)))
    size = 2 * int(np.ceil((psf.size / scale - 1) / 2)) + 1
    stamps = warp_stamps(psf.stamps(where.x, where.y), where.matrix, size)
    return PsfModel.fit(stamps, x, y, degree=psf.degree, width=width, height=height)


def warp_exposure(exposure: Exposure, target_wcs: SkyWcs, target_shape: tuple[int, int]) -> Exposure:
    """Return `exposure` on the pixels of `target_wcs` with `target_shape` (height, width), with its PSF.

    Fluxes are conserved. The metric `noiseCorrelation` is multiplied by that of this warp. Raises DataError where
    the exposure has no WCS.
    """
    source = exposure.need_wcs()
    grid = node_grid(source, target_wcs, target_shape)
    warped = warp_planes(exposure.image, exposure.mask, exposure.variance, grid)
    psf = None if exposure.psf is None else warp_psf(exposure.psf, source, target_wcs, target_shape)
    before = exposure.metrics.get("noiseCorrelation", 1.0)
    return exposure.replaced(
        image=warped.image, mask=warped.mask, variance=warped.variance, wcs=target_wcs, psf=psf
    ).with_metrics(noiseCorrelation=before * warped.noise_correlation)
