"""Tile-compressed images: astropy reads the same pixels, one page is read alone, and damage is told."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.plain_fits import file_hdus, image_hdu, plain_hdus, primary_hdu, table_hdu
from workers.imaging.tiled_fits import file_tiles, pixels, power_below, quantised, tiled_hdu

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
)


def filed(*hdus: bytes) -> bytes:
    return b"".join([primary_hdu([("TRUTH", True), ("TINY", -1.5e-300, "a number")], len(hdus)), *hdus])


def by_astropy(data: bytes, name: str) -> np.ndarray:
    """Return the pixels as astropy reads them; a wrong checksum is a warning, which is an error here."""
    with fits.open(io.BytesIO(data), checksum=True) as hdus:
        hdus.verify("exception")
        return np.array(hdus[name].data)


def sky(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Noise, rows without data, and some pixels of stars up to 1e7 sigma."""
    image = rng.normal(0.0, sigma, shape)
    image.reshape(-1)[rng.integers(0, image.size, 5)] = sigma * 10 ** rng.uniform(2, 7, 5)
    image[..., : shape[-2] // 4, :] = 0.0
    return image.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["u1", "i2", "i4"]), SHAPES, st.integers(0, 99), st.booleans())
def test_whole_numbers_are_lossless(kind: str, shape: tuple[int, ...], seed: int, whole: bool) -> None:
    rng, limits = np.random.default_rng(seed), np.iinfo(kind)
    image = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    image[..., ::2, :] = rng.integers(0, 3)
    data = filed(tiled_hdu("A", image, whole=whole))
    found = plain_hdus(data)["A"]
    assert found.intact()
    for read in (pixels(found), by_astropy(data, "A")):
        assert read.dtype == image.dtype
        assert np.array_equal(read, image)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 99), st.floats(1e-3, 1e6), st.booleans())
def test_real_numbers_are_those_of_quantised(shape: tuple[int, ...], seed: int, sigma: float, whole: bool) -> None:
    image, step = sky(np.random.default_rng(seed), shape, sigma), power_below(sigma / 16)
    stored = quantised(image, step)
    data = filed(tiled_hdu("A", image, step, whole=whole))
    for read in (pixels(plain_hdus(data)["A"]), by_astropy(data, "A")):
        assert read.dtype == np.float32
        assert read.tobytes() == stored.tobytes()  # the sign of zero too
    assert np.abs(stored.astype(float) - image).max() <= step / 2
    assert not stored[image == 0].any()
    assert np.array_equal(quantised(stored, step), stored)
    assert tiled_hdu("A", stored, step, whole=whole) == tiled_hdu("A", image, step, whole=whole)


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_without_a_step_real_numbers_are_lossless(shape: tuple[int, ...], seed: int) -> None:
    image = sky(np.random.default_rng(seed), shape, 3.0)
    data = filed(tiled_hdu("A", image))
    assert pixels(plain_hdus(data)["A"]).tobytes() == image.tobytes() == by_astropy(data, "A").tobytes()
    assert quantised(image, None).tobytes() == image.tobytes()


@given(st.floats(1e-30, 1e30))
def test_the_power_below_is_one(limit: float) -> None:
    power = power_below(limit)
    assert power <= limit < 2 * power
    assert np.frexp(power)[0] == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**31, -(2.0**31)])
def test_what_has_no_place_is_refused(value: float) -> None:
    image = np.full((3, 4), value, np.float32)
    with pytest.raises(DataError, match="can't be stored"):
        tiled_hdu("A", image, 1.0)
    with pytest.raises(DataError, match="can't be stored"):
        quantised(image, 1.0)
    with pytest.raises(ValueError, match="power of two"):
        quantised(np.zeros((3, 4), np.float32), 0.3)


def test_equal_pixels_give_equal_bytes_in_any_layout() -> None:
    image = sky(np.random.default_rng(3), (3, 50, 60), 5.0)
    data = tiled_hdu("A", image, 0.25)
    assert tiled_hdu("A", np.asfortranarray(image), 0.25) == data
    assert tiled_hdu("A", image[:, :, ::-1].copy()[:, :, ::-1], 0.25) == data


def test_a_noisy_image_takes_little_more_than_a_byte_a_pixel() -> None:
    image = np.random.default_rng(3).normal(0, 5, (200, 200)).astype(np.float32)
    assert len(tiled_hdu("A", image, power_below(5 / 16))) < 1.2 * image.size
    smooth = np.full((200, 200), 25.0, np.float32)
    assert len(tiled_hdu("A", smooth, power_below(25 / 250))) < 0.25 * image.size


