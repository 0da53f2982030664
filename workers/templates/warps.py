"""The kept warps of all exposures: each is warped once onto the cells that it covers, and never again.

::

    templates/warps/<method>/<tract>/<calexp digest>.fits

The name says what a file was made of: calibrated pixels by their digest, and by <method> the grid, the border and the
way to warp. So a file is right wherever it is found, an interrupted job goes on with those that it has written, and an
exposure that was calibrated anew gets another one. What is in a file depends on the exposure and the grid alone.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.errors import DataError
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure
from workers.imaging.masks import MaskPlane
from workers.imaging.resample import kernel_table
from workers.imaging.tracts import CellId, Tessellation
from workers.imaging.warp import node_grid, pixel_map, warp_planes, warp_stamps
from workers.imaging.wcs import SkyWcs
from workers.templates.calexps import read_entry
from workers.templates.cell import PlannedInput, content_id
from workers.templates.warp_file import WarpBlock, WarpFile, WarpHeader, stored_block, warp_steps, write_warps

__all__ = ["ABANDONED", "BORDER", "METHOD", "ExposureCache", "WarpStore", "fresh_block"]

METHOD = 1
"""Raised whenever the same exposure would give other warps, so that no file of the old method is used."""
BORDER = 16
"""Pixels round a cell that take part in the rejection, so that what crosses its edge is seen whole."""
_OPEN_FILES = 128
_SAMPLED = 3
"""One row and column of so many tells the median variance of an exposure."""
ABANDONED = 86_400.0
"""Seconds after which what a killed job left half written is removed."""

_Load = Callable[[Path], Exposure]


class ExposureCache:
    """Reads exposures, and keeps the last ones: neighbouring cells share their inputs."""

    def __init__(self, load: _Load, pixels: int = 60_000_000) -> None:
        self._load = load
        self._pixels = pixels
        self._kept: OrderedDict[Path, Exposure] = OrderedDict()

    def __call__(self, path: Path) -> Exposure:
        """Return the exposure in the file at `path`."""
        exposure = self._kept.pop(path, None) or self._load(path)
        self._kept[path] = exposure
        while len(self._kept) > 1 and sum(kept.image.size for kept in self._kept.values()) > self._pixels:
            self._kept.popitem(last=False)
        return exposure


class WarpStore:
    """The kept warps below one folder for one grid. Files are kept open, the last 128."""

    def __init__(self, root: Path, grid: Tessellation) -> None:
        self.root = root
        self.grid = grid
        self._method = content_id("", [METHOD, grid.pixel_scale, grid.cell_size, BORDER])
        self._open: OrderedDict[Path, WarpFile] = OrderedDict()

    def __reduce__(self) -> tuple[type[WarpStore], tuple[Path, Tessellation]]:
        """Travel to another process without the open files."""
        return WarpStore, (self.root, self.grid)

    def path(self, calexp: str, tract: int) -> Path:
        """Return where the warps of a calibrated exposure (`CalexpEntry.calexp`) on a tract are."""
        return self.root / self._method / str(tract) / f"{calexp}.fits"

    def block(self, item: PlannedInput, cell: CellId) -> WarpBlock | None:
        """Return the warp of an input on a cell, None where none is kept; raises DataError where it is damaged."""
        path = self.path(item.calexp, cell.tract)
        kept = self._open.pop(path, None)
        if kept is None:
            if not path.exists():
                return None
            kept = WarpFile(path)
        self._open[path] = kept
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return kept.block(cell)

    def make(self, item: PlannedInput, tracts: Iterable[int], load: _Load = read_exposure) -> None:
        """Warp an exposure onto all cells of some tracts that it covers, and keep that.

        Raises DataError where its file is not what was planned.
        """
        exposure = _planned_exposure(item, load)
        if item.path is not None and read_entry(item.path).calexp != item.calexp:
            raise DataError(f"{item.path} was calibrated anew since the plan was made; run the same command again")
        covered = self.grid.cells_over(exposure.need_wcs(), exposure.shape)
        for tract in sorted(tracts):
            header = _header(exposure, self.grid, tract, item.calexp)
            cells = sorted(cell for cell, part in covered.items() if cell.tract == tract and part > 0)
            size = _psf_size(exposure, self.grid)
            blocks = ((cell, _warped(exposure, self.grid, cell, size)) for cell in cells)
            write_warps(self.path(item.calexp, tract), header, blocks)

    def used(self, pairs: Iterable[tuple[str, int]], now: float | None = None) -> None:
        """Note that a template is made of these (calexp digest, tract); what `prune` goes by. `now`: Unix seconds."""
        when = time.time() if now is None else now
        for path in {self.path(*pair) for pair in pairs}:
            if path.exists():
                os.utime(path, (when, when))

    def prune(self, keep: Collection[str], days: float, now: float | None = None) -> tuple[Path, ...]:
        """Remove the files of exposures that are not in `keep` and that no template was made of for `days`.

        `keep` holds calexp digests, `now` is in Unix seconds. With 0 days all files go. Returns what was removed.
        """
        oldest = (time.time() if now is None else now) - 86_400.0 * days
        gone = []
        for path in sorted(self.root.glob("*/*/*.fits")):
            if days == 0 or (path.stem not in keep and path.stat().st_mtime < oldest):
                path.unlink()
                gone.append(path)
        for path in self.root.glob("*/*/.*.fits.*"):
            if path.stat().st_mtime < (time.time() if now is None else now) - ABANDONED:
                path.unlink()
        return tuple(gone)


def fresh_block(item: PlannedInput, cell: CellId, grid: Tessellation, load: _Load) -> WarpBlock:
    """Return what `WarpStore.block` would of a kept file, without one: the same bytes.

    `load` reads a calibrated exposure. Raises DataError where it is not what was planned.
    """
    exposure = _planned_exposure(item, load)
    header = _header(exposure, grid, cell.tract, item.calexp)
    return stored_block(_warped(exposure, grid, cell, _psf_size(exposure, grid)), header)


def _planned_exposure(item: PlannedInput, load: _Load) -> Exposure:
    """Read an input; raises DataError where it is not in nJy, or not the one that was planned."""
    if item.path is None:
        raise DataError(
            f"the plan of a cell names no file for exposure {item.visit}:{item.detector}: it was read back from a "
            "template; plan again from the calibrated exposures"
        )
    exposure = load(item.path)
    info = exposure.info
    if (info.visit, info.detector, info.sha256) != (item.visit, item.detector, item.sha256):
        raise DataError(
            f"{item.path} holds exposure {info.label} and not the planned {item.visit}:{item.detector}; plan again"
        )
    if exposure.unit != "nJy":
        raise DataError(f"{item.path}: unit {exposure.unit}, a template needs nJy; run `skydelta isr` on its raw file")
    return exposure


def _scale(exposure: Exposure, grid: Tessellation) -> float:
    """Return the pixels of the exposure, in its middle, along one of the cells'."""
    height, width = exposure.shape
    return grid.pixel_scale / exposure.need_wcs().pixel_scale(width / 2.0, height / 2.0)


