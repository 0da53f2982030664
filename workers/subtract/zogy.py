"""Proper image subtraction: both images filtered by each other's PSF, so that the noise of the difference is white.

Zackay, Ofek & Gal-Yam (2016), ApJ 830, 27, eq. 13. With PSFs P, flux scales F and sky variances s² of new image n and
reference r, D = A * n - B * r; the transforms are A = F_r P_r / q and B = F_n P_n / q with
q² = s_n² F_r² |P_r|² + s_r² F_n² |P_n|². Everything is known from the PSFs, but for the flux ratio F_n / F_r. Both
filters are bounded, so neither image needs to be the sharper one; they are made on a grid over the image and
interpolated, so that PSFs may vary. The price: what the PSF models miss stays in the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.subtract.convolve import VaryingKernel, grid_positions
from workers.subtract.difference import Matched, check_scale, difference_psf, sky_levels
from workers.subtract.filtered_pair import (
    Filtered,
    check_overlap,
    filtered,
    flattened,
    pair_planes,
    quiet_model,
    varying,
)
from workers.subtract.kernel_stars import find_stars
from workers.subtract.masking import blocked_pixels
from workers.subtract.proper_filters import proper_filters

__all__ = ["zogy_difference"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Index = NDArray[np.intp]
_Rows = NDArray[Any]
_MIN_STARS = 3
_STARS_PER_TERM = 6
_CLIP_ROUNDS, _CLIP_SIGMA = 5, 4.0
_RATIO_ERROR = 0.003
"""Least error of a star's flux ratio: what the PSFs are wrong by."""
_SHIFT_ERROR = 0.01
"""Least error of a star's misalignment along an axis, pixels."""


@dataclass(frozen=True)
class _Scale:
    """What the stars tell of the filtered pair."""

    ratio: VaryingKernel
    """Flux, science over template: 1 x 1."""
    stars: _Float
    """(x, y) of those used, (n, 2)."""
    rejected: int
    scatter: float
    """Of the stars' ratios about `ratio`, robust, relative."""


def zogy_difference(science: Exposure, template: Exposure, half_width: int, *, register: bool = False) -> Matched:
    """Return the proper difference, on the science image's flux scale, both exposures in nJy on one pixel grid.

    Filters are at most 2 `half_width` + 1 pixels on a side. With `register` the template is moved to where its stars
    stand in the science image; without, its registration is trusted. Fluxes are taken to be on one scale where fewer
    than 3 steady stars tell the ratio. Raises DataError where no pixel is usable or the scales differ wildly.
    """
    pair, blocked = (science, template), (blocked_pixels(science), blocked_pixels(template))
    check_overlap(blocked[0] | blocked[1], science)
    fwhm = science.need_psf().fwhm(science.shape[1] / 2, science.shape[0] / 2)
    stars = find_stars(science, template, blocked, int(np.clip(np.ceil(2.5 * fwhm), 8, 15)) + half_width)[:2]
    x, y = grid_positions(science.shape)
    psfs = science.need_psf().stamps(x, y), template.need_psf().stamps(x, y)
    ratio = np.full(len(x), _typical_ratio(pair, blocked, stars))
    shift = _misalignment(pair, blocked, stars).at(x, y)[:, 0] if register else None
    levels = sky_levels(science.variance, blocked[0], x, y), sky_levels(template.variance, blocked[1], x, y)
    kernels = varying(proper_filters(psfs, levels, ratio, half_width, shift), science.shape)
    check_scale(kernels[1], science)
    planes = pair_planes(pair, kernels, fwhm)
    check_overlap(planes.excluded, science)
    psf, stamps = difference_psf(science, kernels[0].at(x, y), x, y, science.shape)
    ours, theirs = (filtered(e, b, k, stamps, fwhm) for e, b, k in zip(pair, blocked, kernels, strict=True))
    scale = _compared(ours, theirs, planes.excluded, psf, stars)
    image, variance, model = _subtracted(ours, theirs, scale.ratio)
    left = flattened(image, variance, planes.excluded)
    sums = kernels[1].sums() * scale.ratio.sums()
    metrics = {
        "convolved": float(kernels[1].half >= kernels[0].half),
        "kernelDegree": float(kernels[1].degree),
        "kernelSum": float(np.median(sums)),
        "kernelSumMin": float(sums.min()),
        "kernelSumMax": float(sums.max()),
        "nKernelStars": float(len(scale.stars)),
        "nKernelRejected": float(scale.rejected),
        "residualBackground": left,
    }
    if len(scale.stars):
        metrics["fluxRatioScatter"] = scale.scatter
    exposure = science.replaced(image=image, variance=variance, mask=planes.mask, psf=psf)
    flux_scale = kernels[1].sum_image() * scale.ratio.sum_image()
    model = quiet_model(model, kernels[1], template.image, flux_scale, planes.excluded)
    return Matched(exposure, planes, model, scale.stars, metrics)


def _subtracted(ours: Filtered, theirs: Filtered, ratio: VaryingKernel) -> tuple[FloatImage, FloatImage, FloatImage]:
    """Return difference, its variance, and the model that was subtracted; writes over what it is given."""
    scale = ratio.sum_image()
    model, variance = theirs.image, theirs.variance
    model *= scale
    variance *= np.square(scale)
    variance += ours.variance
    image = ours.image
    image -= model
    return image, variance, model


