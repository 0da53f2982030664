"""The point-spread function: one stamp per polynomial term, so that it varies smoothly across the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.imaging.psf_kernel import KERNEL_REACH, interpolation_matrices

__all__ = ["KERNEL_REACH", "PsfModel", "polynomial_terms", "shift_gradients", "shift_stamps"]

_Float = NDArray[np.float64]
FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2), of a Gaussian


def polynomial_terms(u: ArrayLike, v: ArrayLike, degree: int) -> _Float:
    """Return the monomials u^i v^j with i + j <= `degree`, float64 of shape (n, terms), constant first."""
    u, v = np.atleast_1d(np.asarray(u, float)), np.atleast_1d(np.asarray(v, float))
    columns = [u ** (total - j) * v**j for total in range(degree + 1) for j in range(total + 1)]
    return np.stack(columns, axis=-1)


def shift_stamps(stamps: NDArray[np.floating], dx: ArrayLike, dy: ArrayLike, oversampling: int = 1) -> _Float:
    """Shift each stamp, shape (m, n, n), by (dx, dy) pixels (|shift| <= 1) with a Kaiser-windowed sinc; float64.

    The kernel is normalised, so a constant stays a constant; flux outside the stamp is lost. A PSF of FWHM 2.5 pixels
    or more is shifted with an error below 1.1e-3 of its peak and 5e-5 of its fitted flux (Lanczos-5: 3e-3 and 2.5e-3).
    Stamps with `oversampling` pixels to one give what pixels of full size see: (m, k, k), n = oversampling (k - 1) + 1.
    """
    dx, dy = np.atleast_1d(np.asarray(dx, float)), np.atleast_1d(np.asarray(dy, float))
    rows = interpolation_matrices(dy, stamps.shape[1], oversampling)
    columns = interpolation_matrices(dx, stamps.shape[2], oversampling)
    return np.asarray(np.matmul(np.matmul(rows, stamps), columns.transpose(0, 2, 1)))


def shift_gradients(
    stamps: NDArray[np.floating], dx: ArrayLike, dy: ArrayLike, step: float = 1e-3, oversampling: int = 1
) -> tuple[_Float, _Float, _Float]:
    """Return `shift_stamps` and its derivatives by dx and by dy (per pixel), three float64 arrays (m, n, n)."""
    dx, dy = np.atleast_1d(np.asarray(dx, float)), np.atleast_1d(np.asarray(dy, float))
    rows, rows_by_y = _matrices_and_slopes(dy, stamps.shape[1], step, oversampling)
    columns, columns_by_x = _matrices_and_slopes(dx, stamps.shape[2], step, oversampling)
    columns, columns_by_x = columns.transpose(0, 2, 1), columns_by_x.transpose(0, 2, 1)
    half = np.matmul(rows, stamps)
    return (
        np.asarray(np.matmul(half, columns)),
        np.asarray(np.matmul(half, columns_by_x)),
        np.asarray(np.matmul(np.matmul(rows_by_y, stamps), columns)),
    )


def _matrices_and_slopes(shift: _Float, size: int, step: float, oversampling: int) -> tuple[_Float, _Float]:
    """Return the interpolation matrices for `shift` and their numerical derivative by it."""
    above, below = (interpolation_matrices(shift + side, size, oversampling) for side in (step, -step))
    return interpolation_matrices(shift, size, oversampling), (above - below) / (2.0 * step)


@dataclass(frozen=True)
class PsfModel:
    """PSF(x, y) = sum_k t_k(u, v) coefficients[k], with u, v the position scaled to [-1, 1] over the detector."""

    coefficients: NDArray[np.float32]
    """Shape (terms, n, n), n odd; the stamp's centre is the PSF's centre."""
    degree: int
    width: int
    """Of the detector, pixels: the domain of the polynomial."""
    height: int
    oversampling: int = 1
    """Coefficients per pixel, along a side; each still stands for the light in a whole pixel that is centred on it."""

    def __post_init__(self) -> None:
        """Check the shape against degree and oversampling."""
        terms = (self.degree + 1) * (self.degree + 2) // 2
        shape = self.coefficients.shape
        if len(shape) != 3 or shape[0] != terms or shape[1] != shape[2] or shape[1] % 2 == 0:
            raise DataError(f"PSF of degree {self.degree} needs ({terms}, n, n) coefficients with odd n, not {shape}")
        if self.oversampling < 1 or (shape[1] - 1) % (2 * self.oversampling):
            raise DataError(
                f"PSF oversampled {self.oversampling} times needs {2 * self.oversampling} k + 1 coefficients along a "
                f"side, not {shape[1]}"
            )

    @property
    def size(self) -> int:
        """Side of the stamp, pixels of the detector."""
        return (int(self.coefficients.shape[1]) - 1) // self.oversampling + 1

    def terms(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the polynomial terms at pixel positions, float64 of shape (m, terms)."""
        u = 2.0 * np.atleast_1d(np.asarray(x, float)) / max(self.width - 1, 1) - 1.0
        v = 2.0 * np.atleast_1d(np.asarray(y, float)) / max(self.height - 1, 1) - 1.0
        return polynomial_terms(np.clip(u, -1.2, 1.2), np.clip(v, -1.2, 1.2), self.degree)

    def fine_stamps(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return PSFs at positions as the coefficients sample them, float64 (m, n, n), with sum oversampling^2."""
        stamps = np.tensordot(self.terms(x, y), self.coefficients.astype(float), axes=1)
        return np.asarray(stamps * (self.oversampling**2 / stamps.sum(axis=(1, 2), keepdims=True)))

    def stamps(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return PSF stamps at positions, float64 of shape (m, size, size), unit sum, centred on the middle pixel."""
        fine = self.fine_stamps(x, y)
        if self.oversampling == 1:
            return fine
        stamps = fine[:, :: self.oversampling, :: self.oversampling]
        return np.asarray(stamps / stamps.sum(axis=(1, 2), keepdims=True))

    def stamps_at(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return PSF stamps as the pixels round (x, y) see them, float64 (m, size, size).

        The middle pixel of each is pixel (round(x), round(y)); the PSF is shifted by the rest.
        """
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        return shift_stamps(self.fine_stamps(x, y), x - np.round(x), y - np.round(y), self.oversampling)

    def on_pixels(self) -> PsfModel:
        """Return the model with a coefficient per pixel: for convolutions, where a PSF sits on a pixel's centre."""
        if self.oversampling == 1:
            return self
        fewer = np.ascontiguousarray(self.coefficients[:, :: self.oversampling, :: self.oversampling])
        return PsfModel(fewer / fewer[0].sum(dtype=float).astype(np.float32), self.degree, self.width, self.height)

    def fwhm(self, x: float, y: float) -> float:
        """Return the full width at half maximum at (x, y), pixels: of the circle with the half-maximum area."""
        stamp = self.fine_stamps(x, y)[0]
        step = 0.1 / self.oversampling
        angle = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)[:, None]
        radius = np.arange(0.0, self.size // 2, step) * self.oversampling
        at = [len(stamp) // 2 + radius * np.sin(angle), len(stamp) // 2 + radius * np.cos(angle)]
        rays = ndimage.map_coordinates(stamp, at, order=3) - 0.5 * stamp.max()
        outer = np.maximum(np.argmax(rays < 0.0, axis=1), 1)  # 1: the centre itself, or never, below half
        row = np.arange(len(rays))
        above, below = rays[row, outer - 1], rays[row, outer]
        edge = step * (outer - 1 + above / (above - below))
        return float(2.0 * np.sqrt(np.mean(np.square(edge))))

    def noise_area(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the noise-equivalent area 1 / sum(PSF^2), pixels^2, shape (m,): the mean over places in a pixel."""
        return np.asarray(self.oversampling**2 / np.square(self.fine_stamps(x, y)).sum(axis=(1, 2)))

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
    def gaussian(cls, fwhm: float, *, size: int, width: int, height: int, oversampling: int = 1) -> PsfModel:
        """Return a constant circular Gaussian of `fwhm` pixels: a first guess, and a tool for tests."""
        half = oversampling * (size // 2)
        axis = np.arange(-half, half + 1) / oversampling
        profile = np.exp(-0.5 * np.square(axis * FWHM_PER_SIGMA / fwhm))
        stamp = np.outer(profile, profile) * (oversampling / profile.sum()) ** 2
        return cls(stamp[None].astype(np.float32), 0, width, height, oversampling)
