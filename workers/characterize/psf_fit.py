"""Measure the PSF: pixel by pixel, varying over the detector as a polynomial, from the chosen stars.

The model starts as a Gaussian. In each round the stars are fitted with it (position and flux); what is left, in units
of the star's flux, is shifted back to the PSF's centre and its polynomial is added to the model. Because only
residuals are interpolated, the model converges to the one that reproduces the stars as sampled (the effective PSF of
Anderson & King 2000, PASP 112, 1360), and masked or clipped pixels, whose residual is set to zero, simply keep the
model's value.

Noise in single pixels adds up in the normalisation, and so in fluxes. Therefore the change of the PSF over the detector
is taken in few shapes (size, ellipticity, coma …), each as far as it is significant, and in single pixels only where
they stand out; the mean wing is smoothed along rings in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.photometry import psf_centroids
from workers.imaging.pixel_boxes import PixelBoxes, cut_boxes
from workers.imaging.psf import PsfModel, polynomial_terms, shift_gradients, shift_stamps

__all__ = ["PsfFit", "fit_psf", "psf_degree"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FEWEST = 3
"""Stars for any PSF at all."""
DEGREE_STARS = ((60, 3), (30, 2), (12, 1), (0, 0))
"""Fewest stars for each polynomial degree."""
ROUNDS = 5
PIXEL_CLIP = 5.0
"""Sigma, after the first rounds: neighbours and cosmic rays leave the fit."""
STAR_CLIP = 4.0
"""Robust sigma of ln(chi2 per pixel): blends and galaxies leave the fit."""
MODEL_ERROR = 0.03
"""Of the PSF's value: how well a star's pixel can be expected to follow the model."""
FLUX_FLOOR = 0.01
"""Relative: bounds the weight of very bright stars."""
CORE = 1.5
"""FWHM: radius inside which every pixel of the mean PSF is free."""
MAX_CONDITION = 20.0
"""Of the polynomial's design matrix; stars spread over the whole detector give 4 to 15."""
_UNIT = np.eye(5)
_THIRD_FOURTH = [(i, total - i) for total in (3, 4) for i in range(total + 1)]


@dataclass(frozen=True)
class PsfFit:
    """The model and the stars behind it."""

    model: PsfModel
    used: _Bool
    """Per star given."""
    chi2: float
    """Median over the used stars of chi2 per pixel within the core."""


@dataclass(frozen=True)
class _Stars:
    """The stars' pixels less the model, in units of each one's flux, and their expected errors: arrays (m, n, n)."""

    residual: _Float
    sigma: _Float
    good: _Float
    dx: _Float
    dy: _Float
    weight: _Float


def _chosen(stars: _Stars, keep: _Bool) -> _Stars:
    """Return the stars to keep."""
    return _Stars(**{item.name: getattr(stars, item.name)[keep] for item in fields(stars)})


def psf_degree(stars: int, most: int) -> int:
    """Return the polynomial degree that `stars` stars carry, at most `most`."""
    return min(most, next(degree for fewest, degree in DEGREE_STARS if stars >= fewest))


def fit_psf(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    x: _Float,
    y: _Float,
    *,
    fwhm: float,
    size: int,
    max_degree: int,
) -> PsfFit:
    """Fit the PSF to stars near (x, y), 0-based pixels (n,), on a background-subtracted image.

    `fwhm` a first guess, pixels; `size` of the stamps, odd. The stamps of the result fall to zero at their rim, so
    fluxes are those inside a circle of half the size; the zero point, measured with the same fluxes, makes up for it.
    Raises DataError with fewer than 3 stars.
    """
    height, width = image.shape
    used = np.ones(len(x), bool)
    _need(used, len(x))
    model = PsfModel.gaussian(fwhm, size=size, width=width, height=height)
    chi2 = np.ones(len(x))
    for turn in range(ROUNDS):
        places = psf_centroids(image, variance, usable, model, x, y, iterations=8 if turn == 0 else 3)
        used &= np.isfinite(places["xErr"]) & (places["flux"] > 0.0)
        _need(used, len(x))
        x, y = np.where(used, places["x"], x), np.where(used, places["y"], y)
        boxes = cut_boxes(image, variance, usable, x[used], y[used], size)
        stars = _stars(boxes, model, x[used], y[used], clip=turn >= 2)
        if turn >= 2:
            chi2[used] = _core_chi2(stars, fwhm)
            keep = _without_outliers(used, chi2)[used]
            used[np.flatnonzero(used)[~keep]] = False
            stars = _chosen(stars, keep)
        degree = 0 if turn == 0 else _carried_degree(model, x[used], y[used], max_degree)
        model = _updated(model, stars, x[used], y[used], degree, fwhm)
        fwhm = model.fwhm(0.5 * width, 0.5 * height)
    return PsfFit(model, used, float(np.median(chi2[used])))


