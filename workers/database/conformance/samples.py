"""Rows and announcements for the checks, and what they are made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import schemas
from workers.database import EXPOSURE_DTYPE, OBJECT_DTYPE, Announcement, Database, Rows

__all__ = ["Check", "MakeDatabase", "make_announcement", "make_exposure", "make_object", "make_sources", "require"]

MakeDatabase = Callable[[Path], Database]
"""Opens the implementation under test; the path names the database (a file, or whatever stands for one)."""
Check = Callable[[MakeDatabase, Path], None]
"""Takes the maker and a fresh path, and raises AssertionError with a text."""


def make_sources(object_id: int, mjds: list[float], *, ra: float = 10.0, dec: float = -5.0, flux: float = 1e3) -> Rows:
    """Return diaSource rows of one object at times `mjds` (MJD TAI); visit and ids follow from the time."""
    rows = np.zeros(len(mjds), schemas.table_dtype("alert", "diaSource"))
    rows["diaObjectId"], rows["ra"], rows["dec"], rows["band"] = object_id, ra, dec, "r"
    rows["midpointMjdTai"] = mjds
    rows["visit"] = np.round(np.asarray(mjds) * 1e4)
    rows["diaSourceId"] = rows["visit"] * 1000 + object_id % 1000
    rows["psfFlux"], rows["psfFluxErr"], rows["reliability"] = flux, 50.0, 0.9
    return rows


def make_object(object_id: int, *, ra: float = 10.0, dec: float = -5.0, mjd: float = 61000.0, count: int = 1) -> Rows:
    """Return one OBJECT_DTYPE row."""
    row = np.zeros(1, OBJECT_DTYPE)
    row["diaObjectId"], row["ra"], row["dec"], row["nDiaSources"] = object_id, ra, dec, count
    row["validityStartMjdTai"] = row["lastDiaSourceMjdTai"] = mjd
    return row


def make_exposure(visit: int, mjd: float, *, ra: float = 10.0, dec: float = -5.0, half: float = 0.1) -> Rows:
    """Return one EXPOSURE_DTYPE row: a square of 2 `half` degrees round (ra, dec)."""
    row = np.zeros(1, EXPOSURE_DTYPE)
    row["visit"], row["midpointMjdTai"], row["band"], row["psfLimit"] = visit, mjd, "r", 200.0
    row["cornersRa"] = (ra + half * np.array([-1, 1, 1, -1])) % 360.0
    row["cornersDec"] = dec + half * np.array([-1, -1, 1, 1])
    return row


def make_announcement(visit: int, detector: int = 0, *tiles: int, **changes: Any) -> Announcement:
    """Return an announcement on `tiles` (5 by default) of the night 20251120; the time follows from the visit."""
    named = {"tile": (tiles or (5,))[0], "midpointMjdTai": 61000.0 + visit, "sha256": f"{visit}:{detector}"}
    return Announcement(visit, detector, **{**named, "night": 20251120, "tiles": tiles, **changes})


def require(condition: object, text: str) -> None:
    """Raise AssertionError: this is a test suite that ships, and plain asserts vanish under -O."""
    if not condition:
        raise AssertionError(text)
