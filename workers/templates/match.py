"""The template of an exposure: the cells under it, put together and warped once to its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from workers.imaging.exposure import Exposure
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.tracts import CellId, Tessellation
from workers.imaging.warp import Warped, node_grid, pixel_map, warp_planes, warp_stamps
from workers.imaging.wcs import SkyWcs
from workers.templates.airmass_cells import Telescope, cell_seen
from workers.templates.cell import TemplateCell, content_id
from workers.templates.store import Manifest, TemplateStore

__all__ = ["TemplateMatch", "template_for"]

_NO_DATA, _EDGE = int(MaskPlane.NO_DATA), int(MaskPlane.EDGE)
_PSF_STEPS = 5
_CORNER_SHARE = 0.5
"""Of the exposure, covered; below it the PSF is taken as constant, having too little to fit a slope to."""

_Cells = dict[CellId, TemplateCell]


@dataclass(frozen=True)
class TemplateMatch:
    """A template on an exposure's pixels, and where it came from."""

    exposure: Exposure
    """nJy; NO_DATA where there is no template; PSF of degree 1 at most; `info` is the science exposure's."""
    templateId: str
    """Of the set of cells."""
    version: str
    cells: tuple[str, ...]
    """templateId of each cell."""
    firstEpochMjdTai: float
    lastEpochMjdTai: float
    nEpochs: int
    """Visits, of the cell with the fewest."""
    depth: float
    """Median over the cells of the flux of a point source at 5 sigma, nJy."""
    coverage: float
    """Fraction of the exposure's pixels with template data."""
    inputs: tuple[tuple[float, float], ...] = ()
    """Mid-exposure time (MJD TAI) and share of each input, by time; the shares over all cells add up to 1."""


def template_for(
    exposure: Exposure,
    store: TemplateStore,
    min_coverage: float,
    manifest: Manifest | None = None,
    telescope: Telescope | None = None,
) -> TemplateMatch | None:
    """Return the template of `exposure` from a version (default: the current one), on the exposure's pixels.

    Where the version has airmass bins `telescope` tells which to take: without it the whole cells' templates serve.
    None where there is no version, or its cells cover less than `min_coverage` of the exposure (the outcome
    "no template"). Raises DataError where the exposure has no WCS, or a cell's file is damaged.
    """
    manifest = manifest or store.manifest()
    if manifest is None:
        return None
    cells = _cells_under(exposure, store, manifest, telescope)
    if not cells:
        return None
    warped = _warped(cells, manifest.grid, exposure.need_wcs(), exposure.shape)
    coverage = 1.0 - float(np.mean((warped.mask & _NO_DATA) != 0))
    if coverage < min_coverage or coverage == 0.0:
        return None
    ids = tuple(cell.plan.templateId for cell in cells.values())
    template_id = content_id("T", ids)
    correlation = float(np.median([cell.noiseCorrelation for cell in cells.values()])) * warped.noise_correlation
    return TemplateMatch(
        exposure=Exposure(
            info=exposure.info,
            image=warped.image,
            mask=warped.mask,
            variance=warped.variance,
            unit="nJy",
            wcs=exposure.wcs,
            psf=_psf(cells, manifest.grid, exposure, coverage),
            provenance={"template": template_id, "templateVersion": manifest.version},
            metrics={"noiseCorrelation": correlation},
        ),
        templateId=template_id,
        version=manifest.version,
        cells=ids,
        firstEpochMjdTai=min(cell.plan.epochs[0] for cell in cells.values()),
        lastEpochMjdTai=max(cell.plan.epochs[1] for cell in cells.values()),
        nEpochs=min(cell.plan.epoch_count for cell in cells.values()),
        depth=float(np.median([cell.depth for cell in cells.values()])),
        coverage=coverage,
        inputs=_shares(cells),
    )


def _cells_under(exposure: Exposure, store: TemplateStore, manifest: Manifest, telescope: Telescope | None) -> _Cells:
    """Return the cells under an exposure: bins of its airmass where they have all that the whole cell has."""
    band, wcs, shape = exposure.info.band, exposure.need_wcs(), exposure.shape
    there, bins = manifest.of_band(band), manifest.bins_of_band(band)
    touched = sorted(cell for cell in manifest.grid.cells_over(wcs, shape) if cell in there)
    rules = telescope.rules(band) if telescope is not None and any(cell in bins for cell in touched) else None
    if telescope is None or rules is None:
        return {cell: store.read(there[cell]) for cell in touched}
    vector = telescope.vector(wcs, shape, exposure.info.midpointMjdTai)
    return {cell: cell_seen(store, manifest, there[cell], vector, rules) for cell in touched}


