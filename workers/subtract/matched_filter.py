"""The score image: the matched-filtered image divided by its own noise, a map of the S/N of a point source there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.imaging.psf import PsfModel
from workers.subtract.convolve import VaryingKernel, block_shape, blocks_near, convolve, grid_positions
from workers.subtract.model_error import ModelErrors, add_model_errors

__all__ = ["robust_std", "score_image"]

_Bool = NDArray[np.bool_]
_MIN_SUPPORT = 0.5  # of sum(PSF^2) on usable pixels
_BRIGHT, _SEEN = 5.0, 0.1
"""Sigma per pixel, of light whose model errors can matter, and of such errors."""
_BAND = 512
"""Rows of the score made at once."""
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
    squared, usable, near, lit = squared.trimmed(_CORE_LOSS), ~excluded, blocks_near(excluded, weights.half), None
    if model is not None:
        least = max(_BRIGHT, _SEEN / np.hypot(model[1].share, 0.5 * model[1].shift))  # a slope is half the light
        bright = model[0] > least * np.sqrt(np.median(variance[::16, ::16]))
        lit = blocks_near(bright, 2 * template.half)
    score = np.empty(shape, np.float32)
    for first in range(0, shape[0], _BAND):  # one band of the noise at a time is all that is kept
        rows = first, min(first + _BAND, shape[0])
        band = convolve(image, template, hidden=excluded, rows=rows)
        noise = convolve(variance, squared, hidden=excluded, rows=rows)
        support = convolve(usable, weights, near, 1.0, rows=rows)
        if model is not None:
            _add_model(noise, model, template, lit, rows)
        _divide(band, noise, support, np.float32(_MIN_SUPPORT))
        score[rows[0] : rows[1]] = band
    return score


def _add_model(
    noise: FloatImage,
    model: tuple[FloatImage, ModelErrors],
    psf: VaryingKernel,
    lit: _Bool | None,
    rows: tuple[int, int],
) -> None:
    """Add the errors of the model to the noise of a band of `rows`; `lit` blocks hold light that matters."""
    margin = block_shape(psf.shape)[1]
    first, last = max(rows[0] - margin, 0), min(rows[1] + margin, psf.shape[0])
    light = convolve(model[0], psf, lit, rows=(first, last))
    wide = np.zeros(light.shape, np.float32)
    add_model_errors(wide, light, model[1])
    noise += wide[rows[0] - first : rows[1] - first]


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
