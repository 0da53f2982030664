"""The sky in tracts and cells: a tract is a HEALPix pixel with one TAN WCS, a cell a square of that WCS's pixels.

Tract numbers are nested HEALPix pixels of nside 32 (12288 of 1.83 degrees). Cells are numbered from the lower left of
the tract's pixel plane, so that they never depend on which exposures exist. Cells at a tract's border exist in both
tracts where they hold a part of each; the owner is the tract that holds the cell's centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy import units
from astropy_healpix import HEALPix
from numpy.typing import ArrayLike, NDArray

from workers.imaging.wcs import SkyWcs

__all__ = [
    "NSIDE",
    "CellId",
    "Tessellation",
    "cell_fractions",
    "cells_touching",
    "tract_of",
]

_Float = NDArray[np.float64]
NSIDE = 32
_REACH = 2.2
"""Degrees from a tract's centre beyond which it has no pixels: above the largest pixel radius of nside 32."""


@dataclass(frozen=True, order=True)
class CellId:
    """Identity of a cell: nested HEALPix pixel of nside 32, then column and row of the cell in the tract."""

    tract: int
    cellX: int
    cellY: int

    @property
    def label(self) -> str:
        """As error texts name it: ``<tract>/<cellX>_<cellY>``."""
        return f"{self.tract}/{self.cellX}_{self.cellY}"


@lru_cache(maxsize=1)
def _healpix() -> HEALPix:
    return HEALPix(nside=NSIDE, order="nested")


