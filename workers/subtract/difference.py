"""Match the PSFs, subtract, whiten: from two exposures on one grid to a difference with mask, noise and PSF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import signal

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage, frozen_array
from workers.imaging.psf import PsfModel
from workers.subtract.basis import design_basis
from workers.subtract.convolve import VaryingKernel, convolve, grid_positions, polynomial_row
from workers.subtract.decorrelate import noise_gains, whitening_kernels
from workers.subtract.kernel import KernelFit, fit_kernel, stamp_grams
from workers.subtract.kernel_stars import ENOUGH_STARS, stars_with_room
from workers.subtract.masking import DifferenceMask, blocked_pixels, combine_masks, filled
from workers.subtract.psf_ratio import psf_ratio_kernel
from workers.subtract.residual_background import residual_background, take_off

__all__ = [
    "Matched",
    "check_scale",
    "clean_variance",
    "difference_image",
    "difference_psf",
    "is_plausible",
    "sky_levels",
]

_Float = NDArray[np.float64]
_NEARLY_EQUAL = 1.03
"""Template over science FWHM up to which the template is still the one convolved."""
_SCALE_RANGE = (0.2, 5.0)
"""Of the kernel's sum: wide enough for nominal zero points."""
_FEW_STARS_RANGE = (0.5, 2.0)
_THIN = 8
"""Pixels along each axis of which one speaks for the sky's variance."""
_VARIANCE_LOSS = 1e-3
"""Of the sum of K^4, outside the pixels through which variance is spread."""
_WHITENING_LOSS = 1e-6
"""Of the sum of psi^2, cut off."""


@dataclass(frozen=True)
class Matched:
    """A whitened difference and what detection needs beside it."""

    exposure: Exposure
    """nJy on the science image's scale; the PSF is the whitened one, of unit sum."""
    planes: DifferenceMask
    """Its mask is the exposure's: detection adds its planes there."""
    model: FloatImage
    """The template as the science image sees it (itself, where the science image was convolved), nJy."""
    stars: _Float
    """(x, y), pixels, of those that the kernel was fitted on, (n, 2)."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Pair:
    """The two images in their roles: `target` stays as it is, `convolved` gets the kernel."""

    target: Exposure
    convolved: Exposure
    template_convolved: bool
    fwhm: float
    """Of the science image, pixels."""


def difference_image(science: Exposure, template: Exposure, kernel_degree: int, half_width: int) -> Matched:
    """Return science minus PSF-matched template, whitened, both exposures in nJy on one pixel grid.

    The sharper image is convolved: the template where its FWHM is smaller or nearly equal, else the science image (the
    difference is then divided by the kernel's sum, so that fluxes stay on the science image's scale).
    Raises DataError where no pixel is usable in both.
    """
    pair, basis_fwhms = _roles(science, template)
    blocked = blocked_pixels(science), blocked_pixels(template)
    fit = _fit(pair, blocked, basis_fwhms, kernel_degree, half_width)
    planes = combine_masks(science, template, fit.kernel, convolved_template=pair.template_convolved, fwhm=pair.fwhm)
    if planes.excluded.all():
        raise DataError(
            f"exposure {science.info.label}: no pixel is usable in both science and template; "
            "look at the masks, and at image and variance for values that are not finite"
        )
    hidden = blocked[1] if pair.template_convolved else blocked[0]
    model, image = _subtracted(pair, fit, planes, hidden)
    through = convolve(clean_variance(pair.convolved.variance, hidden), _squared(fit.kernel))
    left = residual_background(image, pair.target.variance, planes.excluded, more=through)
    take_off(image, left, planes.excluded)
    exposure = _whitened(science, pair, fit.kernel, image, through, planes)
    scale, used = fit.kernel.sums(), fit.used
    metrics = {
        "convolved": float(pair.template_convolved),
        "kernelDegree": float(fit.kernel.degree),
        "kernelSum": float(np.median(scale)),
        "kernelSumMin": float(scale.min()),
        "kernelSumMax": float(scale.max()),
        "nKernelStars": float(fit.stars),
        "nKernelRejected": float(fit.rejected),
        "residualChi2": fit.chi2,
        "residualBackground": float(np.median(left.sums())),
        **{name: float(degree) for name, degree in fit.fallbacks.items()},
    }
    return Matched(exposure, planes, model, np.stack([fit.x[used], fit.y[used]], axis=1), metrics)


def _roles(science: Exposure, template: Exposure) -> tuple[_Pair, tuple[float, float]]:
    """Choose the direction; return the pair and the FWHMs (sharp, broad) in the middle of the image, pixels."""
    x, y = science.shape[1] / 2, science.shape[0] / 2
    ours, theirs = science.need_psf().fwhm(x, y), template.need_psf().fwhm(x, y)
    if theirs <= _NEARLY_EQUAL * ours:
        return _Pair(science, template, True, ours), (theirs, ours)
    return _Pair(template, science, False, ours), (ours, theirs)


def _fit(
    pair: _Pair,
    blocked: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    fwhms: tuple[float, float],
    degree: int,
    half_width: int,
) -> KernelFit:
    """Fit the kernel on stars found in the pair; `blocked` pixels of science and template.

    Where they are too few, or lead astray, the PSFs alone tell it.
    """
    half = int(np.clip(np.ceil(2.5 * fwhms[1]), 8, 15))
    science, template = (pair.target, pair.convolved) if pair.template_convolved else (pair.convolved, pair.target)
    x, y, half_width = stars_with_room(science, template, blocked, half, half_width)
    basis = design_basis(*fwhms, half_width)
    planes = [(exposure.image, exposure.variance) for exposure in (pair.convolved, pair.target)]
    grams = stamp_grams(planes[0], planes[1], x, y, basis, half)
    try:
        fit = fit_kernel(grams, basis, degree, science.shape)
    except DataError:
        fit = None
    if fit is None or not is_plausible(fit):
        kernel = psf_ratio_kernel(pair.target.need_psf(), pair.convolved.need_psf(), half_width, science.shape)
        return KernelFit.without_stars(kernel)
    return fit


def is_plausible(fit: KernelFit) -> bool:
    """Tell whether the kernel's sum is one that calibrated images can have; what few stars tell must be nearer to 1."""
    return _within(fit.kernel, _FEW_STARS_RANGE if fit.stars < ENOUGH_STARS else _SCALE_RANGE)


