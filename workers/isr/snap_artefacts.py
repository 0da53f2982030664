"""What is in one of two snaps only: cosmic rays, trails, moving things (LDM-151 section 8.2.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import sep
from numba import njit
from numpy.typing import NDArray

from workers.imaging.detection import sep_image
from workers.imaging.exposure import FloatImage

__all__ = ["find_artefacts", "sky_level"]

_Bool = NDArray[np.bool_]


def sky_level(image: FloatImage, blocked: _Bool, mesh: int) -> FloatImage:
    """Return the smooth sky of an image, float32 (height, width), from cells of `mesh` pixels; 0 if all is blocked."""
    clean, masked = sep_image(image, blocked)
    if masked.all():
        return np.zeros_like(clean)
    return np.asarray(sep.Background(clean, mask=masked, bw=mesh, bh=mesh, fw=3, fh=3).back(dtype=np.float32))


def find_artefacts(
    difference: FloatImage,
    variance: FloatImage,
    fainter: FloatImage,
    blocked: _Bool,
    *,
    threshold: float = 5.0,
    growth: float = 2.5,
    tolerance: float = 0.3,
) -> tuple[_Bool, _Bool]:
    """Return two bool masks (height, width): what is in the first snap only, and what is in the second only.

    `difference` (first less second, sky difference off), its `variance`, and `fainter`, the lower of the two snaps
    above the sky, are float32 (height, width) on one scale; `blocked` pixels are never artefacts. An artefact's
    difference exceeds `threshold` sigma after `tolerance` times the brightest of `fainter` within a pixel is taken
    off: so much may seeing, pointing and clouds move a star. Neighbours of the same sign follow above `growth` sigma,
    and theirs. What is left is searched once more on the mean of 3x3 pixels, for trails fainter than the pixels' noise.
    """
    excess, spread = _excess(difference, fainter, variance, blocked, np.float32(tolerance))
    found = _grown(excess, spread, threshold, growth)
    excess[found != 0] = np.nan
    smooth, noise = _means(excess, spread)
    found |= _grown(smooth, noise, threshold, growth)
    return found == 1, found == -1


@njit(cache=True, nogil=True)
def _excess(difference: Any, fainter: Any, variance: Any, blocked: Any, tolerance: Any) -> Any:  # pragma: no cover
    """Return the difference drawn towards zero by the allowance, NaN where blocked, and its sigma; float32."""
    height, width = difference.shape
    excess, sigma = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    zero = np.float32(0.0)
    brightest = np.empty(width + 2, np.float32)  # of three rows; by column, with one more at each end
    for y in range(height):
        brightest[:] = zero
        for row in range(max(y - 1, 0), min(y + 2, height)):
            for x in range(width):
                if fainter[row, x] > brightest[x + 1]:  # false for NaN
                    brightest[x + 1] = fainter[row, x]
        for x in range(width):
            value, sigma[y, x] = difference[y, x], np.sqrt(variance[y, x])
            if blocked[y, x] or not np.isfinite(value) or not sigma[y, x] > zero:
                excess[y, x] = np.nan
                continue
            star = max(brightest[x], brightest[x + 1], brightest[x + 2])
            allowed = tolerance * max(star - sigma[y, x], zero)  # the sky's own noise is no star
            excess[y, x] = max(value - allowed, zero) if value > zero else min(value + allowed, zero)
    return excess, sigma


@njit(cache=True, nogil=True)
def _means(excess: Any, sigma: Any) -> Any:  # pragma: no cover - compiled
    """Return mean and sigma of the good ones of 3x3 pixels; NaN where the pixel itself, or most of them, are bad."""
    height, width = excess.shape
    mean, noise = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    sums = np.empty((width + 2, 3), np.float32)  # of three rows: value, variance, number; one column more at each end
    for y in range(height):
        sums[:] = np.float32(0.0)
        for row in range(max(y - 1, 0), min(y + 2, height)):
            for x in range(width):
                if np.isfinite(excess[row, x]):
                    sums[x + 1, 0] += excess[row, x]
                    sums[x + 1, 1] += sigma[row, x] ** 2
                    sums[x + 1, 2] += np.float32(1.0)
        for x in range(width):
            count = sums[x, 2] + sums[x + 1, 2] + sums[x + 2, 2]
            mean[y, x], noise[y, x] = np.nan, 1.0
            if count > 4 and np.isfinite(excess[y, x]):
                mean[y, x] = (sums[x, 0] + sums[x + 1, 0] + sums[x + 2, 0]) / count
                noise[y, x] = np.sqrt(sums[x, 1] + sums[x + 1, 1] + sums[x + 2, 1]) / count
    return mean, noise


@njit(cache=True, nogil=True)
def _grown(excess: Any, sigma: Any, threshold: float, growth: float) -> Any:  # pragma: no cover - compiled
    """Return int8 1 or -1 in pixels beyond `threshold`, and in those beyond `growth` that hang together with them."""
    height, width = excess.shape
    found = np.zeros((height, width), np.int8)
    stack = [(0, 0)]
    for y in range(height):
        for x in range(width):
            if found[y, x] != 0 or not abs(excess[y, x]) > threshold * sigma[y, x]:
                continue
            sign = np.int8(1) if excess[y, x] > 0 else np.int8(-1)
            found[y, x] = sign
            stack.append((y, x))
            while len(stack) > 1:
                at_y, at_x = stack.pop()
                for row in range(max(at_y - 1, 0), min(at_y + 2, height)):
                    for column in range(max(at_x - 1, 0), min(at_x + 2, width)):
                        if found[row, column] == 0 and sign * excess[row, column] > growth * sigma[row, column]:
                            found[row, column] = sign
                            stack.append((row, column))
    return found
