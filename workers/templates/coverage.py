"""What a version of the templates covers: numbers by band, the worst cells, what changed since another version."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.imaging.tracts import Tessellation, tract_of
from workers.templates.cell import CellRecord
from workers.templates.store import Manifest

__all__ = [
    "BandCoverage",
    "CellPlaces",
    "Change",
    "Coverage",
    "Spread",
    "WorstCell",
    "ab_magnitude",
    "cell_places",
    "changes_between",
    "coverage_of",
    "unit_vectors",
    "worst_cells",
]

_Float = NDArray[np.float64]

FEW_EPOCHS = 5
"""Cells with fewer visits are counted apart."""


def ab_magnitude(flux: ArrayLike) -> _Float:
    """Return the AB magnitudes of fluxes in nJy, float64; NaN where a flux is not positive and finite."""
    values = np.asarray(flux, float)
    good = np.isfinite(values) & (values > 0)
    return np.where(good, 31.4 - 2.5 * np.log10(np.where(good, values, 1.0)), np.nan)


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> _Float:
    """Return the directions of positions in degrees, float64 (..., 3)."""
    lon, lat = np.broadcast_arrays(np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float)))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


@dataclass(frozen=True, eq=False)
class CellPlaces:
    """Where cells are, one entry a cell, in the order of the records."""

    ra: _Float
    """Of the centres, degrees ICRS."""
    dec: _Float
    corners: _Float
    """(ra, dec) of the four corners in order round the cell, (n, 4, 2)."""
    owned: NDArray[np.bool_]
    """Whether the cell's own tract holds its centre; where not, a cell of the next tract lies on the same sky."""
    area: _Float
    """Square degrees."""


