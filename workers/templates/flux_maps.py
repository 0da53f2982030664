"""Epochs brought to one PSF: maps of point-source flux in which a sky that stands still is the same in all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from workers.templates.epoch_loops import blind, take_off, weights
from workers.templates.epoch_sort import order_statistics

__all__ = ["REACH", "FluxMaps", "flux_maps", "matched_filters", "patterns"]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
_Planes = NDArray[np.float32]
REACH = 12
"""Half width of the filters, pixels: nearer to the edge of the planes the maps are not right; where they are tapered, a
thousandth of a source comes from up to four pixels further."""
_LEAST_POWER = 1e-8
"""Power of a PSF, relative to its greatest, below which a frequency is not restored."""
_STEP = 2
"""Pixels from one of a map to the next where the seeing lets that be; else one."""
_PASSED = 0.5
"""Of the highest frequency of such a map, that up to which all is let through; from there less and less, so that a
bright star does not ring."""
_LOST = 0.03
"""Share of a point source's S/N that this may cost."""
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
_MOST = 1000
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
    """N epochs as the flux that a point source at each pixel would have: maps (N, rows, columns)."""

    flux: _Planes
    """nJy."""
    weight: _Planes
    """Inverse variance, nJy^-2: noise, and what models leave on a bright sky; 0 where an epoch says nothing."""
    still: _Planes
    """Mean of the lower half of the epochs, (rows, columns), nJy."""
    scatter: _Planes
    """By what the errors' squares were raised where the lowest epochs scatter more, (rows, columns)."""
    response: _Float
    """What a point source of unit flux looks like, (n, n) pixels of the planes, 1 at its centre."""
    step: int
    """Pixels of the planes from one of the maps to the next; the first one of each is the same."""


