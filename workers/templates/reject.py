"""Find what is in one epoch and not in the others: cosmic rays, satellite trails, asteroids, ghosts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["find_outliers", "psf_widths", "reference_image"]

_Bool = NDArray[np.bool_]
_Planes = NDArray[np.float32]
SEED_SIGMA, GROW_SIGMA = 5.0, 2.5
"""A pixel (or 3x3 box) above the first is an outlier, with all above the second that touch it."""
FLOOR = 0.1
"""Deviation allowed everywhere near a source, as a fraction of its local peak: registration and PSF model errors."""
_CORRELATION = 1.3
"""Variance of a 3x3 (or blurred) sum over the sum of the variances after one Lanczos-3 warp."""
_HALO = 2
"""Pixels round an outlier that go with it: the reach of the interpolation kernel's main lobes."""


@dataclass(frozen=True)
class _Epoch:
    """One epoch, or the reference: image and variance (height, width), PSF (n, n)."""

    image: _Planes
    variance: _Planes
    psf: NDArray[np.floating]


def find_outliers(image: _Planes, variance: _Planes, usable: _Bool, psfs: NDArray[np.floating], fwhm: float) -> _Bool:
    """Return the outlier pixels of N registered epochs, bool (N, height, width).

    `image` (nJy), `variance` (nJy²) and `usable` are (N, height, width); `psfs` (N, n, n) of unit sum; `fwhm` pixels.
    The reference is the median of the epochs (of two: the other). Before an epoch is compared with it, the sharper of
    the two is blurred by a Gaussian to the width of the other. What seeing differences remain are allowed for: a
    deviation counts only by what it exceeds the reference's greatest value within half a FWHM, times the largest
    difference of the PSFs after blurring plus a tenth. So star cores are never clipped, and what lies on one is found
    only when it is brighter than that.
    """
    if len(image) < 2:
        return np.zeros(image.shape, bool)
    median = _Epoch(*reference_image(image, variance, usable), np.median(psfs, axis=0))
    peak = _local_peak(median, fwhm)
    found = []
    for k, here in enumerate(usable):
        epoch = _Epoch(np.where(here, image[k], median.image), variance[k], psfs[k])
        if len(image) == 2:  # one against the other, and only the higher of the two is wrong
            other = 1 - k
            filled = np.where(usable[other], image[other], epoch.image)
            deviation, noise, spread = _compared(epoch, _Epoch(filled, variance[other], psfs[other]))
            deviation = np.maximum(deviation, np.float32(0.0))
        else:
            deviation, noise, spread = _compared(epoch, median)
        excess = _excess(deviation, np.float32(FLOOR + spread) * peak) * here
        found.append(_grown(_significance(excess, noise), here))
    return np.stack(found)


def _compared(epoch: _Epoch, reference: _Epoch) -> tuple[_Planes, _Planes, float]:
    """Return epoch - reference at the width of the broader, its variance, and the PSFs' difference over the peak."""
    width, other = psf_widths(np.stack([epoch.psf, reference.psf]))
    blur = float(np.sqrt(abs(width**2 - other**2)))
    if width < other:
        epoch = _blurred(epoch, blur)
    else:
        reference = _blurred(reference, blur)
    spread = np.abs(epoch.psf - reference.psf).max() / reference.psf.max()
    return epoch.image - reference.image, epoch.variance + reference.variance, float(spread)


def psf_widths(psfs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sigma, pixels, of the Gaussians with the noise-equivalent areas of PSFs (N, n, n); shape (N,)."""
    return np.asarray(np.sqrt(1.0 / (4.0 * np.pi * np.square(psfs).sum(axis=(1, 2)))), float)


def _blurred(epoch: _Epoch, sigma: float) -> _Epoch:
    """Return the epoch convolved with a Gaussian of `sigma` pixels; unchanged below 0.1 pixels."""
    if sigma < 0.1:
        return epoch
    axis = np.arange(-int(4 * sigma + 1), int(4 * sigma + 2))
    kernel = np.exp(-0.5 * np.square(axis / sigma))
    less_noise = np.float32(min(1.0, _CORRELATION * np.square(np.square(kernel / kernel.sum()).sum())))
    blur = partial(ndimage.gaussian_filter, sigma=sigma, mode="nearest", radius=int(axis[-1]))
    return _Epoch(blur(epoch.image), epoch.variance * less_noise, blur(epoch.psf))


def _excess(deviation: _Planes, allowed: _Planes) -> _Planes:
    """Return by how much the deviation exceeds what is allowed, with its sign."""
    return np.asarray(np.sign(deviation) * np.maximum(np.abs(deviation) - allowed, np.float32(0.0)))


def _significance(excess: _Planes, noise: _Planes) -> _Planes:
    """Return the greater of the significances (sigma) of a pixel and of the 3x3 pixels round it."""
    single = np.abs(excess) / np.sqrt(np.maximum(noise, np.float32(1e-30)))
    boxed = np.abs(_box_sum(excess)) / np.sqrt(
        np.float32(_CORRELATION) * np.maximum(_box_sum(noise), np.float32(1e-30))
    )
    return np.asarray(np.maximum(single, boxed))


def reference_image(image: _Planes, variance: _Planes, usable: _Bool) -> tuple[_Planes, _Planes]:
    """Return the median over usable epochs (of two epochs: the lower) and its variance, (height, width) each.

    Where no epoch is usable it is the mean of all. The variance is that of a median of N values, (pi / 2) mean / N.
    """
    count = usable.sum(axis=0)
    ordered = np.sort(np.where(usable, image, np.float32(np.inf)), axis=0)
    low = np.maximum(count - 1, 0) // 2
    high = np.where(count == 2, 0, np.minimum(count // 2, len(image) - 1))
    pair = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
    none = count == 0
    median = np.where(none, image.mean(axis=0), np.float32(0.5) * (pair[0] + pair[1]))
    total = np.where(usable | none, variance, np.float32(0.0)).sum(axis=0, dtype=np.float64)
    share = np.where(count > 1, np.pi / 2.0, 1.0) / np.maximum(count, 1) ** 2
    return median.astype(np.float32), (share * total).astype(np.float32)


def _local_peak(reference: _Epoch, fwhm: float) -> _Planes:
    """Return the greatest value within half a FWHM of each pixel, 0 where it is within three sigma of the sky."""
    noise = np.sqrt(reference.variance)
    bright = np.where(reference.image > 3.0 * noise, reference.image, np.float32(0.0))
    size = 2 * int(np.ceil(0.5 * fwhm)) + 1
    return np.asarray(ndimage.maximum_filter(bright, size=size, mode="nearest"))


def _box_sum(plane: _Planes) -> _Planes:
    """Return the sum over 3x3 pixels."""
    rows = plane.copy()
    rows[1:] += plane[:-1]
    rows[:-1] += plane[1:]
    out = rows.copy()
    out[:, 1:] += rows[:, :-1]
    out[:, :-1] += rows[:, 1:]
    return out


def _grown(significance: _Planes, usable: _Bool) -> _Bool:
    """Return the usable pixels above SEED_SIGMA, those above GROW_SIGMA connected to them, and their halo."""
    seeds = (significance > SEED_SIGMA) & usable
    if not seeds.any():
        return seeds
    square = np.ones((3, 3), bool)
    labels, count = ndimage.label(significance > GROW_SIGMA, structure=square)
    hit = np.zeros(count + 1, bool)
    hit[labels[seeds]] = True
    return np.asarray(ndimage.binary_dilation(hit[labels], structure=square, iterations=_HALO) & usable)
