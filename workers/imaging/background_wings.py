"""The light that stars shed beyond their masks: power-law wings, fitted to the unmasked sky near bright stars.

Every source's light, smeared with a few power laws of the distance, makes templates; non-negative least squares on what
the unmasked bins show above their neighbourhood's mean tells how much of each there is. The contrast between the
surroundings of bright stars and the rest calibrates the profile; its mean is what the crowd adds to the sky.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft, optimize

from workers.imaging.background_bins import SIDE, block_sums, spread_blocks

__all__ = ["STEP", "wing_light", "wing_sums"]

_Float = NDArray[np.float64]
_Float32 = NDArray[np.float32]

STEP = 2
"""Bins along a side of the blocks that wings are computed on."""
_POWERS = (2.5, 3.5, 5.0, 8.0)
_CORE = 5.0
"""Pixels: where the power laws flatten."""
_REACH = 64
"""Blocks to which wings reach."""
_LOCAL = 32
"""Blocks along a side of the neighbourhoods whose means are taken off."""
_SIGNIFICANT = 4.0


def wing_sums(
    rest: _Float32, count: _Float32, weight: _Float32, lit: NDArray[np.bool_], free: NDArray[np.bool_]
) -> tuple[_Float, _Float, _Float]:
    """Return what `wing_light` needs from bins: the light of the `lit` ones, the mean and the weight of the `free`."""
    shape = -(-rest.shape[0] // STEP), -(-rest.shape[1] // STEP)
    light, mean, total = (np.zeros(shape) for _ in range(3))
    _sums(rest, count, weight, lit, free, light, mean, total)
    return light, mean / np.maximum(total, 1e-30), total


def wing_light(light: _Float, rest: _Float, weight: _Float) -> _Float:
    """Return the wings' light in every block, in the unit of `rest`, 0 where none are significant.

    All planes are of blocks of `STEP` x `STEP` bins: `light` the sum of the sources' light over the masked pixels
    (image's unit x pixels), `rest` the mean of the unmasked pixels less the sky, `weight` one over its variance (0:
    unknown).
    """
    templates = _templates(light)
    planes = [_without_mean(plane, weight) for plane in [*templates, np.asarray(rest, np.float32)]]
    limit = 5.0 / np.sqrt(np.maximum(weight, 1e-30))
    root = np.sqrt(np.where(np.abs(planes[-1]) < limit, weight, 0.0))
    design = np.stack([(root * plane).ravel() for plane in planes])
    products = design @ design[:-1].T
    normal, right = products[:-1], products[-1]
    unit = np.sqrt(np.maximum(normal.diagonal(), 1e-30))
    scaled = normal / np.outer(unit, unit) + 1e-6 * np.eye(len(unit))
    factor = np.linalg.cholesky(scaled)
    amount, _ = optimize.nnls(factor.T, np.linalg.solve(factor, right / unit))
    gain = 2.0 * float(amount @ (right / unit)) - float(amount @ scaled @ amount)
    if gain < _SIGNIFICANT**2:
        return np.zeros_like(rest)
    return np.asarray(np.tensordot(amount / unit, np.stack(templates), axes=1))


def _templates(light: _Float) -> list[_Float32]:
    """Return `light` smeared with each power law."""
    size = [fft.next_fast_len(side + _REACH, real=True) for side in light.shape]
    transform = fft.rfft2(light.astype(np.float32), size)
    smeared = (fft.irfft2(transform * kernel, size) for kernel in _kernels(size[0], size[1]))
    return [np.asarray(plane[: light.shape[0], : light.shape[1]]) for plane in smeared]


@lru_cache(maxsize=2)
def _kernels(height: int, width: int) -> tuple[NDArray[np.complex64], ...]:
    """Return the transforms of the power laws at block lags, wrapped round."""
    side = STEP * SIDE
    rows, columns = (np.minimum(np.arange(count), count - np.arange(count)) for count in (height, width))
    r2 = side**2 * (rows[:, None] ** 2 + columns[None, :] ** 2.0) + _CORE**2
    near = (rows <= _REACH)[:, None] & (columns <= _REACH)[None, :]
    return tuple(fft.rfft2(np.where(near, r2 ** (-0.5 * power), 0.0).astype(np.float32)) for power in _POWERS)


def _without_mean(plane: NDArray[np.floating], weight: _Float) -> _Float:
    """Return `plane` less its weighted mean over the neighbourhood."""
    total = block_sums(weight, _LOCAL)
    mean = block_sums(weight * plane, _LOCAL) / np.maximum(total, 1e-30)
    return np.asarray(plane - spread_blocks(mean, _LOCAL, plane.shape))


@njit(cache=True, nogil=True)
def _sums(
    rest: Any, count: Any, weight: Any, lit: Any, free: Any, light: Any, mean: Any, total: Any
) -> None:  # pragma: no cover - compiled
    """Per block: light of the lit bins, weighted light and weight of the free ones."""
    for y in range(rest.shape[0]):
        j = y // STEP
        for x in range(rest.shape[1]):
            i = x // STEP
            if lit[y, x]:
                light[j, i] += max(rest[y, x], 0.0) * count[y, x]
            elif free[y, x]:
                mean[j, i] += weight[y, x] * rest[y, x]
                total[j, i] += weight[y, x]
