"""Both images of a pair filtered, each once: what any method does that gives each image a filter of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage
from workers.subtract.convolve import VaryingKernel, convolve, grid_positions
from workers.subtract.decorrelate import noise_gains
from workers.subtract.difference import clean_variance
from workers.subtract.masking import DifferenceMask, combine_masks, filled
from workers.subtract.residual_background import residual_background

__all__ = ["Filtered", "check_overlap", "filtered", "flattened", "pair_planes", "quiet_model", "varying"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_DEGREE = 2
"""Of the filters' change over the image."""
_VARIANCE_LOSS = 1e-3
"""Of the sum of A^4, outside the pixels through which variance is spread."""


@dataclass(frozen=True)
class Filtered:
    """One image as its filter leaves it."""

    image: FloatImage
    variance: FloatImage
    """Per pixel, so that PSF fluxes get their true errors."""


def varying(kernels: tuple[_Float, _Float], shape: tuple[int, int]) -> tuple[VaryingKernel, VaryingKernel]:
    """Return the filters, given on the grid, over the image."""
    x, y = grid_positions(shape)
    return VaryingKernel.fit(kernels[0], x, y, _DEGREE, shape), VaryingKernel.fit(kernels[1], x, y, _DEGREE, shape)


def pair_planes(
    pair: tuple[Exposure, Exposure], kernels: tuple[VaryingKernel, VaryingKernel], fwhm: float
) -> DifferenceMask:
    """Return the mask of a difference of two images that are both convolved."""
    ours, theirs = (
        combine_masks(*pair, kernel, convolved_template=which, fwhm=fwhm)
        for which, kernel in zip((False, True), kernels, strict=True)
    )
    return DifferenceMask(ours.mask | theirs.mask, ours.excluded | theirs.excluded, ours.halo | theirs.halo)


def check_overlap(excluded: _Bool, science: Exposure) -> None:
    """Raise DataError where no pixel is left."""
    if excluded.all():
        raise DataError(
            f"exposure {science.info.label}: no pixel is usable in both science and template; "
            "look at the masks, and at image and variance for values that are not finite"
        )


def filtered(exposure: Exposure, blocked: _Bool, kernel: VaryingKernel, psfs: _Float, fwhm: float) -> Filtered:
    """Return the image and its noise through the filter; `psfs` (m, p, p) of the difference on the grid.

    On blank sky the variances of both images add up to that of the white noise.
    """
    x, y = grid_positions(kernel.shape)
    kernels = kernel.at(x, y)
    squares = np.square(kernels)
    gain = noise_gains(kernels, np.ones((len(x), 1, 1)), psfs)[0] / squares.sum(axis=(1, 2))
    spread = VaryingKernel.fit(squares * gain[:, None, None], x, y, _DEGREE, kernel.shape).trimmed(_VARIANCE_LOSS)
    image = convolve(filled(exposure.image, blocked, 0.5 * fwhm), kernel)
    return Filtered(image, convolve(clean_variance(exposure.variance, blocked), spread))


def flattened(image: FloatImage, variance: FloatImage, excluded: _Bool) -> float:
    """Take the background off `image` in place, set excluded pixels to 0, and return the typical background, nJy."""
    some = image[::8, ::8][~excluded[::8, ::8]]
    level = np.float32(np.median(some)) if some.size else np.float32(0.0)
    image -= level
    left = residual_background(image, variance, excluded)
    image -= left.sum_image()
    image[excluded] = 0.0
    return float(level) + float(np.median(left.sums()))


def quiet_model(
    seen: FloatImage, kernel: VaryingKernel, template: FloatImage, scale: FloatImage, excluded: _Bool
) -> FloatImage:
    """Return what stands for the light that was subtracted: the template as filtered, if the filter lessens its noise.

    Else the template as it is, times `scale`: a filter that sharpens would show noise as sources.
    """
    middle = kernel.at(kernel.shape[1] / 2, kernel.shape[0] / 2)[0]
    if np.square(middle).sum() <= np.square(middle.sum()):
        return seen
    return np.asarray(scale * np.where(excluded, np.float32(0.0), template), np.float32)
