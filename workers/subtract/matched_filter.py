"""The score image: the matched-filtered image divided by its own noise, a map of the S/N of a point source there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.imaging.psf import PsfModel
from workers.subtract.convolve import VaryingKernel, convolve, grid_positions

__all__ = ["robust_std", "score_image"]

_Bool = NDArray[np.bool_]
_MIN_SUPPORT = 0.5  # of sum(PSF^2) on usable pixels


def score_image(
    image: FloatImage, variance: FloatImage, excluded: _Bool, psf: PsfModel, *, degree: int = 2
) -> FloatImage:
    """Return S = sum(P d) / sqrt(sum(P^2 V)) over usable pixels, float32; 0 where less than half the PSF is usable.

    `image` and `variance` of one unit (squared), finite where not `excluded`; excluded pixels carry no weight. S equals
    the PSF flux at that pixel divided by its error. `degree` caps that of the PSF's change over the image.
    """
    x, y = grid_positions(image.shape)
    stamps = psf.stamps(x, y)
    degree = min(degree, psf.degree)
    shape = (image.shape[0], image.shape[1])
    template = VaryingKernel.fit(stamps, x, y, degree, shape).flipped()
    squared = VaryingKernel.fit(np.square(stamps), x, y, min(degree, 1), shape).flipped()
    middle = np.square(psf.stamps(shape[1] / 2, shape[0] / 2)[0])
    support = convolve(~excluded, VaryingKernel.constant(middle[::-1, ::-1] / middle.sum(), shape))
    signal = convolve(np.where(excluded, np.float32(0.0), image), template)
    noise = convolve(np.where(excluded, np.float32(0.0), variance), squared)
    usable = (support > _MIN_SUPPORT) & (noise > 0.0)
    return np.where(usable, signal / np.sqrt(np.where(usable, noise, 1.0)), np.float32(0.0)).astype(np.float32)


def robust_std(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation, NaN for no values."""
    if values.size == 0:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