def cell_places(grid: Tessellation, records: Sequence[CellRecord]) -> CellPlaces:
    """Return where the cells of `records` are."""
    cells = np.array([(record.tract, record.cellX, record.cellY) for record in records], np.int64).reshape(-1, 3)
    size = grid.cell_size
    steps = np.array([[0.5, 0.5], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    places = np.zeros((len(cells), len(steps), 2))
    for tract in np.unique(cells[:, 0]):
        mine = cells[:, 0] == tract
        pixels = (cells[mine, None, 1:] + steps) * size - 0.5
        ra, dec = grid.tract_wcs(int(tract)).pixel_to_sky(pixels[..., 0], pixels[..., 1])
        places[mine] = np.stack([ra, dec], axis=-1)
    ra, dec, corners = places[:, 0, 0], places[:, 0, 1], places[:, 1:]
    points = unit_vectors(corners[..., 0], corners[..., 1])
    across = np.cross(points[:, 2] - points[:, 0], points[:, 3] - points[:, 1])  # the diagonals
    area = 0.5 * np.linalg.norm(across, axis=-1) * math.degrees(1.0) ** 2
    return CellPlaces(ra, dec, corners, tract_of(ra, dec) == cells[:, 0], area)


@dataclass(frozen=True)
class Spread:
    """How a number is spread over cells; NaN where no cell has it."""

    minimum: float
    p05: float
    median: float
    p95: float
    maximum: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        """Return the spread of the finite values."""
        numbers = np.asarray(values, float)
        good = numbers[np.isfinite(numbers)]
        if not good.size:
            return cls(*[math.nan] * 5)
        return cls(*(float(value) for value in np.percentile(good, [0.0, 5.0, 50.0, 95.0, 100.0])))


@dataclass(frozen=True)
class BandCoverage:
    """One band of a version. All cells count in the spreads, cells that their tract owns in the area."""

    band: str
    cells: int
    owned: int
    area: float
    """Square degrees, overlaps of tracts counted once."""
    few: int
    """Cells with fewer epochs than `Coverage.fewEpochs`."""
    nEpochs: Spread
    depth: Spread
    """AB magnitude of a point source at 5 sigma."""
    fwhm: Spread
    """Arcsec."""
    firstEpochMjdTai: Spread
    lastEpochMjdTai: Spread
    firstAge: float
    """Days from the first epoch in any cell to `Coverage.at`."""
    lastAge: float
    """Days from the last epoch in any cell to `Coverage.at`."""


@dataclass(frozen=True)
class Coverage:
    """A version in numbers."""

    version: str
    begin: float
    """First epoch allowed, MJD TAI."""
    end: float
    at: float
    """MJD TAI, to which ages are counted."""
    fewEpochs: int
    bands: tuple[BandCoverage, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        numbers = ("epochs min/median/max", "depth 5%/median/95% AB", "fwhm 5%/median/95% arcsec")
        few = f"cells < {self.fewEpochs} epochs"
        return ("band", "cells", "deg²", *numbers, few, "first MJD TAI", "last", "age days")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the table, a row a band, as text."""
        return [_row(band) for band in self.bands]


def _row(band: BandCoverage) -> tuple[Any, ...]:
    epochs = f"{band.nEpochs.minimum:.0f} / {band.nEpochs.median:g} / {band.nEpochs.maximum:.0f}"
    depth = f"{band.depth.p05:.2f} / {band.depth.median:.2f} / {band.depth.p95:.2f}"
    fwhm = f"{band.fwhm.p05:.2f} / {band.fwhm.median:.2f} / {band.fwhm.p95:.2f}"
    times = (f"{band.firstEpochMjdTai.minimum:.2f}", f"{band.lastEpochMjdTai.maximum:.2f}")
    ages = f"{band.firstAge:.0f}–{band.lastAge:.0f}"
    return (band.band, str(band.cells), f"{band.area:.4g}", epochs, depth, fwhm, str(band.few), *times, ages)


def coverage_of(manifest: Manifest, at: float, few_epochs: int = FEW_EPOCHS) -> Coverage:
    """Return the numbers of a version; ages are counted to `at`, MJD TAI."""
    bands = sorted({record.band for record in manifest.cells})
    found = tuple(
        _band(manifest.grid, [record for record in manifest.cells if record.band == band], at, few_epochs)
        for band in bands
    )
    return Coverage(manifest.version, manifest.begin, manifest.end, at, few_epochs, found)


def _band(grid: Tessellation, records: Sequence[CellRecord], at: float, few_epochs: int) -> BandCoverage:
    places = cell_places(grid, records)
    epochs = np.array([record.nEpochs for record in records])
    first = Spread.of([record.firstEpochMjdTai for record in records])
    last = Spread.of([record.lastEpochMjdTai for record in records])
    return BandCoverage(
        band=records[0].band,
        cells=len(records),
        owned=int(places.owned.sum()),
        area=float(places.area[places.owned].sum()),
        few=int((epochs < few_epochs).sum()),
        nEpochs=Spread.of(epochs),
        depth=Spread.of(ab_magnitude([record.depth for record in records])),
        fwhm=Spread.of([record.fwhm for record in records]),
        firstEpochMjdTai=first,
        lastEpochMjdTai=last,
        firstAge=at - first.minimum,
        lastAge=at - last.maximum,
    )


@dataclass(frozen=True)
class WorstCell:
    """A cell that is shallow for its band."""

    record: CellRecord
    ra: float
    """Of the centre, degrees ICRS."""
    dec: float
    depth: float
    """AB magnitude at 5 sigma; NaN where the cell has none."""
    below: float
    """Magnitudes by which it is shallower than the median cell of its band."""


def worst_cells(manifest: Manifest, count: int = 20) -> list[WorstCell]:
    """Return the shallowest cells against the median of their band, cells without a depth first."""
    depths = ab_magnitude([record.depth for record in manifest.cells])
    bands = np.array([record.band for record in manifest.cells], dtype=object)
    below = np.full(len(depths), np.nan)
    for band in set(bands):
        below[bands == band] = Spread.of(depths[bands == band]).median - depths[bands == band]
    chosen = np.argsort(-np.nan_to_num(below, nan=np.inf), kind="stable")[:count]
    places = cell_places(manifest.grid, [manifest.cells[i] for i in chosen])
    return [
        WorstCell(manifest.cells[i], float(ra), float(dec), float(depths[i]), float(below[i]))
        for i, ra, dec in zip(chosen, places.ra, places.dec, strict=True)
    ]


@dataclass(frozen=True)
class Change:
    """What became of the cells of a band from one version to another."""

    band: str
    new: int
    rebuilt: int
    """Of other inputs, or made in another way: the `templateId` differs."""
    kept: int
    gone: int
    deeper: float
    """Median gain in depth of the rebuilt cells, magnitudes; NaN without any."""


def changes_between(old: Manifest, new: Manifest) -> list[Change]:
    """Return the changes from `old` to `new` by band; cells of another grid are other cells."""
    same_grid = old.grid == new.grid
    before = {(record.band, record.cell): record for record in old.cells}
    after = {(record.band, record.cell): record for record in new.cells}
    counts: Counter[tuple[str, str]] = Counter()
    gains: dict[str, list[float]] = {}
    for key, record in after.items():
        earlier = before.get(key) if same_grid else None
        if earlier is None:
            counts[key[0], "new"] += 1
        elif earlier.templateId == record.templateId:
            counts[key[0], "kept"] += 1
        else:
            counts[key[0], "rebuilt"] += 1
            gain = ab_magnitude(record.depth) - ab_magnitude(earlier.depth)
            gains.setdefault(key[0], []).append(float(gain))
    for key in before:
        counts[key[0], "gone"] += not (same_grid and key in after)
    return [
        Change(
            band,
            new=counts[band, "new"],
            rebuilt=counts[band, "rebuilt"],
            kept=counts[band, "kept"],
            gone=counts[band, "gone"],
            deeper=Spread.of(gains.get(band, [])).median,
        )
        for band in sorted({band for band, _ in [*before, *after]})
    ]
