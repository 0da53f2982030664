"""Find what is in one epoch and not in the others: cosmic rays, satellite trails, asteroids, ghosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from workers.templates.epoch_sort import order_statistics
from workers.templates.outlier_loops import grown, significances, smoothed, summed

__all__ = ["Reference", "find_outliers", "psf_widths", "reference_image"]

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


class Reference(NamedTuple):
    """The median of the epochs, (height, width)."""

    image: _Planes
    """nJy."""
    variance: _Planes
    """nJy²."""


@dataclass(frozen=True)
class _Epoch:
    """One epoch, or the reference: image and variance (height, width), PSF (n, n)."""

    image: _Planes
    variance: _Planes
    psf: NDArray[np.floating]


def find_outliers(
    image: _Planes, variance: _Planes, usable: _Bool, psfs: NDArray[np.floating], fwhm: float, reference: Reference
) -> _Bool:
    """Return the outlier pixels of N registered epochs, bool (N, height, width).

    `image` (nJy), `variance` (nJy²) and `usable` are (N, height, width); `psfs` (N, n, n) of unit sum; `fwhm` pixels;
    `reference` their `reference_image`, with which each is compared (of two: with the other). Before that, the sharper
    of the two is blurred by a Gaussian to the width of the other. What seeing differences remain are allowed for: a
    deviation counts only by what it exceeds the reference's greatest value within half a FWHM, times the largest
    difference of the PSFs after blurring plus a tenth. So star cores are never clipped, and what lies on one is found
    only when it is brighter than that.
    """
    if len(image) < 2:
        return np.zeros(image.shape, bool)
    median = _Epoch(*reference, np.median(psfs, axis=0))
    peak = _local_peak(median, fwhm)
    found = np.zeros(image.shape, bool)
    for k, here in enumerate(usable):
        epoch = _Epoch(image[k] if here.all() else np.where(here, image[k], median.image), variance[k], psfs[k])
        if len(image) == 2:  # one against the other, and only the higher of the two is wrong
            other = 1 - k
            filled = np.where(usable[other], image[other], epoch.image)
            epoch, against, spread = _matched(epoch, _Epoch(filled, variance[other], psfs[other]))
        else:
            epoch, against, spread = _matched(epoch, median)
        allowed = np.float32(FLOOR + spread) * peak
        squares = _squares(epoch, against, allowed, here, len(image) == 2)
        if squares.max() > SEED_SIGMA**2:
            found[k] = grown(squares, here, SEED_SIGMA**2, GROW_SIGMA**2, _HALO)
    return found


def _squares(epoch: _Epoch, against: _Epoch, allowed: _Planes, here: _Bool, higher: bool) -> _Planes:
    """Return the greater of the squared significances of a pixel and of the 3x3 round it; only of `higher` ones."""
    planes = (epoch.image, against.image, epoch.variance, against.variance)
    return np.asarray(significances(*planes, allowed, here, higher, np.float32(_CORRELATION)))


def _matched(epoch: _Epoch, reference: _Epoch) -> tuple[_Epoch, _Epoch, float]:
    """Return epoch and reference at the width of the broader, and the PSFs' difference over the peak."""
    width, other = psf_widths(np.stack([epoch.psf, reference.psf]))
    blur = float(np.sqrt(abs(width**2 - other**2)))
    if width < other:
        epoch = _blurred(epoch, blur)
    else:
        reference = _blurred(reference, blur)
    return epoch, reference, float(np.abs(epoch.psf - reference.psf).max() / reference.psf.max())


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
    taps = (kernel / kernel.sum()).astype(np.float32)
    psf = ndimage.gaussian_filter(epoch.psf, sigma, mode="nearest", radius=int(axis[-1]))
    return _Epoch(smoothed(epoch.image, taps), epoch.variance * less_noise, psf)


def reference_image(image: _Planes, variance: _Planes, usable: _Bool) -> Reference:
    """Return the median over usable epochs (of two epochs: the lower) and its variance, (height, width) each.

    Where no epoch is usable it is the mean of all. The variance is that of a median of N values, (pi / 2) mean / N.
    """
    middle, lower, _ = order_statistics(image, usable)
    total, count = summed(variance, usable)
    share = np.where(count > 1, np.pi / 2.0, 1.0) / np.square(np.maximum(count, 1), dtype=float)
    return Reference(np.where(count == 2, lower, middle), np.asarray(share * total, np.float32))


def _local_peak(reference: _Epoch, fwhm: float) -> _Planes:
    """Return the greatest value within half a FWHM of each pixel, 0 where it is within three sigma of the sky."""
    noise = np.sqrt(reference.variance)
    bright = np.where(reference.image > 3.0 * noise, reference.image, np.float32(0.0))
    size = 2 * int(np.ceil(0.5 * fwhm)) + 1
    return np.asarray(ndimage.maximum_filter(bright, size=size, mode="nearest"))
