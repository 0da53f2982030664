"""What adds or moves charge during an exposure: cosmic rays, satellite trails, bleeding along columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.imaging.psf import FWHM_PER_SIGMA

__all__ = ["bleed", "cosmic_rays", "satellite_trail"]

_Float = NDArray[np.float64]
_STEPS = 64


def cosmic_rays(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> _Float:
    """Return the electrons of about `mean` (Poisson) tracks, float64 of `shape` (height, width).

    Isotropic straight tracks: length exponential with 6 pixels, 250 electrons per pixel with log-normal scatter.
    """
    image = np.zeros(shape)
    count = int(rng.poisson(mean))
    draws = rng.random((count, 4))
    height, width = shape
    length = 1.0 - 6.0 * np.log1p(-draws[:, 0])
    angle = 2.0 * np.pi * draws[:, 1]
    charge = length * 250.0 * np.exp(0.6 * rng.standard_normal(count))
    along = np.linspace(0.0, 1.0, _STEPS)[None, :] * length[:, None]
    x = np.rint(draws[:, 2, None] * width + along * np.cos(angle)[:, None]).astype(int)
    y = np.rint(draws[:, 3, None] * height + along * np.sin(angle)[:, None]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    step = np.broadcast_to(charge[:, None] / _STEPS, x.shape)
    np.add.at(image, (y[inside], x[inside]), step[inside])
    return image


def satellite_trail(
    rng: np.random.Generator, shape: tuple[int, int], origin: tuple[float, float], radius: float, fwhm: float
) -> _Float:
    """Return the electrons of one straight trail through the focal plane, float64 of `shape` (height, width).

    `origin` is the boresight in this detector's pixels and `radius` the largest distance of the trail from it; the
    same generator state gives the same line on every detector. `fwhm` in pixels; the crest has 60 to 1500 electrons.
    """
    turn, distance, brightness = rng.random(3)
    angle, offset = np.pi * turn, radius * (2.0 * distance - 1.0)
    x = np.arange(shape[1])[None, :] - origin[0]
    y = np.arange(shape[0])[:, None] - origin[1]
    across = x * np.sin(angle) - y * np.cos(angle) - offset
    return np.asarray(60.0 * 25.0**brightness * np.exp(-0.5 * (across * FWHM_PER_SIGMA / (1.1 * fwhm)) ** 2))


def bleed(electrons: _Float, full_well: float) -> _Float:
    """Return the image after charge above `full_well` has run along its column, half up and half down.

    The input is not changed. Charge that reaches the edge is lost; otherwise it is conserved.
    """
    result = np.minimum(electrons, full_well)
    for column in np.flatnonzero((electrons > full_well).any(axis=0)):
        _bleed_column(result[:, column], electrons[:, column] - full_well, full_well)
    return result


def _bleed_column(column: _Float, excess: _Float, full_well: float) -> None:
    """Spread each run of positive `excess` over `column` (changed in place)."""
    above = np.flatnonzero(excess > 0.0)
    for run in np.split(above, np.flatnonzero(np.diff(above) > 1) + 1):
        half = 0.5 * float(excess[run].sum())
        _fill(column[run[-1] + 1 :], half, full_well)
        _fill(column[: run[0]][::-1], half, full_well)


def _fill(pixels: _Float, charge: float, full_well: float) -> None:
    """Fill `pixels` (changed in place) to `full_well` in their order until `charge` is used up."""
    room = full_well - pixels
    taken = np.minimum(np.cumsum(room), charge)
    pixels += np.diff(taken, prepend=0.0)
