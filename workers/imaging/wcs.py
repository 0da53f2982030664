"""Where a pixel is on the sky: a read-only wrapper of astropy's WCS with 0-based pixels and degrees ICRS."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, NoConvergence, Sip
from numpy.typing import ArrayLike, NDArray

from schemas.errors import DataError

__all__ = ["SkyWcs", "focal_to_sky", "mirrored", "pixel_to_focal", "sky_to_focal"]

_Array = NDArray[np.float64]


class SkyWcs:
    """A celestial WCS (TAN, TAN-SIP, TPV … whatever astropy reads) of an image of known shape.

    Raises DataError where the cards hold no celestial WCS, or NaN.
    """

    def __init__(self, header: fits.Header) -> None:
        _check_numbers(header)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            try:
                wcs = WCS(header)
            except (ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:  # no type of its own
                raise DataError(f"the WCS in the header can't be used: {error}") from error
        if not wcs.has_celestial:
            raise DataError(
                "the header holds no celestial WCS (CTYPE1/CTYPE2 missing); give camera.toml a [wcs] table, "
                "or make a rough one with `skydelta reference from-frame`"
            )
        if wcs.naxis != 2:
            wcs = wcs.celestial
        corner = wcs.all_pix2world([[0.0, 0.0], [100.0, 100.0]], 0)
        if not np.all(np.isfinite(corner)) or np.all(corner[0] == corner[1]):
            raise DataError("the WCS in the header gives NaN, or one place for all pixels: check CRVAL, CRPIX and CD")
        self._wcs = wcs

    @classmethod
    def from_cards(cls, cards: Mapping[str, Any]) -> SkyWcs:
        """Build from header cards given as a mapping (a `fits.Header` passes unchanged)."""
        if isinstance(cards, fits.Header):
            return cls(cards)
        header = fits.Header()
        for key, value in cards.items():
            try:
                header[key] = value
            except ValueError as error:
                raise DataError(f"the header card {key} = {value!r} can't be part of a WCS: {error}") from error
        return cls(header)

    @classmethod
    def tangent(
        cls,
        ra: float,
        dec: float,
        crpix: tuple[float, float],
        scale: float,
        rotation: float = 0.0,
        parity: int = 1,
    ) -> SkyWcs:
        """Return a plain TAN WCS.

        `ra`, `dec` in degrees at the 0-based pixel `crpix`; `scale` in arcsec per pixel; `rotation` in degrees from
        image up to north through east; `parity` 1 where east is left when north is up, -1 for a mirrored image.
        """
        angle = np.radians(rotation)
        step = scale / 3600.0
        header = fits.Header()
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
        header["RADESYS"] = "ICRS"
        header["CRVAL1"], header["CRVAL2"] = float(ra), float(dec)
        header["CRPIX1"], header["CRPIX2"] = crpix[0] + 1.0, crpix[1] + 1.0
        header["CD1_1"], header["CD1_2"] = -parity * step * np.cos(angle), step * np.sin(angle)
        header["CD2_1"], header["CD2_2"] = parity * step * np.sin(angle), step * np.cos(angle)
        return cls(header)

    @classmethod
    def from_parts(
        cls, projection: str, crpix: _Array, crval: _Array, matrix: _Array, sip: _Array | None = None
    ) -> SkyWcs:
        """Build without a header, which takes astropy milliseconds.

        `projection` as in CTYPE; `crpix` (2,) 0-based pixels; `crval` (2,) and `matrix` (2, 2), CD, in degrees; `sip`
        (4, order + 1, order + 1): tables A, B, AP, BP.
        """
        new = cls.__new__(cls)
        wcs = WCS(naxis=2)
        suffix = "" if sip is None else "-SIP"
        wcs.wcs.ctype = [f"RA---{projection}{suffix}", f"DEC--{projection}{suffix}"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd = np.asarray(crpix) + 1.0, crval, matrix
        if sip is not None:
            wcs.sip = Sip(*sip, wcs.wcs.crpix)
        wcs.wcs.set()
        new._wcs = wcs
        return new

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[_Array, _Array]:
        """Return (ra, dec), float64 degrees ICRS, of 0-based pixel positions of any one shape."""
        ra, dec = self._wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
        return np.asarray(ra, float), np.asarray(dec, float)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[_Array, _Array]:
        """Return 0-based (x, y), float64 pixels, of positions in degrees ICRS; NaN where there is no solution."""
        shape = np.shape(ra)
        ra, dec = np.atleast_1d(np.asarray(ra, float)).ravel(), np.atleast_1d(np.asarray(dec, float)).ravel()
        try:
            x, y = self._wcs.all_world2pix(ra, dec, 0, tolerance=1e-5, maxiter=50)
        except NoConvergence as error:
            x, y = error.best_solution[:, 0], error.best_solution[:, 1]
            for bad in (error.divergent, error.slow_conv):
                if bad is not None:
                    x[bad], y[bad] = np.nan, np.nan
        return np.asarray(x, float).reshape(shape), np.asarray(y, float).reshape(shape)

    def header(self) -> fits.Header:
        """Return the FITS cards of this WCS (with SIP where there is one)."""
        header = self._wcs.to_header(relax=True)
        if "PC1_1" in header or "CDELT1" in header:  # SIP needs CD by convention
            matrix = self._wcs.pixel_scale_matrix
            for key in ("PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2"):
                header.remove(key, ignore_missing=True)
            for i in (0, 1):
                for j in (0, 1):
                    header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
        header.remove("LATPOLE", ignore_missing=True)
        header.remove("LONPOLE", ignore_missing=True)
        return header

    def jacobian(self, x: float, y: float) -> _Array:
        """Return the 2x2 local linear map at (x, y): d(ra*cos(dec), dec) in degrees per pixel (columns x, y).

        By differences in the tangent plane, so that it holds near the poles as well.
        """
        ra, dec = (
            np.radians(axis) for axis in self.pixel_to_sky([x, x - 0.5, x + 0.5, x, x], [y, y, y, y - 0.5, y + 0.5])
        )
        turn, dec0, dec = ra[1:] - ra[0], dec[0], dec[1:]
        depth = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(turn)
        east = np.cos(dec) * np.sin(turn) / depth
        north = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(turn)) / depth
        return np.asarray(np.degrees([np.diff(east)[[0, 2]], np.diff(north)[[0, 2]]]))

    def pixel_scale(self, x: float, y: float) -> float:
        """Return the pixel size at (x, y) in arcsec: the square root of the pixel's area."""
        return float(np.sqrt(abs(np.linalg.det(self.jacobian(x, y))))) * 3600.0

    def shifted(self, dx: float, dy: float) -> SkyWcs:
        """Return the WCS of a sub-image whose pixel (0, 0) is this one's pixel (dx, dy)."""
        header = self.header()
        header["CRPIX1"] -= dx
        header["CRPIX2"] -= dy
        return SkyWcs(header)

    def local(self, x: float, y: float) -> SkyWcs:
        """Return the plain TAN WCS that equals this one at (x, y) to first order (for stamps)."""
        ra, dec = self.pixel_to_sky(x, y)
        matrix = self.jacobian(x, y)
        header = fits.Header()
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = float(ra), float(dec)
        header["CRPIX1"], header["CRPIX2"] = x + 1.0, y + 1.0
        for i in (0, 1):
            for j in (0, 1):
                header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
        return SkyWcs(header)

    def footprint(self, shape: tuple[int, int]) -> tuple[_Array, _Array]:
        """Return (ra, dec), degrees, of the four corners of an image of `shape` (height, width), in order round it."""
        height, width = shape
        return self.pixel_to_sky([-0.5, width - 0.5, width - 0.5, -0.5], [-0.5, -0.5, height - 0.5, height - 0.5])


