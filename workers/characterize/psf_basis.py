"""From the residuals of stars to a better PSF: a polynomial per pixel, with the noise taken out.

Noise in single pixels adds up in the normalisation, and so in fluxes. Therefore the change of the PSF over the detector
is taken in few shapes (size, ellipticity, coma …), each as far as it is significant, and in single pixels only where
they stand out; so is the difference of the mean PSF from the profile that the fit starts with.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

from workers.characterize.psf_stars import stamp_radius
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel, shift_gradients

__all__ = ["deformations", "updated"]

_Float = NDArray[np.float64]

CORE = 1.5
"""FWHM: radius inside which every pixel of the mean PSF is free."""
MEAN_DOUBT = 0.35
"""How much less the mean PSF is shrunk to its start than the changes over the detector are to none."""
RIM = 2.5
"""Pixels over which the stamp falls to zero."""
_UNIT = np.eye(5)
_THIRD_FOURTH = [(i, total - i) for total in (3, 4) for i in range(total + 1)]


def updated(
    model: PsfModel,
    moved: _Float,
    weight: _Float,
    x: _Float,
    y: _Float,
    *,
    degree: int,
    fwhm: float,
    base: _Float | None = None,
) -> PsfModel:
    """Return the model plus the polynomial of `degree` through the residuals `moved` back to its centre (m, k, k).

    `weight` (m,) of the stars at (x, y), pixels; `fwhm` in pixels of the detector; `base` the profile (k, k) that the
    mean PSF is near to, if one is known.
    """
    size, scale = model.coefficients.shape[1], model.oversampling
    empty = np.zeros(((degree + 1) * (degree + 2) // 2, size, size))
    design = PsfModel(empty.astype(np.float32), degree, model.width, model.height, scale).terms(x, y)
    root = np.sqrt(weight)[:, None]
    rooted = moved.reshape(len(x), -1) * root
    orthogonal, triangle = np.linalg.qr(design * root)
    change = orthogonal.T @ rooted
    scatter = np.square(rooted - orthogonal @ change).sum(axis=0) / max(1, len(x) - design.shape[1])
    error = np.sqrt(_ring_means(scatter.reshape(size, size))) / abs(triangle[0, 0])
    old = empty.reshape(len(empty), -1).copy()
    common = min(len(empty), len(model.coefficients))
    old[:common] = model.coefficients[:common].reshape(common, -1)
    # in polynomials orthogonal over the stars the terms' errors are independent, and the first term is the mean PSF
    planes = (triangle @ old + change).reshape(empty.shape) / triangle[0, 0]
    calm = _calmed(planes, error, fwhm * scale, RIM * scale, base).reshape(old.shape) * triangle[0, 0]
    coefficients = _unit_sum(np.linalg.solve(triangle, calm).reshape(empty.shape)) * scale**2
    return PsfModel(coefficients.astype(np.float32), degree, model.width, model.height, scale)


def _unit_sum(coefficients: _Float) -> _Float:
    """Return coefficients whose PSF has sum 1 everywhere: the constant term's sum is 1, the others' are 0."""
    mean = coefficients[0] / coefficients[0].sum()
    others = coefficients[1:] / coefficients[0].sum()
    return np.concatenate([mean[None], others - others.sum(axis=(1, 2))[:, None, None] * mean])


def _ring_means(plane: _Float) -> _Float:
    """Return `plane` with each pixel replaced by the mean of those at its distance from the centre (to a pixel)."""
    ring = np.round(stamp_radius(len(plane))).astype(int)
    total = np.bincount(ring.ravel(), plane.ravel()) / np.bincount(ring.ravel())
    return np.asarray(total[ring])


def _calmed(coefficients: _Float, error: _Float, fwhm: float, fall: float, base: _Float | None) -> _Float:
    """Take noise of `error` (n, n) out of the terms, (terms, n, n), and let the stamps fall to zero at the rim.

    The first term is the mean PSF, the others its changes over the detector. Lengths in pixels of the stamps.
    """
    size = coefficients.shape[1]
    radius = stamp_radius(size)
    core = np.clip(CORE * fwhm + 1.0 - radius, 0.0, 1.0)
    wing = _ring_means(coefficients[0])
    mean = wing + np.maximum(core, _real(coefficients[0] - wing, error)) * (coefficients[0] - wing)
    floor = np.maximum(error, 1e-3 * error.max() + 1e-30)
    axes = np.linalg.qr((deformations(mean, fwhm) / floor).reshape(-1, size * size).T)[0]
    threshold = np.where(np.arange(axes.shape[1]) < 4, 0.5, 1.0)  # size and ellipticity do change: shrunk least
    threshold[0] = 0.0
    root_count = np.sqrt(np.bincount(np.round(radius).astype(int).ravel()))[np.round(radius).astype(int)]

    def smoothed(plane: _Float, doubt: float) -> _Float:
        signal = axes.T @ (plane / floor).ravel()  # each with an error of one
        smooth = (axes @ (signal * _real(signal, doubt * threshold))).reshape(size, size) * floor
        rings = _ring_means(plane - smooth)
        smooth += _real(rings, doubt * floor / root_count) * rings
        return np.asarray(smooth + _real(plane - smooth, 1.5 * doubt * floor) * (plane - smooth))

    if base is not None:
        mean = base + smoothed(coefficients[0] - base, MEAN_DOUBT)
    calm = [mean] + [smoothed(plane, 1.0) for plane in coefficients[1:]]
    rim = np.clip((size // 2 - radius) / fall, 0.0, 1.0)
    return np.asarray(np.stack(calm) * np.square(np.sin(0.5 * np.pi * rim)))


def _real(value: _Float, sigma: _Float) -> _Float:
    """Return the share of each value to keep: 0 below two sigma, towards 1 far above (positive-part shrinkage)."""
    return np.asarray(np.maximum(0.0, 1.0 - 4.0 * np.square(sigma) / np.maximum(np.square(value), 1e-300)))


def deformations(mean: _Float, fwhm: float) -> _Float:
    """Return shapes (13, n, n) in which a PSF changes over a detector: size, ellipticity, coma, trefoil and higher.

    The mean PSF itself (stars are scaled by fitted, not summed, flux); its derivatives by size and by the two
    components of ellipticity; the Gaussian's terms of third and fourth order. `fwhm` in pixels of the stamp.
    """
    n = len(mean)
    axis = np.arange(n) - n // 2
    x, y = np.broadcast_to(axis, (n, n)), np.broadcast_to(axis[:, None], (n, n))
    _, by_x, by_y = (-plane[0] for plane in shift_gradients(mean[None], 0.0, 0.0))
    shapes = [mean, x * by_x + y * by_y + 2.0 * mean, x * by_x - y * by_y, x * by_y + y * by_x]
    u, v = x * (FWHM_PER_SIGMA / fwhm), y * (FWHM_PER_SIGMA / fwhm)
    bell = np.exp(-0.5 * (u**2 + v**2))
    shapes += [bell * hermite_e.hermeval(u, _UNIT[i]) * hermite_e.hermeval(v, _UNIT[j]) for i, j in _THIRD_FOURTH]
    return np.stack(shapes)
