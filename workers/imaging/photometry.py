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

import math
from collections.abc import Callable
from enum import IntFlag
from typing import Any

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

from workers.imaging.detection import sep_image
from workers.imaging.point_fits import fit_amplitudes, fit_positions, shift_table, shifted_stamps
from workers.imaging.psf import PsfModel
from workers.imaging.squares import Squares, cut_squares

__all__ = [
    "CENTROID_DTYPE",
    "FLUX_DTYPE",
    "PhotometryFlag",
    "aperture_fluxes",
    "core_half",
    "cut_squares",
    "fitted_positions",
    "psf_centroids",
    "psf_fluxes",
]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FLUX_DTYPE = np.dtype(
    [("flux", "f8"), ("fluxErr", "f8"), ("chi2", "f8"), ("nPixels", "i4"), ("background", "f8"), ("flags", "i4")]
)
"""Flux and its error in the image's unit; chi2 of the fit over nPixels pixels; the fitted local background per pixel
(0 where none was asked for); flags of `PhotometryFlag`."""

CENTROID_DTYPE = np.dtype([(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "fluxBias")] + [("flags", "i4")])
"""Position and error, 0-based pixels; flux at that position, and by how much a flux measured there is expected to be
too high, since the position was fitted, both in the image's unit; flags of `PhotometryFlag`."""

