"""The weighted mean of registered epochs: image, mask, variance, number of epochs, PSF."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.templates.epoch_loops import Sums, weighted_mean

__all__ = ["EXCLUDED", "Coadd", "Stack", "combine"]

_Bool = NDArray[np.bool_]
EXCLUDED = BLOCKING | MaskPlane.STREAK | MaskPlane.GHOST | MaskPlane.INJECTED
"""Planes whose pixels do not enter the mean."""
_KEPT = MaskPlane.SUSPECT | MaskPlane.CROSSTALK | MaskPlane.SPIKE | MaskPlane.INTERPOLATED
"""Planes that the mean takes from any input in it (what was detected in the inputs says nothing of the mean)."""
_SATURATED_SHARE = 0.1
"""Of the inputs that cover a pixel; above it the pixel is SATURATED though others were not, and its PSF is theirs."""
_NOISY = 4.0
"""Background variance over its median in the cell beyond which a pixel is HIGH_VARIANCE."""

_SPARSE = 3
"""One row and column of so many is looked at for the background's variance."""


@dataclass(frozen=True)
class Stack:
    """N epochs on the pixels of one cell; planes (N, height, width) in nJy, `MaskPlane` bits and nJy²."""

    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    weights: NDArray[np.float64]
    """Shape (N,)."""
    psfs: NDArray[np.float64]
    """At the cell's centre, (N, n, n), unit sum."""

    @cached_property
    def psf(self) -> FloatImage:
        """The weighted mean of the PSFs, (n, n), unit sum."""
        psf = np.einsum("n,nij->ij", self.weights, self.psfs)
        return np.asarray(psf / psf.sum(), np.float32)

    @cached_property
    def usable(self) -> _Bool:
        """Pixels that may enter the mean, (N, height, width)."""
        return np.asarray((self.mask & int(EXCLUDED)) == 0)

    @cached_property
    def covered(self) -> _Bool:
        """Pixels where an input has a value, masked or not."""
        return np.asarray((self.mask & int(MaskPlane.NO_DATA)) == 0)


@dataclass(frozen=True)
class Coadd:
    """The mean of a stack."""

    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    nEpochs: NDArray[np.int16]
    psf: FloatImage
    """Weighted mean of the inputs' PSFs, (n, n), unit sum."""
    given: _Bool
    """Which inputs are in each pixel, (N, height, width)."""
    pixels: NDArray[np.int64]
    """To how many pixels each input gave, (N,)."""
    noise: NDArray[np.float64]
    """Sum of the variance, nJy², of those pixels, (N,)."""


def combine(stack: Stack, outliers: _Bool, min_epochs: int) -> Coadd:
    """Return the mean of `stack` over pixels usable and not in `outliers`, with the weights of its epochs.

    variance = sum(w² v) / sum(w)². A pixel that fewer than `min_epochs` inputs cover is NO_DATA, 0 in image and
    variance. A covered pixel that no input can give (a saturated core) has the mean of the masked values and the OR of
    their planes. INEXACT_PSF is set where an outlier was left out: the mean has not the PSF of all inputs there.
    """
    covered = stack.covered.sum(axis=0, dtype=np.int16)
    absent = covered < max(min_epochs, 1)
    good = stack.usable & ~outliers & ~absent
    sums = _mean(stack, good, _sky(stack, good))
    image, variance, mask = sums.mean, sums.variance, _kept_planes(stack, good)
    hopeless = (sums.count == 0) & ~absent
    if hopeless.any():
        masked = _mean(stack, stack.covered & hopeless, np.zeros(len(good)))
        image[hopeless], variance[hopeless] = masked.mean[hopeless], masked.variance[hopeless]
        planes = np.bitwise_or.reduce(np.where(stack.covered, stack.mask, 0), axis=0)
        mask[hopeless] |= planes[hopeless]
        mask[hopeless & ((mask & int(BLOCKING)) == 0)] |= int(MaskPlane.BAD)  # left out as streak or outlier
    mask[(stack.usable & outliers).any(axis=0)] |= int(MaskPlane.INEXACT_PSF)
    mask[absent] = int(MaskPlane.NO_DATA)
    clear = sums.count > 0
    if clear.any():
        mask[clear & (sums.background > _NOISY * np.median(sums.background[clear]))] |= int(MaskPlane.HIGH_VARIANCE)
    return Coadd(image, mask, variance, sums.count, stack.psf, good, sums.pixels, sums.noise)


def _mean(stack: Stack, chosen: _Bool, sky: NDArray[np.float64]) -> Sums:
    """Return the weighted mean over `chosen` (N, height, width)."""
    return weighted_mean(stack.image, stack.variance, chosen, stack.weights / stack.weights.max(), sky)


def _kept_planes(stack: Stack, good: _Bool) -> MaskImage:
    """Return the planes that the mean takes over from its inputs."""
    if not np.bitwise_or.reduce(stack.mask, axis=None) & int(_KEPT | MaskPlane.SATURATED):
        return np.zeros(good.shape[1:], np.int32)
    mask = np.bitwise_or.reduce(np.where(good, stack.mask & int(_KEPT), 0), axis=0)
    full = ((stack.mask & int(MaskPlane.SATURATED)) != 0).sum(axis=0)
    share = full > _SATURATED_SHARE * np.maximum(stack.covered.sum(axis=0), 1)
    return np.asarray(mask | np.where(share, int(MaskPlane.SATURATED), 0), np.int32)


def _sky(stack: Stack, good: _Bool) -> NDArray[np.float64]:
    """Return the median variance of each epoch, so that the photon noise of stars does not count; 0 without pixels.

    Where the background's variance is far above its median over the cell, for want of epochs, it is HIGH_VARIANCE.
    """
    some = (slice(None), slice(None, None, _SPARSE), slice(None, None, _SPARSE))
    seen = zip(stack.variance[some], good[some], strict=True)
    return np.array([np.median(v[g]) if g.any() else 0.0 for v, g in seen])
