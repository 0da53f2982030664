"""FITS in and out: raw files of any camera, read leniently; our own exposures, written the same way every time."""

from __future__ import annotations

import gzip
import io
import math
import os
import tempfile
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from schemas.errors import DataError, UnreachableError
from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib, SnapDifference
from workers.imaging.masks import MaskPlane, header_cards, planes_from_header
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs

__all__ = [
    "card_of",
    "current_bits",
    "exposure_from_bytes",
    "exposure_to_bytes",
    "hdus_to_buffer",
    "open_hdus",
    "planes_from_hdus",
    "planes_to_hdus",
    "read_exposure",
    "read_raw_cards",
    "read_raw_hdus",
    "write_atomically",
    "write_exposure",
]

_BLOCK = 2880
_INFO_CARDS = {
    "INSTRUME": "instrument",
    "VISIT": "visit",
    "DETECTOR": "detector",
    "BAND": "band",
    "MJDTAI": "midpointMjdTai",
    "EXPTIME": "exposureTime",
    "RA": "ra",
    "DEC": "dec",
    "NIGHT": "night",
    "KIND": "kind",
    "SHA256": "sha256",
    "FILENAME": "fileName",
    "TARGET": "target",
}
_INTEGERS = {"visit", "detector", "night"}
_NUMBERS = {"midpointMjdTai", "exposureTime", "ra", "dec"}
_SAFE = "".join(chr(code) for code in range(32, 127) if chr(code) not in "%&'")


def read_raw_hdus(data: bytes, label: str) -> tuple[dict[int, NDArray[Any]], dict[str, Any]]:
    """Read a raw file: plain, gzipped or tile-compressed FITS, as lenient on header style as astropy allows.

    Returns the 2-D pixel array of each image HDU by HDU index (native byte order, scaled by BZERO and BSCALE, ADU) and
    the cards of the primary header overlaid by those of the first pixel HDU. `label` names the file in errors.
    Raises DataError where the bytes are not FITS, are cut short, or hold no pixels.
    """
    with open_hdus(data, label) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = {
                index: _native(hdu.data)
                for index, hdu in enumerate(hdus)
                if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and hdu.header.get("NAXIS") == 2
            }
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, zlib.error) as error:
            raise DataError(f"{label}: its pixels can't be read ({error}); the file is damaged") from error
        if not pixels:
            raise DataError(
                f"{label}: none of its {len(hdus)} HDUs holds a 2-D image; is it a table, or a header only?"
            )
        cards = _readable_cards(hdus[0].header) | _readable_cards(hdus[next(iter(pixels))].header)
    return pixels, cards


def read_raw_cards(data: bytes, label: str) -> dict[str, Any]:
    """Return the cards that `read_raw_hdus` returns, without reading pixels; raises DataError as it does."""
    with open_hdus(data, label) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = next((hdu for hdu in hdus if hdu.header.get("NAXIS") == 2), hdus[0])
        return _readable_cards(hdus[0].header) | _readable_cards(first.header)


