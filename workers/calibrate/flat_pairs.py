"""A pair of flats: level, variance and covariances of their difference, free of the lamp, of dust and of cosmic rays.

The lamp drifts between two flats of a pair, and not by the same factor everywhere; what is left of a difference of
unscaled flats is the flat field's own structure, which a variance takes for noise: gains from 0.5 % of drift are 11 %
low. Here the ratio of the two flats is fitted by a low polynomial to some 600 tiles, and each flat is brought half-way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.special import erf

from workers.calibrate.covariances import LAGS, lag_covariances

__all__ = ["PairStatistics", "clipped_share", "pair_statistics", "read_noise", "tile_edges"]

_Float = NDArray[np.float64]
_TILES = 600
_CLIP = 5.5
_CLIP_TILES = 6.0
_ROUNDS = 3
_ORDER = 3
_TERMS = (_ORDER + 1) * (_ORDER + 2) // 2
"""Of the ratio's polynomial: what they take of the noise, at all lags alike, is given back."""
_ODD = 0.2
_MAD_TO_SIGMA = 1.4826
_ROUNDING = 1.0 / 12.0
"""Variance of rounding to whole counts, ADU²."""


@dataclass(frozen=True)
class PairStatistics:
    """What one amplifier shows in one pair of flats. Of one frame, not of the difference."""

    level: float
    """Mean, ADU."""
    variance: float
    """ADU²."""
    varianceErr: float
    """From the scatter of the tiles."""
    covariances: _Float
    """ADU², [lag y, lag x]; lag 0, 0 is the variance."""
    products: _Float
    """Of two pixels, behind each covariance; at lag 0, 0 the pixels used."""
    drift: float
    """Mean of the second flat over that of the first, minus 1."""
    rejected: float
    """Share of the unflagged pixels that were clipped."""


def tile_edges(shape: tuple[int, int], tiles: int = _TILES) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row and column edges of at least `tiles` nearly square tiles (fewer where the image has fewer pixels)."""
    height, width = shape
    side = max(math.floor(math.sqrt(height * width / tiles)), 1)
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    return (
        np.linspace(0, height, rows + 1).astype(np.int64),
        np.linspace(0, width, columns + 1).astype(np.int64),
    )


def clipped_share(sigma: float) -> float:
    """Return the variance of a unit normal cut at plus and minus `sigma`: what clipping leaves of it."""
    density = math.exp(-0.5 * sigma**2) / math.sqrt(2.0 * math.pi)
    return 1.0 - 2.0 * sigma * density / float(erf(sigma / math.sqrt(2.0)))


def pair_statistics(
    first: NDArray[np.float32], second: NDArray[np.float32], good: NDArray[np.bool_], lags: int = LAGS
) -> PairStatistics | None:
    """Return what a pair of flats, ADU without offset (height, width), tells where `good`; None where it can't.

    The difference is clipped at 5.5 sigma (cosmic rays, with the pixels round them) and tiles whose variance stands out
    by 6 sigma are left out.
    """
    edges = tile_edges((first.shape[0], first.shape[1]))
    count = _tile_sums(good, edges)
    enough = count > 0.5 * count.max()
    if good.sum() < 0.5 * good.size or not enough.any():
        return None
    one, two = (_tile_sums(np.where(good, flat, 0.0), edges) for flat in (first, second))
    if min(one[enough].min(), two[enough].min()) <= 0.0:
        return None
    ratio = _ratio_field(one, two, enough, edges)
    root = np.sqrt(ratio)
    difference = (first * root - second / root).astype(np.float32)
    mean = (0.5 * (first * root + second / root)).astype(np.float32)
    levels = np.sqrt(one * two) / np.maximum(count, 1.0)
    kept = _unclipped(difference, good & _ordinary(mean, difference, good, _spread(levels, edges)))
    tiles = _tile_variances(difference, kept, edges, levels)
    if tiles is None:
        return None
    variance, error, used = tiles
    covariances, products = lag_covariances(difference, kept & used, lags)
    covariances *= 0.5 / clipped_share(_CLIP)
    covariances += variance * _TERMS / products[0, 0]
    covariances[0, 0] = variance
    level = float(mean[kept & used].mean(dtype=np.float64))
    drift = float(two[enough].sum() / one[enough].sum()) - 1.0
    rejected = 1.0 - kept.sum() / good.sum()
    return PairStatistics(level, variance, error, covariances, products, drift, float(rejected))


def _tile_sums(plane: NDArray[np.generic], edges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> _Float:
    rows = np.add.reduceat(plane, edges[0][:-1], axis=0, dtype=np.float64)
    return np.asarray(np.add.reduceat(rows, edges[1][:-1], axis=1))


def _ratio_field(
    one: _Float, two: _Float, enough: NDArray[np.bool_], edges: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.float32]:
    """Return second over first, a cubic in x and y fitted to the tiles with 5 sigma clipping, float32 on all pixels."""
    x, y = (_scaled(0.5 * (e[1:] + e[:-1] - 1.0), int(e[-1])) for e in (edges[1], edges[0]))
    terms = [(i, j) for i in range(_ORDER + 1) for j in range(_ORDER + 1 - i)]
    design = np.stack([np.outer(y**i, x**j)[enough] for i, j in terms], axis=1)
    weights = np.sqrt(one[enough])
    values, used = two[enough] / one[enough], np.ones(int(enough.sum()), bool)
    coefficients: _Float = np.zeros(len(terms))
    for _ in range(_ROUNDS):
        scale = weights[used]
        solved = np.linalg.lstsq(design[used] * scale[:, None], values[used] * scale, rcond=None)[0]
        coefficients = np.asarray(solved, np.float64)
        residual = (values - design @ coefficients) * weights
        used = np.abs(residual) <= 5.0 * max(_MAD_TO_SIGMA * float(np.median(np.abs(residual))), 1.0e-12)
    across, along = (_scaled(np.arange(float(e[-1])), int(e[-1])) for e in (edges[1], edges[0]))
    matrix = np.zeros((_ORDER + 1, _ORDER + 1))
    for (i, j), value in zip(terms, coefficients, strict=True):
        matrix[i, j] = value
    powers = np.arange(_ORDER + 1)
    field = (along[:, None] ** powers) @ matrix @ (across[:, None] ** powers).T
    return np.asarray(np.maximum(field, 0.1), np.float32)


def _scaled(position: NDArray[Any], size: int) -> _Float:
    return np.asarray(2.0 * position / max(size - 1, 1) - 1.0)


def _spread(plane: NDArray[Any], edges: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[Any]:
    """Return the tiles' values at their pixels."""
    return np.repeat(np.repeat(plane, np.diff(edges[0]), axis=0), np.diff(edges[1]), axis=1)