def _carried_degree(model: PsfModel, x: _Float, y: _Float, most: int) -> int:
    """Return the degree for stars at (x, y): lower where they crowd in one part of the detector or on a line."""
    degree = psf_degree(len(x), most)
    u, v = 2.0 * x / model.width - 1.0, 2.0 * y / model.height - 1.0
    while degree > 0 and np.linalg.cond(polynomial_terms(u, v, degree)) > MAX_CONDITION:
        degree -= 1
    return degree


def _need(used: _Bool, given: int) -> None:
    """Raise DataError where too few stars remain."""
    if np.count_nonzero(used) < FEWEST:
        raise DataError(
            f"PSF needs at least {FEWEST} isolated, unsaturated stars; {np.count_nonzero(used)} of {given} candidates "
            "are left. Lower star_snr in [characterize.psf] of survey.toml, or check the focus of the exposure"
        )


def _stars(boxes: PixelBoxes, model: PsfModel, x: _Float, y: _Float, clip: bool) -> _Stars:
    """Fit each star's flux with the model and return what is left."""
    stamps = model.stamps_at(x, y)
    good = boxes.good
    flux, residual, sigma = _flux_and_residual(boxes, stamps, good)
    if clip:
        good = good * (np.abs(residual) < PIXEL_CLIP * sigma)
        flux, residual, sigma = _flux_and_residual(boxes, stamps, good)
    noise = np.sqrt((np.square(stamps) * boxes.variance).sum(axis=(1, 2))) / np.square(stamps).sum(axis=(1, 2))
    return _Stars(
        residual=residual * good,
        sigma=sigma,
        good=good,
        dx=x - boxes.x,
        dy=y - boxes.y,
        weight=1.0 / (np.square(noise / flux) + FLUX_FLOOR**2),
    )


def _flux_and_residual(boxes: PixelBoxes, stamps: _Float, good: _Float) -> tuple[_Float, _Float, _Float]:
    """Return flux (m,), and residual and its expected sigma (m, n, n) in units of the flux."""
    model = stamps * good
    flux = (model * boxes.data).sum(axis=(1, 2)) / np.square(model).sum(axis=(1, 2))
    flux = np.maximum(flux, 1e-3 * np.abs(flux).max())
    residual = boxes.data / flux[:, None, None] - stamps
    sigma = np.sqrt(boxes.variance / np.square(flux)[:, None, None] + np.square(MODEL_ERROR * stamps))
    return flux, residual, np.where(boxes.good > 0, sigma, np.inf)