def test_a_page_is_read_alone_from_a_file(tmp_path) -> None:
    cube = sky(np.random.default_rng(5), (5, 40, 50), 5.0)
    mask = np.arange(10_000, dtype=np.int32).reshape(5, 40, 50)
    path = tmp_path / "file.fits"
    many = [(f"CARD{number}", number) for number in range(90)]  # a header of several blocks
    path.write_bytes(filed(tiled_hdu("A", cube, 0.25, many), tiled_hdu("M", mask)))
    file = os.open(path, os.O_RDONLY)
    try:
        hdus = file_hdus(file)
        for name, expected in (("A", quantised(cube, 0.25)), ("M", mask)):
            index = file_tiles(file, hdus[name])
            assert len(index) == 5
            start, length = index.place(3)
            assert np.array_equal(index.tile(3, os.pread(file, length, start))[0], expected[3])
    finally:
        os.close(file)


def test_damage_is_told() -> None:
    image = sky(np.random.default_rng(5), (40, 50), 5.0)
    data = filed(tiled_hdu("A", image, 0.25))
    stream, told = data.index(b"\x1f\x8b\x08"), []
    for place in np.random.default_rng(1).integers(stream + 10, stream + 2000, 30).tolist():
        broken = bytearray(data)
        broken[place] ^= 16
        hdu = plain_hdus(bytes(broken))["A"]
        assert not hdu.intact()
        try:
            assert np.array_equal(pixels(hdu), quantised(image, 0.25))  # in bits that say nothing
        except ValueError as error:
            told.append(str(error))
    assert len(told) >= 25
    assert all("tile 0" in text for text in told)
    for place in range(stream - 24, stream):  # length, offset, scale and zero of the tile
        broken = bytearray(data)
        broken[place] ^= 64
        with pytest.raises(ValueError, match=r"tile 0|not a file of ours"):
            pixels(plain_hdus(bytes(broken))["A"])


def test_a_damaged_header_on_disk_is_told(tmp_path) -> None:
    path = tmp_path / "file.fits"
    path.write_bytes(filed(image_hdu("A", np.zeros((3, 4), np.int16))).replace(b"NAXIS1  =", b"NAXIS1 ;=", 1))
    file = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="checksum of a header"):
            file_hdus(file)
    finally:
        os.close(file)


def test_an_image_compressed_elsewhere_is_not_ours() -> None:
    buffer = io.BytesIO()
    image = np.arange(10_000, dtype=np.int32).reshape(100, 100)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, name="A")]).writeto(buffer)
    with pytest.raises(ValueError, match="not a file of ours"):
        pixels(plain_hdus(buffer.getvalue())["A"])


@settings(max_examples=40, deadline=None)
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**62), 2**62),
    st.integers(0, 9999),
)
def test_cards_and_checksums_are_those_of_the_standard(text: str, number: float, whole: int, seed: int) -> None:
    cards = [("TEXT", text, "x" * 99), ("NUMBER", number), ("WHOLE", whole), ("HIERARCH MP_LONG_NAME", 7)]
    rows = np.zeros(3, [("name", "S8"), ("weight", "f8"), ("n", "i2")])
    rows["name"], rows["weight"] = b"one", np.random.default_rng(seed).normal(size=3)
    data = b"".join([primary_hdu(cards, 2), image_hdu("A", rows["weight"].reshape(1, 3).copy()), table_hdu("T", rows)])
    with fits.open(io.BytesIO(data), checksum=True) as hdus:
        hdus.verify("exception")
        assert all(hdu.verify_checksum() == 1 and hdu.verify_datasum() == 1 for hdu in hdus)
        header = hdus[0].header
        assert (header["TEXT"], header["NUMBER"], header["WHOLE"]) == (text.rstrip(), number, whole)
        assert header["MP_LONG_NAME"] == 7
        assert np.array(hdus["T"].data)["weight"].tolist() == rows["weight"].tolist()
        assert hdus["A"].data.tolist() == [rows["weight"].tolist()]
    read = plain_hdus(data)
    assert [read["PRIMARY"].cards[key] for key in ("TEXT", "NUMBER", "WHOLE")] == [text.rstrip(), number, whole]
    assert np.array_equal(read["T"].table(rows.dtype), rows)
    with pytest.raises(ValueError, match="longer than 80"):
        primary_hdu([("TEXT", "x" * 90)], 0)
