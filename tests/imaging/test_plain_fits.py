"""FITS files of our own, read without astropy: the same values, and damage that is told."""

import io

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.fits import read_raw_hdus
from workers.imaging.plain_fits import plain_hdus

ROW = np.dtype([("name", "S8"), ("weight", "f8"), ("detector", "i4")])


def written(image: np.ndarray, cards: dict[str, object], rows: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    header = fits.Header()
    header.update(cards)
    hdus = [fits.PrimaryHDU(header=header), fits.ImageHDU(image, name="A"), fits.BinTableHDU(rows, name="T")]
    fits.HDUList(hdus).writeto(buffer, checksum=True)
    return buffer.getvalue()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["u1", "i2", "i4", "i8", "f4", "f8"]),
    st.integers(1, 60),
    st.integers(1, 60),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
def test_values_are_those_astropy_wrote(
    kind: str, height: int, width: int, text: str, number: float, truth: bool
) -> None:
    image = np.random.default_rng(height * width).integers(0, 99, (height, width)).astype(kind)
    rows = np.array([(b"one", 0.25, 3), (b"two", number, -1)], ROW)
    cards = {"TEXT": text, "NUMBER": number, "TRUTH": truth, "HIERARCH long keyword": 7}
    hdus = plain_hdus(written(image, cards, rows))
    assert set(hdus) == {"PRIMARY", "A", "T"}
    assert np.array_equal(hdus["A"].image(), image)
    assert np.array_equal(hdus["T"].table(ROW), rows)
    assert all(hdu.intact() for hdu in hdus.values())
    found = hdus["PRIMARY"].cards
    assert found["TEXT"] == text.rstrip()
    assert found["NUMBER"] == pytest.approx(number, rel=1e-12)
    assert found["TRUTH"] is truth
    assert found["long keyword"] == 7


def test_damage_is_told() -> None:
    data = written(np.arange(12.0).reshape(3, 4), {}, np.zeros(2, ROW))
    with pytest.raises(ValueError, match="cut short"):
        plain_hdus(data[: len(data) - 2880])
    with pytest.raises(ValueError, match="columns"):
        plain_hdus(data)["T"].table(np.dtype([("other", "f8")]))
    broken = bytearray(data)
    broken[data.index(b"XTENSION= 'IMAGE") + 2880 + 10] ^= 1
    assert not plain_hdus(bytes(broken))["A"].intact()


def test_a_negative_size_ends_as_a_data_error() -> None:
    data = written(np.zeros((3, 4), np.int16), {}, np.zeros(2, ROW))
    wrong = data.replace(b"NAXIS2  =                    3", b"NAXIS2  =               -90000", 1)
    assert wrong != data
    with pytest.raises(DataError):
        read_raw_hdus(wrong, "frame")
