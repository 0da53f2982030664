"""What background the kernel fit leaves: a low polynomial through robust means of cells of the difference.

Unmatched wings leak into the background that is fitted on stars; a pedestal of a few per cent of the noise per pixel
shifts a 5-sigma score by tenths of a sigma.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, frozen_array
from workers.subtract.convolve import VaryingKernel, polynomial_row

__all__ = ["residual_background", "take_off"]

_Float = NDArray[np.float64]
_CELL = 64
_CLIPS = (6.0, 3.0, 3.0)
"""Sigma, in turn."""
_STEP = 4
_LEAST = 0.25  # of a cell's pixels must be usable


def residual_background(
    difference: FloatImage,
    variance: FloatImage,
    excluded: NDArray[np.bool_],
    degree: int = 2,
    more: FloatImage | None = None,
) -> VaryingKernel:
    """Return the background as a 1 x 1 kernel (`sum_image` gives it per pixel), in the unit of `difference`.

    `variance` per pixel, and `more` to add to it. Each 64-pixel cell gives a twice clipped mean; a degree too high for
    the number of cells is lowered, and without any usable cell the background is 0.
    """
    height, width = difference.shape
    cell = min(_CELL, height, width)
    rows, columns = height // cell, width // cell
    centre, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    more = np.zeros((0, 0), np.float32) if more is None else more
    one, two, three, bad = (frozen_array(np.ascontiguousarray(p)) for p in (difference, variance, more, excluded))
    _clipped_means(one, two, three, bad, cell, _CLIPS, centre, count)
    good = (count > _LEAST * cell * cell).ravel()
    shape = (int(height), int(width))
    if not good.any():
        return VaryingKernel(np.zeros((1, 1, 1)), 0, shape)
    while degree and good.sum() < 3 * (degree + 1) * (degree + 2) // 2:
        degree -= 1
    y, x = np.divmod(np.arange(rows * columns), columns)
    x, y = (x[good] + 0.5) * cell - 0.5, (y[good] + 0.5) * cell - 0.5
    return _robust_fit(centre.ravel()[good], x, y, degree, shape)


def take_off(image: FloatImage, background: VaryingKernel, excluded: NDArray[np.bool_]) -> None:
    """Take a background, as `residual_background` gives it, off `image` in place; excluded pixels become 0."""
    rows, u = background.row_polynomials()
    _take_off(image, rows, u, excluded)


def _robust_fit(value: _Float, x: _Float, y: _Float, degree: int, shape: tuple[int, int]) -> VaryingKernel:
    """Fit the polynomial, once more without cells beyond 3 robust sigma."""
    fit = VaryingKernel.fit(value[:, None, None], x, y, degree, shape)
    rest = value - fit.at(x, y)[:, 0, 0]
    spread = 1.4826 * np.median(np.abs(rest - np.median(rest)))
    keep = np.abs(rest) <= 3.0 * spread
    if keep.sum() < len(fit.coefficients):
        return fit
    return VaryingKernel.fit(value[keep, None, None], x[keep], y[keep], degree, shape)


@njit(cache=True, nogil=True, fastmath=True)
def _clipped_means(
    image: Any, variance: Any, more: Any, excluded: Any, cell: int, clips: Any, centre: Any, count: Any
) -> None:  # pragma: no cover - compiled
    """Fill the mean and the number of pixels of each cell, of those within so many sigma of the mean before.

    The first rounds look at every fourth row.
    """
    noises = np.empty(cell, np.float32)
    for row in range(centre.shape[0]):
        for column in range(centre.shape[1]):
            left, right = column * cell, (column + 1) * cell
            for turn in range(len(clips)):
                square, middle = np.float32(clips[turn] * clips[turn]), np.float32(centre[row, column])
                total, number = np.float64(0.0), 0
                for y in range(row * cell, (row + 1) * cell, 1 if turn == len(clips) - 1 else _STEP):
                    values, bad = image[y, left:right], excluded[y, left:right]
                    if more.size > 0:
                        for x in range(cell):
                            noises[x] = variance[y, left + x] + more[y, left + x]
                    else:
                        noises[:] = variance[y, left:right]
                    part, good = np.float32(0.0), 0
                    for x in range(cell):
                        off = values[x] - middle
                        inside = (not bad[x]) & (off * off < square * noises[x])
                        part += off if inside else np.float32(0.0)
                        good += inside
                    total += part
                    number += good
                count[row, column] = number
                if number > 0:
                    centre[row, column] = middle + total / number


@njit(cache=True, nogil=True)
def _take_off(image: Any, rows: Any, u: Any, excluded: Any) -> None:  # pragma: no cover - compiled
    """Row by row."""
    level = np.empty(u.size, np.float32)
    for y in range(image.shape[0]):
        polynomial_row(rows[y], u, level)
        line, bad = image[y], excluded[y]
        for x in range(u.size):
            line[x] = np.float32(0.0) if bad[x] else line[x] - level[x]
