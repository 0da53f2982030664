"""The columns of a source catalogue: names of the DPDD's Source table (LSE-163), types, units and meanings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["APERTURE_RADII", "COLUMNS", "SOURCE_CATALOGUE_DTYPE", "Column", "source_ids"]

APERTURE_RADII = (3, 6, 9, 12, 17, 25)
"""Pixels, of the apFlux columns."""

VISIT_BITS, DETECTOR_BITS, RANK_BITS = 37, 8, 18
"""Of a sourceId: 262144 sources on a detector."""


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    dtype: str
    unit: str
    """As FITS and astropy write it; empty where there is none."""
    doc: str


def _flux(name: str, what: str) -> tuple[Column, Column]:
    return Column(name, "f8", "nJy", what), Column(f"{name}Err", "f8", "nJy", f"Error of {name}")


def _moments(suffix: str, whose: str) -> tuple[Column, ...]:
    axes = (("ixx", "along x"), ("iyy", "along y"), ("ixy", "mixed"))
    return tuple(Column(f"{name}{suffix}", "f4", "pix2", f"{whose}, {axis}") for name, axis in axes)


def _flags(*pairs: tuple[str, str]) -> tuple[Column, ...]:
    return tuple(Column(name, "?", "", doc) for name, doc in pairs)


_APERTURES = tuple(
    column
    for radius in APERTURE_RADII
    for column in (
        *_flux(f"apFlux_{radius}", f"Flux in a circle of {radius} pixels radius, exact at its rim"),
        *_flags((f"apFlux_{radius}_flag", f"The circle of {radius} pixels leaves the image or is masked altogether")),
    )
)

COLUMNS = (
    Column("sourceId", "i8", "", "Identity: visit, detector and rank packed into one number"),
    Column("parentSourceId", "i8", "", "First source of the footprint that this one was split from; 0 for one alone"),
    Column("visit", "i8", "", "Visit of the exposure"),
    Column("detector", "i4", "", "Detector of the exposure"),
    Column("x", "f8", "pix", "Column of the centroid; the first pixel's centre is 0"),
    Column("y", "f8", "pix", "Row of the centroid; the first pixel's centre is 0"),
    Column("xErr", "f4", "pix", "Error of x"),
    Column("yErr", "f4", "pix", "Error of y"),
    Column("ra", "f8", "deg", "Right ascension of the centroid, ICRS, at the time of the exposure"),
    Column("dec", "f8", "deg", "Declination of the centroid, ICRS, at the time of the exposure"),
    Column("raErr", "f4", "deg", "Error of ra times cos(dec), of the centroid alone"),
    Column("decErr", "f4", "deg", "Error of dec, of the centroid alone"),
    Column("ra_dec_Cov", "f4", "deg2", "Covariance of ra times cos(dec) with dec"),
    Column("detectionSnr", "f4", "", "Peak of the smoothed image over the noise of the sky"),
    Column("snr", "f4", "", "psfFlux over psfFluxErr"),
    *_flux(
        "psfFlux", "Flux of the point-source fit, fitted with the neighbours of a blend, less the bias of its place"
    ),
    Column("psfChi2", "f4", "", "Chi-square of the point-source fit"),
    Column("psfNdata", "i4", "", "Pixels in the point-source fit"),
    Column("apCorr", "f4", "", "What psfFlux is multiplied by to be the flux within 12 pixels"),
    Column("apCorrErr", "f4", "", "Error of apCorr, common to neighbours"),
    Column("apCorr_flag", "?", "", "Too few bright lonely stars for an aperture correction"),
    *_APERTURES,
    *_flux("kronFlux", "Flux in the ellipse of 2.5 Kron radii; neighbours' footprints count as its mean"),
    Column("kronRad", "f4", "pix", "Radius sqrt(ab) of the ellipse of kronFlux"),
    *_moments("", "Adaptive second moment"),
    *_moments("Err", "Error of the adaptive second moment"),
    *_moments("PSF", "Adaptive second moment of the PSF"),
    Column("spread", "f4", "", "0 for the PSF, 1 for the PSF convolved with a disc of 0.2 FWHM half-light radius"),
    Column("spreadErr", "f4", "", "Error of spread"),
    Column("extendedness", "f4", "", "0 for a point source to 1 for an extended one: probability of a galaxy"),
    Column("blendedness", "f4", "", "Share of the light under the source's PSF that is its neighbours', 0 to 1"),
    Column("nChild", "i4", "", "Sources that the footprint was split into; 1 for one alone"),
    Column("nBlend", "i4", "", "Sources in the simultaneous fit of fluxes; 1 for one alone"),
    Column("localBackground", "f4", "nJy / pix", "Clipped mean of the sky in a ring about the source"),
    Column("localBackgroundErr", "f4", "nJy / pix", "Error of localBackground"),
    *_flags(
        ("centroid_flag", "No position could be fitted: that of the detection is given"),
        ("psfFlux_flag", "The point-source fit failed, or its centre is masked"),
        ("psfFlux_flag_edge", "The PSF leaves the image"),
        ("psfFlux_flag_noGoodPixels", "Too few usable pixels under the PSF"),
        ("kronFlux_flag", "The ellipse leaves the image, is masked altogether or was not found"),
        ("shape_flag", "The moments did not converge: they are NaN"),
        ("deblend_flag", "Split from a neighbour"),
        ("blend_flag_tooLarge", "The blend has too many sources to be fitted together: each was fitted alone"),
        ("pixelFlags_bad", "Defective pixel in the footprint"),
        ("pixelFlags_cr", "Cosmic ray in the footprint"),
        ("pixelFlags_crCenter", "Cosmic ray within the central 3 x 3 pixels"),
        ("pixelFlags_edge", "The footprint reaches masked edge pixels, or beyond the image"),
        ("pixelFlags_nodata", "Pixel without data in the footprint"),
        ("pixelFlags_interpolated", "Interpolated pixel in the footprint"),
        ("pixelFlags_interpolatedCenter", "Interpolated pixel within the central 3 x 3 pixels"),
        ("pixelFlags_saturated", "Saturated pixel in the footprint"),
        ("pixelFlags_saturatedCenter", "Saturated pixel within the central 3 x 3 pixels"),
        ("pixelFlags_suspect", "Pixel above the trusted level in the footprint"),
        ("pixelFlags_suspectCenter", "Pixel above the trusted level within the central 3 x 3 pixels"),
        ("pixelFlags_streak", "Streak in the footprint"),
    ),
)
"""Every column in its order; a footprint is the disc of half the PSF's stamp about the source."""

SOURCE_CATALOGUE_DTYPE = np.dtype([(column.name, column.dtype) for column in COLUMNS])


def source_ids(visit: int, detector: int, count: int) -> NDArray[np.int64]:
    """Return `count` positive ids, int64: visit, detector and rank packed from high to low bits.

    A detector may have more sources than diaSourceId has room for, so the visit keeps its 37 lowest bits: visits below
    1.37e11 as they are, and numbers YYYYMMDD times 10^5 plus a counter below 46,000 without a collision in a century.
    Raises DataError where detector or count do not fit.
    """
    if visit < 0 or not 0 <= detector < 1 << DETECTOR_BITS:
        raise DataError(
            f"visit {visit} detector {detector} has no sourceId: detectors go up to {(1 << DETECTOR_BITS) - 1}"
        )
    if count > 1 << RANK_BITS:
        raise DataError(
            f"visit {visit} detector {detector}: {count} sources are more than {1 << RANK_BITS}; "
            "background or variance is wrong, look at the sky metrics"
        )
    base = ((visit & ((1 << VISIT_BITS) - 1)) << (DETECTOR_BITS + RANK_BITS)) | (detector << RANK_BITS)
    return np.int64(base) + np.arange(count, dtype=np.int64)