def open_hdus(data: bytes, label: str) -> fits.HDUList:
    """Open FITS bytes (gzipped or not) after checking that nothing is missing; raises DataError."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{label}: gzip stream cut short or damaged ({error}); fetch it again") from error
    if data[:6] != b"SIMPLE":
        raise DataError(f"{label}: not a FITS file, it starts with {data[:12]!r}")
    _check_complete(data, label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{label}: astropy can't read its FITS structure: {error}") from error


def _check_complete(data: bytes, label: str) -> None:
    """Compare the length with what NAXISn, BITPIX, PCOUNT and GCOUNT of every HDU ask for."""
    position, index = 0, 0
    while position < len(data):
        if index and data[position : position + 8] != b"XTENSION":
            return  # special records after the last HDU are allowed
        end = position
        while not _holds_end(data[end : end + _BLOCK]):
            end += _BLOCK
            if end >= len(data):
                raise DataError(f"{label}: cut short in the header of HDU {index} (no END card in {len(data)} bytes)")
        size = _data_size(data[position : end + _BLOCK], f"{label}: HDU {index}")
        have = max(len(data) - end - _BLOCK, 0)
        if not 0 <= size <= have:  # a negative one would lead back to where the walk has been
            raise DataError(f"{label}: cut short, HDU {index} needs {size} bytes of data and has {have}")
        position, index = end + _BLOCK + -(-size // _BLOCK) * _BLOCK, index + 1


def _holds_end(block: bytes) -> bool:
    return any(block[start : start + 8] == b"END     " for start in range(0, len(block), 80))


def _data_size(block: bytes, where: str) -> int:
    """Bytes of data that a header asks for (FITS standard 4.0, equation 2)."""
    cards = {block[i : i + 8].strip(): block[i + 10 : i + 80] for i in range(0, len(block), 80)}

    def number(key: str, default: int | None = None) -> int:
        text = cards.get(key.encode())
        if text is None and default is not None:
            return default
        try:
            return int((text or b"").split(b"/")[0])
        except ValueError as error:
            raise DataError(f"{where}: its header has no readable {key} card") from error

    axes = [number(f"NAXIS{axis + 1}") for axis in range(number("NAXIS"))]
    if not axes:
        return 0
    elements = number("PCOUNT", 0) + math.prod(axes)
    return abs(number("BITPIX")) // 8 * number("GCOUNT", 1) * elements


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _readable_cards(header: fits.Header) -> dict[str, Any]:
    """Return keyword -> value, leaving out commentary and what is no valid card."""
    cards: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for card in header.cards:
            try:
                keyword, value = card.keyword, card.value
            except (fits.VerifyError, ValueError):
                continue
            if keyword not in ("", "COMMENT", "HISTORY") and not isinstance(value, fits.card.Undefined):
                cards[keyword] = value
    return cards


def exposure_to_bytes(exposure: Exposure) -> bytes:
    """Return the exposure as multi-extension FITS: equal exposures give equal bytes (no date is written).

    PRIMARY holds the identity, photometric calibration, provenance and metrics; then IMAGE (float32, with the
    WCS), MASK (int32, ``MP_`` cards), VARIANCE (float32) and PSF (float32 cube), each with its checksums. Where the
    visit has two snaps, SNAPDIFF and SNAPVAR (float32) follow: their difference and its variance.
    """
    primary = fits.PrimaryHDU(header=_primary_header(exposure))
    planes = planes_to_hdus(exposure.image, exposure.mask, exposure.variance, exposure.unit)
    if exposure.wcs is not None:
        planes[0].header.extend(exposure.wcs.header(), strip=True, update=True)
    hdus = [primary, *planes]
    if exposure.psf is not None:
        psf = fits.ImageHDU(exposure.psf.coefficients, name="PSF")
        psf.header["PSFDEG"] = (exposure.psf.degree, "degree of the spatial polynomial")
        psf.header["PSFWIDTH"] = (exposure.psf.width, "[pixel] domain of the polynomial, x")
        psf.header["PSFHEIGH"] = (exposure.psf.height, "[pixel] domain of the polynomial, y")
        if exposure.psf.oversampling > 1:
            psf.header["PSFOVERS"] = (exposure.psf.oversampling, "coefficients per pixel, along a side")
        hdus.append(psf)
    if exposure.snaps is not None:
        hdus += [fits.ImageHDU(exposure.snaps.image, name="SNAPDIFF")]
        hdus += [fits.ImageHDU(exposure.snaps.variance, name="SNAPVAR")]
        hdus[-2].header["BUNIT"], hdus[-1].header["BUNIT"] = exposure.unit, f"({exposure.unit})2"
    return bytes(_to_buffer(hdus))


def planes_to_hdus(
    image: NDArray[np.float32], mask: NDArray[np.int32], variance: NDArray[np.float32], unit: str
) -> list[fits.ImageHDU]:
    """Return the IMAGE, MASK and VARIANCE HDUs of three planes of one shape, the image in `unit`."""
    hdus = [
        fits.ImageHDU(image, name="IMAGE"),
        fits.ImageHDU(mask, name="MASK"),
        fits.ImageHDU(variance, name="VARIANCE"),
    ]
    hdus[0].header["BUNIT"] = unit
    hdus[2].header["BUNIT"] = f"({unit})2"
    for key, bit in header_cards().items():
        hdus[1].header[key] = bit
    return hdus


def _to_buffer(hdus: list[Any]) -> memoryview:
    hdus[0].header["EXTEND"] = True  # astropy would add it after the checksum is made
    hdus[0].header["NEXTEND"] = (len(hdus) - 1, "extensions that follow")
    for hdu in hdus:
        hdu.add_checksum(when="of this HDU")
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer, output_verify="exception")
    return buffer.getbuffer()


def hdus_to_buffer(header: fits.Header, planes: list[fits.ImageHDU]) -> memoryview:
    """Return one FITS file of a data-less primary HDU with `header`, and `planes`; checksums included.

    A view on bytes: as these they would be in memory twice.
    """
    return _to_buffer([fits.PrimaryHDU(header=header), *planes])


def _primary_header(exposure: Exposure) -> fits.Header:
    header = fits.Header()
    for key, name in _INFO_CARDS.items():
        header[key] = card_of(getattr(exposure.info, name))
    header["BUNIT"] = exposure.unit
    if exposure.photo is not None:
        header["NJYPERE"] = (card_of(exposure.photo.nJyPerElectron), "nJy per electron")
        header["NJYPERR"] = (card_of(exposure.photo.relativeError), "its relative error")
        header["NJYSTARS"] = (exposure.photo.nStars, "reference stars in the zero point")
    for name, text in sorted(exposure.provenance.items()):
        header[f"HIERARCH PROV {name}"] = card_of(text)
    for name, number in sorted(exposure.metrics.items()):
        header[f"HIERARCH METRIC {name}"] = card_of(float(number))
    return header


def card_of(value: str | int | float) -> str | int | float:
    """Return a card value that reads back exactly: what FITS can't hold (NaN, 17 digits, non-ASCII) goes as text."""
    if isinstance(value, str):
        text = quote(value, safe=_SAFE)
        return text[:-1] + "%20" if text.endswith(" ") else text
    if isinstance(value, float) and (not math.isfinite(value) or len(repr(value)) > 18):
        return repr(float(value))
    return value


