"""Stamps against astropy, which reads and verifies them; the local WCS against the detector's."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.wcs import WCS

from schemas.errors import DataError
from workers.alert.cutout import blank_file, wcs_cards, write_files
from workers.alert.local_wcs import local_matrices
from workers.imaging.masks import MaskPlane, planes_from_header
from workers.imaging.wcs import SkyWcs

SIZE, PSF = 31, 25
SHAPE = (2048, 1536)


def _planes(seed: int, shape: tuple[int, ...] = (SIZE, SIZE)) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1e4, shape).astype(np.float32)
    image[0, 0] = np.nan
    mask = rng.integers(0, 2**16, shape).astype(np.int32)
    return image, np.square(image), mask, rng.random((PSF, PSF)).astype(np.float32)


def _files(planes: Any, cards: Any) -> Any:
    """The files of n stamps, whose planes have n as their first dimension."""
    image, psf = planes[0], planes[3]
    files = np.tile(blank_file(image.shape[1:], psf.shape[1:], len(cards[0])), (len(image), 1))
    write_files(files, *planes, cards)
    return files


def cutout(image: Any, variance: Any, mask: Any, psf: Any, cards: bytes = b"") -> bytes:
    """One stamp's file."""
    return bytes(_files([plane[None] for plane in (image, variance, mask, psf)], [cards])[0])


def _distorted(rotation: float, dec: float) -> SkyWcs:
    """A camera with third-order distortion of some pixels at the corners."""
    header = SkyWcs.tangent(359.999, dec, (767.5, 1023.5), 0.25, rotation).header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"] = header["B_ORDER"] = 3
    for key in ("A_3_0", "A_1_2", "B_0_3", "B_2_1"):
        header[key] = 1e-9
    return SkyWcs(header)


def test_astropy_reads_back_what_went_in() -> None:
    planes = _planes(1)
    with fits.open(io.BytesIO(cutout(*planes, wcs_cards(10.0, 20.0, 5.2, 7.9, np.eye(2) / 3600, SIZE)))) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "UNCERT", "MASK", "PSFIMAGE"]
        assert [hdu.data.dtype.str for hdu in hdus] == [">f4", ">f4", ">i4", ">f4"]
        for hdu, plane in zip(hdus, planes, strict=True):
            np.testing.assert_array_equal(hdu.data, plane)
        assert hdus[0].header["BUNIT"] == "nJy"
        assert planes_from_header(hdus["MASK"].header) == {
            str(plane.name): plane.bit_length() - 1 for plane in MaskPlane
        }


def test_ccddata_reads_it_as_it_is() -> None:
    image, variance, mask, psf = _planes(2)
    data = CCDData.read(io.BytesIO(cutout(image, variance, mask, psf)))
    assert str(data.unit) == "nJy"
    assert isinstance(data.uncertainty, VarianceUncertainty)
    np.testing.assert_array_equal(data.uncertainty.array, variance)
    np.testing.assert_array_equal(data.mask, mask != 0)
    np.testing.assert_array_equal(data.psf, psf)


@pytest.mark.parametrize("shape", [(1, 1), (30, 30), (27, 41), (60, 48)])
def test_stamps_of_any_shape(shape: tuple[int, int]) -> None:
    planes = _planes(3, shape)
    data = cutout(*planes)
    assert len(data) % 2880 == 0
    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus["MASK"].data, planes[2])


def test_the_same_pixels_give_the_same_bytes_and_stay_unchanged() -> None:
    planes = _planes(4)
    copies = tuple(plane.copy() for plane in planes)
    assert cutout(*planes) == cutout(*copies)
    for plane, copy in zip(planes, copies, strict=True):
        np.testing.assert_array_equal(plane, copy)


def test_planes_of_different_shapes_are_an_error() -> None:
    image, variance, mask, psf = (plane[None] for plane in _planes(5))
    files = blank_file((SIZE, SIZE), (PSF, PSF), 0)[None]
    for wrong in (
        (image, variance[:, 1:], mask, psf),
        (image, variance, mask[:, :, 1:], psf),
        (image, variance, mask, psf[0]),
        (image, variance, mask, psf[:0]),
        (image[0], variance[0], mask[0], psf),
    ):
        with pytest.raises(DataError, match="must have one shape"):
            write_files(files, *wrong, [b""])


