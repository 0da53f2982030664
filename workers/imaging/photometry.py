"""Flux and position of point sources: linear PSF fits at fixed positions, centroids, apertures.

Works on any image with a variance and a PSF: calibrated exposures, and differences with sources of both signs.

Weights. Every usable pixel of a stamp has the same weight, and the error is propagated from the variance plane:
f = sum(P d) / sum(P P), var f = sum(P P V) / sum(P P)^2. This is the optimal estimator where the background dominates
the noise, and unbiased at any brightness and for any variance plane. Weights of 1/V would correlate with the pixel's
own noise, since V is estimated from the same counts, and bias bright fluxes low; they would also let the spread of V
(hosts, mask holes) change what the PSF's errors do to the flux. The price: the error of a source far brighter than
the sky is 15 % larger than the Poisson bound, where PSF errors dominate anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Any

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

from workers.imaging.detection import sep_image
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.pixel_boxes import PixelBoxes, cut_boxes
from workers.imaging.psf import PsfModel, shift_gradients

__all__ = [
    "CENTROID_DTYPE",
    "FLUX_DTYPE",
    "PhotometryFlag",
    "aperture_fluxes",
    "psf_centroids",
    "psf_fluxes",
    "usable_pixels",
]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FLUX_DTYPE = np.dtype(
    [("flux", "f8"), ("fluxErr", "f8"), ("chi2", "f8"), ("nPixels", "i4"), ("background", "f8"), ("flags", "i4")]
)
"""Flux and its error in the image's unit; chi2 of the fit over nPixels pixels; the fitted local background per pixel
(0 where none was asked for); flags of `PhotometryFlag`."""

CENTROID_DTYPE = np.dtype([("x", "f8"), ("y", "f8"), ("xErr", "f8"), ("yErr", "f8"), ("flux", "f8"), ("flags", "i4")])
"""Position and error, 0-based pixels; flux at that position in the image's unit; flags of `PhotometryFlag`."""

MIN_SUPPORT = 0.5
"""Share of sum(PSF^2) on usable pixels below which a flux is not given."""
BATCH = 512
"""Sources fitted at once: bounds the memory."""


class PhotometryFlag(IntFlag):
    """What was wrong with one measurement."""

    EDGE = 1 << 0
    """The stamp leaves the image."""
    MASKED_CENTRE = 1 << 1
    """A pixel within one of the centre is not usable."""
    NO_SUPPORT = 1 << 2
    """Too few usable pixels under the PSF: values are NaN."""
    NOT_CONVERGED = 1 << 3
    """The centroid ran away: the initial position is given, its error is NaN."""


def usable_pixels(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.integer],
    planes: MaskPlane = BLOCKING,
) -> _Bool:
    """Return true, per pixel, where none of `planes` is set, the image is finite and the variance positive."""
    return np.asarray(((mask & int(planes)) == 0) & np.isfinite(image) & (variance > 0.0) & np.isfinite(variance))


