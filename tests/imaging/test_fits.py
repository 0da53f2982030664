"""FITS in and out: exact round trips, the same bytes again, and clear refusals."""

from __future__ import annotations

import gzip
import io
import math

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib, SnapDifference
from workers.imaging.fits import (
    card_of,
    exposure_from_bytes,
    exposure_to_bytes,
    read_exposure,
    read_raw_hdus,
    write_exposure,
)
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs


def make_exposure(seed: int = 1, **changes: object) -> Exposure:
    rng = np.random.default_rng(seed)
    info = ExposureInfo(
        instrument="cam été",
        visit=2_000_000_000_017,
        detector=7,
        band="r",
        midpointMjdTai=60000.123456789012,
        exposureTime=29.999,
        ra=0.1 + 0.2,
        dec=-1.2345678901234567e-05,
        night=20230225,
        kind="science",
        sha256="ab" * 32,
        fileName="a rather long file name with spaces and 100% of quotes ' & more, " * 3 + ".fits",
        target="field & one ",
    )
    image = rng.normal(100, 10, (40, 50)).astype(np.float32)
    image[3, 4] = np.nan
    mask = rng.integers(0, 1 << 15, image.shape).astype(np.int32)
    exposure = Exposure(
        info=info,
        image=image,
        mask=mask,
        variance=np.abs(image),
        unit="nJy",
        wcs=SkyWcs.tangent(150.0, 2.0, (25.0, 20.0), 0.2, rotation=30.0),
        psf=PsfModel(rng.normal(1, 0.1, (3, 5, 5)).astype(np.float32), 1, 50, 40),
        photo=PhotoCalib(12.345678901234567, 0.001, 42),
        provenance={"bias": "bias-7-all-0123456789ab", "referenceCatalogue": "x" * 150},
        metrics={"skyMedian": 1.2345678901234567e-8, "fwhm": math.nan, "starCount": 12.0, "huge": -math.inf},
    )
    return exposure.replaced(**changes)


def raw_bytes(*hdus: fits.hdu.base._BaseHDU) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


def test_exposure_round_trip_is_exact() -> None:
    before = make_exposure()
    after = exposure_from_bytes(exposure_to_bytes(before), "x")
    assert after.info == before.info
    assert (after.unit, after.photo) == (before.unit, before.photo)
    for plane in ("image", "mask", "variance"):
        np.testing.assert_array_equal(getattr(after, plane), getattr(before, plane))
        assert getattr(after, plane).dtype == getattr(before, plane).dtype
        assert getattr(after, plane).dtype.isnative
    assert dict(after.provenance) == dict(before.provenance)
    assert {k: repr(v) for k, v in after.metrics.items()} == {k: repr(v) for k, v in before.metrics.items()}
    assert before.psf is not None
    assert after.psf is not None
    np.testing.assert_array_equal(after.psf.coefficients, before.psf.coefficients)
    assert (after.psf.degree, after.psf.width, after.psf.height) == (1, 50, 40)
    np.testing.assert_allclose(
        after.need_wcs().pixel_to_sky([0, 49], [0, 39]), before.need_wcs().pixel_to_sky([0, 49], [0, 39]), atol=1e-10
    )


def test_equal_exposures_give_equal_bytes_and_a_second_trip_too() -> None:
    data = exposure_to_bytes(make_exposure())
    assert data == exposure_to_bytes(make_exposure())
    assert data == exposure_to_bytes(exposure_from_bytes(data, "x"))
    assert data != exposure_to_bytes(make_exposure(unit="electron"))


def test_the_difference_of_snaps_comes_back_where_there_is_one() -> None:
    plain = make_exposure()
    change = plain.image - 100.0
    change[5, 6] = np.nan
    before = plain.replaced(snaps=SnapDifference(change, np.square(change)))
    data = exposure_to_bytes(before)
    after = exposure_from_bytes(data, "x")
    assert after.snaps is not None
    assert before.snaps is not None
    for plane in ("image", "variance"):
        np.testing.assert_array_equal(getattr(after.snaps, plane), getattr(before.snaps, plane))
        assert getattr(after.snaps, plane).dtype == np.float32
        assert getattr(after.snaps, plane).dtype.isnative
    assert exposure_to_bytes(after) == data
    assert exposure_to_bytes(after.replaced(snaps=None)) == exposure_to_bytes(plain)
    assert exposure_from_bytes(exposure_to_bytes(plain), "x").snaps is None
    with fits.open(io.BytesIO(data), checksum=True) as hdus:
        assert [hdu.name for hdu in hdus][-2:] == ["SNAPDIFF", "SNAPVAR"]
        assert (hdus["SNAPDIFF"].header["BUNIT"], hdus["SNAPVAR"].header["BUNIT"]) == ("nJy", "(nJy)2")
        place = hdus["SNAPVAR"].fileinfo()["datLoc"] + 50
    damaged = bytearray(data)
    damaged[place] ^= 0xFF
    with pytest.raises(DataError, match="checksum of its SNAPVAR plane"):
        exposure_from_bytes(bytes(damaged), "x")


