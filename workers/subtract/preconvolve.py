"""Subtraction after preconvolution: for seeings that are close, or a template that is the worse image.

A kernel K that turns the template into the science image must sharpen where the template's PSF is not the narrower one,
which no sum of Gaussians can. So K is fitted to the science image convolved with a Gaussian Q, as in the score images
of the Rubin pipelines (AlardLuptonPreconvolveSubtract, which takes the science PSF for Q). Q * n - K * r is smooth, but
only its noise is so: over the root of its spectrum, sqrt(v_n |Q|² + v_r |K|²), both filters are bounded, and the
difference is white again. Filters are made on a grid over the image, so each image is convolved once, as in `zogy`,
but with a kernel that stars tell, not PSF models: it follows scale, registration and what the models miss.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.imaging.exposure import Exposure
from workers.imaging.psf import FWHM_PER_SIGMA
from workers.subtract.basis import KernelBasis, design_basis
from workers.subtract.convolve import grid_positions
from workers.subtract.difference import Matched, difference_psf, is_plausible, sky_levels
from workers.subtract.filtered_pair import check_overlap, filtered, flattened, pair_planes, quiet_model, varying
from workers.subtract.kernel import KernelFit, StampGrams, fit_kernel, stamp_grams
from workers.subtract.kernel_stars import stars_with_room
from workers.subtract.masking import blocked_pixels
from workers.subtract.proper_filters import preconvolved_filters
from workers.subtract.psf_ratio import psf_ratio_kernel

__all__ = ["preconvolution", "preconvolved_difference", "suits"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Index = NDArray[np.intp]
_WIDTH = 0.5
_C = 1.0
"""Least FWHM of the matching kernel, in units of that of the science PSF."""
_WORSE, _DEEPER = 1.03, 1.0 / 3.0
"""FWHM of the template over the science image's from which, and variance up to which, the pair suits the method."""
_REACH = 3.5
"""Half width of Q, in its sigmas."""


def preconvolved_difference(science: Exposure, template: Exposure, kernel_degree: int, half_width: int) -> Matched:
    """Return the whitened difference, on the science image's flux scale, both exposures in nJy on one pixel grid.

    The kernel has at most the spatial degree `kernel_degree`; it and the filters are at most 2 `half_width` + 1 pixels
    on a side. Where stars are too few, or lead astray, the PSFs tell the kernel. Raises DataError where no pixel is
    usable in both.
    """
    pair, blocked = (science, template), (blocked_pixels(science), blocked_pixels(template))
    check_overlap(blocked[0] | blocked[1], science)
    fit, profile = _fit(pair, blocked, kernel_degree, half_width)
    x, y = grid_positions(science.shape)
    levels = sky_levels(science.variance, blocked[0], x, y), sky_levels(template.variance, blocked[1], x, y)
    psfs = science.need_psf().stamps(x, y), template.need_psf().stamps(x, y)
    wanted, q = fit.kernel.at(x, y), np.outer(profile, profile)
    kernels = varying(preconvolved_filters(wanted, q, psfs, levels, half_width), science.shape)
    fwhm = science.need_psf().fwhm(science.shape[1] / 2, science.shape[0] / 2)
    planes = pair_planes(pair, kernels, fwhm)
    check_overlap(planes.excluded, science)
    psf, stamps = difference_psf(science, kernels[0].at(x, y), x, y, science.shape)
    ours, seen = (filtered(e, b, k, stamps, fwhm) for e, b, k in zip(pair, blocked, kernels, strict=True))
    image, variance = ours.image, ours.variance
    image -= seen.image
    image -= fit.background.sum_image()
    variance += seen.variance
    left = flattened(image, variance, planes.excluded)
    sums, used = fit.kernel.sums(), fit.used
    metrics = {
        "convolved": 1.0,
        "preconvolutionFwhm": FWHM_PER_SIGMA * _width(profile),
        "kernelDegree": float(fit.kernel.degree),
        "kernelSum": float(np.median(sums)),
        "kernelSumMin": float(sums.min()),
        "kernelSumMax": float(sums.max()),
        "nKernelStars": float(fit.stars),
        "nKernelRejected": float(fit.rejected),
        "residualChi2": fit.chi2 / _smoothness(wanted, q, levels),
        "residualBackground": left,
        **{name: float(degree) for name, degree in fit.fallbacks.items()},
    }
    exposure = science.replaced(image=image, variance=variance, mask=planes.mask, psf=psf)
    model = quiet_model(seen.image, kernels[1], template.image, fit.kernel.sum_image(), planes.excluded)
    return Matched(exposure, planes, model, np.stack([fit.x[used], fit.y[used]], axis=1), metrics)


