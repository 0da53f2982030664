"""Paint stars, galaxies and moving sources: every one a sum of elliptical Gaussians, evaluated at pixel centres."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from workers.simulate.optics import PsfField
from workers.simulate.profiles import profile_tables

__all__ = ["Sources", "paint"]

_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """What to paint, arrays of length n."""

    x: _Float
    """0-based pixels."""
    y: _Float
    electrons: _Float
    profile: NDArray[np.int64]
    """Row of `profile_tables`."""
    shape: _Float
    """(n, 3): covariance xx, xy, yy, pixels², of the profile at its scale radius."""
    trail: _Float
    """(n, 3): covariance of the motion during the exposure, pixels²."""


def paint(sources: Sources, psf: PsfField, shape: tuple[int, int]) -> _Float:
    """Return the expected electrons of `sources`, float64 of `shape` (height, width), without sky."""
    image = np.zeros(shape)
    weights, variances = profile_tables()
    psf_covariance = psf.covariances(sources.x, sources.y)
    _paint(
        image,
        np.stack([sources.x, sources.y, sources.electrons], axis=-1),
        sources.profile,
        sources.shape,
        sources.trail,
        weights,
        variances,
        psf_covariance,
        psf.mixture.weights,
        psf.mixture.sigmas**2,
    )
    return image


@numba.njit(cache=True, nogil=True)
def _paint(
    image: _Float,
    places: _Float,
    profile: NDArray[np.int64],
    shape: _Float,
    trail: _Float,
    weights: _Float,
    variances: _Float,
    psf: _Float,
    psf_weights: _Float,
    psf_variances: _Float,
) -> None:
    """Add each source, component by component; along a row a Gaussian follows from two multiplications."""
    height, width = image.shape
    for n in range(places.shape[0]):
        x, y, flux = places[n]
        for i in range(weights.shape[1]):
            for j in range(psf_weights.size):
                fraction = flux * weights[profile[n], i] * psf_weights[j]
                if fraction <= 0.0:
                    continue
                s, p = variances[profile[n], i], psf_variances[j]
                xx = s * shape[n, 0] + p * psf[n, 0] + trail[n, 0]
                xy = s * shape[n, 1] + p * psf[n, 1] + trail[n, 1]
                yy = s * shape[n, 2] + p * psf[n, 2] + trail[n, 2]
                determinant = xx * yy - xy * xy
                peak = fraction / (2.0 * np.pi * np.sqrt(determinant))
                # out to where it falls below 0.01 electrons per pixel, within 4 to 8 sigma
                reach = min(max(np.sqrt(2.0 * np.log(max(peak, 0.01) / 0.01)), 4.0), 8.0)
                a, b, c = yy / determinant, -xy / determinant, xx / determinant
                first = max(0, int(np.ceil(y - reach * np.sqrt(yy))))
                last = min(height - 1, int(np.floor(y + reach * np.sqrt(yy))))
                growth = np.exp(-a)
                for row in range(first, last + 1):
                    dy = row - y
                    middle = x - b / a * dy
                    half = np.sqrt(max(reach * reach - dy * dy / yy, 0.0) / a)
                    left = max(0, int(np.ceil(middle - half)))
                    right = min(width - 1, int(np.floor(middle + half)))
                    dx = left - x
                    value = peak * np.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
                    ratio = np.exp(-a * (dx + 0.5) - b * dy)
                    for column in range(left, right + 1):
                        image[row, column] += value
                        value *= ratio
                        ratio *= growth