def _header(exposure: Exposure, grid: Tessellation, tract: int, calexp: str) -> WarpHeader:
    """Return the header of an exposure's warps, with the steps that its noise asks for."""
    area = _scale(exposure, grid) ** 2
    data = (exposure.mask & int(MaskPlane.NO_DATA)) == 0
    data &= np.isfinite(exposure.image) & np.isfinite(exposure.variance) & (exposure.variance > 0)
    sample = exposure.variance[::_SAMPLED, ::_SAMPLED][data[::_SAMPLED, ::_SAMPLED]]
    kept = float(np.square(kernel_table(), dtype=float).sum(axis=1).mean()) ** 2  # of the variance, by the kernel
    variance = kept * area**2 * float(np.median(sample)) if sample.size else 1.0
    peak = area * float(np.abs(exposure.image[data]).max()) if sample.size else 1.0
    step, variance_step = warp_steps(variance, peak)
    return WarpHeader(
        tract=tract,
        pixel_scale=grid.pixel_scale,
        cell_size=grid.cell_size,
        border=BORDER,
        visit=exposure.info.visit,
        detector=exposure.info.detector,
        calexp=calexp,
        step=step,
        variance_step=variance_step,
    )


def _psf_size(exposure: Exposure, grid: Tessellation) -> int:
    """Return the side, pixels of the cells, of the PSF stamps of an exposure's warps."""
    return 2 * round((exposure.need_psf().size / _scale(exposure, grid) - 1) / 2) + 1


class _Part(SkyWcs):
    """A part of a WCS, from one of its pixels on; made at once, where a header takes astropy milliseconds."""

    def __init__(self, whole: SkyWcs, x: float, y: float) -> None:
        self._whole = whole
        self._x = x
        self._y = y

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (ra, dec), degrees, of pixels of the part."""
        return self._whole.pixel_to_sky(np.asarray(x, float) + self._x, np.asarray(y, float) + self._y)


def _warped(exposure: Exposure, grid: Tessellation, cell: CellId, size: int) -> WarpBlock:
    """Return the exposure on a cell and its border, not yet rounded, with its PSF (size, size) at the cell's centre."""
    source, side = exposure.need_wcs(), grid.cell_size + 2 * BORDER
    x, y = grid.origin(cell)
    target = _Part(grid.tract_wcs(cell.tract), x - BORDER, y - BORDER)
    planes = warp_planes(exposure.image, exposure.mask, exposure.variance, node_grid(source, target, (side, side)))
    place = pixel_map(source, target, (side - 1) / 2.0, (side - 1) / 2.0)
    psf = warp_stamps(exposure.need_psf().stamps(place.x, place.y), place.matrix, size)[0]
    return WarpBlock(planes.image, planes.mask, planes.variance, psf.astype(np.float32), planes.noise_correlation)
