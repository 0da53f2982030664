"""Exposure records, identity and stamps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, ExposureInfo, SnapDifference
from workers.imaging.identity import dia_source_ids, unpack_dia_source_id
from workers.imaging.masks import MaskPlane, header_cards, planes_from_header
from workers.imaging.psf import PsfModel
from workers.imaging.stamps import Stamps, cut, from_bytes, to_bytes

INFO = ExposureInfo("cam", 7, 2, "r", 61000.0, 30.0, 10.0, 20.0, 20260101, "science", "ab", "f.fits")


def make_exposure(height=40, width=50):
    image = np.arange(height * width, dtype=np.float32).reshape(height, width)
    psf = PsfModel.gaussian(3.0, size=11, width=width, height=height)
    return Exposure(INFO, image, np.zeros(image.shape, np.int32), np.ones_like(image), psf=psf)


def test_planes_of_an_exposure_are_read_only_and_have_one_shape():
    exposure = make_exposure()
    with pytest.raises(ValueError, match="read-only"):
        exposure.image[0, 0] = 1.0
    with pytest.raises(TypeError):
        exposure.metrics["x"] = 1.0
    with pytest.raises(DataError, match="7:2: image, mask and variance differ in shape"):
        exposure.replaced(mask=np.zeros((2, 2), np.int32))
    assert exposure.with_metrics(a=1.0).metrics == {"a": 1.0}
    with pytest.raises(DataError, match="7:2 has no WCS"):
        exposure.need_wcs()


def test_the_difference_of_snaps_belongs_to_its_image():
    exposure = make_exposure()
    snaps = SnapDifference(exposure.image - 3.0, exposure.variance)
    both = exposure.replaced(snaps=snaps)
    assert both.with_metrics(a=1.0).replaced(mask=exposure.mask).snaps is snaps
    assert both.replaced(image=exposure.image * 2).snaps is None  # of another image nothing is known
    scaled = both.replaced(image=exposure.image * 2, snaps=snaps.scaled(np.float32(2.0))).snaps
    np.testing.assert_array_equal(scaled.image, 2 * snaps.image)
    np.testing.assert_array_equal(scaled.variance, 4 * snaps.variance)
    slope = np.linspace(1, 2, exposure.image.size, dtype=np.float32).reshape(exposure.shape)
    np.testing.assert_array_equal(snaps.scaled(slope).variance, np.square(slope))
    with pytest.raises(ValueError, match="read-only"):
        snaps.image[0, 0] = 1.0
    with pytest.raises(DataError, match=r"7:2: the difference of its snaps is of shapes \(2, 2\)"):
        exposure.replaced(snaps=SnapDifference(np.zeros((2, 2)), np.zeros((2, 2))))


@given(st.integers(0, 2**41 - 1), st.integers(0, 255), st.integers(1, 2**14))
def test_ids_pack_and_unpack(visit, detector, count):
    ids = dia_source_ids(visit, detector, count)
    assert len(np.unique(ids)) == count
    assert ids[0] >= 0
    assert unpack_dia_source_id(int(ids[-1])) == (visit, detector, count - 1)


@pytest.mark.parametrize(("visit", "detector", "count"), [(2**41, 0, 1), (-1, 0, 1), (0, 256, 1), (0, 0, 2**14 + 1)])
def test_ids_that_do_not_fit_are_refused(visit, detector, count):
    with pytest.raises(DataError):
        dia_source_ids(visit, detector, count)


def test_mask_cards_name_each_plane():
    cards = {key.removeprefix("HIERARCH "): bit for key, bit in header_cards().items()}
    assert planes_from_header(cards) == {plane.name: plane.bit_length() - 1 for plane in MaskPlane}


def test_stamps_are_centred_and_padded():
    exposure = make_exposure()
    image, variance, mask, psf = cut(exposure, np.array([10.4, 0.0]), np.array([20.6, 39.0]), 5)
    assert image[0, 2, 2] == exposure.image[21, 10]
    assert np.isnan(image[1, :, 0]).all()
    assert (mask[1, :, 0] == int(MaskPlane.NO_DATA)).all()
    assert image[1, 2, 2] == exposure.image[39, 0]
    assert np.isnan(variance[1, 4, 4])
    assert psf.shape == (2, 11, 11)
    assert np.allclose(psf.sum(axis=(1, 2)), 1.0)


def test_stamps_come_back_from_bytes_and_damage_is_told():
    parts = cut(make_exposure(), np.array([10.0]), np.array([20.0]), 5)
    stamps = Stamps(*parts, *parts, *parts)
    data = to_bytes(stamps)
    again = from_bytes(data)
    assert len(again) == 1
    for name in vars(stamps):
        assert np.array_equal(getattr(again, name), getattr(stamps, name), equal_nan=True)
    assert to_bytes(again) == data
    for broken in (b"", b"nonsense", data[: len(data) // 2]):
        with pytest.raises(DataError, match="stamps can't be read"):
            from_bytes(broken)
