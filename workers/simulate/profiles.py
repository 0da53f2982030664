"""Light profiles as sums of circular Gaussians, so that convolving a galaxy with the PSF is adding covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

__all__ = ["DE_VAUCOULEURS", "EXPONENTIAL", "POINT", "Mixture", "moffat", "profile_tables"]

_Float = NDArray[np.float64]
POINT, EXPONENTIAL, DE_VAUCOULEURS = 0, 1, 2
"""Rows of `profile_tables`."""


@dataclass(frozen=True)
class Mixture:
    """Flux fractions and widths (sigma) of the Gaussians, in units of the profile's scale."""

    weights: _Float
    sigmas: _Float

    @property
    def squared(self) -> float:
        """Integral of the profile's square, for unit flux and unit scale: its inverse is the noise area."""
        sums = np.add.outer(self.sigmas**2, self.sigmas**2)
        return float(np.sum(np.outer(self.weights, self.weights) / (2.0 * np.pi * sums)))

    @property
    def peak(self) -> float:
        """Central surface brightness, for unit flux and unit scale."""
        return float(np.sum(self.weights / (2.0 * np.pi * self.sigmas**2)))


def _mixture(profile: Callable[[_Float], _Float], radius: _Float, sigmas: _Float) -> Mixture:
    """Fit a sum of Gaussians to `profile`, non-negative, errors weighted by the root of r / profile."""
    target = profile(radius)
    basis = np.exp(-0.5 * (radius[:, None] / sigmas) ** 2) / (2.0 * np.pi * sigmas**2)
    weight = np.sqrt(radius / (target + 1.0e-3 * target[0]))
    fractions, _ = nnls(basis * weight[:, None], target * weight)
    keep = fractions > 0.0
    return Mixture(fractions[keep] / fractions.sum(), sigmas[keep])


@lru_cache(maxsize=8)
def moffat(beta: float) -> Mixture:
    """Return a Moffat profile of exponent `beta` (Moffat 1969) as five Gaussians; the scale is the FWHM.

    For beta = 3 the sum follows the profile to 1 % out to three FWHM.
    """
    alpha = 0.5 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)

    def profile(r: _Float) -> _Float:
        return np.asarray((beta - 1.0) / (np.pi * alpha**2) * (1.0 + (r / alpha) ** 2) ** -beta)

    return _mixture(profile, np.linspace(0.005, 6.0, 1500), np.geomspace(0.3, 2.0, 5))


@lru_cache(maxsize=1)
def profile_tables() -> tuple[_Float, _Float]:
    """Return (weights, variances), float64 (3, n), of POINT, EXPONENTIAL and DE_VAUCOULEURS; scale: half-light radius.

    Sersic (1963) profiles of index 1 and 4, the latter cut at eight half-light radii; the idea of the sums is
    that of Hogg & Lang (2013, PASP 125, 719). Rows are filled up with weight zero.
    """
    radius = np.linspace(0.01, 6.0, 2000)
    exponential = _mixture(lambda r: np.exp(-1.67835 * r), radius, np.geomspace(0.1, 2.0, 6))
    radius = np.geomspace(0.01, 8.0, 2000)
    bulge = _mixture(lambda r: np.exp(-7.66925 * (r**0.25 - 1.0)), radius, np.geomspace(0.03, 4.0, 8))
    point = Mixture(np.ones(1), np.zeros(1))
    size = max(len(mixture.weights) for mixture in (exponential, bulge))
    weights, variances = np.zeros((3, size)), np.ones((3, size))
    for row, mixture in enumerate((point, exponential, bulge)):
        weights[row, : len(mixture.weights)] = mixture.weights
        variances[row, : len(mixture.sigmas)] = mixture.sigmas**2
    return weights, variances