def _in_batches(
    measure: Callable[[_Float, _Float], NDArray[Any]], x: ArrayLike, y: ArrayLike, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Apply `measure` to at most `BATCH` positions at a time and join the rows."""
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    parts = [measure(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    return np.concatenate([np.zeros(0, dtype), *parts])


def psf_fluxes(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: ArrayLike,
    y: ArrayLike,
    *,
    local_background: bool = False,
) -> NDArray[Any]:
    """Fit the amplitude of the PSF at fixed positions; return n rows of `FLUX_DTYPE`, in the order given.

    `image` and `variance` (height, width) in any unit and its square, `usable` of `usable_pixels`; `x`, `y` 0-based
    pixels, shape (n,), anywhere (outside the image: NaN and NO_SUPPORT). With `local_background` a constant is fitted
    along with each amplitude. Weights and errors: see the module.
    """

    def measure(px: _Float, py: _Float) -> NDArray[Any]:
        boxes = cut_boxes(image, variance, usable, px, py, psf.size)
        at_x, at_y = np.where(np.isfinite(px), px, 0.0), np.where(np.isfinite(py), py, 0.0)
        return _fit_amplitudes(boxes, psf.stamps_at(at_x, at_y), local_background)

    return _in_batches(measure, x, y, FLUX_DTYPE)


def _fit_amplitudes(boxes: PixelBoxes, stamps: _Float, local_background: bool) -> NDArray[Any]:
    """Solve flux and, where asked, background of each box by linear least squares with equal weights."""
    model = stamps * boxes.good
    n = boxes.good.sum(axis=(1, 2))
    pp, pd = np.square(model).sum(axis=(1, 2)), (model * boxes.data).sum(axis=(1, 2))
    p, d = model.sum(axis=(1, 2)), boxes.data.sum(axis=(1, 2))
    supported = pp > MIN_SUPPORT * np.square(stamps).sum(axis=(1, 2))
    level = np.zeros_like(pp)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (p / n)[:, None, None] if local_background else 0.0
        lever = (model - mean) * boxes.good  # the part of the PSF that a constant can't mimic
        norm = np.square(lever).sum(axis=(1, 2))
        flux = (lever * boxes.data).sum(axis=(1, 2)) / norm if local_background else pd / pp
        if local_background:
            level = (d - flux * p) / n
        error = np.sqrt((np.square(lever) * boxes.variance).sum(axis=(1, 2))) / norm
        residual = boxes.data - (flux[:, None, None] * model + level[:, None, None] * boxes.good)
        chi2 = (np.square(residual) / np.where(boxes.good > 0, boxes.variance, 1.0)).sum(axis=(1, 2))
    rows = np.zeros(len(flux), FLUX_DTYPE)
    for name, value in (("flux", flux), ("fluxErr", error), ("chi2", chi2), ("background", level)):
        rows[name] = np.where(supported, value, np.nan)
    rows["nPixels"] = n
    rows["flags"] = _flags(boxes, supported)
    return rows


def _flags(boxes: PixelBoxes, supported: _Bool) -> NDArray[np.int32]:
    """Return the flags that both fits share."""
    flags = np.where(boxes.edge, int(PhotometryFlag.EDGE), 0)
    flags |= np.where(boxes.centre, 0, int(PhotometryFlag.MASKED_CENTRE))
    flags |= np.where(supported, 0, int(PhotometryFlag.NO_SUPPORT))
    return flags.astype(np.int32)


def psf_centroids(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: ArrayLike,
    y: ArrayLike,
    *,
    iterations: int = 6,
    max_shift: float = 2.0,
) -> NDArray[Any]:
    """Fit flux and position of the PSF to each source, starting from (x, y); return n rows of `CENTROID_DTYPE`.

    Gauss-Newton on the PSF's derivatives, all sources at once; arguments as `psf_fluxes`. Either sign of flux. Good
    starts lie within about half the PSF's width; a fit that leaves `max_shift` pixels is flagged NOT_CONVERGED.
    """

    def measure(px: _Float, py: _Float) -> NDArray[Any]:
        boxes = cut_boxes(image, variance, usable, px, py, psf.size)
        start = np.where(np.isfinite(px), px, 0.0), np.where(np.isfinite(py), py, 0.0)
        return _fit_positions(boxes, psf.stamps(*start), start, iterations, max_shift)

    return _in_batches(measure, x, y, CENTROID_DTYPE)


def _fit_positions(
    boxes: PixelBoxes, stamps: _Float, start: tuple[_Float, _Float], iterations: int, max_shift: float
) -> NDArray[Any]:
    """Iterate positions from `start` (one array per axis); the PSF's own change over a step is neglected."""
    x, y = start[0].copy(), start[1].copy()
    supported = (np.square(stamps) * boxes.good).sum(axis=(1, 2)) > MIN_SUPPORT * np.square(stamps).sum(axis=(1, 2))
    flux, sigma = np.zeros(len(x)), np.full((len(x), 3), np.nan)
    active = np.flatnonzero(supported)
    for _ in range(iterations):
        if len(active) == 0:
            break
        solution, sigma[active] = _solve_step(boxes, stamps, x, y, active)
        flux[active] = solution[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip(np.nan_to_num(solution[:, 1:] / solution[:, :1]), -0.5, 0.5)
        x[active] += step[:, 0]
        y[active] += step[:, 1]
        active = active[np.abs(step).max(axis=1) > 1e-4]
    lost = np.hypot(x - start[0], y - start[1]) > max_shift
    rows = np.zeros(len(x), CENTROID_DTYPE)
    rows["x"], rows["y"] = np.where(lost, start[0], x), np.where(lost, start[1], y)
    rows["flux"] = np.where(supported & ~lost, flux, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, column in (("xErr", 1), ("yErr", 2)):
            rows[name] = np.where(supported & ~lost, sigma[:, column] / np.abs(flux), np.nan)
    rows["flags"] = _flags(boxes, supported) | np.where(lost, int(PhotometryFlag.NOT_CONVERGED), 0)
    return rows


def _solve_step(
    boxes: PixelBoxes, stamps: _Float, x: _Float, y: _Float, active: NDArray[np.int64]
) -> tuple[_Float, _Float]:
    """Fit d = f P + (f dx) P_x + (f dy) P_y; return the three amplitudes and their errors, both (m, 3)."""
    shift = np.clip(x[active] - boxes.x[active], -3, 3), np.clip(y[active] - boxes.y[active], -3, 3)
    # the derivatives are by the position of the PSF, so that a positive amplitude moves the source that way
    design = np.stack(shift_gradients(stamps[active], *shift), axis=1) * boxes.good[active][:, None]
    design = design.reshape(len(active), 3, -1)
    data, variance = boxes.data[active].reshape(len(active), -1), boxes.variance[active].reshape(len(active), -1)
    normal = np.matmul(design, design.transpose(0, 2, 1))
    normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    inverse = np.linalg.inv(normal)
    solution = np.matmul(inverse, np.matmul(design, data[:, :, None]))[:, :, 0]
    noise = np.matmul(design * variance[:, None, :], design.transpose(0, 2, 1))
    covariance = np.matmul(np.matmul(inverse, noise), inverse)
    return solution, np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))


def aperture_fluxes(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    x: ArrayLike,
    y: ArrayLike,
    radius: float,
) -> tuple[_Float, _Float, NDArray[np.int32]]:
    """Sum the image in circles of `radius` pixels; return flux, its error (float64) and sep's flags, each (n,).

    Pixels that are not usable count as the mean of the usable ones in the circle. Positions as in `psf_fluxes`.
    """
    clean, masked = sep_image(image, ~usable)
    noise = np.ascontiguousarray(np.where(masked, 0.0, variance), dtype=np.float32)
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    flux, error, flags = sep.sum_circle(clean, x, y, radius, var=noise, mask=masked, subpix=0)
    return np.asarray(flux, float), np.asarray(error, float), np.asarray(flags, np.int32)
