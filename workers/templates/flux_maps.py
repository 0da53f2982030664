"""Epochs brought to one PSF: maps of point-source flux in which a sky that stands still is the same in all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from workers.templates.epoch_loops import blind, patterns, take_off, weights
from workers.templates.epoch_sort import order_statistics

__all__ = ["REACH", "FluxMaps", "flux_maps", "matched_filters"]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
_Planes = NDArray[np.float32]
REACH = 12
"""Half width of the filters, pixels: nearer to the edge of the planes the maps are not right."""
_LEAST_POWER = 1e-8
"""Power of a PSF, relative to its greatest, below which a frequency is not restored."""
_NEAR = 2
"""Pixels from an unusable one, in x and y, that a map's pixel needs."""
_PRIOR = np.array([np.inf, 0.05, 0.5, 0.5, 0.5, 0.5, 0.5])
"""What an epoch may differ by from the others, 1 sigma: offset (any), scale, shift and half the second moments of its
PSF, pixels and pixels²."""
_LEFT = np.array([0.0, 0.003, 0.05, 0.05, 0.05, 0.05, 0.05])
"""And what of it differs from place to place, and is left after a fit to the whole cell."""
_WINGS, _WING_REACH = 2e-3, 14
"""Light of a source that PSF models miss far out, over its height in a map; to how many pixels from it."""
_CLIPS = (100.0, 20.0, 5.0, 2.0, 2.0)
"""Sigma from which a pixel's weight falls (Cauchy's function), by round: transients do not draw the last fits."""
_MOST = 1500
"""Pixels on bright sky, and on any, that are looked at to fit what an epoch differs by."""
_BRIGHT, _FEWEST = 4.0, 100
"""Left-over variance over noise from which pixels tell how large it is in truth, and how many must tell it."""
_LEAST_SCALE, _MOST_SCALE = 0.01, 4.0
_NEIGHBOURS, _SURE = 7, 2.0
"""Side of the box over which the scatter of the lowest epochs is averaged; excess from which it is taken for true."""
_UPPER, _UPPER_CHI2 = 50.0, 0.4549
"""Percentile at which deviations on bright sky are compared with chi² of one degree of freedom, and chi² there."""


@dataclass(frozen=True)
class FluxMaps:
    """N epochs as the flux that a point source at each pixel would have, (N, height, width)."""

    flux: _Planes
    """nJy."""
    weight: _Planes
    """Inverse variance, nJy^-2: noise, and what models leave on a bright sky; 0 where an epoch says nothing."""
    still: _Planes
    """Mean of the lower half of the epochs, (height, width), nJy."""
    scatter: _Planes
    """By what the errors' squares were raised where the lowest epochs scatter more, (height, width)."""
    response: _Float
    """What a point source of unit flux looks like in a map, (n, n), 1 at its centre."""


def flux_maps(image: _Planes, variance: _Planes, usable: _Bool, psfs: _Float, correlation: _Float) -> FluxMaps:
    """Return the flux maps of N registered epochs.

    `image` (nJy), `variance` (nJy²) and `usable` are (N, height, width), `psfs` (N, n, n) of unit sum, `correlation`
    (N,) the noise power at large scales over the pixel variance. Each epoch is convolved with G / P_k, where G is the
    mean PSF convolved with itself: near the matched filter of every epoch, and the same response G in all, so that
    stars cancel whatever the seeing was. Offset, scale, shift and PSF size and shape of each epoch against the median
    of all are fitted over the cell and taken off.
    """
    filters, response = matched_filters(psfs)
    flux = _convolved(_filled(image, usable), filters)
    power = (np.square(filters).sum(axis=(1, 2)) * correlation).astype(np.float32)
    known = ~blind(~usable, _NEAR)
    noise = np.maximum(np.tensordot(power / len(power), variance, axes=1), np.float32(1e-30))
    middle = order_statistics(flux, known)[0]
    wings = _wings(middle)
    _align(flux, power, variance, known, middle, wings)
    middle, still, spread = order_statistics(flux, known)
    left = _left_over(patterns(still)) + wings
    left *= np.float32(_scale(flux, middle, noise, left, known))
    scatter = _local(spread, noise + left, int(known.sum(axis=0).max()))
    return FluxMaps(flux, weights(variance, power, known, left, scatter), still, scatter, response)