def _ordinary(
    mean: NDArray[np.float32], difference: NDArray[np.float32], good: NDArray[np.bool_], levels: _Float
) -> NDArray[np.bool_]:
    """Return where a pixel's response is within a fifth (or 6 sigma) of its tile's: no dead, no hot ones."""
    noise = 0.5 * _MAD_TO_SIGMA * float(np.median(np.abs(difference[good])))
    reach = np.maximum(_ODD * levels, 6.0 * noise)
    return np.asarray(np.abs(mean - levels) <= reach)


def _unclipped(difference: NDArray[np.float32], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `good` without what is beyond 5.5 sigma of the difference, and without the pixels next to it."""
    values = difference[good]
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))
    kept = good
    for _ in range(_ROUNDS):
        outside = good & (np.abs(difference) > _CLIP * sigma)
        if not outside.any():
            return good
        kept = good & ~binary_dilation(outside, np.ones((3, 3), bool))
        sigma = float(np.std(difference[kept], dtype=np.float64))
    return kept


def _tile_variances(
    difference: NDArray[np.float32],
    kept: NDArray[np.bool_],
    edges: tuple[NDArray[np.int64], NDArray[np.int64]],
    levels: _Float,
) -> tuple[float, float, NDArray[np.bool_]] | None:
    """Return variance of one frame, its error and which pixels are in tiles that were used."""
    count = _tile_sums(kept, edges)
    square = _tile_sums(np.where(kept, difference.astype(np.float64) ** 2, 0.0), edges)
    full = count > 0.5 * count.max()
    number, values, level = count[full], 0.5 * square[full] / count[full], levels[full]
    slope = np.polynomial.Polynomial.fit(level, values, 1, w=np.sqrt(number)) if np.ptp(level) > 0.0 else None
    residual = values - (values.mean() if slope is None else slope(level))
    scatter = residual * np.sqrt(number)
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(scatter - np.median(scatter))))
    used = np.abs(scatter - np.median(scatter)) <= _CLIP_TILES * max(sigma, 1.0e-12)
    freedom = float(number[used].sum()) - _TERMS
    if freedom < 100.0:
        return None
    variance = float((number * values)[used].sum()) / freedom / clipped_share(_CLIP)
    error = math.sqrt(float(((number * residual)[used] ** 2).sum())) / freedom
    chosen = np.zeros(count.shape, bool)
    chosen[full] = used
    return variance, error, _spread(chosen, edges)


def read_noise(overscan: NDArray[np.generic]) -> tuple[float, int]:
    """Return the noise variance, ADU², of a serial overscan (rows, columns), and its degrees of freedom.

    Scatter of each row about its own mean, clipped at 5.5 sigma, less the 1/12 that rounding adds.
    """
    values = np.asarray(overscan, np.float64)
    values = values[np.isfinite(values).all(axis=1)]
    if values.shape[0] < 1 or values.shape[1] < 2:
        return math.nan, 0
    residual = values - np.median(values, axis=1, keepdims=True)
    sigma = max(_MAD_TO_SIGMA * float(np.median(np.abs(residual))), 0.5)
    for _ in range(_ROUNDS):
        kept = np.abs(residual) <= _CLIP * sigma
        number = kept.sum(axis=1, keepdims=True)
        mean = np.where(kept, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(number, 1)
        residual = values - mean
        freedom = int(kept.sum() - (number > 0).sum())
        variance = float((residual[kept] ** 2).sum()) / max(freedom, 1)
        sigma = max(math.sqrt(variance), 0.5)
    return max(variance - _ROUNDING, 0.0), freedom
