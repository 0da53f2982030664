"""Tables of the SQLite DIA database, and rows to and from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

import schemas
from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE

__all__ = ["LAYOUT_VERSION", "TABLES", "exposure_rows", "object_rows", "pixels", "source_rows", "source_values"]

LAYOUT_VERSION = "1"
_NSIDE = 1024
"""HEALPix order 10, 3.4 arcmin: about one detector's worth of objects in a handful of pixels."""

TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions(
  grp TEXT, topic TEXT, part INTEGER, next INTEGER NOT NULL, PRIMARY KEY(grp, topic, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs(
  grp TEXT, topic TEXT, part INTEGER, off INTEGER, rank INTEGER,
  out_topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, timestamp INTEGER NOT NULL,
  PRIMARY KEY(grp, topic, part, off, rank));
CREATE TABLE IF NOT EXISTS announcements(
  rank INTEGER PRIMARY KEY, visit INTEGER NOT NULL, detector INTEGER NOT NULL, tile INTEGER NOT NULL,
  mjd REAL NOT NULL, sha256 TEXT NOT NULL, night INTEGER NOT NULL, outcome TEXT NOT NULL,
  alerts INTEGER NOT NULL, message BLOB,
  UNIQUE(visit, detector));
CREATE INDEX IF NOT EXISTS announcements_open ON announcements(tile, rank) WHERE outcome = 'open';
CREATE TABLE IF NOT EXISTS dia_objects(
  diaObjectId INTEGER PRIMARY KEY, pixel INTEGER NOT NULL, ra REAL, dec REAL, raErr REAL, decErr REAL,
  nDiaSources INTEGER, firstDiaSourceMjdTai REAL, lastDiaSourceMjdTai REAL, validityStartMjdTai REAL);
CREATE TABLE IF NOT EXISTS dia_object_versions(
  diaObjectId INTEGER, validityStartMjdTai REAL, row BLOB NOT NULL,
  PRIMARY KEY(diaObjectId, validityStartMjdTai)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dia_objects_pixel ON dia_objects(pixel);
CREATE TABLE IF NOT EXISTS dia_sources(
  diaObjectId INTEGER, mjd REAL, diaSourceId INTEGER, visit INTEGER NOT NULL, detector INTEGER NOT NULL,
  band TEXT NOT NULL, psfFlux REAL, psfFluxErr REAL, reliability REAL, row BLOB NOT NULL,
  PRIMARY KEY(diaObjectId, mjd, diaSourceId)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS dia_sources_id ON dia_sources(diaSourceId);
CREATE INDEX IF NOT EXISTS dia_sources_visit ON dia_sources(visit, detector);
CREATE TABLE IF NOT EXISTS exposures(
  visit INTEGER, detector INTEGER, mjd REAL NOT NULL, band TEXT NOT NULL, psfLimit REAL, ra REAL, dec REAL,
  corners BLOB NOT NULL, PRIMARY KEY(visit, detector)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exposures_dec ON exposures(dec, mjd);
"""


def source_dtype() -> np.dtype[Any]:
    """Return the dtype of diaSource rows."""
    return schemas.table_dtype("alert", "diaSource")


def dtype_fingerprint() -> str:
    """Return a hash of the row dtype, kept in the database: rows are stored as its bytes."""
    return hashlib.sha256(repr(source_dtype().descr).encode()).hexdigest()


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


def source_values(sources: NDArray[Any]) -> list[tuple[Any, ...]]:
    """Return the column values of diaSource rows; NaN becomes NULL."""
    data = np.ascontiguousarray(sources, source_dtype())
    names = ("diaObjectId", "midpointMjdTai", "diaSourceId", "visit", "detector", "band", "psfFlux", "psfFluxErr")
    columns = [data[name].tolist() for name in (*names, "reliability")]
    return [(*values, row.tobytes()) for *values, row in zip(*columns, data, strict=True)]


def source_rows(blobs: Sequence[bytes]) -> NDArray[Any]:
    """Return diaSource rows from their stored bytes."""
    return np.frombuffer(b"".join(blobs), source_dtype()).copy()


def object_rows(values: Iterable[tuple[Any, ...]]) -> NDArray[Any]:
    """Return OBJECT_DTYPE rows from column values."""
    filled = [tuple(np.nan if value is None else value for value in row) for row in values]
    return np.array(filled, OBJECT_DTYPE)


def exposure_rows(values: Iterable[tuple[Any, ...]]) -> NDArray[Any]:
    """Return EXPOSURE_DTYPE rows from (visit, detector, mjd, band, psfLimit, corners) values."""
    listed = list(values)
    rows = np.zeros(len(listed), EXPOSURE_DTYPE)
    for i, (visit, detector, mjd, band, limit, corners) in enumerate(listed):
        both = np.frombuffer(corners, "<f8").reshape(2, 4)
        rows[i] = (visit, detector, mjd, band, np.nan if limit is None else limit, both[0], both[1])
    return rows
