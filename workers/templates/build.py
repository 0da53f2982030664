"""Make one cell of the warps of its inputs: reject outliers and transients, combine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure
from workers.imaging.masks import BLOCKING
from workers.imaging.psf import PsfModel
from workers.templates.cell import CellPlan, TemplateCell
from workers.templates.cell_file import stored_cell
from workers.templates.coadd import Coadd, Stack, combine
from workers.templates.flux_maps import flux_maps
from workers.templates.reject import Reference, find_outliers, reference_image
from workers.templates.transients import find_events, masked_by
from workers.templates.veto import veto_mask
from workers.templates.warp_file import WarpBlock
from workers.templates.warps import BORDER, fresh_block

__all__ = ["build_cell", "cell_of_warps"]

_INNER = slice(BORDER, -BORDER)
_SPARED = 3
"""Epochs that the rejection of transients leaves at each pixel."""


def build_cell(plan: CellPlan, load: Callable[[Path], Exposure]) -> TemplateCell | None:
    """Return the cell of `plan` from calibrated exposures, which `load` reads; as `cell_of_warps` of the kept warps.

    Raises DataError where an input is not calibrated in nJy, or is not the one that was planned.
    """
    return cell_of_warps(plan, [fresh_block(item, plan.cell, plan.grid, load) for item in plan.inputs])


def cell_of_warps(plan: CellPlan, warps: Sequence[WarpBlock]) -> TemplateCell | None:
    """Return the cell of `plan` from its inputs' warps, in the plan's order; None where no pixel has enough epochs.

    An input that covers a part of the cell only contributes there; the effective PSF is the weighted mean of all
    inputs' at the cell's centre, exact where all contribute.
    """
    stack = Stack(
        image=np.stack([warp.image for warp in warps]),
        mask=np.stack([warp.mask for warp in warps]),
        variance=np.stack([warp.variance for warp in warps]),
        weights=np.array([item.weight for item in plan.inputs]),
        psfs=_psfs(warps),
    )
    usable, correlations = stack.usable, np.array([warp.noise_correlation for warp in warps])
    reference, fwhm = reference_image(stack.image, stack.variance, usable), _fwhm(stack.psf)
    outliers = find_outliers(stack.image, stack.variance, usable, stack.psfs, fwhm, reference)
    if plan.vetoes:  # a WCS takes astropy milliseconds
        wcs, times = plan.grid.cell_wcs(plan.cell, BORDER), [item.midpointMjdTai for item in plan.inputs]
        outliers |= veto_mask(plan.vetoes, wcs, stack.image.shape[1:], times)
    outliers |= _transients(stack, usable & ~outliers, correlations, reference)
    inner, usable, outliers = _cropped(stack), usable[:, _INNER, _INNER], outliers[:, _INNER, _INNER]
    coadd = combine(inner, outliers, plan.min_epochs)
    if not coadd.given.any():
        return None
    rejected = tuple(int(np.count_nonzero(plane)) for plane in outliers & usable)
    return _finished(plan, inner, rejected, coadd, correlations, fwhm)


def _psfs(warps: Sequence[WarpBlock]) -> NDArray[np.float64]:
    """Return the inputs' PSFs at the cell's centre, (N, n, n), of the largest's size and unit sum."""
    size = max(len(warp.psf) for warp in warps)
    psfs = np.zeros((len(warps), size, size))
    for psf, warp in zip(psfs, warps, strict=True):
        edge = (size - len(warp.psf)) // 2
        psf[edge : size - edge, edge : size - edge] = warp.psf
    return np.asarray(psfs / psfs.sum(axis=(1, 2), keepdims=True))


def _transients(
    stack: Stack, clean: NDArray[np.bool_], correlation: NDArray[np.float64], reference: Reference
) -> NDArray[np.bool_]:
    """Return the pixels, (N, height, width), where an epoch holds light of what shone for a while."""
    if len(stack.image) <= _SPARED:
        return np.zeros(stack.image.shape, bool)
    maps = flux_maps(stack.image, stack.variance, clean, stack.psfs, correlation, reference.image)
    return masked_by(find_events(maps), stack.variance, stack.psfs, clean, _SPARED)


def _cropped(stack: Stack) -> Stack:
    """Return the stack without its border."""
    inner = (slice(None), _INNER, _INNER)
    return Stack(stack.image[inner], stack.mask[inner], stack.variance[inner], stack.weights, stack.psfs)


def _finished(
    plan: CellPlan,
    stack: Stack,
    rejected: tuple[int, ...],
    coadd: Coadd,
    correlations: NDArray[np.float64],
    fwhm: float,
) -> TemplateCell:
    """Return the cell with its numbers: depth, FWHM (of the PSF, `fwhm` pixels), and what each input gave."""
    power = stack.weights**2 * coadd.noise
    correlation = float(np.sum(power * correlations) / np.sum(power)) if power.any() else 1.0
    there = coadd.nEpochs > 0
    clear = there & ((coadd.mask & int(BLOCKING)) == 0)
    variance = _median(coadd.variance, clear if clear.any() else there)
    noise_area = 1.0 / float(np.square(coadd.psf, dtype=float).sum())
    cell = TemplateCell(
        plan=plan,
        image=coadd.image,
        mask=coadd.mask,
        variance=coadd.variance,
        nEpochs=coadd.nEpochs,
        given=np.packbits(coadd.given, axis=0, bitorder="little"),
        psf=coadd.psf,
        used=tuple((coadd.pixels / coadd.image.size).tolist()),
        rejected=rejected,
        depth=5.0 * float(np.sqrt(variance * correlation * noise_area)),
        fwhm=fwhm * plan.grid.pixel_scale,
        noiseCorrelation=correlation,
        psfs=stack.psfs.astype(np.float32),
    )
    return stored_cell(cell)


def _median(plane: NDArray[np.float32], chosen: NDArray[np.bool_]) -> float:
    """Return the median over every fourth chosen pixel."""
    return float(np.median(plane.ravel()[np.flatnonzero(chosen)[::4]]))


def _fwhm(stamp: NDArray[np.floating]) -> float:
    """Return the FWHM of a PSF stamp, pixels."""
    return PsfModel(stamp[None].astype(np.float32), 0, 1, 1).fwhm(0.0, 0.0)
