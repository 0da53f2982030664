"""Whiten the noise that the matching kernel correlates (Reiss & Lupton 2016, DMTN-021, eq. 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

__all__ = ["noise_gains", "whitening_kernels"]

_Float = NDArray[np.float64]


def whitening_kernels(kernels: _Float, variance_plain: _Float, variance_convolved: _Float, half: int) -> _Float:
    """Return the kernels psi that whiten U - K*C, float64 (m, 2 half + 1, 2 half + 1), each of unit sum.

    ``|psi(k)|^2 = (v_u + v_c sum K^2) / (v_u + v_c |K(k)|^2)``; `kernels` (m, n, n); the variances (m,) are the sky's,
    of the plain image U and of the convolved image C before convolution. Unit sum keeps fluxes as they are.
    """
    size = 64 if max(kernels.shape[1], 2 * half + 1) <= 41 else 128
    power = np.abs(fft.rfft2(kernels, s=(size, size))) ** 2
    plain, convolved = variance_plain[:, None, None], variance_convolved[:, None, None]
    squares = np.square(kernels).sum(axis=(1, 2))[:, None, None]
    psi = fft.irfft2(np.sqrt((plain + convolved * squares) / (plain + convolved * power)), s=(size, size))
    psi = fft.fftshift(psi, axes=(1, 2))[
        :, size // 2 - half : size // 2 + half + 1, size // 2 - half : size // 2 + half + 1
    ]
    return np.asarray(psi / psi.sum(axis=(1, 2), keepdims=True))


def noise_gains(psi: _Float, kernels: _Float, psfs: _Float) -> tuple[_Float, _Float]:
    """Return (a, b), each (m,): per-pixel variance a v_u + b v_c gives a PSF flux on psi*(U - K*C) its true error.

    `psfs` (m, p, p) are the PSFs of the whitened difference. On blank sky this is the pixel variance itself, since the
    noise is white there; on sources, whose own noise psi does not whiten, it is what matters for photometry.
    """
    plain = signal.fftconvolve(psfs, psi[:, ::-1, ::-1], axes=(1, 2))
    through = signal.fftconvolve(plain, kernels[:, ::-1, ::-1], axes=(1, 2))
    norm = np.square(psfs).sum(axis=(1, 2))
    return np.square(plain).sum(axis=(1, 2)) / norm, np.square(through).sum(axis=(1, 2)) / norm