def test_a_number_that_is_not_finite_is_an_error() -> None:
    for numbers in ((np.nan, 0.0, 1.0, 1.0), (0.0, 0.0, np.inf, 1.0)):
        with pytest.raises(DataError, match="not finite"):
            wcs_cards(*numbers, np.eye(2), SIZE)


@pytest.mark.parametrize(("rotation", "dec"), [(0.0, 0.0), (33.0, -60.0), (190.0, 85.0)])
@pytest.mark.parametrize(("x", "y"), [(767.0, 1023.0), (15.3, 18.7), (1500.49, 2000.51)])
def test_every_pixel_of_the_stamp_lies_where_the_detector_says(rotation: float, dec: float, x: float, y: float) -> None:
    wcs = _distorted(rotation, dec)
    ra0, dec0 = wcs.pixel_to_sky(x, y)
    cards = wcs_cards(float(ra0), float(dec0), x, y, wcs.jacobian(x, y), SIZE)
    with fits.open(io.BytesIO(cutout(*_planes(6), cards))) as hdus:
        stamp = WCS(hdus[0].header)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    ra, dec = stamp.wcs_pix2world(columns.ravel(), rows.ravel(), 0)
    back_x, back_y = wcs.sky_to_pixel(ra, dec)
    np.testing.assert_allclose(back_x, columns.ravel() + round(x) - SIZE // 2, atol=0.005)
    np.testing.assert_allclose(back_y, rows.ravel() + round(y) - SIZE // 2, atol=0.005)
    at_source = stamp.wcs_world2pix([[float(ra0), float(dec0)]], 0)[0]
    np.testing.assert_allclose(at_source, [SIZE // 2 + x - round(x), SIZE // 2 + y - round(y)], atol=1e-6)


@pytest.mark.parametrize(("rotation", "dec"), [(0.0, 0.0), (33.0, -60.0), (190.0, 85.0)])
def test_matrices_from_the_corners_are_those_of_the_wcs(rotation: float, dec: float) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.uniform(0, SHAPE[1] - 1, 20), rng.uniform(0, SHAPE[0] - 1, 20)
    plain = SkyWcs.tangent(359.999, dec, (767.5, 1023.5), 0.25, rotation)
    matrices = local_matrices(x, y, *plain.footprint(SHAPE), SHAPE)
    truth = np.array([plain.jacobian(*position) for position in zip(x, y, strict=True)])
    np.testing.assert_allclose(matrices, truth, atol=1e-6 * 0.25 / 3600)
    bent = _distorted(rotation, dec)  # across half a stamp the error stays a small part of a pixel
    matrices = local_matrices(x, y, *bent.footprint(SHAPE), SHAPE)
    truth = np.array([bent.jacobian(*position) for position in zip(x, y, strict=True)])
    assert np.max(np.abs(matrices - truth)) * 15 < 0.08 * 0.25 / 3600


def test_matrices_follow_the_reflection_of_a_mirrored_image() -> None:
    wcs = SkyWcs.tangent(10.0, 20.0, (767.5, 1023.5), 0.25, 45.0, parity=-1)
    matrix = local_matrices(100.0, 200.0, *wcs.footprint(SHAPE), SHAPE)[0]
    np.testing.assert_allclose(matrix, wcs.jacobian(100.0, 200.0), atol=1e-9)
    assert np.linalg.det(matrix) > 0


def test_many_stamps_are_written_each_to_its_own_file() -> None:
    planes = [np.stack(plane) for plane in zip(*(_planes(seed) for seed in range(5)), strict=True)]
    cards = [wcs_cards(10.0 + k, 20.0, 5.2, 7.9, np.eye(2) / 3600, SIZE) for k in range(5)]
    files = _files(planes, cards)
    for k in range(5):
        assert bytes(files[k]) == cutout(*(plane[k] for plane in planes), cards[k])
        with fits.open(io.BytesIO(bytes(files[k]))) as hdus:
            assert hdus[0].header["CRVAL1"] == 10.0 + k
            np.testing.assert_array_equal(hdus["PSFIMAGE"].data, planes[3][k])


def test_a_stamp_takes_a_tenth_of_a_millisecond_at_most() -> None:
    planes = [np.stack([plane] * 10) for plane in _planes(9)]
    fastest = np.inf
    for _ in range(20):
        begin = time.perf_counter()
        _files(planes, [wcs_cards(10.0, 20.0, 5.2, 7.9, np.eye(2), SIZE) for _ in range(10)])
        fastest = min(fastest, (time.perf_counter() - begin) / 10)
    assert fastest < 1e-4
