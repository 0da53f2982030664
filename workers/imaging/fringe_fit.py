"""How much of known fringe patterns an image holds: robust least squares on binned, high-passed pixels.

Fringes are finer than the sky and coarser than the noise: both the image and the patterns are averaged in small bins
and lose their local mean, over the same pixels, so that neither sky gradients nor masks bias the amplitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["FringeFit", "fit_fringes"]

_Float = NDArray[np.float64]
_ROUNDS = 3
_CELL = 32
_LEAST_BINS = 100
_BLOCK = 8


@dataclass(frozen=True)
class FringeFit:
    """Amplitudes of k patterns."""

    amplitude: _Float
    """(k,) in the image's unit per unit of the pattern."""
    covariance: _Float
    """(k, k), from how the residuals go together with the patterns block by block: sources left in them count."""
    scatter: float
    """Robust one-sigma scatter of a full bin after the fit, in the image's unit."""


def fit_fringes(
    image: NDArray[np.floating],
    blocked: NDArray[Any],
    patterns: Sequence[NDArray[np.floating]],
    *,
    bin: int = 4,
    reach: int = 120,
    clip: float = 4.0,
) -> FringeFit:
    """Return the amplitudes of `patterns` in `image`, all (height, width).

    `blocked` is not zero (bool or mask bits) where a pixel must not be used. `bin` and `reach` in pixels: the size of
    the bins, and of the box whose mean is taken off; `clip` in sigma. Sources are found as bins that stand out from
    their surroundings and left out with their neighbours. Raises DataError where too little sky is left.
    """
    height, width = (side // bin for side in image.shape)
    fields = np.zeros((len(patterns) + 1, height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    _bin_mean(image, blocked, bin, weight, fields[0], True)
    for pattern, field in zip(patterns, fields[1:], strict=True):
        _bin_mean(pattern, blocked, bin, weight, field, False)
    half = max(reach // (2 * bin), 2)
    filtered, free = np.empty_like(fields), weight
    amplitude = np.zeros(len(patterns))
    for _ in range(_ROUNDS):
        # what the fringes themselves do must not look like sources: crests would be clipped
        weight = free.copy()
        _drop_sources(_without(fields, amplitude), weight, clip)
        _check(weight, image.shape)
        fields[0] -= _slope(_without(fields, amplitude), weight)
        for field, out in zip(fields, filtered, strict=True):
            _high_pass(field, weight, half, out)
        amplitude = _solve(filtered, weight)
    rest = _without(filtered, amplitude)
    return FringeFit(amplitude, _sandwich(filtered, weight, rest), _scatter(rest, weight))


def _without(fields: NDArray[np.float32], amplitude: _Float) -> NDArray[np.float32]:
    """Return the first field less the others times their amplitudes."""
    return np.asarray(fields[0] - np.tensordot(amplitude.astype(np.float32), fields[1:], axes=1))


def _slope(field: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the quadratic polynomial that fits the used bins best.

    Where a box is cut by the image's edge its mean is not that of its middle, and a gradient would pass the filter.
    """
    height, width = field.shape
    v, u = np.linspace(-1.0, 1.0, height)[:, None], np.linspace(-1.0, 1.0, width)[None, :]
    thin = (slice(None, None, max(height // 256, 1)), slice(None, None, max(width // 256, 1)))
    terms = np.broadcast_arrays(np.float64(1.0), u, v, u * u, u * v, v * v)
    design = np.stack([term[thin].ravel() for term in terms])
    weighted = design * weight[thin].ravel()
    c = np.linalg.lstsq(weighted @ design.T, weighted @ field[thin].ravel(), rcond=None)[0].astype(np.float32)
    x, y = u.astype(np.float32), v.astype(np.float32)
    return np.asarray((c[0] + c[1] * x + c[3] * x * x) + (c[2] * y + c[5] * y * y) + (c[4] * y) * x)


def _check(weight: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    left = int(np.count_nonzero(weight))
    if left < _LEAST_BINS:
        raise DataError(
            f"only {left} of {weight.size} bins of a {shape[1]}x{shape[0]} image show bare sky: no fringes can be "
            "measured; is the field too crowded, or most of the detector masked?"
        )


def _drop_sources(field: NDArray[np.float32], weight: NDArray[np.float32], clip: float) -> None:
    """Set weight 0 for bins that stand out from their cell of 32 x 32 bins, and for their neighbours."""
    rows, columns = (max(side // _CELL, 1) for side in field.shape)
    middle, spread = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    _cell_medians(field, weight, middle, spread)
    if np.isfinite(spread).any():
        _clip_cells(field, weight, middle, np.float32(clip * 1.4826 * float(np.nanmedian(spread))))


def _solve(filtered: NDArray[np.float32], weight: NDArray[np.float32]) -> _Float:
    normal, right = _normal(filtered, weight)
    return np.asarray(np.linalg.lstsq(normal, right, rcond=1e-10)[0])


def _normal(filtered: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[_Float, _Float]:
    data, patterns = filtered[0].ravel(), filtered[1:].reshape(len(filtered) - 1, -1)
    weighted = patterns * weight.ravel()
    return np.asarray(weighted @ patterns.T, float), np.asarray(weighted @ data, float)


def _scatter(rest: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    step = max(rest.size // 200_000, 1)
    sample, share = rest.ravel()[::step], weight.ravel()[::step]
    values = np.abs(sample * np.sqrt(share))[share > 0]
    return 1.4826 * float(np.median(values)) if len(values) else 0.0


def _sandwich(filtered: NDArray[np.float32], weight: NDArray[np.float32], rest: NDArray[np.float32]) -> _Float:
    """Covariance of the amplitudes where residuals correlate inside blocks (White 1980; Liang & Zeger 1986)."""
    height, width = weight.shape
    rows, columns = (min(max(side // _BLOCK, 4), 32) for side in (height, width))
    normal, _ = _normal(filtered, weight)
    inverse = np.linalg.pinv(normal, hermitian=True)
    block_rows, block_columns = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    scores = [
        np.add.reduceat(np.add.reduceat(weight * rest * one, block_rows, 0, float), block_columns, 1).ravel()
        for one in filtered[1:]
    ]
    score = np.stack(scores)
    used = max(int(np.count_nonzero(np.any(score != 0.0, axis=0))), 2)
    return np.asarray(inverse @ (score @ score.T) @ inverse * used / (used - 1))


@njit(cache=True, nogil=True)
def _bin_mean(
    image: Any, blocked: Any, size: Any, weight: Any, out: Any, measure: Any
) -> None:  # pragma: no cover - compiled
    """Mean of the free pixels of each bin; `measure`: also their share, 0 where fewer than half are free."""
    height, width = out.shape
    for j in range(height):
        for i in range(width):
            total, count = np.float32(0), 0
            for y in range(j * size, j * size + size):
                for x in range(i * size, i * size + size):
                    if not blocked[y, x]:
                        total += image[y, x]
                        count += 1
            out[j, i] = total / np.float32(count) if count > 0 else np.float32(0)
            if measure:
                whole = 2 * count >= size * size and np.isfinite(total)
                weight[j, i] = np.float32(count / (size * size)) if whole else np.float32(0)
            if not np.isfinite(out[j, i]):
                out[j, i] = np.float32(0)


@njit(cache=True, nogil=True)
def _cell_medians(field: Any, weight: Any, middle: Any, spread: Any) -> None:  # pragma: no cover - compiled
    """Median and MAD of every other used bin in each cell."""
    rows, columns = middle.shape
    height, width = field.shape
    values = np.empty((height // rows + 2) * (width // columns + 2), np.float32)
    for j in range(rows):
        for i in range(columns):
            n = 0
            for y in range(j * height // rows, (j + 1) * height // rows, 2):
                for x in range(i * width // columns, (i + 1) * width // columns, 2):
                    if weight[y, x] > 0:
                        values[n] = field[y, x]
                        n += 1
            if n >= 8:
                middle[j, i] = np.median(values[:n])
                spread[j, i] = np.median(np.abs(values[:n] - middle[j, i]))


@njit(cache=True, nogil=True)
def _clip_cells(field: Any, weight: Any, middle: Any, reach: Any) -> None:  # pragma: no cover - compiled
    rows, columns = middle.shape
    height, width = field.shape
    source = np.zeros((height, width), np.bool_)
    for y in range(height):
        j = min(y * rows // height, rows - 1)
        for x in range(width):
            i = min(x * columns // width, columns - 1)
            source[y, x] = weight[y, x] > 0 and not abs(field[y, x] - middle[j, i]) <= reach
    for y in range(height):
        for x in range(width):
            if source[y, x]:
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        weight[v, u] = 0.0


@njit(cache=True, nogil=True)
def _high_pass(field: Any, weight: Any, half: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Take off the weighted mean in a box of 2 half + 1 bins, by running sums: first along y, then along x."""
    height, width = field.shape
    sums, shares = np.zeros(width), np.zeros(width)
    for y in range(half):
        _add_row(field, weight, y, 1.0, sums, shares)
    for y in range(height):
        _add_row(field, weight, y + half, 1.0, sums, shares)
        _add_row(field, weight, y - half - 1, -1.0, sums, shares)
        total, share = 0.0, 0.0
        for x in range(-half, width):
            if x + half < width:
                total += sums[x + half]
                share += shares[x + half]
            if x - half - 1 >= 0:
                total -= sums[x - half - 1]
                share -= shares[x - half - 1]
            if x >= 0:
                out[y, x] = field[y, x] - total / share if weight[y, x] > 0 else 0.0


@njit(cache=True, nogil=True)
def _add_row(field: Any, weight: Any, y: Any, sign: Any, sums: Any, shares: Any) -> None:  # pragma: no cover
    if 0 <= y < field.shape[0]:
        for x in range(field.shape[1]):
            sums[x] += sign * weight[y, x] * field[y, x]
            shares[x] += sign * weight[y, x]
