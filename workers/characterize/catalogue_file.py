"""A source catalogue as FITS: one binary table with units, and a header that says which exposure it is of."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.catalogue_columns import COLUMNS, SOURCE_CATALOGUE_DTYPE
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import card_of, open_hdus, write_atomically
from workers.version import code_version

__all__ = ["catalogue_name", "catalogue_to_bytes", "read_catalogue", "write_catalogue"]

FORMAT = "skydelta source catalogue 1"
_IDENTITY = {
    "INSTRUME": ("instrument", "instrument"),
    "VISIT": ("visit", "visit"),
    "DETECTOR": ("detector", "detector"),
    "BAND": ("band", "band"),
    "MJDTAI": ("midpointMjdTai", "middle of the exposure, MJD TAI"),
    "EXPTIME": ("exposureTime", "[s] exposure time"),
    "NIGHT": ("night", "observing night, YYYYMMDD"),
    "SHA256": ("sha256", "of the raw file"),
    "FILENAME": ("fileName", "raw file"),
    "TARGET": ("target", "target"),
}


def catalogue_to_bytes(rows: NDArray[Any], exposure: Exposure, threshold: float) -> bytes:
    """Return a FITS file of `rows` (SOURCE_CATALOGUE_DTYPE), measured on `exposure` above `threshold` sigma.

    The table's header has TUNIT and a comment per column; the primary header the exposure's identity, its photometric
    scale, what went into it (PROV cards) and the version of this code. The same input gives the same bytes.
    """
    header = fits.Header()
    for key, (name, comment) in _IDENTITY.items():
        header[key] = (card_of(getattr(exposure.info, name)), comment)
    header["FORMAT"] = FORMAT
    header["CODE"] = (code_version(), "version of the code")
    header["THRESH"] = (threshold, "[sigma] of detection")
    header["NSOURCES"] = (len(rows), "rows of the table")
    header["IMWIDTH"], header["IMHEIGHT"] = exposure.shape[1], exposure.shape[0]
    if exposure.photo is not None:
        header["NJYPERE"] = (card_of(exposure.photo.nJyPerElectron), "nJy per electron")
        header["NJYPERR"] = (card_of(exposure.photo.relativeError), "its relative error")
    for name, text in sorted(exposure.provenance.items()):
        header[f"HIERARCH PROV {name}"] = card_of(text)
    table = fits.BinTableHDU(rows, name="SOURCES")
    for number, column in enumerate(COLUMNS, start=1):
        if column.unit:
            table.header[f"TUNIT{number}"] = column.unit
        table.header[f"TCOMM{number}"] = column.doc
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # a comment that is cut short
        fits.HDUList([fits.PrimaryHDU(header=header), table]).writeto(stream, checksum=False)
    return stream.getvalue()


def write_catalogue(path: Path, rows: NDArray[Any], exposure: Exposure, threshold: float) -> None:
    """Write a catalogue to `path`, complete or not at all; raises UnreachableError where that can't be done."""
    write_atomically(path, catalogue_to_bytes(rows, exposure, threshold))


def read_catalogue(path: Path) -> tuple[NDArray[Any], fits.Header]:
    """Return the rows, native and of SOURCE_CATALOGUE_DTYPE, and the primary header of a catalogue.

    Raises DataError where the file can't be read or is something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with open_hdus(data, str(path)) as hdus:
        header = hdus[0].header
        if header.get("FORMAT") != FORMAT or len(hdus) < 2:
            raise DataError(f"{path} is not a source catalogue; `skydelta catalogue` writes one from a calexp")
        table = hdus[1].data
        if table is None or tuple(table.dtype.names or ()) != SOURCE_CATALOGUE_DTYPE.names:
            raise DataError(f"{path} has other columns than this version of skydelta writes; make it again")
        rows = np.zeros(len(table), SOURCE_CATALOGUE_DTYPE)
        for name in rows.dtype.names or ():
            rows[name] = table[name]
        return rows, header.copy()


def catalogue_name(info: ExposureInfo) -> str:
    """Return the file's name, without its folder: instrument, visit and detector."""
    return f"{info.instrument}-{info.visit}-{info.detector:03d}.catalogue.fits"
