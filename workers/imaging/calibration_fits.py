"""Master calibrations as FITS files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from astropy.io import fits

from schemas.errors import DataError
from workers.imaging.calibrations import KINDS, TABLE_KINDS, Calibration, Tables
from workers.imaging.fits import card_of, hdus_to_buffer, open_hdus, planes_from_hdus, planes_to_hdus

__all__ = ["Entry", "calibration_from_bytes", "calibration_to_bytes", "entry_of"]

_TABLE = "TABLE"


@dataclass(frozen=True)
class Entry:
    """What selection needs to know of a file without reading its pixels; fields as in `Calibration`."""

    kind: str
    id: str
    instrument: str
    detector: int
    band: str
    lamp: str
    layout: str
    validFrom: float
    validTo: float


def entry_of(header: fits.Header) -> Entry:
    """Return what the primary header says; raises KeyError or ValueError where it is no calibration's."""
    return Entry(
        kind=str(header["KIND"]),
        id=str(header["CALIBID"]),
        instrument=_text(header, "INSTRUME"),
        detector=int(header["DETECTOR"]),
        band=_text(header, "BAND"),
        lamp=_text(header, "LAMP"),
        layout=_text(header, "LAYOUT"),
        validFrom=float(header["VALIDFR"]),
        validTo=float(header["VALIDTO"]),
    )


def _text(header: fits.Header, key: str) -> str:
    return unquote(str(header[key]))


def calibration_to_bytes(calibration: Calibration) -> memoryview:
    """Return the master as multi-extension FITS: primary header, then IMAGE, MASK, VARIANCE or one HDU per table.

    Equal content gives equal bytes.
    """
    header = fits.Header()
    header["KIND"], header["CALIBID"] = calibration.kind, calibration.id
    header["INSTRUME"], header["BAND"] = card_of(calibration.instrument), card_of(calibration.band)
    header["LAMP"], header["LAYOUT"] = card_of(calibration.lamp), card_of(calibration.layout)
    header["DETECTOR"] = calibration.detector
    header["VALIDFR"] = (card_of(calibration.validFrom), "MJD TAI")
    header["VALIDTO"] = (card_of(calibration.validTo), "MJD TAI")
    for number, sha256 in enumerate(calibration.inputs):
        header[f"IN{number:05d}"] = sha256
    for name, value in calibration.metadata.items():
        header[f"HIERARCH META {name}"] = card_of(float(value))
    hdus = []
    if calibration.kind not in TABLE_KINDS:
        unit = KINDS[calibration.kind]
        hdus = planes_to_hdus(calibration.image, calibration.mask, calibration.variance, unit)
    return hdus_to_buffer(header, hdus + [_table_hdu(name, table) for name, table in calibration.tables.items()])


def _table_hdu(name: str, table: Any) -> fits.ImageHDU:
    hdu = fits.ImageHDU(np.atleast_1d(np.asarray(table, ">f8")))
    hdu.header[_TABLE] = (name, "name of this array")
    hdu.header["SCALAR"] = np.ndim(table) == 0
    return hdu


def calibration_from_bytes(data: bytes, label: str) -> Calibration:
    """Read a master back; raises DataError where the bytes are damaged or no calibration."""
    with open_hdus(data, label) as hdus:
        header = hdus[0].header
        try:
            entry = entry_of(header)
            planes: Any = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))
            if entry.kind not in TABLE_KINDS:
                planes = planes_from_hdus(hdus, label)
            return Calibration(
                **vars(entry),
                image=planes[0],
                variance=planes[2],
                mask=planes[1],
                inputs=tuple(str(header[key]) for key in header if key[:2] == "IN" and key[2:].isdigit()),
                metadata=_metadata(header),
                tables=_tables(hdus),
            )
        except (KeyError, ValueError) as error:
            raise DataError(f"{label}: not a calibration that skydelta wrote: {error}") from error


def _metadata(header: Mapping[str, Any]) -> dict[str, float]:
    return {key[5:]: float(header[key]) for key in header if key.startswith("META ")}


def _tables(hdus: fits.HDUList) -> Tables:
    tables = {}
    for hdu in hdus[1:]:
        if _TABLE in hdu.header:
            table = np.asarray(hdu.data, float)
            tables[str(hdu.header[_TABLE])] = table[0] if hdu.header["SCALAR"] else table
    return tables
