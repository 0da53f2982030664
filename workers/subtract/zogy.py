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
from scipy import fft

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.subtract.basis import tapered
from workers.subtract.convolve import VaryingKernel, convolve, grid_positions
from workers.subtract.decorrelate import noise_gains
from workers.subtract.difference import Matched, check_scale, clean_variance, difference_psf, sky_levels
from workers.subtract.kernel_stars import find_stars
from workers.subtract.masking import DifferenceMask, blocked_pixels, combine_masks, filled, kernel_reach
from workers.subtract.residual_background import residual_background

__all__ = ["proper_filters", "zogy_difference"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Index = NDArray[np.intp]
_Complex = NDArray[np.complex128]
_Rows = NDArray[Any]
_FLOOR = 1e-3
"""Of the transform of a PSF of unit sum: what is below tells nothing."""
_ROUNDS = 10
_RIDGE = 1e-4
"""Of the squared change of the filters, beside the squared mismatch."""
_DEGREE = 2
"""Of the filters' change over the image."""
_TRIMMED = 1e-6
"""Of a filter's sum of squares, cut off before the filters are matched."""
_VARIANCE_LOSS = 1e-3
"""Of the sum of A^4, outside the pixels through which variance is spread."""
_TINY = 1e-300
_MIN_STARS = 3
_STARS_PER_TERM = 6
_CLIP_ROUNDS, _CLIP_SIGMA = 5, 4.0
_RATIO_ERROR = 0.003
"""Least error of a star's flux ratio: what the PSFs are wrong by."""
_SHIFT_ERROR = 0.01
"""Least error of a star's misalignment along an axis, pixels."""


@dataclass(frozen=True)
class _Filtered:
    """One image as its filter leaves it."""

    image: FloatImage
    variance: FloatImage
    """Per pixel, so that PSF fluxes get their true errors."""


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
    _check_overlap(blocked[0] | blocked[1], science)
    fwhm = science.need_psf().fwhm(science.shape[1] / 2, science.shape[0] / 2)
    stars = find_stars(science, template, blocked, int(np.clip(np.ceil(2.5 * fwhm), 8, 15)) + half_width)[:2]
    x, y = grid_positions(science.shape)
    psfs = science.need_psf().stamps(x, y), template.need_psf().stamps(x, y)
    ratio = np.full(len(x), _typical_ratio(pair, blocked, stars))
    shift = _misalignment(pair, blocked, stars).at(x, y)[:, 0] if register else None
    levels = sky_levels(science.variance, blocked[0], x, y), sky_levels(template.variance, blocked[1], x, y)
    kernels = _varying(proper_filters(psfs, levels, ratio, half_width, shift), science.shape)
    check_scale(kernels[1], science)
    planes = _planes(pair, kernels, fwhm)
    _check_overlap(planes.excluded, science)
    psf, stamps = difference_psf(science, kernels[0].at(x, y), x, y, science.shape)
    ours, theirs = (_filtered(e, b, k, stamps, fwhm) for e, b, k in zip(pair, blocked, kernels, strict=True))
    scale = _compared(ours, theirs, planes.excluded, psf, stars)
    image, variance, model = _subtracted(ours, theirs, scale.ratio)
    left = _flattened(image, variance, planes.excluded)
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
    return Matched(exposure, planes, model, scale.stars, metrics)


def proper_filters(
    psfs: tuple[_Float, _Float],
    variances: tuple[_Float, _Float],
    ratio: _Float,
    half: int,
    shift: _Float | None = None,
) -> tuple[_Float, _Float]:
    """Return A (m, a, a) of unit sum and B (m, b, b), at most 2 `half` + 1 pixels on a side: D = A * n - B * r.

    `psfs` of new image and reference, (m, p, p) each and of unit sum; `variances` of their skies and the flux `ratio`
    F_n / F_r, (m,) each; `shift` (m, 2), pixels along x and y, of the reference against the new image. Cut to
    squares, A and B no longer give the same PSF to both images: they are changed a little so that they do.
    """
    size = fft.next_fast_len(psfs[0].shape[1] + psfs[1].shape[1] + 2 * half, real=True)
    new, reference = (_transform(stamps, size) for stamps in psfs)
    scale = ratio[:, None, None]
    floored = [plane + rest for plane, rest in zip((new, reference), _unseen(new, reference), strict=True)]
    plain, through = (variance[:, None, None] for variance in variances)
    noise = np.sqrt(plain * np.square(np.abs(floored[1])) + through * np.square(scale * np.abs(floored[0])))
    ours, theirs = floored[1] / noise, scale * floored[0] / noise
    if shift is not None:
        turn = _turn(shift, size)
        reference = reference * turn
        theirs = theirs * turn.conj()
    wide = _cut(_stamps(ours, size), half), _cut(_stamps(theirs, size), half)
    edge = tapered(np.arange(-half, half + 1) / (half + 1))
    a, b = (kernels * edge[:, None] * edge for kernels in wide)
    a, b = _cut(a, _enough(a)), _cut(b, _enough(b))
    a, b = _matched(a, b, scale * new, reference, size)
    total = a.sum(axis=(1, 2), keepdims=True)
    return a / total, b / total


def _unseen(new: _Complex, reference: _Complex) -> tuple[_Float, _Float]:
    """Return what to add to the transforms where neither PSF has power: to the sharper, as if it went on being so.

    The quotients have a value there, noise stays white, and nothing changes where there is power.
    """
    power = np.square(np.abs(new)) + np.square(np.abs(reference))
    rest = _FLOOR**3 / (_FLOOR**2 + power)
    sharper = np.square(np.abs(reference)).sum() >= np.square(np.abs(new)).sum()
    nothing = np.zeros_like(rest)
    return (nothing, rest) if sharper else (rest, nothing)


def _matched(a: _Float, b: _Float, new: _Complex, reference: _Complex, size: int) -> tuple[_Float, _Float]:
    """Return A and B changed a little so that A * (scaled PSF of n) = B * (PSF of r): what is left of stars.

    Least squares of the difference of the two with a ridge on the change, by conjugate gradients.
    """
    halves = a.shape[1] // 2, b.shape[1] // 2

    def mismatch(ours: _Float, theirs: _Float) -> _Complex:
        return np.asarray(new * _transform(ours, size) - reference * _transform(theirs, size))

    def slope(error: _Complex) -> list[_Float]:
        sides = _stamps(new.conj() * error, size), _stamps(-reference.conj() * error, size)
        return [_cut(side, half) for side, half in zip(sides, halves, strict=True)]

    found, rest = [a, b], [-side for side in slope(mismatch(a, b))]
    step, square = rest, _products(rest, rest)
    for _ in range(_ROUNDS):
        bent = [one + _RIDGE * two for one, two in zip(slope(mismatch(*step)), step, strict=True)]
        far = square / np.maximum(_products(step, bent), _TINY)
        found = [one + far * two for one, two in zip(found, step, strict=True)]
        rest = [one - far * two for one, two in zip(rest, bent, strict=True)]
        before, square = square, _products(rest, rest)
        turn = square / np.maximum(before, _TINY)
        step = [one + turn * two for one, two in zip(rest, step, strict=True)]
    return found[0], found[1]


def _products(first: list[_Float], second: list[_Float]) -> _Float:
    """Return the inner products over both stacks, (m, 1, 1)."""
    products = [(one * two).sum(axis=(1, 2), keepdims=True) for one, two in zip(first, second, strict=True)]
    return np.asarray(products[0] + products[1])


def _enough(kernels: _Float) -> int:
    """Return the half width that holds all but a share of `_TRIMMED` of the squares' sum."""
    half = kernels.shape[1] // 2
    away = np.abs(np.arange(-half, half + 1))
    ring = np.maximum(away[:, None], away[None, :]).ravel()
    held = np.cumsum(np.bincount(ring, weights=np.square(kernels).sum(axis=0).ravel()))
    return int(np.argmax(held >= (1.0 - _TRIMMED) * held[-1]))


def _transform(stamps: _Float, size: int) -> _Complex:
    """Return the transforms of stamps whose middle is the origin, (m, size, size // 2 + 1)."""
    n = stamps.shape[1]
    padded = np.zeros((len(stamps), size, size))
    padded[:, :n, :n] = stamps
    return np.asarray(fft.rfft2(np.roll(padded, (-(n // 2), -(n // 2)), axis=(1, 2)), axes=(1, 2)))


def _stamps(transforms: _Complex, size: int) -> _Float:
    """Return the images of the transforms, the origin in the middle pixel (size // 2)."""
    return np.asarray(fft.fftshift(fft.irfft2(transforms, s=(size, size), axes=(1, 2)), axes=(1, 2)))


def _cut(stamps: _Float, half: int) -> _Float:
    """Return the inner 2 `half` + 1 pixels of stamps whose origin is at pixel n // 2."""
    middle = stamps.shape[1] // 2
    part = slice(middle - half, middle + half + 1)
    return stamps[:, part, part]


def _turn(shift: _Float, size: int) -> _Complex:
    """Return the transform of a shift by (x, y) pixels, (m, size, size // 2 + 1)."""
    along, up = 2.0 * np.pi * fft.rfftfreq(size), 2.0 * np.pi * fft.fftfreq(size)
    phase = shift[:, 0, None, None] * along + shift[:, 1, None, None] * up[:, None]
    return np.asarray(np.exp(-1j * phase))


def _varying(kernels: tuple[_Float, _Float], shape: tuple[int, int]) -> tuple[VaryingKernel, VaryingKernel]:
    """Return the filters, given on the grid, over the image."""
    x, y = grid_positions(shape)
    return VaryingKernel.fit(kernels[0], x, y, _DEGREE, shape), VaryingKernel.fit(kernels[1], x, y, _DEGREE, shape)


def _planes(
    pair: tuple[Exposure, Exposure], kernels: tuple[VaryingKernel, VaryingKernel], fwhm: float
) -> DifferenceMask:
    """Return the mask of a difference of two images that are both convolved."""
    ours, theirs = (
        combine_masks(*pair, convolved_template=which, reach=kernel_reach(kernel), fwhm=fwhm)
        for which, kernel in zip((False, True), kernels, strict=True)
    )
    return DifferenceMask(ours.mask | theirs.mask, ours.excluded | theirs.excluded, ours.halo | theirs.halo)


def _check_overlap(excluded: _Bool, science: Exposure) -> None:
    """Raise DataError where no pixel is left."""
    if excluded.all():
        raise DataError(
            f"exposure {science.info.label}: no pixel is usable in both science and template; "
            "look at the masks, and at image and variance for values that are not finite"
        )


def _filtered(exposure: Exposure, blocked: _Bool, kernel: VaryingKernel, psfs: _Float, fwhm: float) -> _Filtered:
    """Return the image and its noise through the filter; `psfs` (m, p, p) of the difference on the grid.

    On blank sky the variances of both images add up to that of the white noise.
    """
    x, y = grid_positions(kernel.shape)
    kernels = kernel.at(x, y)
    squares = np.square(kernels)
    gain = noise_gains(kernels, np.ones((len(x), 1, 1)), psfs)[0] / squares.sum(axis=(1, 2))
    spread = VaryingKernel.fit(squares * gain[:, None, None], x, y, _DEGREE, kernel.shape).trimmed(_VARIANCE_LOSS)
    image = convolve(filled(exposure.image, blocked, 0.5 * fwhm), kernel)
    return _Filtered(image, convolve(clean_variance(exposure.variance, blocked), spread))


def _subtracted(ours: _Filtered, theirs: _Filtered, ratio: VaryingKernel) -> tuple[FloatImage, FloatImage, FloatImage]:
    """Return difference, its variance, and the model that was subtracted; writes over what it is given."""
    scale = ratio.sum_image()
    model, variance = theirs.image, theirs.variance
    model *= scale
    variance *= np.square(scale)
    variance += ours.variance
    image = ours.image
    image -= model
    return image, variance, model


def _flattened(image: FloatImage, variance: FloatImage, excluded: _Bool) -> float:
    """Take the background off `image` in place, set excluded pixels to 0, and return the typical background, nJy."""
    some = image[::8, ::8][~excluded[::8, ::8]]
    level = np.float32(np.median(some)) if some.size else np.float32(0.0)
    image -= level
    left = residual_background(image, variance, excluded)
    image -= left.sum_image()
    image[excluded] = 0.0
    return float(level) + float(np.median(left.sums()))


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


def _compared(
    ours: _Filtered, theirs: _Filtered, excluded: _Bool, psf: PsfModel, stars: tuple[_Index, _Index]
) -> _Scale:
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
