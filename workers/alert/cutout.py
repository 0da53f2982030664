"""Stamps as FITS, laid out by hand: the same headers every time, and the pixels of all sources written at once.

One file holds four HDUs: the image (PRIMARY, float32, nJy, with the local WCS), UNCERT (variance, float32, nJy²), MASK
(int32, its bits named by ``MP_`` cards) and PSFIMAGE (float32, unit sum). FITS standard 4.0, sections 3 and 4.
`astropy.nddata.CCDData.read` reads it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane

__all__ = ["blank_file", "wcs_cards", "write_files"]

_BLOCK = 2880


def blank_file(shape: tuple[int, ...], psf_shape: tuple[int, ...], cards: int) -> NDArray[np.uint8]:
    """Return one stamp's FITS file without WCS and pixels, as `write_files` fills it: uint8, whole blocks.

    `shape` and `psf_shape` are (height, width); `cards` is the number of bytes that the WCS cards take.
    """
    places = _places(shape, psf_shape, cards)
    file = np.zeros(places["end"].start, np.uint8)
    primary = _padded(_primary_cards(shape) + b" " * cards + _END)
    extensions = ((name, _extension_header(name, _shape_of(name, shape, psf_shape))) for name in _DETAILS)
    for name, header in (("PRIMARY", primary), *extensions):
        end = places[name].start
        file[end - len(header) : end] = np.frombuffer(header, np.uint8)
    return file


def write_files(
    files: NDArray[np.uint8],
    image: FloatImage,
    variance: FloatImage,
    mask: MaskImage,
    psf: FloatImage,
    cards: Sequence[bytes],
) -> None:
    """Write n stamps into the rows of `files`, uint8 of shape (n, length), each a copy of their `blank_file`.

    `image`, `variance` (float32, nJy and nJy²) and `mask` (int32 of MaskPlane bits) have one shape (n, height, width);
    `psf` is float32 of any shape (n, height, width). `cards` go into the primary headers. Raises DataError where the
    shapes differ.
    """
    if not image.ndim == psf.ndim == 3 or not image.shape == variance.shape == mask.shape or len(psf) != len(image):
        shapes = ", ".join(str(plane.shape) for plane in (image, variance, mask, psf))
        raise DataError(f"image, variance and mask of stamps must have one shape, the PSFs be as many; not {shapes}")
    if len(cards) != len(image):
        raise DataError(f"{len(image)} stamps can't have WCS cards of {len(cards)}; give those of each stamp")
    places = _places(image.shape[1:], psf.shape[1:], len(cards[0]) if cards else 0)
    for name, plane in zip(("PRIMARY", *_DETAILS), (image, variance, mask, psf), strict=True):
        pixels = plane.astype(">i4" if name == "MASK" else ">f4")
        files[:, places[name]] = pixels.view(np.uint8).reshape(len(plane), -1)
    files[:, places["cards"]] = np.frombuffer(b"".join(cards), np.uint8).reshape(len(cards), -1)


def _shape_of(name: str, shape: tuple[int, ...], psf_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an HDU's pixels."""
    return psf_shape if name == "PSFIMAGE" else shape


@cache
def _places(shape: tuple[int, ...], psf_shape: tuple[int, ...], cards: int) -> dict[str, slice]:
    """Return where in a file the WCS cards lie, the pixels of each HDU, and its end."""
    first = len(_primary_cards(shape))
    places = {"cards": slice(first, first + cards)}
    start = _blocks(first + cards + len(_END))
    for name in ("PRIMARY", *_DETAILS):
        pixels = _shape_of(name, shape, psf_shape)
        start += 0 if name == "PRIMARY" else len(_extension_header(name, pixels))
        size = 4 * math.prod(pixels)
        places[name] = slice(start, start + size)
        start += _blocks(size)
    return places | {"end": slice(start, start)}


def wcs_cards(ra: float, dec: float, x: float, y: float, matrix: NDArray[np.floating], size: int) -> bytes:
    """Return the cards of the TAN WCS that is exact at the source and right to first order round it.

    The source lies at `ra`, `dec` (degrees ICRS) and at pixel (`x`, `y`) of the detector (0-based); the stamp of
    `size` x `size` pixels has pixel (round(x), round(y)) in its middle. `matrix`, 2x2, is
    d(ra*cos(dec), dec)/d(x, y) in degrees per pixel. Raises DataError where a number is not finite.
    """
    numbers = (ra, dec, x, y, *matrix.ravel().tolist())
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"the local WCS of a stamp has numbers that are not finite: {numbers}")
    middle = size // 2 + 1.0  # FITS counts pixels from 1
    values = (ra, dec, x - round(x) + middle, y - round(y) + middle, *numbers[4:])
    return _PROJECTION + (_LINES % values).encode("ascii")


def _card(key: str, value: str | int | bool) -> bytes:
    """Return one header card of 80 bytes; keywords of more than 8 characters take the HIERARCH form."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20d}"
    else:
        quoted = f"'{value:<8}'"
        text = f"{quoted:<20}"
    name = f"{key:<8}= " if len(key) <= 8 else f"HIERARCH {key} = "
    return f"{name}{text.strip() if len(key) > 8 else text}".ljust(80).encode("ascii")


_END = b"END".ljust(80)
_PROJECTION = b"".join(
    _card(key, value)
    for key, value in (
        ("WCSAXES", 2),
        ("CTYPE1", "RA---TAN"),
        ("CTYPE2", "DEC--TAN"),
        ("CUNIT1", "deg"),
        ("CUNIT2", "deg"),
        ("RADESYS", "ICRS"),
    )
)
_LINES = "".join(
    f"{key:<8}= %20.12E{'':50}" for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
)
_DETAILS: dict[str, tuple[tuple[str, str | int], ...]] = {
    "UNCERT": (("BUNIT", "nJy2"), ("UTYPE", "VarianceUncertainty")),
    "MASK": tuple((f"MP_{plane.name}", plane.bit_length() - 1) for plane in MaskPlane),
    "PSFIMAGE": (),
}
"""What the header of each extension says beyond its shape; UTYPE is how CCDData tells a variance."""


def _shape_cards(shape: tuple[int, ...], bitpix: int) -> bytes:
    """Return BITPIX to NAXIS2 of a 2-D array; NAXIS1 is the width."""
    cards = (("BITPIX", bitpix), ("NAXIS", 2), ("NAXIS1", shape[1]), ("NAXIS2", shape[0]))
    return b"".join(_card(key, value) for key, value in cards)


@cache
def _primary_cards(shape: tuple[int, ...]) -> bytes:
    """Return the primary header up to the WCS."""
    return _card("SIMPLE", True) + _shape_cards(shape, -32) + _card("EXTEND", True) + _card("BUNIT", "nJy")


@cache
def _extension_header(name: str, shape: tuple[int, ...]) -> bytes:
    """Return the whole header of one extension."""
    head = _card("XTENSION", "IMAGE") + _shape_cards(shape, 32 if name == "MASK" else -32)
    head += _card("PCOUNT", 0) + _card("GCOUNT", 1) + _card("EXTNAME", name)
    return _padded(head + b"".join(_card(key, value) for key, value in _DETAILS[name]) + _END)


def _padded(header: bytes) -> bytes:
    """Fill a header up to a whole number of FITS blocks."""
    return header.ljust(_blocks(len(header)))


def _blocks(size: int) -> int:
    """Return the bytes of the blocks that `size` bytes need."""
    return -(-size // _BLOCK) * _BLOCK