def _within(kernel: VaryingKernel, bounds: tuple[float, float]) -> bool:
    """Tell whether the kernel's sum lies within the bounds all over the image."""
    scale = kernel.sums()
    return bool(bounds[0] < scale.min() <= scale.max() < bounds[1])


def check_scale(kernel: VaryingKernel, science: Exposure) -> None:
    """Raise DataError where the kernel's sum leaves the range of scales that calibrated images can have."""
    scale = kernel.sums()
    low, high = float(scale.min()), float(scale.max())
    if not _within(kernel, _SCALE_RANGE):
        raise DataError(
            f"exposure {science.info.label}: the matching kernel sums to {low:.3g} to {high:.3g} over the image, "
            "not to about 1; check the zero points of science and template and their alignment"
        )


def _subtracted(
    pair: _Pair, fit: KernelFit, planes: DifferenceMask, blocked: NDArray[np.bool_]
) -> tuple[FloatImage, FloatImage]:
    """Return the template as the science image sees it, and target - kernel * convolved - background.

    `blocked` pixels of the image that is convolved.
    """
    convolved = convolve(filled(pair.convolved.image, blocked, 0.5 * pair.fwhm), fit.kernel)
    image = pair.target.image - convolved
    take_off(image, fit.background, planes.excluded)
    model = convolved if pair.template_convolved else np.where(planes.excluded, np.float32(0.0), pair.target.image)
    return model, image


def clean_variance(variance: FloatImage, blocked: NDArray[np.bool_]) -> FloatImage:
    """Return `variance` with blocked pixels at the median of the others (0 where there is none)."""
    clean = np.array(variance, np.float32)
    np.copyto(clean, _typical(variance, blocked), where=blocked)
    return clean


def _typical(variance: FloatImage, blocked: NDArray[np.bool_]) -> np.float32:
    """Return the median of the pixels that are not blocked, 0 without any."""
    sample = variance[::_THIN, ::_THIN][~blocked[::_THIN, ::_THIN]]
    return np.float32(np.median(sample)) if sample.size else np.float32(0.0)


def _squared(kernel: VaryingKernel) -> VaryingKernel:
    """Return K^2, for variances."""
    x, y = grid_positions(kernel.shape)
    squared = VaryingKernel.fit(np.square(kernel.at(x, y)), x, y, min(2, 2 * kernel.degree), kernel.shape)
    return squared.trimmed(_VARIANCE_LOSS)


