"""Rows by HEALPix pixel on disk, so that a catalogue of any size is built one pixel at a time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

from schemas.errors import UnreachableError
from workers.imaging.proper_motion import moved

__all__ = ["MARGIN", "Spool"]

MARGIN = 150.0
"""Arcsec by which each pixel sees into its neighbours: beyond what the fastest star moves between two catalogues."""


class Spool:
    """The rows of one catalogue, below `folder`; with `margin` each pixel also gets what lies just outside it."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], nside: int, *, margin: bool) -> None:
        self.folder, self.dtype, self.nside, self.margin = folder, dtype, nside, margin
        self.pixels: set[int] = set()
        """That own a row."""

    def add(self, rows: NDArray[np.void]) -> None:
        """Append rows with finite positions; raises UnreachableError where the disk is full."""
        pixel = self._pixel(rows["ra"], rows["dec"])
        self.pixels |= set(np.unique(pixel).tolist())
        self._write(pixel, rows, "own")
        if self.margin:
            beyond: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
            for angle in np.arange(0.0, 2.0 * np.pi, 0.25 * np.pi):
                east, north = 1e3 * MARGIN * np.sin(angle), 1e3 * MARGIN * np.cos(angle)
                ra, dec, _, _ = moved(rows["ra"], rows["dec"], east, north, 1.0)
                near = self._pixel(ra, dec)
                outside = np.flatnonzero(near != pixel)
                for one in np.unique(near[outside]):
                    beyond[int(one)].append(outside[near[outside] == one])
            for one, found in beyond.items():
                at = np.unique(np.concatenate(found))
                self._write(np.full(len(at), one), rows[at], "margin")

    def _pixel(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        pixel = lonlat_to_healpix(ra * units.deg, dec * units.deg, self.nside, order="nested")
        return np.asarray(pixel, np.int64)

    def _write(self, pixel: NDArray[np.int64], rows: NDArray[np.void], suffix: str) -> None:
        order = np.argsort(pixel, kind="stable")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for part in np.split(order, np.flatnonzero(np.diff(pixel[order])) + 1):
                if len(part):
                    with (self.folder / f"{pixel[part[0]]}.{suffix}").open("ab") as stream:
                        stream.write(rows[part].tobytes())
        except OSError as error:
            raise UnreachableError(f"{self.folder} can't be written: {error.strerror}; free the disk") from error

    def read(self, pixel: int) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """Return the rows that a pixel sees, and which of them are its own."""
        parts = [self._read(self.folder / f"{pixel}.{suffix}") for suffix in ("own", "margin")]
        own = np.zeros(len(parts[0]) + len(parts[1]), bool)
        own[: len(parts[0])] = True
        return np.concatenate(parts), own

    def _read(self, path: Path) -> NDArray[np.void]:
        return np.fromfile(path, self.dtype) if path.exists() else np.zeros(0, self.dtype)
