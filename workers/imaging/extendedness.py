"""Tell stars from galaxies: how far a source lies from the PSF towards a galaxy's profile, and how surely.

The spread is the linear discriminant of SExtractor's SPREAD_MODEL (Desai et al. 2012, ApJ 757, 83, section 4.2.3):
with the PSF P and the PSF convolved with a small exponential disc G, both at the source,
s = sum(G d) / sum(P d) - sum(G P) / sum(P P), here with equal weights and divided by its value for G itself. It is 0
for a star and 1 for such a disc. Extendedness is the probability of a galaxy: stars are spread about 0 by the noise
alone, the spreads of galaxies have a gamma distribution of shape 2 before the noise, as simulated exponential discs
with half-light radii of 0.15 to 1.1 FWHM have (0.5, 2.1, 4.7: their 5th, 50th and 95th percentile; the distribution
has 0.4, 1.8, 5.2), and both kinds are equally frequent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import erfcx

from workers.imaging.photometry import core_half
from workers.imaging.point_fits import shifted_stamps
from workers.imaging.psf import PsfModel
from workers.imaging.squares import cut_squares

__all__ = ["extendedness_of", "spread_model"]

_Float = NDArray[np.float64]

DISC = 0.12
"""Of the FWHM: scale length of the disc; its half-light radius is 1.68 times that."""
MARGIN = 3
"""Pixels beyond the PSF's core that are compared."""
TYPICAL = 1.1
"""Half the mean spread of galaxies: the scale of the gamma distribution."""
PSF_ERROR = 0.02
"""Of the spread: how well the PSF is known."""
BATCH = 512


def spread_model(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: NDArray[np.bool_],
    psf: PsfModel,
    x: _Float,
    y: _Float,
) -> tuple[_Float, _Float]:
    """Return the spread of each source and its error, float64 (n,); NaN where a pixel of the core can't be used.

    Planes and positions (0-based pixels, finite) as in `psf_fluxes`.
    """
    half = min(core_half(psf) + MARGIN, psf.size // 2)
    wide = _with_disc(psf)
    out = np.full((len(x), 2), np.nan)
    for begin in range(0, len(x), BATCH):
        at = slice(begin, begin + BATCH)
        column, row = np.round(x[at]), np.round(y[at])
        shift = x[at] - column, y[at] - row
        squares = cut_squares(image, variance, usable, column, row, half)
        stars, discs = (
            shifted_stamps(_cropped(model.fine_stamps(x[at], y[at]), half, psf.oversampling), *shift, psf.oversampling)
            for model in (psf, wide)
        )
        _compare(squares.data, squares.noise, stars, discs, out[at])
    return out[:, 0], out[:, 1]


def extendedness_of(spread: _Float, error: _Float) -> _Float:
    """Return the probability, 0 to 1, that a source of this spread and error is a galaxy; NaN where either is."""
    sigma = np.hypot(error, PSF_ERROR)
    place = spread / sigma - sigma / TYPICAL
    with np.errstate(over="ignore", invalid="ignore"):
        # the integral over s' of s' exp(-s' / T) / T^2 N(s; s', sigma), divided by N(s; 0, sigma)
        tail = 1.0 + place * np.sqrt(0.5 * np.pi) * erfcx(-place / np.sqrt(2.0))
        return np.asarray(1.0 - 1.0 / (1.0 + np.square(sigma / TYPICAL) * np.maximum(tail, 0.0)))


def _with_disc(psf: PsfModel) -> PsfModel:
    """Return the PSF convolved with the disc, by its Fourier transform (1 + (2 pi h k)^2)^(-3/2)."""
    scale = DISC * psf.fwhm(0.5 * psf.width, 0.5 * psf.height) * psf.oversampling
    size = psf.coefficients.shape[1]
    padded = 2 * size
    frequency = np.hypot(np.fft.fftfreq(padded)[:, None], np.fft.rfftfreq(padded)[None, :])
    disc = (1.0 + np.square(2.0 * np.pi * scale * frequency)) ** -1.5
    light = np.fft.irfft2(np.fft.rfft2(psf.coefficients.astype(float), (padded, padded)) * disc, (padded, padded))
    return replace(psf, coefficients=light[:, :size, :size].astype(np.float32))


def _cropped(stamps: _Float, half: int, oversampling: int) -> _Float:
    """Return the middle 2 half + 1 pixels of oversampled stamps."""
    middle, reach = stamps.shape[1] // 2, half * oversampling
    return np.ascontiguousarray(stamps[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1])


@njit(cache=True, nogil=True)
def _compare(data: Any, noise: Any, stars: Any, discs: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Write the spread and its error; see the module."""
    size = data.shape[1]
    for source in range(data.shape[0]):
        pp, gp, gg, gd, pd = 0.0, 0.0, 0.0, 0.0, 0.0
        whole = True
        for i in range(size):
            for j in range(size):
                if noise[source, i, j] < 0.0:
                    whole = False
                p, g, d = stars[source, i, j], discs[source, i, j], data[source, i, j]
                pp += p * p
                gp += g * p
                gg += g * g
                gd += g * d
                pd += p * d
        if not whole or pd == 0.0:
            continue
        unit = gg / gp - gp / pp
        ratio = gd / pd
        variance = 0.0
        for i in range(size):
            for j in range(size):
                lever = discs[source, i, j] - ratio * stars[source, i, j]
                variance += lever * lever * noise[source, i, j]
        out[source, 0] = (ratio - gp / pp) / unit
        out[source, 1] = np.sqrt(variance) / abs(pd) / unit
