"""Rows to and from what the tables keep: the bytes of a numpy row, and the columns that are searched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

import schemas
from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE

__all__ = [
    "earlier_fingerprints",
    "exposure_rows",
    "exposure_values",
    "fingerprints",
    "object_rows",
    "object_values",
    "pixels",
    "pixels_near",
    "source_rows",
    "source_values",
    "version_values",
]

Rows = NDArray[Any]
Blobs = Sequence[tuple[Any, ...]]
"""Answers of the database whose last column is the bytes of a row."""

_NSIDE = 1024
"""HEALPix order 10, 3.4 arcmin: about one detector's worth of objects in a handful of pixels."""


def source_dtype() -> np.dtype[Any]:
    """Return the dtype of diaSource rows."""
    return schemas.table_dtype("alert", "diaSource")


def fingerprints() -> dict[str, str]:
    """Return a hash of each row dtype by name, kept in the database: rows are stored as their bytes."""
    dtypes = {"diaSource": source_dtype(), "diaObject": OBJECT_DTYPE, "exposure": EXPOSURE_DTYPE}
    return {name: _fingerprint(dtype) for name, dtype in dtypes.items()}


def earlier_fingerprints() -> list[str]:
    """Return the hashes of the diaSource dtypes of earlier schema versions whose columns today's begins with."""
    today = source_dtype().descr
    versions = schemas.versions("alert")[:-1]
    before = [schemas.table_dtype("alert", "diaSource", version) for version in versions]
    return [_fingerprint(dtype) for dtype in before if dtype.descr == today[: len(dtype.descr)] != today]


def _fingerprint(dtype: np.dtype[Any]) -> str:
    return hashlib.sha256(repr(dtype.descr).encode()).hexdigest()


def pixels(ra: Any, dec: Any) -> NDArray[np.int64]:
    """Return the HEALPix pixel (nested, order 10), int64, of positions in degrees."""
    ra, dec = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    from astropy import units

    return np.asarray(lonlat_to_healpix(ra * units.rad, dec * units.rad, _NSIDE, order="nested"), np.int64)


def pixels_near(ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float) -> list[int]:
    """Return the pixels that a circle of `radius` arcsec (far below a pixel) round any position touches."""
    step = radius / 3600.0
    stretch = step / np.maximum(np.cos(np.radians(dec)), 1e-6)
    found: set[int] = set()
    for dx in (-1.0, 0.0, 1.0):
        for dy in (-1.0, 0.0, 1.0):
            shifted = np.clip(dec + dy * step, -90.0, 90.0)
            found.update(np.unique(pixels((ra + dx * np.minimum(stretch, 180.0)) % 360.0, shifted)).tolist())
    return sorted(found)


def source_values(sources: Rows) -> list[tuple[Any, ...]]:
    """Return the column values of diaSource rows, their bytes last."""
    data = np.ascontiguousarray(sources, source_dtype())
    names = ("diaObjectId", "midpointMjdTai", "diaSourceId", "visit", "detector", "band", "psfFlux", "psfFluxErr")
    return _with_bytes(data, [data[name].tolist() for name in (*names, "reliability")])


def object_values(objects: Rows) -> list[tuple[Any, ...]]:
    """Return id, pixel, position (degrees), count and times of OBJECT_DTYPE rows, their bytes last."""
    data = np.ascontiguousarray(objects, OBJECT_DTYPE)
    names = ("ra", "dec", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai")
    columns = [data["diaObjectId"].tolist(), pixels(data["ra"], data["dec"]).tolist() if len(data) else []]
    return _with_bytes(data, columns + [data[name].tolist() for name in names])


def version_values(objects: Rows) -> list[tuple[Any, ...]]:
    """Return id and begin of validity (MJD) of OBJECT_DTYPE rows, their bytes last."""
    data = np.ascontiguousarray(objects, OBJECT_DTYPE)
    return _with_bytes(data, [data[name].tolist() for name in ("diaObjectId", "validityStartMjdTai")])


def exposure_values(exposures: Rows) -> list[tuple[Any, ...]]:
    """Return visit, detector, MJD, band, psfLimit (nJy) and centre (degrees) of EXPOSURE_DTYPE rows, bytes last."""
    data = np.ascontiguousarray(exposures, EXPOSURE_DTYPE)
    first = data["cornersRa"][:, :1]
    turn = (data["cornersRa"] - first + 180.0) % 360.0 - 180.0  # a footprint across RA 0 has its centre there
    ra, dec = (first[:, 0] + turn.mean(axis=1)) % 360.0, data["cornersDec"].mean(axis=1)
    names = ("visit", "detector", "midpointMjdTai", "band", "psfLimit")
    return _with_bytes(data, [data[name].tolist() for name in names] + [ra.tolist(), dec.tolist()])


def _with_bytes(data: Rows, columns: list[list[Any]]) -> list[tuple[Any, ...]]:
    whole, size = data.tobytes(), data.dtype.itemsize
    blobs = [whole[start : start + size] for start in range(0, len(whole), size)]
    return list(zip(*columns, blobs, strict=True))


def source_rows(answers: Blobs) -> Rows:
    """Return diaSource rows from answers; what an earlier version wrote has null in the columns that came later."""
    blank = _blank_source()
    return _from_bytes([(answer[-1] + blank[len(answer[-1]) :],) for answer in answers], source_dtype())


@cache
def _blank_source() -> bytes:
    """Return the bytes of a diaSource row without any value."""
    row = np.zeros(1, source_dtype())
    for name in row.dtype.names or ():
        if row.dtype[name].kind == "f":
            row[name] = np.nan
    return row.tobytes()


def object_rows(answers: Blobs) -> Rows:
    """Return OBJECT_DTYPE rows from answers."""
    return _from_bytes(answers, OBJECT_DTYPE)


def exposure_rows(answers: Blobs) -> Rows:
    """Return EXPOSURE_DTYPE rows from answers."""
    return _from_bytes(answers, EXPOSURE_DTYPE)


def _from_bytes(answers: Blobs, dtype: np.dtype[Any]) -> Rows:
    return np.frombuffer(b"".join([answer[-1] for answer in answers]), dtype).copy()