def matched_filters(psfs: _Float) -> tuple[_Float, _Float]:
    """Return the filters (N, 2 REACH + 1, same) that turn PSFs (N, n, n) into one response of height 1, and that."""
    size = psfs.shape[-1]
    side = fft.next_fast_len(2 * size + 2 * REACH)
    each = fft.rfft2(psfs, (side, side))
    mean = fft.rfft2(psfs.mean(axis=0), (side, side))
    goal = np.abs(mean) ** 2
    kernels = fft.irfft2(goal * np.conj(each) / np.maximum(np.abs(each) ** 2, _LEAST_POWER), (side, side))
    middle, height = side // 2, np.square(psfs.mean(axis=0)).sum()
    cut = slice(middle - REACH, middle + REACH + 1)
    moved = np.roll(kernels, (middle + size // 2,) * 2, (1, 2))[:, cut, cut]
    return moved / height, np.roll(fft.irfft2(goal, (side, side)), (middle, middle), (0, 1))[cut, cut] / height


def _filled(image: _Planes, usable: _Bool) -> _Planes:
    """Return the epochs with unusable pixels taken from the mean of the lower half of the others."""
    y, x = np.nonzero(~usable.all(axis=0))
    if not len(y):
        return image
    values, there = np.ascontiguousarray(image[:, y, x])[:, None], np.ascontiguousarray(usable[:, y, x])[:, None]
    filled = image.copy()
    filled[:, y, x] = np.where(there, values, order_statistics(values, there)[1])[:, 0]
    return filled


def _convolved(image: _Planes, filters: _Float) -> _Planes:
    """Return each image convolved with its filter; round the edges by what lies at the opposite ones."""
    height, width = image.shape[1:]
    rows = fft.fft(fft.rfft(filters.astype(np.float32), width, axis=2), height, axis=1)
    product = fft.rfft2(image)
    product *= rows
    moved = fft.irfft2(product, (height, width), overwrite_x=True)
    return np.ascontiguousarray(np.roll(moved, (-REACH, -REACH), (1, 2)))


def _wings(flux: _Planes) -> _Planes:
    """Return the variance, nJy², of the light far from sources that PSF models miss."""
    height = ndimage.maximum_filter(np.abs(flux), size=2 * _WING_REACH + 1, mode="nearest")
    return np.asarray(np.square(_WINGS * height), np.float32)


def _left_over(planes: _Planes) -> _Planes:
    """Return the variance, nJy², that imperfect models leave on a sky with these patterns."""
    return np.asarray(np.tensordot(_LEFT.astype(np.float32) ** 2, planes**2, axes=1), np.float32)


def _align(flux: _Planes, power: _Planes, variance: _Planes, known: _Bool, middle: _Planes, wings: _Planes) -> None:
    """Fit the patterns to each epoch's deviation from the median and take them off, in place."""
    planes = patterns(middle)
    left = _left_over(planes) + wings
    bright = np.flatnonzero(left > power.mean() * variance.mean(axis=0))
    chosen = np.concatenate([bright[:: max(len(bright) // _MOST, 1)], np.arange(0, left.size, left.size // _MOST)])
    rows = planes.reshape(len(planes), -1)[:, chosen].astype(float)
    products = (rows[:, None] * rows[None]).reshape(-1, len(chosen))
    each = (len(flux), -1)
    off = flux.reshape(each)[:, chosen] - rows[1]
    sure = known.reshape(each)[:, chosen] / (power[:, None] * variance.reshape(each)[:, chosen] + left.ravel()[chosen])
    terms, prior = np.zeros((len(flux), len(rows))), np.diag(_PRIOR**-2 + 1e-30)
    for clip in _CLIPS:
        weight = sure / (1.0 + sure * np.square(off - terms @ rows) / clip**2)
        matrices = (weight @ products.T).reshape(len(flux), len(rows), len(rows)) + prior
        terms = np.linalg.solve(matrices, ((weight * off) @ rows.T)[..., None])[..., 0]
    take_off(flux, planes, terms.astype(np.float32))


def _scale(flux: _Planes, middle: _Planes, noise: _Planes, left: _Planes, known: _Bool) -> float:
    """Return by what `left` must be multiplied so that deviations on bright sky are what their errors say."""
    y, x = np.nonzero(left > _BRIGHT * noise)
    if len(y) < _FEWEST:
        return 1.0
    some = slice(None, None, max(len(y) // _MOST, 1))
    y, x = y[some], x[some]
    over = (np.square(flux[:, y, x] - middle[y, x]) / _UPPER_CHI2 - noise[y, x]) / left[y, x]
    told = over[known[:, y, x]]
    return float(np.clip(np.percentile(told, _UPPER), _LEAST_SCALE, _MOST_SCALE)) if len(told) > _FEWEST else 1.0


def _local(spread: _Planes, noise: _Planes, count: int) -> _Planes:
    """Return by what the variance must be multiplied where the lowest third of the `count` epochs scatters more."""
    ratio = ndimage.uniform_filter(spread / (_third_variance(count) * noise), size=_NEIGHBOURS, mode="nearest")
    return np.where(ratio > _SURE, ratio, np.float32(1.0))


@lru_cache
def _third_variance(count: int) -> float:
    """Return the mean variance of the lowest third of `count` values of a Gaussian of width 1."""
    third = max((count + 1) // 3, 2)
    values = np.sort(np.random.default_rng(count).normal(size=(20_000, max(count, 2))), axis=1)
    return float(values[:, :third].var(axis=1, ddof=1).mean())
