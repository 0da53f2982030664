"""Find what is in one epoch and not in the others: cosmic rays, satellite trails, asteroids, ghosts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["find_outliers", "psf_spread", "reference_image"]

_Bool = NDArray[np.bool_]
_Planes = NDArray[np.float32]
SEED_SIGMA, GROW_SIGMA = 5.0, 2.5
"""A pixel (or 3x3 box) above the first is an outlier, with all above the second that touch it."""
FLOOR = 0.1
"""Deviation allowed everywhere near a source, as a fraction of its local peak: registration and PSF model errors."""
_BOX_CORRELATION = 1.3
"""Variance of a 3x3 sum over the sum of the variances after one Lanczos-3 warp."""
_HALO = 2
"""Pixels round an outlier that go with it: the reach of the interpolation kernel's main lobes."""


def find_outliers(image: _Planes, variance: _Planes, usable: _Bool, psfs: NDArray[np.floating], fwhm: float) -> _Bool:
    """Return the outlier pixels of N registered epochs, bool (N, height, width).

    `image` (nJy), `variance` (nJy²) and `usable` are (N, height, width); `psfs` (N, n, n) of unit sum; `fwhm` pixels.
    The reference is the median of the epochs (of two: the lower). Seeing differs between epochs, so that a star departs
    from the reference by up to its peak times the largest difference of the PSFs: a deviation counts only by what it
    exceeds that much (plus a tenth) of the reference's greatest value within a FWHM. So star cores are never clipped,
    and what lies on one is found only when it is brighter than that.
    """
    if len(image) < 2:
        return np.zeros(image.shape, bool)
    reference, reference_variance = reference_image(image, variance, usable)
    peak = _local_peak(reference, reference_variance, fwhm)
    allowed = (FLOOR + psf_spread(psfs)).astype(np.float32)[:, None, None] * peak
    deviation = np.where(usable, image - reference, np.float32(0.0))
    excess = np.sign(deviation) * np.maximum(np.abs(deviation) - allowed, np.float32(0.0))
    noise = np.where(usable, variance + reference_variance, np.float32(0.0))
    significance = np.abs(excess) / np.sqrt(np.maximum(noise, np.float32(1e-30)))
    boxed = np.abs(_box_sum(excess)) / np.sqrt(np.maximum(_BOX_CORRELATION * _box_sum(noise), np.float32(1e-30)))
    significance = np.where(usable, np.maximum(significance, boxed), np.float32(0.0))
    return np.stack([_grown(plane) for plane in significance])


def reference_image(image: _Planes, variance: _Planes, usable: _Bool) -> tuple[_Planes, _Planes]:
    """Return the median over usable epochs (of two epochs: the lower) and its variance, (height, width) each.

    Where no epoch is usable both are 0. The variance is that of a median of N Gaussian values, (pi / 2) mean / N.
    """
    count = usable.sum(axis=0)
    ordered = np.sort(np.where(usable, image, np.float32(np.inf)), axis=0)
    low = np.maximum(count - 1, 0) // 2
    high = np.where(count == 2, 0, np.minimum(count // 2, len(image) - 1))
    pair = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
    median = np.where(count > 0, np.float32(0.5) * (pair[0] + pair[1]), np.float32(0.0))
    total = np.where(usable, variance, np.float32(0.0)).sum(axis=0, dtype=np.float64)
    share = np.where(count > 1, np.pi / 2.0, 1.0) / np.maximum(count, 1) ** 2
    return median.astype(np.float32), (share * total).astype(np.float32)


def psf_spread(psfs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return, per epoch, the largest difference of its PSF from the median PSF, over that one's peak; shape (N,)."""
    middle = np.median(psfs, axis=0)
    return np.asarray(np.abs(psfs - middle).max(axis=(1, 2)) / middle.max(), float)


def _local_peak(reference: _Planes, variance: _Planes, fwhm: float) -> _Planes:
    """Return the greatest value within a FWHM of each pixel, 0 where it is within three sigma of the sky."""
    bright = np.where(reference > 3.0 * np.sqrt(variance), reference, np.float32(0.0))
    size = 2 * int(np.ceil(fwhm)) + 1
    return np.asarray(ndimage.maximum_filter(bright, size=size, mode="nearest"))


def _box_sum(planes: _Planes) -> _Planes:
    """Return the sum over 3x3 pixels of each plane."""
    rows = planes.copy()
    rows[:, 1:] += planes[:, :-1]
    rows[:, :-1] += planes[:, 1:]
    out = rows.copy()
    out[:, :, 1:] += rows[:, :, :-1]
    out[:, :, :-1] += rows[:, :, 1:]
    return out


def _grown(significance: _Planes) -> _Bool:
    """Return the pixels of one epoch above SEED_SIGMA, those above GROW_SIGMA connected to them, and their halo."""
    seeds = significance > SEED_SIGMA
    if not seeds.any():
        return seeds
    square = np.ones((3, 3), bool)
    labels, count = ndimage.label(significance > GROW_SIGMA, structure=square)
    hit = np.zeros(count + 1, bool)
    hit[labels[seeds]] = True
    return np.asarray(ndimage.binary_dilation(hit[labels], structure=square, iterations=_HALO))
