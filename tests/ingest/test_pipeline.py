"""From a raw file's bytes to a RawExposure that fits the camera."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.ingest.pipeline import detector_reach, read_exposure, sky_tile, tiles_touched
from workers.survey.camera import Camera, camera_from_dict


def make_camera(**changes: Any) -> Camera:
    amplifier = {
        "name": "A",
        "hdu": 1,
        "data": "[1:30,1:20]",
        "overscan": "[31:40,1:20]",
        "position": "[1:30,1:20]",
        "read_noise": 5,
        "saturation": 6e4,
    }
    header = {
        "exposure_time": {"key": "EXPTIME"},
        "begin": {"key": "MJD", "format": "mjd"},
        "ra": {"key": "RA"},
        "dec": {"key": "DEC"},
        "band": {"value": "r"},
        "detector": {"key": "CCD"},
    }
    detector = {"id": 3, "name": "D", "width": 30, "height": 20, "amplifiers": [amplifier], "offset_x": 14.5}
    detector |= {"offset_y": -100.5}
    return camera_from_dict({"name": "cam", "header": header, "detectors": [detector], **changes})


def make_file(shape: tuple[int, int] = (20, 40), **cards: Any) -> bytes:
    primary, image = fits.PrimaryHDU(), fits.ImageHDU(np.full(shape, 1000, np.uint16))
    for key, value in ({"EXPTIME": 30.0, "MJD": 60000.0, "RA": 150.0, "DEC": 2.0, "CCD": 3} | cards).items():
        primary.header[key] = value
    buffer = io.BytesIO()
    fits.HDUList([primary, image]).writeto(buffer)
    return buffer.getvalue()


def test_read_exposure() -> None:
    data = make_file()
    raw = read_exposure(data, "raw.fits", make_camera())
    assert raw.info.sha256 == hashlib.sha256(data).hexdigest()
    assert (raw.info.detector, raw.info.fileName, raw.hdus[1].shape) == (3, "raw.fits", (20, 40))
    assert raw.header["RA"] == 150.0
    with pytest.raises(ValueError, match="read-only"):
        raw.hdus[1][0, 0] = 1
    packed = gzip.compress(data)
    assert read_exposure(packed, "raw.fits.gz", make_camera()).info.sha256 == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (make_file(shape=(20, 39)), r"wrong shape, HDU 1 is 39x20 pixels .* at least 40x20"),
        (make_file(shape=(19, 40)), r"wrong shape, HDU 1 is 40x19"),
        (make_file(CCD=4), r"no detector 4; it has \[3\]"),
        (make_file()[:5000], "cut short"),
        (b"GIF89a", "not a FITS file"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_exposure(data, "raw.fits", make_camera())
    assert "raw.fits" in str(caught.value)


def test_amplifier_in_an_absent_hdu_is_refused() -> None:
    buffer = io.BytesIO()
    header = fits.open(io.BytesIO(make_file()))[0].header
    fits.PrimaryHDU(np.zeros((20, 40), np.int16), header).writeto(buffer)
    with pytest.raises(DataError, match=r"is in HDU 1, the file has pixels in \[0\]"):
        read_exposure(buffer.getvalue(), "raw.fits", make_camera())


def test_detector_reach_by_pointing_by_header_and_without() -> None:
    raw = read_exposure(make_file(), "raw.fits", make_camera())
    assert detector_reach(raw, make_camera()) == (150.0, 2.0, 1.0)
    by_pointing = detector_reach(raw, make_camera(wcs={"scale": 36.0}))
    assert by_pointing[:2] == pytest.approx(
        (150.0, 3.1), abs=1e-3
    )  # boresight 110 pixels of 0.01 degrees below the centre
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 15.5, "CRPIX2": 10.5}
    cards |= {"CD1_1": -1e-4, "CD2_2": 1e-4}
    raw = read_exposure(make_file(**cards), "raw.fits", make_camera())
    ra, dec, reach = detector_reach(raw, make_camera())
    assert (ra, dec) == pytest.approx((10.0, 0.0), abs=1e-9)
    (detector,) = make_camera().detectors
    assert reach == pytest.approx(1e-4 * np.hypot(detector.width, detector.height) / 2, rel=1e-6)


@given(st.floats(0, 359.99), st.floats(-90, 90), st.floats(1e-4, 2.0), st.floats(0, 2 * np.pi))
@settings(max_examples=200, deadline=None)
def test_tiles_touched_hold_every_place_within_the_radius(ra: float, dec: float, radius: float, angle: float) -> None:
    from astropy.coordinates import SkyCoord

    place = SkyCoord(ra, dec, unit="deg").directional_offset_by(angle * units.rad, 0.999 * radius * units.deg)
    tiles = tiles_touched(ra, dec, radius)
    assert sky_tile(float(place.ra.deg), float(place.dec.deg)) in tiles
    assert sky_tile(ra, dec) in tiles
    assert list(tiles) == sorted(set(tiles))


@given(st.floats(0, 359.99), st.floats(-90, 90))
@settings(max_examples=40, deadline=None)
def test_sky_tile_contains_its_own_neighbourhood(ra: float, dec: float) -> None:
    from astropy import units
    from astropy_healpix import HEALPix

    tile = sky_tile(ra, dec)
    lon, lat = HEALPix(nside=32, order="nested").healpix_to_lonlat(tile)
    assert 0 <= tile < 12 * 32**2
    separation = np.arccos(
        np.clip(
            np.sin(lat.to_value(units.rad)) * np.sin(np.radians(dec))
            + np.cos(lat.to_value(units.rad))
            * np.cos(np.radians(dec))
            * np.cos(lon.to_value(units.rad) - np.radians(ra)),
            -1,
            1,
        )
    )
    assert np.degrees(separation) < 2.0
    with pytest.raises(DataError, match="not on the sky"):
        sky_tile(float("nan"), dec)