def _updated(model: PsfModel, stars: _Stars, x: _Float, y: _Float, degree: int, fwhm: float) -> PsfModel:
    """Return the model plus the polynomial of the residuals shifted back to the centre."""
    size, width, height = model.size, model.width, model.height
    empty = np.zeros(((degree + 1) * (degree + 2) // 2, size, size))
    design = PsfModel(empty.astype(np.float32), degree, width, height).terms(x, y)
    root = np.sqrt(stars.weight)[:, None]
    moved = shift_stamps(stars.residual, -stars.dx, -stars.dy).reshape(len(x), -1)
    orthogonal, triangle = np.linalg.qr(design * root)
    change = orthogonal.T @ (moved * root)
    scatter = np.square(moved * root - orthogonal @ change).sum(axis=0) / max(1, len(x) - design.shape[1])
    error = np.sqrt(_ring_means(scatter.reshape(size, size))) / abs(triangle[0, 0])
    old = empty.reshape(len(empty), -1).copy()
    common = min(len(empty), len(model.coefficients))
    old[:common] = model.coefficients[:common].reshape(common, -1)
    # in polynomials orthogonal over the stars the terms' errors are independent, and the first term is the mean PSF
    planes = (triangle @ old + change).reshape(empty.shape) / triangle[0, 0]
    calm = _calmed(planes, error, fwhm).reshape(old.shape) * triangle[0, 0]
    coefficients = np.linalg.solve(triangle, calm).reshape(empty.shape)
    return PsfModel(_unit_sum(coefficients).astype(np.float32), degree, width, height)


def _unit_sum(coefficients: _Float) -> _Float:
    """Return coefficients whose PSF has sum 1 everywhere: the constant term's sum is 1, the others' are 0."""
    mean = coefficients[0] / coefficients[0].sum()
    others = coefficients[1:] / coefficients[0].sum()
    return np.concatenate([mean[None], others - others.sum(axis=(1, 2))[:, None, None] * mean])


def _radius(size: int) -> _Float:
    """Return each pixel's distance from the stamp's centre, (size, size)."""
    axis = np.arange(size) - size // 2
    return np.hypot(axis[:, None], axis[None, :])


def _ring_means(plane: _Float) -> _Float:
    """Return `plane` with each pixel replaced by the mean of those at its distance from the centre (to a pixel)."""
    ring = np.round(_radius(len(plane))).astype(int)
    total = np.bincount(ring.ravel(), plane.ravel()) / np.bincount(ring.ravel())
    return np.asarray(total[ring])


def _calmed(coefficients: _Float, error: _Float, fwhm: float) -> _Float:
    """Take noise of `error` (n, n) out of the terms, (terms, n, n), and let the stamps fall to zero at the rim.

    The first term is the mean PSF, the others its changes over the detector.
    """
    size = coefficients.shape[1]
    radius = _radius(size)
    core = np.clip(CORE * fwhm + 1.0 - radius, 0.0, 1.0)
    wing = _ring_means(coefficients[0])
    mean = wing + np.maximum(core, _real(coefficients[0] - wing, error)) * (coefficients[0] - wing)
    floor = np.maximum(error, 1e-3 * error.max() + 1e-30)
    axes = np.linalg.qr((_deformations(mean, fwhm) / floor).reshape(-1, size * size).T)[0]
    threshold = np.where(np.arange(axes.shape[1]) < 4, 0.5, 1.0)  # size and ellipticity do change: shrunk least
    threshold[0] = 0.0
    root_count = np.sqrt(np.bincount(np.round(radius).astype(int).ravel()))[np.round(radius).astype(int)]
    calm = [mean]
    for plane in coefficients[1:]:
        signal = axes.T @ (plane / floor).ravel()  # each with an error of one
        smooth = (axes @ (signal * _real(signal, threshold))).reshape(size, size) * floor
        rings = _ring_means(plane - smooth)
        smooth += _real(rings, floor / root_count) * rings
        calm.append(smooth + _real(plane - smooth, 1.5 * floor) * (plane - smooth))
    rim = np.clip((size // 2 - radius) / 2.5, 0.0, 1.0)
    return np.asarray(np.stack(calm) * np.square(np.sin(0.5 * np.pi * rim)))


def _real(value: _Float, sigma: _Float) -> _Float:
    """Return the share of each value to keep: 0 below two sigma, towards 1 far above (positive-part shrinkage)."""
    return np.asarray(np.maximum(0.0, 1.0 - 4.0 * np.square(sigma) / np.maximum(np.square(value), 1e-300)))


def _deformations(mean: _Float, fwhm: float) -> _Float:
    """Return shapes (13, n, n) in which a PSF changes over a detector: size, ellipticity, coma, trefoil and higher.

    The mean PSF itself (stars are scaled by fitted, not summed, flux); its derivatives by size and by the two
    components of ellipticity; the Gaussian's terms of third and fourth order.
    """
    n = len(mean)
    axis = np.arange(n) - n // 2
    x, y = np.broadcast_to(axis, (n, n)), np.broadcast_to(axis[:, None], (n, n))
    _, by_x, by_y = (-plane[0] for plane in shift_gradients(mean[None], 0.0, 0.0))
    shapes = [mean, x * by_x + y * by_y + 2.0 * mean, x * by_x - y * by_y, x * by_y + y * by_x]
    u, v = x * (2.355 / fwhm), y * (2.355 / fwhm)
    bell = np.exp(-0.5 * (u**2 + v**2))
    shapes += [bell * hermite_e.hermeval(u, _UNIT[i]) * hermite_e.hermeval(v, _UNIT[j]) for i, j in _THIRD_FOURTH]
    return np.stack(shapes)


def _core_chi2(stars: _Stars, fwhm: float) -> _Float:
    """Return chi2 per good pixel within the core, (m,)."""
    core = (_radius(stars.residual.shape[1]) <= CORE * fwhm) * stars.good
    pull = np.where(core > 0, stars.residual / stars.sigma, 0.0)
    return np.asarray(np.square(pull).sum(axis=(1, 2)) / np.maximum(core.sum(axis=(1, 2)), 1.0))


def _without_outliers(used: _Bool, chi2: _Float) -> _Bool:
    """Return `used` less the stars whose chi2 stands far above the others'."""
    log = np.log(np.maximum(chi2, 1e-6))
    middle = np.median(log[used])
    spread = max(1.4826 * float(np.median(np.abs(log[used] - middle))), 0.1)
    return np.asarray(used & (log < middle + STAR_CLIP * spread))