def exposure_from_bytes(data: bytes, label: str) -> Exposure:
    """Read what `exposure_to_bytes` wrote; raises DataError naming `label` where it is damaged or something else."""
    with open_hdus(data, label) as hdus:
        header = hdus[0].header
        image, mask, variance = planes_from_hdus(hdus, label)
        snaps = [_plane(hdus, name, label) for name in ("SNAPDIFF", "SNAPVAR")] if "SNAPDIFF" in hdus else []
        try:
            return Exposure(
                info=_info(header),
                image=image,
                mask=mask,
                variance=variance,
                unit=header["BUNIT"],
                wcs=SkyWcs(hdus["IMAGE"].header) if "CTYPE1" in hdus["IMAGE"].header else None,
                psf=_psf(hdus["PSF"]) if "PSF" in hdus else None,
                photo=_photo(header),
                provenance={name: unquote(str(text)) for name, text in _prefixed(header, "PROV ").items()},
                metrics={name: float(number) for name, number in _prefixed(header, "METRIC ").items()},
                snaps=SnapDifference(*snaps) if snaps else None,
            )
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{label}: not an exposure that `skydelta isr` wrote: {error}; run it on the raw file again"
            ) from error


def planes_from_hdus(
    hdus: fits.HDUList, label: str
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Return image, mask and variance of a file of ours; raises DataError for a missing or damaged plane.

    Mask bits are moved to where this version has them, by the ``MP_`` cards.
    """
    promised = hdus[0].header.get("NEXTEND", len(hdus) - 1)
    if len(hdus) - 1 != promised:
        raise DataError(f"{label}: cut short, {len(hdus) - 1} extensions are there of {promised}")
    image, mask, variance = (_plane(hdus, name, label) for name in ("IMAGE", "MASK", "VARIANCE"))
    return image, current_bits(mask, planes_from_header(hdus["MASK"].header)), variance


def _plane(hdus: fits.HDUList, name: str, label: str) -> NDArray[Any]:
    if name not in hdus:
        raise DataError(f"{label}: it has no {name} plane; it is not a file that skydelta wrote")
    if hdus[name].verify_datasum() == 0:
        raise DataError(f"{label}: the checksum of its {name} plane is wrong; the file is damaged")
    return _native(hdus[name].data)


def current_bits(mask: NDArray[np.int32], written: Mapping[str, int]) -> NDArray[np.int32]:
    """Move each plane from the bit it was written to, to the bit it has now."""
    now = {str(plane.name): plane.bit_length() - 1 for plane in MaskPlane}
    if all(now.get(name) == bit for name, bit in written.items()):
        return mask
    moved = np.zeros_like(mask)
    for name, bit in written.items():
        if name in now:
            moved |= ((mask >> bit) & 1) << now[name]
    return moved


def _info(header: fits.Header) -> ExposureInfo:
    fields: dict[str, Any] = {}
    for key, name in _INFO_CARDS.items():
        if name in _INTEGERS:
            fields[name] = int(header[key])
        else:
            fields[name] = float(header[key]) if name in _NUMBERS else unquote(str(header[key]))
    return ExposureInfo(**fields)


def _photo(header: fits.Header) -> PhotoCalib | None:
    if "NJYPERE" not in header:
        return None
    return PhotoCalib(float(header["NJYPERE"]), float(header["NJYPERR"]), int(header["NJYSTARS"]))


def _psf(hdu: fits.ImageHDU) -> PsfModel:
    header = hdu.header
    domain = int(header["PSFWIDTH"]), int(header["PSFHEIGH"])
    return PsfModel(_native(hdu.data), int(header["PSFDEG"]), *domain, int(header.get("PSFOVERS", 1)))


def _prefixed(header: fits.Header, prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: header[key] for key in header if key.startswith(prefix)}


def read_exposure(path: Path) -> Exposure:
    """Read an exposure file; raises DataError where it does not exist or is not ours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    return exposure_from_bytes(data, str(path))


def write_exposure(path: Path, exposure: Exposure) -> None:
    """Write the exposure to `path`, complete or not at all."""
    write_atomically(path, exposure_to_bytes(exposure))


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to a file beside `path`, then rename it: nobody ever sees half of it. Makes the folder.

    Raises UnreachableError where the disk is full or the folder can't be written: tried again later, it may work.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise UnreachableError(f"{path} can't be written: {error.strerror}; free the disk or its rights") from error
