"""How well the matched template follows the stars: what is left of them in the difference, as shares and shifts.

A source can be subtracted no better than the kernel and the registration are known. Both errors are measured on the
bright stars of the pair, and detection takes them into account: they are the same for all pixels of a source, so they
act on its filtered light (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27, section 3.3: astrometric noise of the corrected
score). Photometry keeps its own errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from workers.imaging.exposure import FloatImage

__all__ = ["ModelErrors", "add_model_errors", "model_errors"]

_Float = NDArray[np.float64]
_SMOOTH = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
LEAST_SHARE, MOST_SHARE = 0.001, 0.05
MOST_SHIFT = 0.5
"""Pixels."""
_CHANGED, _MOVED, _OTHERS = 0.2, 1.0, 0.1
"""Share of a variable star's flux and pixels of a moving one, one sigma, and how many stars are such."""
_LESS_LIKELY = 0.5
"""Of the logarithm of the likelihood, against the greatest."""
_FINEST, _TRIALS = 1e-3, 80
"""Least scatter tried, in units of the largest, and number of trials."""
FEWEST = 8
"""Stars; with fewer the errors are taken to be the usual ones."""


@dataclass(frozen=True)
class ModelErrors:
    """One sigma of what is left of a star."""

    share: float = 0.01
    """Of its flux."""
    shift: float = 0.0
    """Of its place along an axis, pixels."""


def model_errors(
    difference: FloatImage, variance: FloatImage, model: FloatImage, stars: _Float, half: int
) -> ModelErrors:
    """Return what is left of stars, by the `model` that was subtracted.

    Scatter over the `stars` (n, 2), pixels (x, y), within `half` pixels of each, beyond what noise alone gives.
    """
    column, row = np.round(stars).astype(int).T
    edge = 1 + len(_SMOOTH) // 2
    reach, (height, width) = half + edge, difference.shape
    inside = (column >= reach) & (row >= reach) & (column < width - reach) & (row < height - reach)
    if np.count_nonzero(inside) < FEWEST:
        return ModelErrors()
    column, row = column[inside], row[inside]
    offset = np.arange(-reach, reach + 1)
    at = row[:, None, None] + offset[None, :, None], column[:, None, None] + offset[None, None, :]
    light, core = model[at].astype(float), (slice(None), slice(edge, -edge), slice(edge, -edge))
    left, noise = difference[at][core].astype(float), variance[at][core].astype(float)
    smooth = ndimage.convolve1d(ndimage.convolve1d(light, _SMOOTH, 1), _SMOOTH, 2)
    pairs = zip(_patterns(light), _patterns(smooth), strict=True)
    share, *shifts = (_amplitudes(left, noise, one[core], other[core]) for one, other in pairs)
    share_left = _spread(share, MOST_SHARE, _CHANGED)
    return ModelErrors(max(share_left, LEAST_SHARE), _spread(np.concatenate(shifts, axis=1), MOST_SHIFT, _MOVED))


def add_model_errors(noise: FloatImage, light: FloatImage, errors: ModelErrors) -> None:
    """Add (share light)^2 + (shift |gradient of light|)^2 to `noise` in place; `light` is the filtered model."""
    _add(noise, light, np.float32(errors.share**2), np.float32(0.25 * errors.shift**2))


def _patterns(light: _Float) -> tuple[_Float, _Float, _Float]:
    """Return stamps and their slopes along x and y; the outermost pixels are not valid."""
    along, up = (0.5 * (np.roll(light, -1, axis) - np.roll(light, 1, axis)) for axis in (2, 1))
    return light, along, up


def _amplitudes(left: _Float, noise: _Float, pattern: _Float, smooth: _Float) -> _Float:
    """Return the amplitude of `pattern` in what is left, and its error, (2, n).

    By its product with the smoothed pattern: the template's noise is in both the pattern and what is left.
    """
    norm = (pattern * smooth).sum(axis=(1, 2))
    norm = np.where(norm > 0.0, norm, 1e-300)
    error = np.sqrt((noise * np.square(smooth)).sum(axis=(1, 2))) / norm
    return np.stack([(left * smooth).sum(axis=(1, 2)) / norm, error])


def _spread(amplitudes: _Float, most: float, other: float) -> float:
    """Return the scatter of amplitudes about 0 beyond their errors, 0 to `most`: the end of its interval of one sigma.

    With few stars it is better overestimated: what is missed is a faint change of a bright star. A few of the values
    may be of another kind, scattered by `other`: stars that vary, or have moved.
    """
    amplitude, error = amplitudes
    trial = np.concatenate([[0.0], np.geomspace(_FINEST * most, most, _TRIALS)])
    width = np.sqrt(np.square(error[:, None]) + np.square(trial))
    wide = np.sqrt(np.square(error) + other**2)[:, None]
    usual, rare = (np.exp(-0.5 * np.square(amplitude[:, None] / w)) / w for w in (width, wide))
    likelihood = np.log(np.maximum((1.0 - _OTHERS) * usual + _OTHERS * rare, 1e-300)).sum(axis=0)
    return float(trial[np.flatnonzero(likelihood >= likelihood.max() - _LESS_LIKELY)[-1]])


@njit(cache=True, nogil=True)
def _add(noise: Any, light: Any, share: Any, shift: Any) -> None:  # pragma: no cover - compiled
    """At the border there is no gradient."""
    height, width = light.shape
    for y in range(1, height - 1):
        below, here, above, line = light[y - 1], light[y], light[y + 1], noise[y]
        for x in range(1, width - 1):
            along, up = here[x + 1] - here[x - 1], above[x] - below[x]
            line[x] += share * here[x] * here[x] + shift * (along * along + up * up)
