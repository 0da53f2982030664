"""The score image: the matched-filtered image divided by its own noise, a map of the S/N of a point source there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.imaging.psf import PsfModel
from workers.subtract.convolve import VaryingKernel, blocks_near, convolve, grid_positions
from workers.subtract.model_error import ModelErrors, add_model_errors

__all__ = ["robust_std", "score_image"]

_Bool = NDArray[np.bool_]
_MIN_SUPPORT = 0.5  # of sum(PSF^2) on usable pixels
_BRIGHT = 5.0
"""Sigma per pixel, of light whose model errors can matter."""
_CORE_LOSS = 5e-4
"""Of sum(PSF^2), outside the square of pixels that is used."""


def score_image(
    image: FloatImage,
    variance: FloatImage,
    excluded: _Bool,
    psf: PsfModel,
    *,
    degree: int = 2,
    model: tuple[FloatImage, ModelErrors] | None = None,
) -> FloatImage:
    """Return S = sum(P d) / sqrt(sum(P^2 V)) over usable pixels, float32; 0 where less than half the PSF is usable.

    `image` and `variance` of one unit (squared), finite where not `excluded`; excluded pixels carry no weight. S equals
    the PSF flux at that pixel divided by its error. `degree` caps that of the PSF's change over the image.
    `model`: what was subtracted, and how well it is known.
    """
    shape = (image.shape[0], image.shape[1])
    x, y = grid_positions(shape)
    degree = min(degree, psf.degree)
    template = VaryingKernel.fit(psf.stamps(x, y), x, y, degree, shape).trimmed(_CORE_LOSS).flipped()
    squared = VaryingKernel.fit(np.square(template.at(x, y)), x, y, min(degree, 1), shape)
    middle = np.square(template.at(shape[1] / 2, shape[0] / 2)[0])
    weights = VaryingKernel.constant(middle / middle.sum(), shape)
    support = convolve(~excluded, weights, blocks_near(excluded, weights.half), 1.0)
    score = convolve(np.where(excluded, np.float32(0.0), image), template)
    noise = convolve(np.where(excluded, np.float32(0.0), variance), squared.trimmed(_CORE_LOSS))
    if model is not None:
        light, errors = model
        bright = light > _BRIGHT * np.sqrt(np.median(variance[::16, ::16]))
        add_model_errors(noise, convolve(light, template, blocks_near(bright, 2 * template.half)), errors)
    _divide(score, noise, support, np.float32(_MIN_SUPPORT))
    return score


@njit(cache=True, nogil=True)
def _divide(score: Any, noise: Any, support: Any, least: Any) -> None:  # pragma: no cover - compiled
    """Divide by the noise in place; 0 where there is too little support."""
    height, width = score.shape
    for y in range(height):
        for x in range(width):
            good = (support[y, x] > least) & (noise[y, x] > 0.0)
            score[y, x] = score[y, x] / np.sqrt(noise[y, x]) if good else 0.0


def robust_std(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation, NaN for no values."""
    if values.size == 0:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
