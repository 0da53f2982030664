"""Measure the sources of a difference: positions, fluxes, shapes and dipoles, as diaSource rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure
from workers.imaging.extendedness import extendedness_of, spread_model
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.photometry import PhotometryFlag, aperture_fluxes, psf_centroids, psf_fluxes
from workers.imaging.psf import FWHM_PER_SIGMA
from workers.imaging.stamps import Stamps
from workers.imaging.wcs import SkyWcs
from workers.subtract.flags import set_photometry_flags
from workers.subtract.shapes import weighted_moments

__all__ = [
    "APERTURE_RADIUS",
    "blank_rows",
    "measure_extendedness",
    "measure_fluxes",
    "measure_positions",
    "measure_shapes",
]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]
APERTURE_RADIUS = 12.0
"""Of apFlux, pixels: as the schema defines it."""
_LEAST_SNR = 5.0


def blank_rows(dtype: np.dtype[Any], count: int) -> _Rows:
    """Return `count` rows with every floating column NaN (no value) and all others 0, False or empty."""
    rows = np.zeros(count, dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "f":
            rows[name] = np.nan
    return rows


def measure_positions(
    rows: _Rows, difference: Exposure, usable: _Bool, x: NDArray[np.integer], y: NDArray[np.integer]
) -> None:
    """Fill x, y, ra, dec, their errors and covariance and centroid_flag, from peaks at pixels (x, y)."""
    fit = psf_centroids(difference.image, difference.variance, usable, difference.need_psf(), x, y)
    bad = int(PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)
    for name in ("x", "y", "xErr", "yErr"):
        rows[name] = fit[name]
    rows["centroid_flag"] = ((fit["flags"] & bad) != 0) | ~np.isfinite(fit["xErr"])
    wcs = difference.need_wcs()
    rows["ra"], rows["dec"] = wcs.pixel_to_sky(fit["x"], fit["y"])
    to_sky = _jacobians(wcs, fit["x"], fit["y"])
    errors = np.zeros((len(rows), 2, 2))
    errors[:, 0, 0], errors[:, 1, 1] = np.square(fit["xErr"]), np.square(fit["yErr"])
    covariance = to_sky @ errors @ to_sky.transpose(0, 2, 1)
    rows["raErr"], rows["decErr"] = np.sqrt(covariance[:, 0, 0]), np.sqrt(covariance[:, 1, 1])
    rows["ra_dec_Cov"] = covariance[:, 0, 1]


def _jacobians(wcs: SkyWcs, x: _Float, y: _Float) -> _Float:
    """Return d(ra cos dec, dec)/d(x, y) in degrees per pixel at each position, float64 (m, 2, 2)."""
    steps = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    ra, dec = wcs.pixel_to_sky(x[:, None] + steps[:, 0], y[:, None] + steps[:, 1])
    turn = (ra[:, [0, 2]] - ra[:, [1, 3]] + 180.0) % 360.0 - 180.0
    turn *= np.cos(np.radians(dec.mean(axis=1)))[:, None]
    return np.stack([turn, dec[:, [0, 2]] - dec[:, [1, 3]]], axis=1)


def measure_fluxes(rows: _Rows, difference: Exposure, usable: _Bool, science: Exposure, template: Exposure) -> None:
    """Fill the PSF and aperture fluxes of the difference, and forced PSF fluxes of science and template, at x and y."""
    x, y = rows["x"].astype(float), rows["y"].astype(float)
    planes = difference.image, difference.variance
    fit = psf_fluxes(*planes, usable, difference.need_psf(), x, y)
    rows["psfFlux"], rows["psfFluxErr"] = fit["flux"], fit["fluxErr"]
    rows["psfChi2"], rows["psfNdata"] = fit["chi2"], fit["nPixels"]
    rows["psfLnL"] = -0.5 * fit["chi2"]
    set_photometry_flags(rows, "psfFlux", fit["flags"])
    flux, error, flags = aperture_fluxes(*planes, usable, x, y, APERTURE_RADIUS)
    rows["apFlux"], rows["apFluxErr"] = flux, error
    height, width = difference.shape
    reach = APERTURE_RADIUS + 0.5
    cut = (x < reach) | (y < reach) | (x > width - 1 - reach) | (y > height - 1 - reach)
    rows["apFlux_flag_apertureTruncated"] = cut
    rows["apFlux_flag"] = cut | (flags != 0)
    for name, exposure in (("science", science), ("template", template)):
        good = usable_pixels(exposure.image, exposure.variance, exposure.mask)
        forced = psf_fluxes(exposure.image, exposure.variance, good, exposure.need_psf(), x, y)
        rows[f"{name}Flux"], rows[f"{name}FluxErr"] = forced["flux"], forced["fluxErr"]
        if name == "science":
            set_photometry_flags(rows, "forced_PsfFlux", forced["flags"])


def measure_extendedness(rows: _Rows, science: Exposure) -> None:
    """Fill extendedness, of the source in the science image at the place: the probability of a galaxy.

    NaN where nothing of S/N 5 is there, as for a source that is negative and alone.
    """
    seen = np.flatnonzero(rows["scienceFlux"] > _LEAST_SNR * rows["scienceFluxErr"])
    x, y = rows["x"][seen].astype(float), rows["y"][seen].astype(float)
    usable = usable_pixels(science.image, science.variance, science.mask)
    rows["extendedness"][seen] = extendedness_of(
        *spread_model(science.image, science.variance, usable, science.need_psf(), x, y)
    )


def measure_shapes(rows: _Rows, stamps: Stamps, fwhm: float, scale: float) -> None:
    """Fill the second moments of source and PSF, arcsec² along the pixel axes; `scale` in arcsec per pixel."""
    sigma = fwhm / FWHM_PER_SIGMA
    x, y = rows["x"].astype(float), rows["y"].astype(float)
    sign = np.where(rows["isNegative"], -1.0, 1.0)[:, None, None]
    source = weighted_moments(sign * stamps.difference, x - np.round(x), y - np.round(y), sigma)
    zero = np.zeros(len(rows))
    psf = weighted_moments(stamps.differencePsf, zero, zero, sigma)
    for column, name in enumerate(("ixx", "iyy", "ixy")):
        rows[name] = source[:, column] * scale**2
        rows[f"{name}PSF"] = psf[:, column] * scale**2
    middle = stamps.difference.shape[1] // 2
    rows["shape_flag_no_pixels"] = ~np.isfinite(stamps.difference).any(axis=(1, 2))
    rows["shape_flag_not_contained"] = ~np.isfinite(stamps.difference[:, middle, middle])
    rows["shape_flag"] = ~np.isfinite(source).all(axis=1)