def test_bare_exposure_round_trips() -> None:
    bare = make_exposure(wcs=None, psf=None, photo=None, provenance={}, metrics={}, unit="electron")
    after = exposure_from_bytes(exposure_to_bytes(bare), "x")
    assert (after.wcs, after.psf, after.photo) == (None, None, None)
    assert not after.provenance
    assert not after.metrics


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=120), st.floats(allow_nan=True))
@settings(max_examples=80, deadline=None)
def test_any_text_and_number_survive_a_card(text: str, number: float) -> None:
    before = make_exposure(provenance={"text": text}, metrics={"number": number})
    after = exposure_from_bytes(exposure_to_bytes(before), "x")
    assert after.provenance["text"] == text
    assert repr(after.metrics["number"]) == repr(number)


def test_card_of_keeps_plain_values_plain() -> None:
    assert card_of("plain text") == "plain text"
    assert card_of(1.5) == 1.5
    assert card_of(7) == 7
    assert card_of(math.nan) == "nan"


def test_files_are_written_whole(tmp_path) -> None:
    path = tmp_path / "new" / "calexp.fits"
    write_exposure(path, make_exposure())
    write_exposure(path, make_exposure())
    assert read_exposure(path).info == make_exposure().info
    assert [item.name for item in path.parent.iterdir()] == ["calexp.fits"]
    with fits.open(path, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "PSF"]
        assert hdus["MASK"].header["MP_SATURATED"] == 1
        assert hdus["IMAGE"].header["CTYPE1"] == "RA---TAN"
    with pytest.raises(DataError, match="can't be read"):
        read_exposure(tmp_path / "absent.fits")


def test_mask_bits_written_elsewhere_are_moved() -> None:
    exposure = make_exposure(mask=np.full((40, 50), int(MaskPlane.SATURATED), np.int32))
    with fits.open(io.BytesIO(exposure_to_bytes(exposure))) as hdus:
        header = hdus["MASK"].header
        header["MP_SATURATED"], header["MP_BAD"] = 0, 1
        del header["CHECKSUM"]
        data = raw_bytes(*hdus)
    after = exposure_from_bytes(data, "x")
    assert np.all(after.mask == int(MaskPlane.BAD))


@pytest.mark.parametrize("compress", [False, True])
def test_raw_pixels_come_back_native_and_scaled(compress: bool) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30) + 40000
    primary = fits.PrimaryHDU()
    primary.header["EXPTIME"] = 30.0
    primary.header["OBJECT"] = "m31"
    image = (fits.CompImageHDU if compress else fits.ImageHDU)(pixels)
    image.header["OBJECT"] = "m33"
    image.header["HIERARCH ESO DET GAIN"] = 2.0
    data = raw_bytes(primary, image, fits.ImageHDU(pixels[:5].astype(np.int32)))
    for stream in (data, gzip.compress(data, mtime=0)):
        hdus, cards = read_raw_hdus(stream, "raw.fits")
        assert list(hdus) == [1, 2]
        np.testing.assert_array_equal(hdus[1], pixels)
        assert hdus[1].dtype.isnative
        assert (cards["EXPTIME"], cards["OBJECT"], cards["ESO DET GAIN"]) == (30.0, "m33", 2.0)


def test_invalid_cards_do_not_stop_the_reader() -> None:
    data = bytearray(raw_bytes(fits.PrimaryHDU(np.zeros((4, 4), np.int16))))
    end = data.index(b"END     ")
    data[end : end + 160] = b"BADCARD = 12 34 'x / y".ljust(80) + b"END".ljust(80)
    hdus, cards = read_raw_hdus(bytes(data), "raw.fits")
    assert hdus[0].shape == (4, 4)
    assert cards["BITPIX"] == 16


def good() -> bytes:
    return raw_bytes(fits.PrimaryHDU(), fits.ImageHDU(np.ones((100, 100), np.float32)))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a FITS file"),
        (b"hello", "not a FITS file"),
        (b"SIMPLE  = nonsense", "cut short"),
        (good()[:-2880], "cut short, HDU 1 needs 40000"),
        (good()[:3000], "cut short in the header of HDU 1"),
        (gzip.compress(good())[:-40], "gzip stream"),
        (raw_bytes(fits.PrimaryHDU()), "none of its 1 HDUs"),
        (raw_bytes(fits.PrimaryHDU(np.zeros((2, 3, 4), np.int16))), "none of its 1 HDUs"),
        (good().replace(b"NAXIS1  =", b"NAXIS1  x"), "NAXIS1|astropy"),
    ],
)
def test_what_is_no_complete_image_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_raw_hdus(data, "the-file.fits")
    assert "the-file.fits" in str(caught.value)


def test_missing_padding_at_the_end_is_forgiven() -> None:
    data = good()
    padding = 2880 - 40000 % 2880
    hdus, _ = read_raw_hdus(data[:-padding], "raw.fits")
    assert hdus[1].sum() == 10000


@given(cut=st.integers(0, 30000))
@settings(max_examples=60, deadline=None)
def test_any_truncation_is_a_data_error(cut: int) -> None:
    data = exposure_to_bytes(make_exposure())
    with pytest.raises(DataError):
        exposure_from_bytes(data[: len(data) - 2880 - cut % (len(data) - 2880)], "x")


def test_damage_and_foreign_files_are_refused() -> None:
    data = bytearray(exposure_to_bytes(make_exposure()))
    data[data.index(b"EXTNAME = 'IMAGE") + 5760] ^= 0xFF
    with pytest.raises(DataError, match="checksum of its IMAGE"):
        exposure_from_bytes(bytes(data), "x")
    with pytest.raises(DataError, match="no IMAGE plane"):
        exposure_from_bytes(good(), "x")