def _shares(cells: _Cells) -> tuple[tuple[float, float], ...]:
    """Return (time, share) of each input, all cells counting alike: by its weight and the pixels it contributed to."""
    shares: dict[float, float] = {}
    for cell in cells.values():
        given = [item.weight * used for item, used in zip(cell.plan.inputs, cell.used, strict=True)]
        total = len(cells) * sum(given)
        for item, weight in zip(cell.plan.inputs, given, strict=True):
            shares[item.midpointMjdTai] = shares.get(item.midpointMjdTai, 0.0) + weight / total
    return tuple(sorted(shares.items()))


def _warped(cells: _Cells, grid: Tessellation, wcs: SkyWcs, shape: tuple[int, int]) -> Warped:
    """Mosaic the cells of each tract, warp each mosaic once, and fill the first one's gaps from the others."""
    parts = []
    for tract in sorted({cell.tract for cell in cells}):
        mine = {cell: built for cell, built in cells.items() if cell.tract == tract}
        planes, origin = _mosaic(mine, grid)
        nodes = node_grid(grid.tract_wcs(tract).shifted(*origin), wcs, shape)
        parts.append(warp_planes(planes[0], planes[1], planes[2], nodes))
    parts.sort(key=lambda part: int(np.count_nonzero(part.mask & (_NO_DATA | _EDGE))))
    return parts[0] if len(parts) == 1 else _filled(parts)


def _mosaic(
    cells: _Cells, grid: Tessellation
) -> tuple[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]], tuple[int, int]]:
    """Return the planes of the rectangle that holds the cells, and the tract pixel (x, y) of its first pixel."""
    size = grid.cell_size
    columns, rows = [cell.cellX for cell in cells], [cell.cellY for cell in cells]
    shape = ((max(rows) - min(rows) + 1) * size, (max(columns) - min(columns) + 1) * size)
    image, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask = np.full(shape, _NO_DATA, np.int32)
    for cell, built in cells.items():
        y, x = (cell.cellY - min(rows)) * size, (cell.cellX - min(columns)) * size
        where = (slice(y, y + size), slice(x, x + size))
        image[where], mask[where], variance[where] = built.image, built.mask, built.variance
    return (image, mask, variance), (min(columns) * size, min(rows) * size)


def _filled(parts: list[Warped]) -> Warped:
    """Return the first part with the pixels that it lacks, or has from a cut kernel, taken from the next ones.

    Kernels are cut up to two pixels inside what is marked: the lost weight is too small to mark there, but not to see.
    """
    image, mask, variance = parts[0].image.copy(), parts[0].mask.copy(), parts[0].variance.copy()
    for part in parts[1:]:
        lacking = _near_cut(mask) & ~_near_cut(part.mask)
        lacking |= ((mask & _NO_DATA) != 0) & ((part.mask & _NO_DATA) == 0)
        image[lacking], mask[lacking] = part.image[lacking], part.mask[lacking]
        variance[lacking] = part.variance[lacking]
    return Warped(image, mask, variance, parts[0].noise_correlation)


def _near_cut(mask: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the pixels within two of one without data or with a cut kernel."""
    return np.asarray(ndimage.binary_dilation((mask & (_NO_DATA | _EDGE)) != 0, np.ones((3, 3)), iterations=2))


def _psf(cells: _Cells, grid: Tessellation, exposure: Exposure, coverage: float) -> PsfModel:
    """Fit the PSF to the cells' PSFs, sampled on a grid over the exposure and turned into its frame."""
    height, width = exposure.shape
    steps = [np.linspace(0.0, side - 1.0, _PSF_STEPS) for side in (height, width)]
    y, x = (axis.ravel() for axis in np.meshgrid(*steps, indexing="ij"))
    size = max(cell.psf.shape[0] for cell in cells.values())
    stamps, places = [], []
    for tract in sorted({cell.tract for cell in cells}):
        where = pixel_map(grid.tract_wcs(tract), exposure.need_wcs(), x, y)
        columns = np.floor((where.x + 0.5) / grid.cell_size).astype(int)
        rows = np.floor((where.y + 0.5) / grid.cell_size).astype(int)
        for index, pair in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
            cell = cells.get(CellId(tract, *pair))
            if cell is not None:
                stamps.append(warp_stamps(cell.psf[None], where.matrix[index][None], size)[0])
                places.append((x[index], y[index]))
    if not stamps:  # nothing under the grid's points: the first cell must do
        tract_wcs, first = grid.tract_wcs(min(cells).tract), cells[min(cells)]
        middle = pixel_map(tract_wcs, exposure.need_wcs(), width / 2.0, height / 2.0)
        stamps, places = [warp_stamps(first.psf[None], middle.matrix, size)[0]], [(width / 2.0, height / 2.0)]
    px, py = np.array(places).T
    degree = 1 if coverage >= _CORNER_SHARE and len(places) >= 2 * _PSF_STEPS else 0
    return PsfModel.fit(np.array(stamps), px, py, degree=degree, width=width, height=height)
