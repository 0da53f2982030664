"""Variance: what one more exposure of the same sky would scatter by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from workers.imaging.exposure import FloatImage
from workers.isr.gain import gains, read_noises
from workers.isr.state import IsrState
from workers.survey.camera import parse_section

__all__ = ["add_counting_noise", "apply"]

_HALF = 2
"""Pixels on each side of the box that the expected charge is the mean of."""
_LIKE = np.float32(9.0)
"""Squared sigma within which a pixel is taken for a member of its box."""


def apply(state: IsrState) -> None:
    """Add Poisson noise (of light and of the dark charge taken off) and read noise, in electrons².

    Taken before the flat, for it is the detected electrons that scatter; the noise of bias and dark is there already.
    """
    state.need_unit("electron", "variance")
    dark = state.need("dark").image if state.dark_seconds else state.image[:0, :0]
    for amplifier, gain, noise in zip(state.detector.amplifiers, gains(state), read_noises(state), strict=True):
        section, seconds = parse_section(amplifier.position), state.dark_seconds * gain
        add_counting_noise(state.image, state.variance, noise, section, dark=dark, dark_scale=seconds)


def add_counting_noise(
    image: FloatImage,
    variance: FloatImage,
    read_noise: float,
    section: tuple[slice, slice],
    *,
    dark: FloatImage,
    dark_scale: float,
) -> None:
    """Add to a section of `variance` (electrons², changed in place) the noise of `image` (electrons).

    The charge expected in a pixel is the mean of the 5 x 5 pixels round it where the pixel is within 3 sigma of that
    mean, and its own charge elsewhere (in stars). Its own charge everywhere would make low pixels certain and high ones
    uncertain: weighted means would be low by an electron in every pixel, and pulls would not have mean zero.
    `dark` (of the image's shape, or empty) times `dark_scale` is charge that was taken off and scatters still.
    """
    rows, columns = section
    bounds = (rows.start, rows.stop, columns.start, columns.stop)
    hot = dark.size > 0
    _add(image, variance, dark if hot else image, bounds, np.float32(read_noise**2), np.float32(dark_scale), hot)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"})
def _add(
    image: Any, variance: Any, dark: Any, bounds: Any, read: Any, scale: Any, hot: bool
) -> None:  # pragma: no cover - compiled
    top, bottom, left, right = bounds
    width = right - left
    sums = np.empty(width + 2 * _HALF, np.float32)
    charge = np.empty(width, np.float32)
    for y in range(top, bottom):
        _box_means(image, y, bounds, sums, charge)
        row, noise = image[y, left:right], variance[y, left:right]
        for x in range(width):
            away = row[x] - charge[x]
            alike = away * away <= _LIKE * (max(charge[x], np.float32(0)) + read)
            charge[x] = charge[x] if alike else row[x]
        if hot:
            warm = dark[y, left:right]
            for x in range(width):
                charge[x] += warm[x] * scale
        for x in range(width):
            noise[x] += max(charge[x], np.float32(0)) + read


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"})
def _box_means(image: Any, y: int, bounds: Any, sums: Any, mean: Any) -> None:  # pragma: no cover - compiled
    """Mean over the box round each pixel of row `y`, rows and columns at the section's border counted again."""
    top, bottom, left, right = bounds
    width = right - left
    inner = sums[_HALF : _HALF + width]
    a, b = image[max(y - 2, top), left:right], image[max(y - 1, top), left:right]
    c, d = image[y, left:right], image[min(y + 1, bottom - 1), left:right]
    e = image[min(y + 2, bottom - 1), left:right]
    for x in range(width):
        inner[x] = a[x] + b[x] + c[x] + d[x] + e[x]
    sums[:_HALF] = inner[0]
    sums[width + _HALF :] = inner[width - 1]
    a, b, d, e = sums[:width], sums[1 : width + 1], sums[3 : width + 3], sums[4 : width + 4]
    for x in range(width):
        mean[x] = (a[x] + b[x] + inner[x] + d[x] + e[x]) * np.float32(1 / 25)