def pixel_to_focal(wcs: SkyWcs, points: _Array) -> _Array:
    """Return pixels (n, 2) as they would be without the WCS's SIP: the focal plane, where a pointing's error is affine.

    Without SIP, and for TPV, whose distortion belongs to the projection, the points themselves.
    """
    x, y = wcs._wcs.pix2foc(points[:, 0], points[:, 1], 0)
    return np.stack([x, y], axis=1)


def focal_to_sky(wcs: SkyWcs, points: _Array) -> tuple[_Array, _Array]:
    """Return (ra, dec), degrees ICRS, of focal-plane pixels (n, 2)."""
    ra, dec = wcs._wcs.wcs_pix2world(points[:, 0], points[:, 1], 0)
    return np.asarray(ra, float), np.asarray(dec, float)


def sky_to_focal(wcs: SkyWcs, ra: _Array, dec: _Array) -> _Array:
    """Return focal-plane pixels (n, 2) of positions in degrees ICRS; NaN on the other side of the sky."""
    x, y = wcs._wcs.wcs_world2pix(ra, dec, 0)
    return np.stack([x, y], axis=1)


def mirrored(wcs: SkyWcs) -> SkyWcs:
    """Return the WCS of an image that is this one's flipped in x about CRPIX: the other parity (TAN, SIP, TPV)."""
    header = wcs.header()
    for key in ("CD1_1", "CD2_1"):
        header[key] = -header[key]
    for key in [key for key in header if re.fullmatch(r"(A|B|AP|BP)_\d_\d", key)]:
        flips = int(key.split("_")[1]) + (key[0] == "A")
        header[key] = header[key] * (-1) ** flips
    return SkyWcs(header)


def _check_numbers(header: fits.Header) -> None:
    """Raise DataError for what wcslib would pass over in silence: words for numbers, and a matrix of zeros."""
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        value = header.get(key, 0.0)
        if isinstance(value, str) or not np.isfinite(value):
            raise DataError(f"the WCS in the header is broken: {key} = {value!r} is no number")
    matrix = [header.get(key) for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")]
    if any(value is not None for value in matrix) and not any(matrix):
        raise DataError("the WCS in the header is broken: its CD matrix is zero")
