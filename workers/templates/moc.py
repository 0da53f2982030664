"""Which part of the sky the cells of a version cover, as a multi-order coverage map (MOC).

IVOA Recommendation "MOC: Multi-Order Coverage map" 2.0 (2022): nested HEALPix pixels, ICRS, orders 0 to 29. A pixel is
in the map where its centre lies on a cell. Pixels are at most a quarter of a cell's side, so that the map is right to
an eighth of a cell along its border, give or take the slant of the pixels.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from astropy import units
from astropy.io import fits
from astropy_healpix import HEALPix
from numpy.typing import ArrayLike, NDArray

from workers.imaging.tracts import CellId, Tessellation
from workers.imaging.wcs import SkyWcs

__all__ = ["MAX_ORDER", "Moc", "moc_of_cells", "moc_order"]

_Int = NDArray[np.int64]
_Float = NDArray[np.float64]

MAX_ORDER = 29
_PARTS = 4.0
"""MOC pixels on the side of a cell, at least."""
_STEP = 1.0
"""Distance of the probed points in MOC pixels: each pixel centre on a cell is then in a probed pixel or beside one."""
_BATCH = 2000
"""Cells at a time, for the sake of memory."""


@dataclass(frozen=True, eq=False)
class Moc:
    """A normalised map: no pixel twice, four siblings never without being their parent.

    `uniq` are sorted int64, 4 * 4^order + pixel (NUNIQ); `order` is the finest order that it was made
    for, whether or not a pixel of it is left.
    """

    order: int
    uniq: _Int

    @classmethod
    def of_pixels(cls, order: int, pixels: ArrayLike) -> Moc:
        """Return the map of nested pixels of one order, in any order, repeated or not."""
        left = np.unique(np.asarray(pixels, np.int64))
        kept = []
        for level in range(order, 0, -1):
            parents, counts = np.unique(left >> 2, return_counts=True)
            whole = parents[counts == 4]
            alone = left[~np.isin(left >> 2, whole)]
            kept.append(alone + (np.int64(4) << (2 * level)))
            left = whole
        kept.append(left + 4)
        return cls(order, np.sort(np.concatenate(kept)))

    def by_order(self) -> dict[int, _Int]:
        """Return the sorted pixels of each order that has any, coarsest first."""
        edges = [np.int64(4) << (2 * level) for level in range(self.order + 2)]
        places = np.searchsorted(self.uniq, edges)
        found = {level: self.uniq[places[level] : places[level + 1]] - edges[level] for level in range(self.order + 1)}
        return {level: pixels for level, pixels in found.items() if len(pixels)}

    def ranges(self) -> _Int:
        """Return the sorted, disjoint half-open ranges of pixels of `order`, int64 (n, 2)."""
        parts = [
            np.stack([pixels, pixels + 1], axis=1) << (2 * (self.order - level))
            for level, pixels in self.by_order().items()
        ]
        spans = np.concatenate([np.zeros((0, 2), np.int64), *parts])
        return spans[np.argsort(spans[:, 0])]

    def contains(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Say for each position (degrees ICRS) whether it is in the map."""
        spans = self.ranges()
        if not len(spans):
            return np.zeros(np.shape(ra), np.bool_)
        pixels = _pixels_at(self.order, np.asarray(ra, float), np.asarray(dec, float))
        at = np.searchsorted(spans[:, 0], pixels, side="right") - 1
        return np.asarray((at >= 0) & (pixels < spans[np.maximum(at, 0), 1]))

    @property
    def area(self) -> float:
        """Square degrees."""
        whole = 4.0 * math.pi * math.degrees(1.0) ** 2
        return math.fsum(len(pixels) * whole / (12 * 4**level) for level, pixels in self.by_order().items())

    def to_fits(self, cards: Iterable[tuple[str, str, str]] = ()) -> bytes:
        """Return a FITS file (as MOC 2.0 says, readable by MOC 1.1 software too); equal maps give equal bytes.

        `cards` are further (keyword, value, comment) of the table.
        """
        table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "1K", array=self.uniq)], name="MOC")
        for keyword, value, comment in (
            ("MOCVERS", "2.0", "MOC version"),
            ("MOCDIM", "SPACE", "physical dimension"),
            ("ORDERING", "NUNIQ", "4 * 4^order + pixel"),
            ("PIXTYPE", "HEALPIX", "nested numbering"),
            ("COORDSYS", "C", "ICRS"),
            ("MOCORD_S", self.order, "finest order"),
            ("MOCORDER", self.order, "finest order, name of MOC 1.1"),
            ("MOCTYPE", "IMAGE", "coverage of images"),
            ("MOCTOOL", "skydelta", "made by"),
            *cards,
        ):
            table.header[keyword] = (value, comment)
        buffer = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
        return buffer.getvalue()

    def to_json(self) -> str:
        """Return ``{"order": [pixels], ...}``; the finest order is named even where it is empty."""
        tree = {level: pixels.tolist() for level, pixels in self.by_order().items()}
        tree.setdefault(self.order, [])
        rows = ",\n".join(f'"{level}": {json.dumps(tree[level], separators=(",", ":"))}' for level in sorted(tree))
        return f"{{{rows}}}\n"

    def to_ascii(self) -> str:
        """Return ``order/pixel first-last ...``; the finest order is named even where it is empty."""
        parts = [f"{level}/{' '.join(_runs(pixels))}" for level, pixels in self.by_order().items()]
        if self.order not in self.by_order():
            parts.append(f"{self.order}/")
        return " ".join(parts) + "\n"