def suits(science: Exposure, template: Exposure) -> bool:
    """Tell whether a pair is better subtracted so than by one kernel: a template clearly deeper and of worse seeing.

    With one as shallow as the science image, its noise gets into the kernel.
    """
    middle = science.shape[1] / 2, science.shape[0] / 2
    ours, theirs = (exposure.need_psf().fwhm(*middle) for exposure in (science, template))
    if theirs <= _WORSE * ours:
        return False
    levels = [float(np.median(exposure.variance[::16, ::16])) for exposure in (science, template)]
    return levels[1] <= _DEEPER * levels[0]


def preconvolution(science_fwhm: float, template_fwhm: float, half_width: int) -> _Float:
    """Return the profile of Q along an axis, of unit sum and at most 2 `half_width` + 1 pixels, from FWHMs in pixels.

    As wide as the kernel needs to be a smoothing one, and no wider: what Q takes away the whitening gives back.
    """
    square = (_WIDTH * science_fwhm) ** 2 + _C * max(template_fwhm**2 - science_fwhm**2, 0.0)
    sigma = np.sqrt(square) / FWHM_PER_SIGMA
    half = int(min(np.ceil(_REACH * sigma), half_width))
    profile = np.exp(-0.5 * np.square(np.arange(-half, half + 1) / sigma))
    return np.asarray(profile / profile.sum())


def _width(profile: _Float) -> float:
    """Return the root of the mean square distance from the middle, pixels."""
    away = np.arange(len(profile)) - len(profile) // 2
    return float(np.sqrt((profile * np.square(away)).sum()))


def _smoothness(kernels: _Float, q: _Float, levels: tuple[_Float, _Float]) -> float:
    """Return the variance per pixel of Q * n - K * r over the sum of both images' own, which the fit weighs with."""
    variance = levels[0] * np.square(q).sum() + levels[1] * np.square(kernels).sum(axis=(1, 2))
    return float(np.median(variance / (levels[0] + levels[1])))


def _fit(
    pair: tuple[Exposure, Exposure], blocked: tuple[_Bool, _Bool], degree: int, half_width: int
) -> tuple[KernelFit, _Float]:
    """Fit the kernel on stars found in the pair, and return it and the profile of Q.

    Where stars are too few, or lead astray, the PSFs alone tell it.
    """
    science, template = pair
    ours, theirs = (one.need_psf().fwhm(science.shape[1] / 2, science.shape[0] / 2) for one in pair)
    broad = float(np.hypot(ours, FWHM_PER_SIGMA * _width(preconvolution(ours, theirs, half_width))))
    half = int(np.clip(np.ceil(2.5 * broad), 8, 15))
    x, y, half_width = stars_with_room(science, template, blocked, half, half_width)
    basis, profile = design_basis(theirs, broad, half_width), preconvolution(ours, theirs, half_width)
    try:
        fit = fit_kernel(_grams(pair, x, y, basis, half, profile), basis, degree, science.shape)
    except DataError:
        fit = None
    if fit is None or not is_plausible(fit):
        fit = _without_stars(science, template, half_width, profile)
    return fit, profile


def _grams(
    pair: tuple[Exposure, Exposure], x: _Index, y: _Index, basis: KernelBasis, half: int, profile: _Float
) -> StampGrams:
    """Return the sums of stars in the template against those in the preconvolved science image.

    Stamps alone are preconvolved. Both variances stay those of the images as they are: the noise of the stamps is
    correlated, and over the size of a star, where Q and K are 1, that is its power.
    """
    side = half + basis.profiles.shape[1] // 2
    offset = np.arange(-side, side + 1)
    at = y[:, None, None] + offset[:, None], x[:, None, None] + offset
    smooth = pair[0].image[at].astype(float)
    noise = pair[0].variance[at].astype(float)
    for axis in (1, 2):
        smooth, noise = (ndimage.convolve1d(one, profile, axis, mode="nearest") for one in (smooth, noise))
    column, size = offset.size, len(x) * offset.size
    planes = [
        (one.reshape(size, column), two.reshape(size, column))
        for one, two in ((pair[1].image[at], pair[1].variance[at]), (smooth, noise))
    ]
    middles = np.arange(len(x)) * column + side
    grams = stamp_grams(planes[0], planes[1], np.full(len(x), side), middles, basis, half)
    return replace(grams, x=x.astype(float), y=y.astype(float))


def _without_stars(science: Exposure, template: Exposure, half_width: int, profile: _Float) -> KernelFit:
    """Return the kernel that the PSFs tell, for images on one flux scale."""
    x, y = grid_positions(science.shape)
    q = np.broadcast_to(np.outer(profile, profile), (len(x), len(profile), len(profile)))
    target = difference_psf(science, q, x, y, science.shape)[0]
    return KernelFit.without_stars(psf_ratio_kernel(target, template.need_psf(), half_width, science.shape))
