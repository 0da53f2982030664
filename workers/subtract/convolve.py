"""Convolution with a kernel that varies smoothly over the image: one overlap-save FFT per polynomial term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from workers.imaging.exposure import FloatImage
from workers.imaging.psf import PsfModel, polynomial_terms

__all__ = ["VaryingKernel", "convolve", "grid_positions", "grow"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_TILE = 128  # pixels: a row of such tiles stays in the cache


def grid_positions(shape: tuple[int, int], count: int = 5) -> tuple[_Float, _Float]:
    """Return pixel (x, y) of a `count` by `count` grid that spans an image of `shape`, float64 (count²,)."""
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, count), np.linspace(0, shape[0] - 1, count))
    return x.ravel(), y.ravel()


@dataclass(frozen=True)
class VaryingKernel:
    """K(x, y) = sum_k t_k(u, v) coefficients[k]; u, v as in `PsfModel`, and no normalisation."""

    coefficients: _Float
    """Shape (terms, n, n), n odd."""
    degree: int
    shape: tuple[int, int]
    """(height, width) of the image: the domain of the polynomial."""

    @property
    def half(self) -> int:
        """Half width, pixels: the kernel is 2 half + 1 on a side."""
        return int(self.coefficients.shape[1]) // 2

    def terms(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the polynomial terms at pixel positions, float64 (m, terms)."""
        u, v = (_scaled(np.asarray(p, float), n) for p, n in ((x, self.shape[1]), (y, self.shape[0])))
        return polynomial_terms(u, v, self.degree)

    def at(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the kernels at pixel positions, float64 (m, n, n)."""
        return np.asarray(np.tensordot(self.terms(x, y), self.coefficients, axes=1))

    def flipped(self) -> VaryingKernel:
        """Return the kernel turned by 180 degrees: convolving with it is correlating with this one."""
        return VaryingKernel(self.coefficients[:, ::-1, ::-1], self.degree, self.shape)

    def sum_image(self) -> FloatImage:
        """Return the kernel's sum at each pixel, float32 of `shape`."""
        u, v = (_scaled(np.arange(n, dtype=float), n).astype(np.float32) for n in self.shape[::-1])
        sums = self.coefficients.sum(axis=(1, 2)).astype(np.float32)
        powers = _powers(self.degree)
        parts = [c * v[:, None] ** j * u**i for c, (i, j) in zip(sums, powers, strict=True)]
        return np.asarray(sum(parts[1:], parts[0] + np.zeros(self.shape, np.float32)), np.float32)

    @classmethod
    def fit(
        cls, kernels: NDArray[np.floating], x: ArrayLike, y: ArrayLike, degree: int, shape: tuple[int, int]
    ) -> VaryingKernel:
        """Fit the polynomial to kernels (m, n, n) given at m pixel positions, by least squares."""
        empty = cls(np.zeros((1, 1, 1)), degree, shape)
        flat = np.linalg.lstsq(empty.terms(x, y), kernels.reshape(len(kernels), -1), rcond=None)[0]
        return cls(flat.reshape(-1, *kernels.shape[1:]), degree, shape)

    @classmethod
    def from_psf(cls, psf: PsfModel) -> VaryingKernel:
        """Return a PSF model as a kernel (unit sum to the accuracy of the model's fit)."""
        psf = psf.on_pixels()
        return cls(psf.coefficients.astype(float), psf.degree, (psf.height, psf.width))

    @classmethod
    def constant(cls, kernel: NDArray[np.floating] | _Bool, shape: tuple[int, int]) -> VaryingKernel:
        """Return one kernel (n, n) for the whole image."""
        return cls(np.asarray(kernel, float)[None], 0, shape)


def convolve(image: NDArray[np.floating] | _Bool, kernel: VaryingKernel) -> FloatImage:
    """Return sum_d K(d; x) image[x - d], float32; the kernel is the one at the output pixel; outside the image is 0.

    Alard (2000), A&AS 144, 363, eq. 3: one convolution per spatial term. `image` must be finite.
    """
    half, (height, width) = kernel.half, kernel.shape
    size = _TILE if half <= _TILE // 5 else 4 * _TILE
    step = size - 2 * half
    rows, columns = -(-height // step), -(-width // step)
    padded = np.zeros((rows * step + 2 * half, columns * step + 2 * half), np.float32)
    padded[half : half + height, half : half + width] = image
    tiles = sliding_window_view(padded, (size, size))[::step, ::step]
    transforms = fft.rfft2(kernel.coefficients.astype(np.float32), s=(size, size))
    u = _scaled(np.arange(columns * step, dtype=float), width).astype(np.float32).reshape(columns, 1, step)
    v = _scaled(np.arange(rows * step, dtype=float), height).astype(np.float32).reshape(rows, 1, step, 1)
    out = np.empty((rows * step, columns * step), np.float32)
    for row in range(rows):
        spectrum = fft.rfft2(tiles[row])
        total = np.zeros((columns, step, step), np.float32)
        for (i, j), transform in zip(_powers(kernel.degree), transforms, strict=True):
            part = fft.irfft2(spectrum * transform, s=(size, size))[:, 2 * half :, 2 * half :]
            total += part if i + j == 0 else part * (u**i * v[row] ** j)
        out[row * step : (row + 1) * step] = total.transpose(1, 0, 2).reshape(step, -1)
    return np.ascontiguousarray(out[:height, :width])


def grow(mask: _Bool, radius: float) -> _Bool:
    """Return `mask` (bool, 2-D) grown by a disc of `radius` pixels."""
    reach = int(np.floor(radius))
    if reach < 1 or not mask.any():
        return mask
    axis = np.arange(-reach, reach + 1)
    disc = np.hypot(axis[:, None], axis[None, :]) <= radius
    return np.asarray(convolve(mask.astype(np.float32), VaryingKernel.constant(disc, _shape(mask))) > 0.5)


def _shape(image: NDArray[np.generic]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _scaled(position: _Float, size: int) -> _Float:
    """Pixel positions to [-1, 1] over the image."""
    return 2.0 * position / max(size - 1, 1) - 1.0


def _powers(degree: int) -> list[tuple[int, int]]:
    """Exponents (i, j) of u^i v^j in the order of `polynomial_terms`."""
    return [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]