def flux_maps(
    image: _Planes, variance: _Planes, usable: _Bool, psfs: _Float, correlation: _Float, spare: _Planes
) -> FluxMaps:
    """Return the flux maps of N registered epochs.

    `image` (nJy), `variance` (nJy²) and `usable` are (N, height, width), `psfs` (N, n, n) of unit sum, `correlation`
    (N,) the noise power at large scales over the pixel variance, `spare` (height, width) what takes the place of
    unusable pixels. Each epoch is convolved with G / P_k, where G is the mean PSF convolved with itself: near the
    matched filter of every epoch, and the same response G in all, so that stars cancel whatever the seeing was. G has
    no power at the smallest scales, and the maps only every second pixel, where the seeing allows. Offset, scale,
    shift and PSF size and shape of each epoch against the median of all are fitted over the cell and taken off.
    """
    step = _step(psfs, image.shape[1:])
    filters, response = matched_filters(psfs, step)
    transforms = _transforms(filters, image.shape[1:], step)
    flux = _convolved(image, usable, spare, transforms, step)
    power = _noise_power(transforms, image.shape[1:], step) * correlation.astype(np.float32)
    variance = np.ascontiguousarray(variance[:, ::step, ::step])
    known = ~blind(~usable, _NEAR, step)
    noise = np.maximum(np.tensordot(power / np.float32(len(power)), variance, axes=1), np.float32(1e-30))
    middle = order_statistics(flux, known)[0]
    wings = _wings(middle, step)
    _align(flux, power, variance, known, patterns(middle, step), wings)
    middle, still, spread = order_statistics(flux, known)
    left = _left_over(patterns(still, step)) + wings
    left *= np.float32(_scale(flux, middle, noise, left, known, _FEWEST // step**2))
    scatter = _local(spread, noise + left, int(known.sum(axis=0).max()), _NEIGHBOURS // step)
    return FluxMaps(flux, weights(variance, power, known, left, scatter), still, scatter, response, step)


def _step(psfs: _Float, shape: tuple[int, ...]) -> int:
    """Return how many pixels apart those of a map may be."""
    if any(side % _STEP for side in shape):
        return 1
    side = 2 * psfs.shape[-1]
    power = np.square(np.abs(fft.fft2(psfs.mean(axis=0), (side, side))))
    passed = _taper((side, side), _STEP)
    kept = (power * passed).sum() / np.sqrt(power.sum() * (power * passed**2).sum())
    return _STEP if kept > 1.0 - _LOST else 1


@lru_cache(maxsize=8)
def _taper(shape: tuple[int, int], step: int) -> NDArray[np.float32]:
    """Return what is let through at the frequencies of `fft2` of planes of `shape`, none that a map can't hold."""
    if step == 1:
        return np.ones(shape, np.float32)
    y, x = fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])
    beyond = np.clip((2.0 * step * np.hypot(y, x) - _PASSED) / (1.0 - _PASSED), 0.0, 1.0)
    return np.asarray(np.square(np.cos(0.5 * np.pi * beyond)), np.float32)


def matched_filters(psfs: _Float, step: int = 1) -> tuple[_Float, _Float]:
    """Return the filters (N, 2 REACH + 1, same) that turn PSFs (N, n, n) into one response of height 1, and that.

    The response is that of a map of every `step`-th pixel; the filters are still to be tapered.
    """
    size = psfs.shape[-1]
    side = fft.next_fast_len(2 * size + 2 * REACH)
    each = fft.rfft2(psfs, (side, side))
    goal = np.abs(each.mean(axis=0)) ** 2
    kernels = fft.irfft2(goal * np.conj(each) / np.maximum(np.abs(each) ** 2, _LEAST_POWER), (side, side))
    middle = side // 2
    cut = slice(middle - REACH, middle + REACH + 1)
    moved = np.roll(kernels, (middle + size // 2,) * 2, (1, 2))[:, cut, cut]
    response = fft.irfft2(goal * _taper((side, side), step)[:, : goal.shape[1]], (side, side))
    return moved / response[0, 0], np.roll(response, (middle, middle), (0, 1))[cut, cut] / response[0, 0]


@lru_cache(maxsize=8)
def _waves(length: int, step: int, *, half: bool) -> NDArray[np.complex64]:
    """Return the Fourier matrix (frequencies, 2 REACH + 1) of a filter's axis, with the frequencies of a map's axis.

    With `half` those of `rfft`, else of `fft`.
    """
    count = length // step
    numbers = np.arange(count // 2 + 1) if half else np.round(fft.fftfreq(count) * count)
    waves = np.exp(-2j * np.pi / length * numbers[:, None] * np.arange(-REACH, REACH + 1))
    return np.asarray(waves, np.complex64)


def _transforms(filters: _Float, shape: tuple[int, ...], step: int) -> NDArray[np.complex64]:
    """Return the filters' tapered transforms at the frequencies of the maps, (N, rows, columns / 2 + 1)."""
    rows, columns = _waves(shape[0], step, half=False), _waves(shape[1], step, half=True)
    passed = _low(_taper((shape[0], shape[1]), step)[:, : columns.shape[0]], len(rows))
    return np.asarray(rows @ filters.astype(np.complex64) @ columns.T * passed)


def _low(planes: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return the rows of the lowest frequencies of `fft`, as many as that of fewer pixels has."""
    return np.concatenate([planes[: (rows + 1) // 2], planes[len(planes) - rows // 2 :]])


def _noise_power(transforms: NDArray[np.complex64], shape: tuple[int, ...], step: int) -> NDArray[np.float32]:
    """Return the variance of the maps of white noise of variance 1, (N,)."""
    power = np.square(transforms.real) + np.square(transforms.imag)
    both = power[:, :, 1 : (shape[1] // step + 1) // 2].sum(axis=(1, 2), dtype=float)  # and their negatives
    alone = power[:, :, 0].sum(axis=1, dtype=float)
    if shape[1] // step % 2 == 0:
        alone += power[:, :, -1].sum(axis=1, dtype=float)
    return np.asarray((2.0 * both + alone) / (shape[0] * shape[1]), np.float32)


def _convolved(image: _Planes, usable: _Bool, spare: _Planes, transforms: NDArray[np.complex64], step: int) -> _Planes:
    """Return each image convolved with its filter, every `step`-th pixel; round the edges by the opposite ones."""
    rows, columns = transforms.shape[1], image.shape[2] // step
    flux = np.zeros((len(image), rows, columns), np.float32)
    for k, transform in enumerate(transforms):
        plane = image[k] if usable[k].all() else np.where(usable[k], image[k], spare)
        whole = fft.fft(fft.rfft(plane, axis=1)[:, : transform.shape[1]], axis=0)
        flux[k] = fft.irfft2(_low(whole, rows) * transform, (rows, columns), overwrite_x=True)
    flux *= np.float32(step**-2)
    return flux


def patterns(flux: _Planes, step: int) -> _Planes:
    """Return what small errors of an epoch add to a sky of `flux`: 1, f, f_y, f_x, f_yy, f_xx, f_xy; (7, h, w).

    Derivatives are central differences over a pixel of the planes to either side: `step` of them are one of the map.
    """
    out = np.ones((7, *flux.shape), np.float32)
    out[1] = flux
    low = fft.rfft2(flux)
    turns = fft.fftfreq(flux.shape[0])[:, None], fft.rfftfreq(flux.shape[1])
    y, x = (np.sin(2.0 * np.pi / step * turn) for turn in turns)
    for plane, wave in zip(out[2:], (1j * y, 1j * x, -y * y, -x * x, -y * x), strict=True):
        plane[...] = fft.irfft2(low * wave.astype(np.complex64), flux.shape, overwrite_x=True)
    return out


def _wings(flux: _Planes, step: int) -> _Planes:
    """Return the variance, nJy², of the light far from sources that PSF models miss."""
    height = ndimage.maximum_filter(np.abs(flux), size=2 * (_WING_REACH // step) + 1, mode="nearest")
    return np.asarray(np.square(_WINGS * height), np.float32)


def _left_over(planes: _Planes) -> _Planes:
    """Return the variance, nJy², that imperfect models leave on a sky with these patterns."""
    return np.asarray(np.tensordot(_LEFT.astype(np.float32) ** 2, planes**2, axes=1), np.float32)


def _align(flux: _Planes, power: _Planes, variance: _Planes, known: _Bool, planes: _Planes, wings: _Planes) -> None:
    """Fit the patterns of the median to each epoch's deviation from it and take them off, in place."""
    left = _left_over(planes) + wings
    bright = np.flatnonzero(left > power.mean() * variance.mean(axis=0))
    chosen = np.concatenate(
        [bright[:: max(len(bright) // _MOST, 1)], np.arange(0, left.size, max(left.size // _MOST, 1))]
    )
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


def _scale(flux: _Planes, middle: _Planes, noise: _Planes, left: _Planes, known: _Bool, fewest: int) -> float:
    """Return by what `left` must be multiplied so that deviations on bright sky are what their errors say."""
    y, x = np.nonzero(left > _BRIGHT * noise)
    if len(y) < fewest:
        return 1.0
    some = slice(None, None, max(len(y) // _MOST, 1))
    y, x = y[some], x[some]
    over = (np.square(flux[:, y, x] - middle[y, x]) / _UPPER_CHI2 - noise[y, x]) / left[y, x]
    told = over[known[:, y, x]]
    return float(np.clip(np.percentile(told, _UPPER), _LEAST_SCALE, _MOST_SCALE)) if len(told) > fewest else 1.0


def _local(spread: _Planes, noise: _Planes, count: int, side: int) -> _Planes:
    """Return by what the variance must be multiplied where the lowest third of the `count` epochs scatters more."""
    ratio = ndimage.uniform_filter(spread / (_third_variance(count) * noise), size=side, mode="nearest")
    return np.where(ratio > _SURE, ratio, np.float32(1.0))


@lru_cache
def _third_variance(count: int) -> float:
    """Return the mean variance of the lowest third of `count` values of a Gaussian of width 1."""
    third = max((count + 1) // 3, 2)
    values = np.sort(np.random.default_rng(count).normal(size=(20_000, max(count, 2))), axis=1)
    return float(values[:, :third].var(axis=1, ddof=1).mean())
