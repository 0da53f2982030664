"""Stamps as FITS, laid out by hand: the same cards every time, and a hundred times faster than building HDU objects.

One file holds four HDUs: the image (PRIMARY, float32, nJy, with the local WCS), UNCERT (variance, float32, nJy²), MASK
(int32, its bits named by ``MP_`` cards) and PSFIMAGE (float32, unit sum). FITS standard 4.0, sections 3 and 4.
`astropy.nddata.CCDData.read` reads it as it is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane
from workers.imaging.stamps import Stamps

__all__ = ["cutout", "cutouts", "wcs_cards"]

_BLOCK = 2880


def cutouts(stamps: Stamps, index: int, cards: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the FITS files of one source: difference, science and template.

    `cards` are its WCS cards, from `wcs_cards`; the three stamps lie on one pixel grid.
    """

    def file_of(plane: str) -> bytes:
        image, variance, mask, psf = (getattr(stamps, plane + part)[index] for part in ("", "Variance", "Mask", "Psf"))
        return cutout(image, variance, mask, psf, cards)

    return file_of("difference"), file_of("science"), file_of("template")


def cutout(image: FloatImage, variance: FloatImage, mask: MaskImage, psf: FloatImage, cards: bytes = b"") -> bytes:
    """Return one stamp as the bytes of a FITS file.

    `image`, `variance` (float32, nJy and nJy²) and `mask` (int32 of MaskPlane bits) have one shape (height, width);
    `psf` is float32 of any shape. `cards` go into the primary header. Raises DataError where the shapes differ.
    """
    if not image.ndim == variance.ndim == mask.ndim == psf.ndim == 2 or not image.shape == variance.shape == mask.shape:
        shapes = ", ".join(str(plane.shape) for plane in (image, variance, mask, psf))
        raise DataError(f"image, variance and mask of a stamp must have one shape, the PSF must be 2-D; not {shapes}")
    return b"".join(
        (
            _padded(_primary_cards(image.shape) + cards + _END, b" "),
            _padded(image.astype(">f4").tobytes(), b"\0"),
            _extension_header("UNCERT", variance.shape),
            _padded(variance.astype(">f4").tobytes(), b"\0"),
            _extension_header("MASK", mask.shape),
            _padded(mask.astype(">i4").tobytes(), b"\0"),
            _extension_header("PSFIMAGE", psf.shape),
            _padded(psf.astype(">f4").tobytes(), b"\0"),
        )
    )


def wcs_cards(ra: float, dec: float, x: float, y: float, matrix: NDArray[np.floating], size: int) -> bytes:
    """Return the cards of the TAN WCS that is exact at the source and right to first order round it.

    The source lies at `ra`, `dec` (degrees ICRS) and at pixel (`x`, `y`) of the detector (0-based); the stamp of
    `size` x `size` pixels has pixel (round(x), round(y)) in its middle. `matrix`, 2x2, is
    d(ra*cos(dec), dec)/d(x, y) in degrees per pixel. Raises DataError where a number is not finite.
    """
    numbers = (ra, dec, x, y, *matrix.ravel().tolist())
    if not np.all(np.isfinite(numbers)):
        raise DataError(f"the local WCS of a stamp has numbers that are not finite: {numbers}")
    middle = size // 2 + 1.0  # FITS counts pixels from 1
    values = (ra, dec, x - round(x) + middle, y - round(y) + middle, *numbers[4:])
    keys = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    lines = "".join(f"{key:<8}= {value:20.12E}{'':50}" for key, value in zip(keys, values, strict=True))
    return _PROJECTION + lines.encode("ascii")


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
    return _padded(head + b"".join(_card(key, value) for key, value in _DETAILS[name]) + _END, b" ")


def _padded(data: bytes, fill: bytes) -> bytes:
    """Fill up to a whole number of FITS blocks."""
    return data + fill * (-len(data) % _BLOCK)
