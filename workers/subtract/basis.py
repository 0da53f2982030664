"""The kernel basis: Gaussians times polynomials (Alard & Lupton 1998), with widths taken from the two PSFs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from workers.imaging.psf import FWHM_PER_SIGMA

__all__ = ["KernelBasis", "design_basis", "tapered"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_DEGREES = (4, 3, 2, 0)
_STEPS = (1.0, 2.0, 4.0)
_BROAD = 0.4
"""Width of the Gaussian that carries the wings, in half widths of the kernel."""
_TAPER = 0.8
"""Where, in half widths, the kernel begins to go to zero: a square edge leaves ghosts round bright stars."""
_MIN_SIGMA = 0.7  # pixels; a narrower Gaussian is undersampled


@dataclass(frozen=True)
class KernelBasis:
    """Separable kernels P[row](y) P[column](x) - surplus * (the first kernel): the first sums to 1, the others to 0.

    With zero sums only the first coefficient carries flux, which decouples scale from shape (Alard 2000, section 3).
    """

    profiles: _Float
    """One-dimensional profiles, shape (profiles, n)."""
    rows: _Index
    """Profile along y of each kernel, shape (basis,)."""
    columns: _Index
    """Profile along x of each kernel, shape (basis,)."""
    surplus: _Float
    """What is taken off of the first kernel, shape (basis,)."""

    def __len__(self) -> int:
        """Number of basis kernels."""
        return len(self.rows)

    def images(self) -> _Float:
        """Return the kernels, float64 (basis, n, n)."""
        products = self.profiles[self.rows][:, :, None] * self.profiles[self.columns][:, None, :]
        return np.asarray(products - self.surplus[:, None, None] * products[0])

    def convolved(self, stamps: NDArray[np.floating]) -> _Float:
        """Return stamps (m, s, s) convolved with each kernel, float64 (m, basis, s - n + 1, s - n + 1).

        Separable, so each convolution is two products with Toeplitz matrices.
        """
        matrices = [_toeplitz(profile, stamps.shape[1]) for profile in self.profiles]
        across = [stamps @ matrix.T for matrix in matrices]
        size = stamps.shape[1] - self.profiles.shape[1] + 1
        out = np.empty((len(stamps), len(self), size, size))
        for k, (row, column) in enumerate(zip(self.rows, self.columns, strict=True)):
            out[:, k] = matrices[row] @ across[column]
        out -= self.surplus[None, :, None, None] * out[:, :1].copy()
        return out


def design_basis(fwhm_sharp: float, fwhm_broad: float, half_width: int) -> KernelBasis:
    """Return the basis that turns a PSF of `fwhm_sharp` into one of `fwhm_broad` (pixels), 2 half_width + 1 wide.

    Three Gaussians a factor 2 apart about the width that the FWHMs ask for, with polynomials of degree 4, 3 and 2, and
    one broad Gaussian that carries the wings: unmatched wings of bright stars are most false detections.
    """
    needed = np.sqrt(max(fwhm_broad**2 - fwhm_sharp**2, 0.0)) / FWHM_PER_SIGMA
    narrow = float(np.clip(0.6 * needed, _MIN_SIGMA, half_width / 6.0))
    sigmas = [narrow * step for step in _STEPS] + [max(_BROAD * half_width, 4.0 * narrow)]
    axis = np.arange(-half_width, half_width + 1) / half_width
    taper = tapered(axis * half_width / (half_width + 1))
    profiles: list[_Float] = []
    rows: list[int] = []
    columns: list[int] = []
    for sigma, degree in zip(sigmas, _DEGREES, strict=True):
        gauss = taper * np.exp(-0.5 * (axis * half_width / sigma) ** 2)
        first = len(profiles)
        profiles += [gauss * axis**power for power in range(degree + 1)]
        for total in range(degree + 1):
            columns += [first + total - j for j in range(total + 1)]
            rows += [first + j for j in range(total + 1)]
    return _balanced(np.array(profiles), np.array(rows), np.array(columns))


def tapered(axis: _Float) -> _Float:
    """Return 1 inside, and a squared cosine from `_TAPER` to zero at 1."""
    return np.asarray(np.cos(0.5 * np.pi * np.clip((np.abs(axis) - _TAPER) / (1.0 - _TAPER), 0.0, 1.0)) ** 2)


def _balanced(profiles: _Float, rows: _Index, columns: _Index) -> KernelBasis:
    """Scale the profiles (the first to unit sum, the others to unit norm) and work out the surplus of each kernel."""
    scaled = profiles / np.linalg.norm(profiles, axis=1)[:, None]
    scaled[0] = profiles[0] / profiles[0].sum()
    sums = scaled.sum(axis=1)
    surplus = sums[rows] * sums[columns]
    surplus[0] = 0.0
    return KernelBasis(scaled, rows, columns, surplus)


def _toeplitz(profile: _Float, size: int) -> _Float:
    """Return the matrix (size - n + 1, size) that convolves a vector with `profile`, complete overlaps only."""
    n = len(profile)
    padded = np.zeros(2 * size - n)
    padded[size - n : size] = profile[::-1]
    return np.array(sliding_window_view(padded, size)[: size - n + 1][::-1])
