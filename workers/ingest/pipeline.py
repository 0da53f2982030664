"""One raw file's bytes become a RawExposure that is known to fit the camera."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy.coordinates import Latitude, Longitude, angular_separation
from astropy_healpix import HEALPix
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import ExposureInfo, RawExposure, frozen_array
from workers.imaging.fits import read_raw_cards, read_raw_hdus
from workers.ingest.header import exposure_info
from workers.survey.camera import Amplifier, Camera, Detector, parse_section
from workers.survey.geometry import nominal_wcs

__all__ = ["detector_reach", "read_exposure", "read_info", "sky_tile", "tiles_touched"]

_TILES = HEALPix(nside=32, order="nested")
_EDGE_SLACK = 0.2
"""Degrees; half the distance of two neighbouring points of a tile's edge, and more."""
_UNKNOWN_REACH = 1.0
"""Degrees; of a detector without a nominal WCS."""


def read_exposure(data: bytes, file_name: str, camera: Camera) -> RawExposure:
    """Return the exposure in a raw file's bytes (FITS; plain, gzipped or tile-compressed).

    Raises DataError where the bytes are no complete FITS image, a header field can't be had, the detector is not the
    camera's, or an amplifier's sections leave the pixel array.
    """
    pixels, cards = read_raw_hdus(data, file_name)
    sha256 = hashlib.sha256(data).hexdigest()
    info = exposure_info(cards, file_name=file_name, sha256=sha256, camera=camera)
    _check_shapes(pixels, _detector(info.detector, file_name, camera), file_name, camera)
    hdus = {index: frozen_array(array) for index, array in pixels.items()}
    return RawExposure(info, MappingProxyType(hdus), MappingProxyType(cards))


def read_info(data: bytes, file_name: str, camera: Camera) -> ExposureInfo:
    """Return what a raw file's header says of the exposure, without its pixels; raises DataError."""
    sha256 = hashlib.sha256(data).hexdigest()
    return exposure_info(read_raw_cards(data, file_name), file_name=file_name, sha256=sha256, camera=camera)


def _detector(number: int, file_name: str, camera: Camera) -> Detector:
    try:
        return camera.detector(number)
    except KeyError as error:
        raise DataError(
            f"{file_name}: {error.args[0]}; check [header.detector] and [[detectors]] in camera.toml"
        ) from error


def _check_shapes(pixels: dict[int, NDArray[Any]], detector: Detector, file_name: str, camera: Camera) -> None:
    """Raise DataError where an amplifier's HDU is missing or too small for its sections."""
    for amplifier in detector.amplifiers:
        where = f"{file_name}: amplifier {amplifier.name} of camera {camera.name}"
        if amplifier.hdu not in pixels:
            raise DataError(f"{where} is in HDU {amplifier.hdu}, the file has pixels in {sorted(pixels)}")
        height, width = pixels[amplifier.hdu].shape
        rows, columns = _extent(amplifier)
        if rows > height or columns > width:
            raise DataError(
                f"{where}: wrong shape, HDU {amplifier.hdu} is {width}x{height} pixels and its sections need at least "
                f"{columns}x{rows}; is this file of another camera or readout mode?"
            )


def _extent(amplifier: Amplifier) -> tuple[int, int]:
    """Rows and columns that the amplifier's sections reach up to."""
    sections = [amplifier.data, amplifier.overscan, amplifier.parallel_overscan]
    slices = [parse_section(section) for section in sections if section is not None]
    return max(rows.stop for rows, _ in slices), max(columns.stop for _, columns in slices)


def detector_reach(raw: RawExposure, camera: Camera, margin: float = 0.0) -> tuple[float, float, float]:
    """Return (ra, dec) of the detector's centre and its distance to the farthest corner, degrees ICRS.

    The corners are those of the detector with `margin` more pixels all round.
    By its nominal WCS; the pointing of the boresight and one degree stand in where the file has none. Raises DataError
    where neither is a number.
    """
    detector = camera.detector(raw.info.detector)
    if camera.wcs is None and "CTYPE1" not in raw.header:
        return raw.info.ra, raw.info.dec, _UNKNOWN_REACH
    low, right, top = -0.5 - margin, detector.width - 0.5 + margin, detector.height - 0.5 + margin
    x = np.array([0.5 * (detector.width - 1), low, right, right, low])
    y = np.array([0.5 * (detector.height - 1), low, low, top, top])
    ra, dec = nominal_wcs(raw, camera).pixel_to_sky(x, y)
    lon, lat = np.radians(ra), np.radians(dec)
    away = angular_separation(lon[0], lat[0], lon[1:], lat[1:])
    return float(ra[0]), float(dec[0]), math.degrees(float(np.max(away)))


def sky_tile(ra: float, dec: float) -> int:
    """Return the HEALPix pixel (nested, nside 32: 1.8 degrees) at a position in degrees ICRS; DataError for NaN."""
    if not (np.isfinite(ra) and np.isfinite(dec)):
        raise DataError(f"the position ({ra}, {dec}) is not on the sky: the exposure has no usable pointing")
    return int(_TILES.lonlat_to_healpix(Longitude(ra, "deg"), Latitude(dec, "deg")))


def tiles_touched(ra: float, dec: float, radius: float) -> tuple[int, ...]:
    """Return every sky tile within `radius` degrees of a position in degrees ICRS, that of the position among them.

    A tile counts when a point of its edge is near enough; the slack makes up for the edge between two such points, so
    that now and then a tile is one too many and none is ever missing.
    """
    here = _unit(np.array([ra]), np.array([dec]))[0].astype(np.float32)
    least = math.cos(math.radians(min(radius + _EDGE_SLACK, 180.0)))
    near = np.flatnonzero(np.any(_edges() @ here >= least, axis=1))
    return tuple(sorted({sky_tile(ra, dec), *near.tolist()}))


@cache
def _edges() -> NDArray[np.float32]:
    """Return unit vectors of points round the edge of each tile, (12288, 32, 3)."""
    lon, lat = _TILES.boundaries_lonlat(np.arange(_TILES.npix), step=8)
    return _unit(lon.deg, lat.deg).astype(np.float32)


def _unit(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