def _typical_ratio(
    pair: tuple[Exposure, Exposure], blocked: tuple[_Bool, _Bool], stars: tuple[_Index, _Index]
) -> float:
    """Return a first guess of F_n / F_r; 1 where fewer than 3 stars tell it."""
    ours, theirs = (
        psf_fluxes(e.image, e.variance, ~bad, e.need_psf(), *stars)["flux"]
        for e, bad in zip(pair, blocked, strict=True)
    )
    good = (ours > 0.0) & (theirs > 0.0)
    return float(np.median(ours[good] / theirs[good])) if good.sum() >= _MIN_STARS else 1.0


def _misalignment(
    pair: tuple[Exposure, Exposure], blocked: tuple[_Bool, _Bool], stars: tuple[_Index, _Index]
) -> VaryingKernel:
    """Return a source's place in the template less that in the science image, pixels: (x, y) as a 1 x 2 kernel."""
    planes = [(e.image, e.variance, ~bad, e.need_psf()) for e, bad in zip(pair, blocked, strict=True)]
    here, there = (psf_centroids(*one, *stars) for one in planes)
    return _shift(here, there, pair[0].shape)


def _shift(here: _Rows, there: _Rows, shape: tuple[int, int]) -> VaryingKernel:
    """Return the smooth part of the change of position from `here` to `there`, pixels: (x, y) as a 1 x 2 kernel."""
    found = (here["flags"] == 0) & (there["flags"] == 0)
    here, there = here[found], there[found]
    fits = []
    for axis in ("x", "y"):
        error = np.hypot(np.hypot(here[axis + "Err"], there[axis + "Err"]), _SHIFT_ERROR)
        fits.append(_smooth(there[axis] - here[axis], error, here["x"], here["y"], shape, 0.0)[0])
    degree = max(fit.degree for fit in fits)
    terms = (degree + 1) * (degree + 2) // 2
    both = [np.pad(fit.coefficients, ((0, terms - len(fit.coefficients)), (0, 0), (0, 0))) for fit in fits]
    return VaryingKernel(np.concatenate(both, axis=2), degree, shape)


def _compared(ours: Filtered, theirs: Filtered, excluded: _Bool, psf: PsfModel, stars: tuple[_Index, _Index]) -> _Scale:
    """Compare the stars in the filtered images, which share the PSF `psf`: so neighbours weigh the same in both.

    Fluxes are taken at one place in the sky: where a star's two positions agree with the misalignment of all.
    """
    shape = (int(excluded.shape[0]), int(excluded.shape[1]))
    here, there = (psf_centroids(one.image, one.variance, ~excluded, psf, *stars) for one in (ours, theirs))
    moved = _shift(here, there, shape).at(here["x"], here["y"])[:, 0].T
    at = np.stack([0.5 * (here[axis] + there[axis] - moved[k]) for k, axis in enumerate(("x", "y"))])
    first, second = (
        psf_fluxes(one.image, one.variance, ~excluded, psf, *place, local_background=True)  # sky may be left
        for one, place in ((ours, at), (theirs, at + moved))
    )
    good = (here["flags"] == 0) & (there["flags"] == 0) & (first["flux"] > 0.0) & (second["flux"] > 0.0)
    at, first, second = at[:, good], first[good], second[good]
    ratio = first["flux"] / second["flux"]
    noise = np.hypot(first["fluxErr"] / first["flux"], second["fluxErr"] / second["flux"])
    fit, used = _smooth(ratio, ratio * np.hypot(noise, _RATIO_ERROR), at[0], at[1], shape, 1.0)
    rest = np.abs(ratio / fit.at(at[0], at[1])[:, 0, 0] - 1.0)[used]
    scatter = 1.4826 * float(np.median(rest)) if rest.size else float("nan")
    return _Scale(fit, at[:, used].T, int(np.count_nonzero(~used)), scatter)


def _smooth(
    value: _Float, error: _Float, x: _Float, y: _Float, shape: tuple[int, int], usual: float
) -> tuple[VaryingKernel, _Bool]:
    """Fit a polynomial to values at pixels, as a 1 x 1 kernel, and tell which agree; `usual` where there are too few.

    Starts from the median and drops what lies beyond 4 sigma, by the errors or by the scatter if that is larger.
    """
    good = np.isfinite(value) & np.isfinite(error)
    if good.sum() < _MIN_STARS:
        return VaryingKernel.constant(np.full((1, 1), usual), shape), np.zeros(len(value), bool)
    fit = VaryingKernel.constant(np.full((1, 1), np.median(value[good])), shape)
    for _ in range(_CLIP_ROUNDS):
        pull = np.abs(value - fit.at(x, y)[:, 0, 0]) / error
        spread = max(1.4826 * float(np.median(pull[good])), 1.0)
        good &= pull <= _CLIP_SIGMA * spread
        fit = _polynomial(value[good], spread * error[good], x[good], y[good], shape)
    return fit, good


def _polynomial(value: _Float, error: _Float, x: _Float, y: _Float, shape: tuple[int, int]) -> VaryingKernel:
    """Fit polynomials of degree 0 to 2 as the number of values allows; return the one of least BIC (Schwarz 1978)."""
    best, least = VaryingKernel.constant(np.zeros((1, 1)), shape), np.inf
    for degree in range(3):
        frame = VaryingKernel(np.zeros((1, 1, 1)), degree, shape)
        terms = frame.terms(x, y)
        if degree and len(value) < _STARS_PER_TERM * terms.shape[1]:
            break
        found = np.linalg.lstsq(terms / error[:, None], value / error, rcond=None)[0]
        badness = float(np.square((value - terms @ found) / error).sum() + terms.shape[1] * np.log(len(value)))
        if badness < least:
            best, least = VaryingKernel(np.asarray(found, float).reshape(-1, 1, 1), degree, shape), badness
    return best
