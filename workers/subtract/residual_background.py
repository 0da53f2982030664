"""What background the kernel fit leaves: a low polynomial through robust means of cells of the difference.

Unmatched wings leak into the background that is fitted on stars; a pedestal of a few per cent of the noise per pixel
shifts a 5-sigma score by tenths of a sigma.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.subtract.convolve import VaryingKernel

__all__ = ["residual_background"]

_Float = NDArray[np.float64]
_CELL = 64
_CLIP = 3.0
_LEAST = 0.25  # of a cell's pixels must be usable


def residual_background(
    difference: FloatImage, noise: FloatImage, excluded: NDArray[np.bool_], degree: int = 2
) -> VaryingKernel:
    """Return the background as a 1 x 1 kernel (`sum_image` gives it per pixel), in the unit of `difference`.

    `noise` is the one-sigma error per pixel. Each 64-pixel cell gives a twice clipped mean; a degree too high for the
    number of cells is lowered, and without any usable cell the background is 0.
    """
    height, width = difference.shape
    cell = min(_CELL, height, width)
    rows, columns = height // cell, width // cell
    value, sigma, bad = (_cells(plane, rows, columns, cell) for plane in (difference, noise, excluded))
    weight = ~bad.astype(bool)
    centre = np.zeros((len(value), 1))
    for clip in (2 * _CLIP, _CLIP, _CLIP):
        inside = weight & (np.abs(value - centre) < clip * sigma)
        count = inside.sum(axis=1)
        centre = (np.where(inside, value, 0.0).sum(axis=1) / np.maximum(count, 1))[:, None]
    good = count > _LEAST * cell * cell
    shape = (int(height), int(width))
    if not good.any():
        return VaryingKernel(np.zeros((1, 1, 1)), 0, shape)
    while degree and good.sum() < 3 * (degree + 1) * (degree + 2) // 2:
        degree -= 1
    y, x = np.divmod(np.arange(rows * columns), columns)
    x, y = (x[good] + 0.5) * cell - 0.5, (y[good] + 0.5) * cell - 0.5
    return _robust_fit(centre[good, 0].astype(float), x, y, degree, shape)


def _robust_fit(value: _Float, x: _Float, y: _Float, degree: int, shape: tuple[int, int]) -> VaryingKernel:
    """Fit the polynomial, once more without cells beyond 3 robust sigma."""
    fit = VaryingKernel.fit(value[:, None, None], x, y, degree, shape)
    rest = value - fit.at(x, y)[:, 0, 0]
    spread = 1.4826 * np.median(np.abs(rest - np.median(rest)))
    keep = np.abs(rest) <= 3.0 * spread
    if keep.sum() < len(fit.coefficients):
        return fit
    return VaryingKernel.fit(value[keep, None, None], x[keep], y[keep], degree, shape)


def _cells(plane: NDArray[Any], rows: int, columns: int, cell: int) -> NDArray[Any]:
    """Return whole cells as rows: (rows * columns, cell * cell)."""
    cut = plane[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    return cut.transpose(0, 2, 1, 3).reshape(rows * columns, cell * cell)