def _whitened(
    science: Exposure,
    pair: _Pair,
    kernel: VaryingKernel,
    image: FloatImage,
    through: FloatImage,
    planes: DifferenceMask,
) -> Exposure:
    """Return the difference convolved with whitening kernels, with the variance and the PSF that belong to it.

    `through`: the variance of the convolved image as its kernel spreads it; the difference's is written over it. The
    flux scale is the science image's.
    """
    shape = kernel.shape
    x, y = grid_positions(shape)
    kernels = kernel.at(x, y)
    levels = [sky_levels(e.variance, planes.excluded, x, y) for e in (pair.target, pair.convolved)]
    degree = min(2, 2 * kernel.degree)
    psi = whitening_kernels(kernels, levels[0], levels[1], kernel.half)
    whitening = VaryingKernel.fit(psi, x, y, degree, shape).trimmed(_WHITENING_LOSS)
    psi = whitening.at(x, y)
    psf, stamps = difference_psf(science, psi if pair.template_convolved else _chained(psi, kernels), x, y, shape)
    plain_gain, through_gain = noise_gains(psi, kernels, stamps)
    gains = plain_gain, through_gain / np.square(kernels).sum(axis=(1, 2))
    spread = [VaryingKernel.fit(gain[:, None, None], x, y, degree, shape).row_polynomials()[0] for gain in gains]
    u = kernel.row_polynomials()[1]
    plain, typical = (
        frozen_array(np.ascontiguousarray(pair.target.variance)),
        _typical(pair.target.variance, planes.excluded),
    )
    _joined_variance(plain, through, planes.excluded, spread[0], spread[1], u, typical)
    variance = through
    difference = convolve(image, whitening)
    if not pair.template_convolved:
        scale = kernel.sum_image()
        difference /= -scale
        variance /= np.square(scale)
    return science.replaced(image=difference, variance=variance, mask=planes.mask, psf=psf)


def sky_levels(variance: FloatImage, excluded: NDArray[np.bool_], x: _Float, y: _Float) -> _Float:
    """Return the sky's variance round each position: the median over a quarter of the image's side, float64 (m,)."""
    thin, bad = variance[::_THIN, ::_THIN], excluded[::_THIN, ::_THIN]
    typical = np.median(thin[~bad]) if not bad.all() else np.median(thin)
    reach_x, reach_y = max(thin.shape[1] // 8, 1), max(thin.shape[0] // 8, 1)
    levels = np.full(len(x), float(typical))
    for i, (column, row) in enumerate(zip((x / _THIN).astype(int), (y / _THIN).astype(int), strict=True)):
        part = slice(max(row - reach_y, 0), row + reach_y), slice(max(column - reach_x, 0), column + reach_x)
        good = ~bad[part]
        if good.mean() > 0.25:
            levels[i] = np.median(thin[part][good])
    return np.asarray(np.maximum(levels, 1e-12 * max(float(typical), 1e-30)))


def _chained(first: _Float, second: _Float) -> _Float:
    """Return the convolution of two stacks of kernels."""
    return np.asarray(signal.fftconvolve(first, second, axes=(1, 2)))


def difference_psf(
    science: Exposure, kernels: _Float, x: _Float, y: _Float, shape: tuple[int, int]
) -> tuple[PsfModel, _Float]:
    """Return the PSF of a source in the science image after `kernels` (m, n, n), and its stamps at (x, y)."""
    psf = science.need_psf()
    stamps = _chained(kernels, psf.stamps(x, y))  # whole: what is cut off of a PSF is lost to every flux
    stamps /= stamps.sum(axis=(1, 2), keepdims=True)
    degree = max(psf.degree, 1)
    model = PsfModel.fit(stamps, x, y, degree=degree, width=shape[1], height=shape[0])
    return model, stamps


@njit(cache=True, nogil=True)
def _joined_variance(
    plain: Any, through: Any, excluded: Any, first: Any, second: Any, u: Any, typical: Any
) -> None:  # pragma: no cover - compiled
    """Make `through` the sum of both variances times gains, which are given as polynomials of rows."""
    one, two = np.empty(u.size, np.float32), np.empty(u.size, np.float32)
    for y in range(plain.shape[0]):
        polynomial_row(first[y], u, one)
        polynomial_row(second[y], u, two)
        noises, line, bad = plain[y], through[y], excluded[y]
        for x in range(u.size):
            line[x] = two[x] * line[x] + one[x] * (typical if bad[x] else noises[x])
