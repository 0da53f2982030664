"""The point-spread function: one stamp per polynomial term, so that it varies smoothly across the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from schemas.errors import DataError

__all__ = ["PsfModel", "polynomial_terms", "shift_gradients", "shift_stamps"]

_Float = NDArray[np.float64]
FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2), of a Gaussian
KERNEL_REACH, KAISER_BETA = 7, 8.0
"""Half-width (pixels) and shape of the interpolation kernel: flat in frequency to what PSFs of FWHM 2.5 pixels hold."""


def polynomial_terms(u: ArrayLike, v: ArrayLike, degree: int) -> _Float:
    """Return the monomials u^i v^j with i + j <= `degree`, float64 of shape (n, terms), constant first."""
    u, v = np.atleast_1d(np.asarray(u, float)), np.atleast_1d(np.asarray(v, float))
    columns = [u ** (total - j) * v**j for total in range(degree + 1) for j in range(total + 1)]
    return np.stack(columns, axis=-1)


def shift_stamps(stamps: NDArray[np.floating], dx: ArrayLike, dy: ArrayLike) -> _Float:
    """Shift each stamp, shape (m, n, n), by (dx, dy) pixels (|shift| <= 1) with a Kaiser-windowed sinc; float64.

    The kernel is normalised, so a constant stays a constant; flux outside the stamp is lost. A PSF of FWHM 2.5 pixels
    or more is shifted with an error below 1.1e-3 of its peak and 5e-5 of its fitted flux (Lanczos-5: 3e-3 and 2.5e-3).
    """
    dx, dy = np.atleast_1d(np.asarray(dx, float)), np.atleast_1d(np.asarray(dy, float))
    rows = _shift_matrices(dy, stamps.shape[1])
    columns = _shift_matrices(dx, stamps.shape[2])
    return np.asarray(np.matmul(np.matmul(rows, stamps), columns.transpose(0, 2, 1)))


def shift_gradients(
    stamps: NDArray[np.floating], dx: ArrayLike, dy: ArrayLike, step: float = 1e-3
) -> tuple[_Float, _Float, _Float]:
    """Return `shift_stamps` and its derivatives by dx and by dy (per pixel), three float64 arrays (m, n, n)."""
    dx, dy = np.atleast_1d(np.asarray(dx, float)), np.atleast_1d(np.asarray(dy, float))
    rows, rows_by_y = _matrices_and_slopes(dy, stamps.shape[1], step)
    columns, columns_by_x = _matrices_and_slopes(dx, stamps.shape[2], step)
    columns, columns_by_x = columns.transpose(0, 2, 1), columns_by_x.transpose(0, 2, 1)
    half = np.matmul(rows, stamps)
    return (
        np.asarray(np.matmul(half, columns)),
        np.asarray(np.matmul(half, columns_by_x)),
        np.asarray(np.matmul(np.matmul(rows_by_y, stamps), columns)),
    )


def _matrices_and_slopes(shift: _Float, size: int, step: float) -> tuple[_Float, _Float]:
    """Return the interpolation matrices for `shift` and their numerical derivative by it."""
    above, below = _shift_matrices(shift + step, size), _shift_matrices(shift - step, size)
    return _shift_matrices(shift, size), (above - below) / (2.0 * step)


def _shift_matrices(shift: _Float, size: int) -> _Float:
    """Return (m, size, size) interpolation matrices: out[i] = sum_j K(i - shift - j) in[j]."""
    kernel = _kernel(np.arange(-size + 1, size) - shift[:, None])
    nearest = np.arange(-KERNEL_REACH - 1, KERNEL_REACH + 2) - (shift - np.round(shift))[:, None]
    kernel /= _kernel(nearest).sum(axis=1, keepdims=True)
    index = np.arange(size)
    # a matrix is constant along its diagonals: K is worked out once per i - j
    return np.asarray(kernel[:, index[:, None] - index[None, :] + size - 1])


def _kernel(distance: _Float) -> _Float:
    """Return the sinc under a Kaiser window (Kaiser & Schafer 1980, IEEE ASSP 28, 105)."""
    kernel = np.zeros_like(distance)
    near = np.abs(distance) < KERNEL_REACH
    at = distance[near]
    window = special.i0(KAISER_BETA * np.sqrt(1.0 - np.square(at / KERNEL_REACH))) / special.i0(KAISER_BETA)
    kernel[near] = np.sinc(at) * window
    return kernel


@dataclass(frozen=True)
class PsfModel:
    """PSF(x, y) = sum_k t_k(u, v) coefficients[k], with u, v the position scaled to [-1, 1] over the detector."""

    coefficients: NDArray[np.float32]
    """Shape (terms, n, n), n odd; the stamp's centre is the PSF's centre."""
    degree: int
    width: int
    """Of the detector, pixels: the domain of the polynomial."""
    height: int

    def __post_init__(self) -> None:
        """Check the shape against the degree."""
        terms = (self.degree + 1) * (self.degree + 2) // 2
        shape = self.coefficients.shape
        if len(shape) != 3 or shape[0] != terms or shape[1] != shape[2] or shape[1] % 2 == 0:
            raise DataError(f"PSF of degree {self.degree} needs ({terms}, n, n) coefficients with odd n, not {shape}")

    @property
    def size(self) -> int:
        """Side of the stamp, pixels."""
        return int(self.coefficients.shape[1])

    def terms(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the polynomial terms at pixel positions, float64 of shape (m, terms)."""
        u = 2.0 * np.atleast_1d(np.asarray(x, float)) / max(self.width - 1, 1) - 1.0
        v = 2.0 * np.atleast_1d(np.asarray(y, float)) / max(self.height - 1, 1) - 1.0
        return polynomial_terms(np.clip(u, -1.2, 1.2), np.clip(v, -1.2, 1.2), self.degree)

    def stamps(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return PSF stamps at positions, float64 of shape (m, n, n), unit sum, centred on the middle pixel."""
        stamps = np.tensordot(self.terms(x, y), self.coefficients.astype(float), axes=1)
        return np.asarray(stamps / stamps.sum(axis=(1, 2), keepdims=True))

    def stamps_at(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return PSF stamps as the pixels round (x, y) see them, float64 (m, n, n).

        The middle pixel of each is pixel (round(x), round(y)); the PSF is shifted by the rest.
        """
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        return shift_stamps(self.stamps(x, y), x - np.round(x), y - np.round(y))

    def fwhm(self, x: float, y: float) -> float:
        """Return the full width at half maximum at (x, y), pixels: of the circle with the half-maximum area."""
        stamp = self.stamps(x, y)[0]
        angle = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)[:, None]
        radius = np.arange(0.0, self.size // 2, 0.1)
        at = [self.size // 2 + radius * np.sin(angle), self.size // 2 + radius * np.cos(angle)]
        rays = ndimage.map_coordinates(stamp, at, order=3) - 0.5 * stamp.max()
        outer = np.maximum(np.argmax(rays < 0.0, axis=1), 1)  # 1: the centre itself, or never, below half
        row = np.arange(len(rays))
        above, below = rays[row, outer - 1], rays[row, outer]
        edge = 0.1 * (outer - 1 + above / (above - below))
        return float(2.0 * np.sqrt(np.mean(np.square(edge))))

    def noise_area(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the noise-equivalent area 1 / sum(PSF^2), pixels^2, shape (m,)."""
        return np.asarray(1.0 / np.square(self.stamps(x, y)).sum(axis=(1, 2)))

    @classmethod
    def fit(
        cls,
        stamps: NDArray[np.floating],
        x: ArrayLike,
        y: ArrayLike,
        *,
        degree: int,
        width: int,
        height: int,
        weights: NDArray[np.floating] | None = None,
    ) -> PsfModel:
        """Fit the model to centred unit-sum stamps (m, n, n) at pixel positions, by linear least squares per pixel."""
        probe = cls(np.zeros(((degree + 1) * (degree + 2) // 2, 3, 3), np.float32), degree, width, height)
        design = probe.terms(x, y)
        if len(design) < design.shape[1]:
            raise DataError(f"a PSF of degree {degree} needs {design.shape[1]} stars, there are {len(design)}")
        root = np.ones(len(design)) if weights is None else np.sqrt(weights)
        flat = stamps.reshape(len(stamps), -1) * root[:, None]
        solution = np.linalg.lstsq(design * root[:, None], flat, rcond=None)[0]
        return cls(solution.reshape(-1, *stamps.shape[1:]).astype(np.float32), degree, width, height)

    @classmethod
    def gaussian(cls, fwhm: float, *, size: int, width: int, height: int) -> PsfModel:
        """Return a constant circular Gaussian of `fwhm` pixels: a first guess, and a tool for tests."""
        axis = np.arange(size) - size // 2
        profile = np.exp(-0.5 * np.square(axis * FWHM_PER_SIGMA / fwhm))
        stamp = np.outer(profile, profile)
        return cls((stamp / stamp.sum())[None].astype(np.float32), 0, width, height)
