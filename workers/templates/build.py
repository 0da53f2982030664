"""Make one cell: warp its inputs to the cell's pixels, reject outliers, combine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import Exposure
from workers.imaging.masks import BLOCKING
from workers.imaging.psf import PsfModel
from workers.imaging.tracts import Tessellation
from workers.imaging.warp import Warped, node_grid, pixel_map, warp_planes, warp_stamps
from workers.imaging.wcs import SkyWcs
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell
from workers.templates.coadd import Coadd, Stack, combine
from workers.templates.reject import find_outliers

__all__ = ["ExposureCache", "build_cell"]

_Load = Callable[[Path], Exposure]
_BORDER = 4
"""Pixels round the cell that take part in the rejection, so that what crosses its edge is seen whole."""


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


def build_cell(plan: CellPlan, load: _Load) -> TemplateCell | None:
    """Return the cell of `plan`, or None where no pixel has the epochs it needs.

    `load` reads a calibrated exposure from its path. An input that covers a part of the cell only contributes
    there; the effective PSF is the weighted mean of all inputs' at the cell's centre, exact where all contribute.
    Raises DataError where an input is not calibrated in nJy, or is not the one that was planned.
    """
    exposures = [_checked(load(_path_of(item)), item) for item in plan.inputs]
    wcs = plan.grid.cell_wcs(plan.cell, _BORDER)
    warps = [_warp(exposure, wcs, plan.grid) for exposure in exposures]
    stack = Stack(
        image=np.stack([warp.image for warp in warps]),
        mask=np.stack([warp.mask for warp in warps]),
        variance=np.stack([warp.variance for warp in warps]),
        weights=np.array([item.weight for item in plan.inputs]),
        psfs=_psfs(exposures, wcs, plan.grid),
    )
    outliers = find_outliers(stack.image, stack.variance, stack.usable, stack.psfs, _fwhm(stack.psfs.mean(axis=0)))
    inner = _cropped(stack)
    outliers = outliers[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
    coadd = combine(inner, outliers, plan.min_epochs)
    if not coadd.nEpochs.any():
        return None
    correlations = np.array([warp.noise_correlation for warp in warps])
    return _finished(plan, inner, outliers, coadd, correlations)


def _path_of(item: PlannedInput) -> Path:
    if item.path is None:
        raise DataError(
            f"the plan of a cell names no file for exposure {item.visit}:{item.detector}: it was read back from a "
            "template; plan again from the calibrated exposures"
        )
    return item.path


def _checked(exposure: Exposure, item: PlannedInput) -> Exposure:
    info = exposure.info
    if (info.visit, info.detector, info.sha256) != (item.visit, item.detector, item.sha256):
        raise DataError(
            f"{item.path} holds exposure {info.label} and not the planned {item.visit}:{item.detector}; plan again"
        )
    if exposure.unit != "nJy":
        raise DataError(f"{item.path}: unit {exposure.unit}, a template needs nJy; run `skydelta isr` on its raw file")
    return exposure


def _warp(exposure: Exposure, wcs: SkyWcs, grid: Tessellation) -> Warped:
    side = grid.cell_size + 2 * _BORDER
    nodes = node_grid(exposure.need_wcs(), wcs, (side, side))
    return warp_planes(exposure.image, exposure.mask, exposure.variance, nodes)


def _psfs(exposures: list[Exposure], wcs: SkyWcs, grid: Tessellation) -> NDArray[np.float64]:
    """Return each input's PSF at the cell's centre on the cell's pixels, (N, n, n), one size for all."""
    middle = _BORDER + (grid.cell_size - 1) / 2.0
    places = [pixel_map(exposure.need_wcs(), wcs, middle, middle) for exposure in exposures]
    sizes = [
        exposure.need_psf().size / float(np.sqrt(abs(np.linalg.det(place.matrix[0]))))
        for exposure, place in zip(exposures, places, strict=True)
    ]
    size = 2 * round((max(sizes) - 1) / 2) + 1
    return np.concatenate(
        [
            warp_stamps(exposure.need_psf().stamps(place.x, place.y), place.matrix, size)
            for exposure, place in zip(exposures, places, strict=True)
        ]
    )


def _cropped(stack: Stack) -> Stack:
    """Return the stack without its border."""
    inner = (slice(None), slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
    return Stack(stack.image[inner], stack.mask[inner], stack.variance[inner], stack.weights, stack.psfs)


def _finished(
    plan: CellPlan, stack: Stack, outliers: NDArray[np.bool_], coadd: Coadd, correlations: NDArray[np.float64]
) -> TemplateCell:
    """Return the cell with its numbers: depth, FWHM, and what each input gave."""
    given = stack.usable & ~outliers & (coadd.nEpochs > 0)
    shares = given.mean(axis=(1, 2))
    power = stack.weights**2 * np.where(given, stack.variance, 0.0).mean(axis=(1, 2), dtype=float)
    correlation = float(np.sum(power * correlations) / np.sum(power)) if power.any() else 1.0
    clear = (coadd.nEpochs > 0) & ((coadd.mask & int(BLOCKING)) == 0)
    variance = float(np.median(coadd.variance[clear if clear.any() else coadd.nEpochs > 0]))
    noise_area = 1.0 / float(np.square(coadd.psf, dtype=float).sum())
    return TemplateCell(
        plan=plan,
        image=coadd.image,
        mask=coadd.mask,
        variance=coadd.variance,
        nEpochs=coadd.nEpochs,
        given=np.packbits(given, axis=0, bitorder="little"),
        psf=coadd.psf,
        used=tuple(shares.tolist()),
        rejected=tuple(int(n) for n in (outliers & stack.usable).sum(axis=(1, 2))),
        depth=5.0 * float(np.sqrt(variance * correlation * noise_area)),
        fwhm=_fwhm(coadd.psf) * plan.grid.pixel_scale,
        noiseCorrelation=correlation,
    )


def _fwhm(stamp: NDArray[np.floating]) -> float:
    """Return the FWHM of a PSF stamp, pixels."""
    return PsfModel(stamp[None].astype(np.float32), 0, 1, 1).fwhm(0.0, 0.0)
