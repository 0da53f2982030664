"""The last resort: a matching kernel from the two PSFs alone, where too few stars are there to fit one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from workers.imaging.psf import PsfModel
from workers.subtract.basis import tapered
from workers.subtract.convolve import VaryingKernel, grid_positions

__all__ = ["psf_ratio_kernel"]

_Float = NDArray[np.float64]
_FLOOR = 1e-3
"""Of the sharper PSF's largest power: what is below is not divided by."""


def psf_ratio_kernel(target: PsfModel, convolved: PsfModel, half: int, shape: tuple[int, int]) -> VaryingKernel:
    """Return the kernel, 2 `half` + 1 pixels on a side and of unit sum, that turns `convolved` into `target`.

    A Wiener quotient of the PSFs' transforms on a grid over the image of `shape`: fluxes of both images must be on one
    scale.
    """
    x, y = grid_positions(shape)
    size = fft.next_fast_len(target.size + convolved.size + 2 * half)
    wanted, given = (fft.rfft2(_centred(psf.stamps(x, y), size), axes=(1, 2)) for psf in (target, convolved))
    power = np.square(np.abs(given))
    floor = _FLOOR * power.max(axis=(1, 2), keepdims=True)
    kernels = fft.fftshift(fft.irfft2(wanted * given.conj() / (power + floor), s=(size, size)), axes=(1, 2))
    part = slice(size // 2 - half, size // 2 + half + 1)
    edge = tapered(np.arange(-half, half + 1) / (half + 1))
    kernels = kernels[:, part, part] * edge[:, None] * edge
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    return VaryingKernel.fit(kernels, x, y, min(2, max(target.degree, convolved.degree)), shape)


def _centred(stamps: _Float, size: int) -> _Float:
    """Return the stamps in squares of `size` pixels, their middle at pixel (0, 0)."""
    n = stamps.shape[1]
    out = np.zeros((len(stamps), size, size))
    out[:, :n, :n] = stamps
    return np.asarray(np.roll(out, (-(n // 2), -(n // 2)), axis=(1, 2)))
