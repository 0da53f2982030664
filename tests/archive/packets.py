"""Alert messages for the archive's tests: small ones, and ones of a real packet's size."""

from __future__ import annotations

import io
from functools import cache

import numpy as np

import schemas
from stream import codec
from workers.archive.alert import ArchivedAlert

NIGHT = 20251120


@cache
def _source() -> dict:
    (record,) = schemas.rows_to_records(np.zeros(1, schemas.table_dtype("alert", "diaSource")))
    return record


def value(number: int, night: int = NIGHT, noise: bytes = b"") -> bytes:
    """Return a framed alert without history; `noise` is its science cutout."""
    source = {**_source(), "diaSourceId": number, "band": "r"}
    packet = {"diaSourceId": number, "diaSource": source, "night": night, "cutoutScience": noise or None}
    return codec.encode("alert", packet)


def alert(number: int, night: int = NIGHT, noise: bytes = b"", *, offset: int = 0, partition: int = 0) -> ArchivedAlert:
    """Return a small alert with all that a message has."""
    headers = {"alertId": b"%d" % number, "stageTimes": b'[["isr", 61000.5, 1.25]]', "raw": b"\x00\xff"}
    message = value(number, night, noise)
    place = ("alerts", partition, offset or number)
    return ArchivedAlert(number, night, message, b"k%d" % number, 1700 + number, headers, *place)


def _cutout(rng: np.random.Generator, psf: np.ndarray) -> bytes:
    from astropy.io import fits  # here, since the processes that the tests kill do not need it

    image = rng.normal(100.0, 30.0, (31, 31)).astype(np.float32)
    mask = np.zeros((31, 31), np.int32)
    mask[3:5, 4:9] = 8
    planes = [fits.ImageHDU((900.0 + 0.5 * image).astype(np.float32)), fits.ImageHDU(mask), fits.ImageHDU(psf)]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(image), *planes]).writeto(buffer)
    return buffer.getvalue()


def large_value(number: int, night: int = NIGHT, history: int = 30) -> bytes:
    """Return an alert of some 107 kB: a history of random rows, and three FITS cutouts with noise."""
    rng = np.random.default_rng(number)
    rows = np.zeros(history + 1, schemas.table_dtype("alert", "diaSource"))
    for name in rows.dtype.names or ():
        if rows.dtype[name].kind == "f":
            rows[name] = rng.normal(1000.0, 50.0, len(rows))
    rows["diaSourceId"] = number
    source, *previous = schemas.rows_to_records(rows)
    psf = rng.normal(0.0, 1e-3, (25, 25)).astype(np.float32)
    names = ("cutoutDifference", "cutoutScience", "cutoutTemplate")
    packet = {"diaSourceId": number, "diaSource": source, "prvDiaSources": previous, "night": night}
    return codec.encode("alert", packet | {name: _cutout(rng, psf) for name in names})