def _runs(pixels: _Int) -> list[str]:
    """Return the runs of consecutive pixels as text: a number, or first and last."""
    breaks = np.flatnonzero(np.diff(pixels) > 1) + 1
    runs = [(int(run[0]), int(run[-1])) for run in np.split(pixels, breaks)]
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]


def moc_order(grid: Tessellation) -> int:
    """Return the coarsest order whose pixels (root of their area) are at most a quarter of a cell's side."""
    side = math.radians(grid.pixel_scale * grid.cell_size / 3600.0) / _PARTS
    return min(max(math.ceil(math.log2(math.sqrt(math.pi / 3.0) / side)), 0), MAX_ORDER)


def moc_of_cells(grid: Tessellation, cells: Sequence[CellId], order: int | None = None) -> Moc:
    """Return the map of all the sky that any of `cells` covers, at `order` (default: `moc_order`)."""
    order = moc_order(grid) if order is None else order
    found = [np.zeros(0, np.int64)]
    for tract, members in groupby(sorted(cells), key=lambda cell: cell.tract):
        places = np.array([(cell.cellX, cell.cellY) for cell in members], np.int64)
        wcs = grid.tract_wcs(tract)
        starts = range(0, len(places), _BATCH)
        found.extend(_covered(grid, wcs, places[start : start + _BATCH], order) for start in starts)
    return Moc.of_pixels(order, np.concatenate(found))


def _covered(grid: Tessellation, wcs: SkyWcs, places: _Int, order: int) -> _Int:
    """Return the pixels of `order` whose centre lies on a cell of one tract; `places` are its columns and rows."""
    size = grid.cell_size
    pixel = math.degrees(math.sqrt(math.pi / 3.0)) * 3600.0 / 2**order / grid.pixel_scale
    points = np.linspace(-0.5, size - 0.5, max(math.ceil(size / (_STEP * pixel)), 1) + 1)
    x = places[:, 0, None, None] * size + points[None, None, :]
    y = places[:, 1, None, None] * size + points[None, :, None]
    x, y = np.broadcast_arrays(x, y)
    probed = np.unique(_pixels_at(order, *wcs.pixel_to_sky(x.ravel(), y.ravel())))
    sky = HEALPix(nside=2**order, order="nested")
    with np.errstate(invalid="ignore"):  # where three pixels meet one neighbour is missing: -1, with a warning
        beside = np.asarray(sky.neighbours(probed), np.int64)
    near = np.unique(np.concatenate([probed, beside.ravel()]))
    near = near[near >= 0]
    lon, lat = sky.healpix_to_lonlat(near)
    x, y = wcs.sky_to_pixel(lon.deg, lat.deg)
    keys = _key(np.floor((x + 0.5) / size), np.floor((y + 0.5) / size))
    return near[np.isin(keys, _key(places[:, 0], places[:, 1]))]


def _key(column: NDArray[np.generic], row: NDArray[np.generic]) -> _Float:
    """Return one number per cell of a tract; NaN stays NaN and is equal to nothing."""
    return np.asarray(np.asarray(column, float) * 2.0**26 + np.asarray(row, float), float)


def _pixels_at(order: int, ra: _Float, dec: _Float) -> _Int:
    """Return the nested pixel of each position (degrees ICRS)."""
    sky = HEALPix(nside=2**order, order="nested")
    return np.asarray(sky.lonlat_to_healpix(ra * units.deg, dec * units.deg), np.int64)