MIN_SUPPORT = 0.5
"""Share of sum(PSF^2) on usable pixels below which a flux is not given."""
CORE_LOSS = 1e-3
"""Share of the PSF's squared gradient, which is the weight of the position, that may lie outside the core."""
BATCH = 96
"""Sources fitted at once: bounds the memory, and keeps it in the cache."""


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
    along with each amplitude. Weights and errors: see the module. At positions that were fitted to the same pixels
    the fluxes are too high by `psf_centroids`' fluxBias.
    """

    def measure(px: _Float, py: _Float) -> NDArray[Any]:
        squares = cut_squares(image, variance, usable, px, py, psf.size // 2)
        at_x, at_y = _finite(px), _finite(py)
        stamps = psf.fine_stamps(at_x, at_y)
        stamps = shifted_stamps(stamps, at_x - np.round(at_x), at_y - np.round(at_y), psf.oversampling)
        out = np.empty((len(px), 5))
        fit_amplitudes(squares.data, squares.noise, stamps, local_background, MIN_SUPPORT, out)
        rows = np.zeros(len(px), FLUX_DTYPE)
        for column, name in enumerate(("flux", "fluxErr", "chi2", "background", "nPixels")):
            rows[name] = out[:, column]
        rows["flags"] = _flags(squares, psf.size // 2, usable.shape, np.isfinite(rows["flux"]))
        return rows

    return _in_batches(measure, x, y, FLUX_DTYPE)


def _finite(position: _Float) -> _Float:
    return np.where(np.isfinite(position), position, 0.0)


def _flags(squares: Squares, half: int, shape: tuple[int, ...], supported: _Bool) -> NDArray[np.int32]:
    """Return the flags that both fits share; `half` of the PSF's stamp, `shape` of the image."""
    height, width = shape
    x, y, middle = squares.x, squares.y, squares.data.shape[1] // 2
    edge = (x < half) | (y < half) | (x + half >= width) | (y + half >= height)
    centre = (squares.noise[:, middle - 1 : middle + 2, middle - 1 : middle + 2] >= 0.0).all(axis=(1, 2))
    flags = np.where(edge, int(PhotometryFlag.EDGE), 0)
    flags |= np.where(centre, 0, int(PhotometryFlag.MASKED_CENTRE))
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

    Gauss-Newton on the PSF's derivatives, in the PSF's core, which holds all but a thousandth of what the image tells
    of the position; arguments as `psf_fluxes`. Either sign of flux. Good starts lie within about half the PSF's width;
    a fit that leaves `max_shift` pixels is flagged NOT_CONVERGED. The PSF's own change over a step is neglected.

    A fit moves to where the noise adds to the flux, so fluxes at fitted positions are too high: by 1/(S/N)^2 of
    themselves in white noise (Portillo et al. 2020, AJ 159, 165, section 2). fluxBias is this for any variance plane:
    half the curvature of the flux times the covariance of the position; `flux` is not corrected for it.
    """
    half = core_half(psf)

    def measure(px: _Float, py: _Float) -> NDArray[Any]:
        squares = cut_squares(image, variance, usable, px, py, half + math.ceil(max_shift) + 1)
        stamps = psf.fine_stamps(_finite(px), _finite(py))
        planes = squares.data, squares.noise
        rows = fitted_positions(*planes, stamps, psf.oversampling, px, py, half, iterations, max_shift)
        rows["flags"] |= _flags(squares, psf.size // 2, usable.shape, rows["flags"] & _UNSUPPORTED == 0)
        return rows

    return _in_batches(measure, x, y, CENTROID_DTYPE)


_UNSUPPORTED = np.int32(PhotometryFlag.NO_SUPPORT)


def core_half(psf: PsfModel) -> int:
    """Return the half side, pixels, of the square that holds all but `CORE_LOSS` of the PSF's squared gradient."""
    edge_x, edge_y = (np.array([0.0, 0.5, 1.0]) * (size - 1) for size in (psf.width, psf.height))
    stamps = psf.stamps(np.tile(edge_x, 3), np.repeat(edge_y, 3))
    slope = sum(np.square(np.gradient(stamps, axis=axis)) for axis in (1, 2))
    axis = np.abs(np.arange(psf.size) - psf.size // 2)
    ring = np.maximum(axis[:, None], axis[None, :]).ravel()
    held = np.stack([np.bincount(ring, weights=one.ravel()) for one in np.asarray(slope)]).cumsum(axis=1)
    enough = (held >= (1.0 - CORE_LOSS) * held[:, -1:]).all(axis=0)
    return max(int(np.argmax(enough)), min(3, psf.size // 2))


def fitted_positions(
    data: _Float,
    noise: _Float,
    stamps: _Float,
    oversampling: int,
    x: _Float,
    y: _Float,
    half: int,
    iterations: int,
    max_shift: float,
) -> NDArray[Any]:
    """Return rows of `CENTROID_DTYPE` for planes of `cut_squares` round (x, y) and the PSF's `fine_stamps` there."""
    at_x, at_y = _finite(x), _finite(y)
    middle_x, middle_y = np.round(at_x), np.round(at_y)
    out = np.empty((len(x), 6))
    offsets = at_x - middle_x, at_y - middle_y
    fit_positions(data, noise, stamps, oversampling, *offsets, half, iterations, shift_table(), out)
    supported = _supported(noise, stamps[:, ::oversampling, ::oversampling], half) & np.isfinite(out[:, 2])
    shift_x, shift_y = out[:, 0] + middle_x - at_x, out[:, 1] + middle_y - at_y
    lost = supported & (np.hypot(shift_x, shift_y) > max_shift)
    kept = supported & ~lost
    rows = np.zeros(len(x), CENTROID_DTYPE)
    rows["x"], rows["y"] = at_x + np.where(kept, shift_x, 0.0), at_y + np.where(kept, shift_y, 0.0)
    for name, column in (("flux", 2), ("xErr", 3), ("yErr", 4), ("fluxBias", 5)):
        rows[name] = np.where(kept, out[:, column], np.nan)
    rows["flags"] = np.where(supported, 0, _UNSUPPORTED) | np.where(lost, int(PhotometryFlag.NOT_CONVERGED), 0)
    return rows


def _supported(noise: _Float, stamps: _Float, half: int) -> _Bool:
    """Return whether more than `MIN_SUPPORT` of sum(PSF^2) in the core falls on usable pixels."""
    middle, centre = stamps.shape[1] // 2, noise.shape[1] // 2
    core = np.square(stamps[:, middle - half : middle + half + 1, middle - half : middle + half + 1])
    good = noise[:, centre - half : centre + half + 1, centre - half : centre + half + 1] >= 0.0
    return np.asarray((core * good).sum(axis=(1, 2)) > MIN_SUPPORT * core.sum(axis=(1, 2)))


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
