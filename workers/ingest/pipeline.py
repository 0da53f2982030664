"""One raw file's bytes become a RawExposure that is known to fit the camera."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy.coordinates import Latitude, Longitude
from astropy_healpix import HEALPix
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import RawExposure, frozen_array
from workers.imaging.fits import read_raw_hdus
from workers.ingest.header import exposure_info
from workers.survey.camera import Amplifier, Camera, Detector, parse_section
from workers.survey.geometry import nominal_wcs

__all__ = ["detector_centre", "read_exposure", "sky_tile"]

_TILES = HEALPix(nside=32, order="nested")


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


def detector_centre(raw: RawExposure, camera: Camera) -> tuple[float, float]:
    """Return (ra, dec) in degrees ICRS of the detector's centre by its nominal WCS.

    The pointing of the boresight stands in where the file has no WCS. Raises DataError where neither is a number.
    """
    detector = camera.detector(raw.info.detector)
    if camera.wcs is None and "CTYPE1" not in raw.header:
        return raw.info.ra, raw.info.dec
    ra, dec = nominal_wcs(raw, camera).pixel_to_sky((detector.width - 1) / 2, (detector.height - 1) / 2)
    return float(ra), float(dec)


def sky_tile(ra: float, dec: float) -> int:
    """Return the HEALPix pixel (nested, nside 32: 1.8 degrees) at a position in degrees ICRS; DataError for NaN."""
    if not (np.isfinite(ra) and np.isfinite(dec)):
        raise DataError(f"the position ({ra}, {dec}) is not on the sky: the exposure has no usable pointing")
    return int(_TILES.lonlat_to_healpix(Longitude(ra, "deg"), Latitude(dec, "deg")))