def tract_of(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the tract that holds each position (degrees ICRS), int64 of the inputs' shape."""
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    return np.asarray(_healpix().lonlat_to_healpix(ra * units.deg, dec * units.deg), np.int64)


@lru_cache(maxsize=256)
def _tract_wcs(tract: int, scale: float, crpix: float) -> SkyWcs:
    lon, lat = _healpix().healpix_to_lonlat(tract)
    return SkyWcs.tangent(float(lon.deg), float(lat.deg), (crpix, crpix), scale)


@dataclass(frozen=True)
class Tessellation:
    """The cells of a survey: one pixel scale and one cell size everywhere."""

    pixel_scale: float
    """Arcsec per pixel at the tract's centre."""
    cell_size: int
    """Pixels."""

    @property
    def _half(self) -> int:
        """Cells from the lower left to the tract's centre."""
        return int(np.ceil(_REACH * 3600.0 / (self.pixel_scale * self.cell_size)))

    def tract_wcs(self, tract: int) -> SkyWcs:
        """Return the TAN WCS of a whole tract, north up; cell (0, 0) begins at pixel (0, 0)."""
        return _tract_wcs(int(tract), self.pixel_scale, self._half * self.cell_size - 0.5)

    def origin(self, cell: CellId) -> tuple[int, int]:
        """Return the tract pixel (x, y) of the cell's first pixel."""
        return cell.cellX * self.cell_size, cell.cellY * self.cell_size

    def cell_wcs(self, cell: CellId, border: int = 0) -> SkyWcs:
        """Return the WCS of a cell grown by `border` pixels on each side."""
        x, y = self.origin(cell)
        return self.tract_wcs(cell.tract).shifted(x - border, y - border)

    def centre(self, cell: CellId) -> tuple[float, float]:
        """Return (ra, dec) of the cell's centre, degrees ICRS."""
        x, y = self.origin(cell)
        half = (self.cell_size - 1) / 2.0
        ra, dec = self.tract_wcs(cell.tract).pixel_to_sky(x + half, y + half)
        return float(ra), float(dec)

    def cell_at(self, ra: float, dec: float) -> CellId:
        """Return the cell, in the tract that holds the position (degrees ICRS), where it lies."""
        tract = int(tract_of(ra, dec))
        x, y = self.tract_wcs(tract).sky_to_pixel(ra, dec)
        step = self.cell_size
        return CellId(tract, int(np.floor((x + 0.5) / step)), int(np.floor((y + 0.5) / step)))

    def owner(self, cell: CellId) -> int:
        """Return the tract that holds the cell's centre: where it is not the cell's own, the cell is a duplicate."""
        return int(tract_of(*self.centre(cell)))

    def polygons(self, wcs: SkyWcs, shape: tuple[int, int]) -> dict[int, _Float]:
        """Return, by tract, the corners (4, 2) in tract pixels, in order round an image of `shape` (height, width).

        Tracts of which the image holds no more than a quarter of a cell's side may be missed.
        """
        ra, dec = wcs.footprint(shape)
        scale = _angle(ra[[0, 1]], dec[[0, 1]]) * 3600.0 / shape[1]
        step = 0.25 * self.cell_size * self.pixel_scale / scale
        rows, columns = (np.linspace(-0.5, side - 0.5, _samples(side, step)) for side in shape)
        found = np.unique(tract_of(*wcs.pixel_to_sky(*np.meshgrid(columns, rows))))
        return {int(tract): np.stack(self.tract_wcs(tract).sky_to_pixel(ra, dec), axis=-1) for tract in found}

    def cells_over(self, wcs: SkyWcs, shape: tuple[int, int]) -> dict[CellId, float]:
        """Return the cells that an image of `shape` touches, each with the fraction of it that the image covers."""
        out: dict[CellId, float] = {}
        for tract, corners in self.polygons(wcs, shape).items():
            columns, rows = cells_touching(corners, self.cell_size)
            mine = self._holds(tract, columns, rows)
            columns, rows = columns[mine], rows[mine]
            fractions = cell_fractions(corners, columns, rows, self.cell_size)
            for x, y, fraction in zip(columns, rows, fractions, strict=True):
                out[CellId(tract, int(x), int(y))] = float(fraction)
        return out

    def _holds(self, tract: int, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say for each cell whether any of 5x5 points on it lies in the tract."""
        inside = np.linspace(0.0, self.cell_size - 1.0, 5)
        x = columns[:, None, None] * self.cell_size + inside[None, None, :]
        y = rows[:, None, None] * self.cell_size + inside[None, :, None]
        x, y = np.broadcast_arrays(x, y)
        if not len(columns):
            return np.zeros(0, bool)
        owners = tract_of(*self.tract_wcs(tract).pixel_to_sky(x, y))
        return np.asarray((owners == tract).any(axis=(1, 2)))


def _angle(ra: _Float, dec: _Float) -> float:
    """Return the angle between two positions (arrays of two, degrees), degrees; right at the poles too."""
    lon, lat = np.radians(ra), np.radians(dec)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return float(np.degrees(2.0 * np.arcsin(0.5 * np.linalg.norm(points[:, 1] - points[:, 0]))))


def _samples(side: int, step: float) -> int:
    """Return how many points, ends included, divide `side` pixels into steps of at most `step`; 200 at most."""
    return min(200, 2 + int(side / step))


def cells_touching(corners: _Float, cell_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (columns, rows) of the cells that a convex polygon touches, by the separating-axis test.

    `corners` (n, 2) are in tract pixels, in order round the polygon. A cell covers pixels k*size - 0.5 to
    (k + 1)*size - 0.5.
    """
    low = np.floor((corners.min(axis=0) + 0.5) / cell_size).astype(np.int64)
    high = np.ceil((corners.max(axis=0) + 0.5) / cell_size).astype(np.int64) - 1
    low = np.maximum(low, 0)
    columns, rows = (
        axis.ravel() for axis in np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
    )
    x = (columns[:, None] + np.array([0, 1, 1, 0])) * cell_size - 0.5
    y = (rows[:, None] + np.array([0, 0, 1, 1])) * cell_size - 0.5
    apart = (_sides(corners, x, y) < 0).all(axis=1).any(axis=-1)
    return columns[~apart], rows[~apart]


def cell_fractions(corners: _Float, columns: NDArray[np.int64], rows: NDArray[np.int64], cell_size: int) -> _Float:
    """Return the fraction of each cell inside a convex polygon (tract pixels), from 16x16 points on it."""
    points = (np.arange(16) + 0.5) / 16.0
    xx, yy = np.meshgrid(points, points)
    x = (columns[:, None] + xx.ravel()) * cell_size - 0.5
    y = (rows[:, None] + yy.ravel()) * cell_size - 0.5
    return np.asarray((_sides(corners, x, y) >= 0).all(axis=-1).mean(axis=1))


def _sides(corners: _Float, x: _Float, y: _Float) -> _Float:
    """Return the signed distance (scaled) of points from each side of a convex polygon, inside >= 0; x.shape + (n,)."""
    following = np.roll(corners, -1, axis=0)
    along = following - corners
    cross = along[:, 0] * (y[..., None] - corners[:, 1]) - along[:, 1] * (x[..., None] - corners[:, 0])
    area = np.sum(corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1])
    return np.asarray(cross * np.sign(area))
