"""A template cell and the warps that it was made of, in memory: stars, a host, a transient, noise of each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.imaging.masks import MaskPlane
from workers.imaging.psf import FWHM_PER_SIGMA
from workers.imaging.tracts import Tessellation
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell
from workers.templates.cell_file import stored_cell
from workers.templates.coadd import Stack, combine
from workers.templates.warp_file import WarpBlock, WarpHeader, stored_block, warp_steps

SIDE, BORDER, PSF_SIDE = 64, 16, 31
GRID = Tessellation(0.2, SIDE)
CELL = GRID.cell_at(150.1, -2.2)


def stamp(fwhm, size=PSF_SIDE, x=0.0, y=0.0):
    """A Gaussian PSF of unit sum, its centre (x, y) from the middle pixel."""
    axis, sigma = np.arange(size) - size // 2, fwhm / FWHM_PER_SIGMA
    profile = np.exp(-0.5 * ((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2) / sigma**2)
    return profile / (2 * np.pi * sigma**2)


def seen(fwhm, sources, side=SIDE + 2 * BORDER):
    """Sources (x, y, flux, width), on the pixels of the cell, through a Gaussian PSF; `width` is their own FWHM."""
    ys, xs = np.mgrid[:side, :side] - BORDER
    image = np.zeros((side, side))
    for x, y, flux, width in sources:
        sigma = np.hypot(fwhm, width) / FWHM_PER_SIGMA
        image += flux * np.exp(-0.5 * ((xs - x) ** 2 + (ys - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return image


@dataclass(frozen=True)
class Made:
    """A cell, the stack of its inputs on the grown cell, and which of their pixels were left out."""

    cell: TemplateCell
    stack: Stack
    outliers: np.ndarray
    blocks: tuple

    def warps(self, item, cell):
        """The kept warp of an input."""
        assert cell == self.cell.plan.cell
        return self.blocks[item.visit]

    def without(self, out):
        """The template combined anew without the inputs `out`."""
        kept = np.setdiff1d(np.arange(len(self.blocks)), list(out))
        inner = slice(BORDER, -BORDER)
        stack = Stack(
            self.stack.image[kept, inner, inner],
            self.stack.mask[kept, inner, inner],
            self.stack.variance[kept, inner, inner],
            self.stack.weights[kept],
            self.stack.psfs[kept],
        )
        return combine(stack, self.outliers[kept, inner, inner], 1)


def make(seed, light, *, sources=(), place=(31.3, 32.4), sigma=5.0, fwhm=None, mjd=None, holes=0.0, shifts=0.0):
    """A cell of len(light) inputs; `light` is the transient's flux in each, at `place` on the cell.

    `fwhm` of each input (pixels, drawn from 2.6 to 3.8 where None); `holes` the share of masked pixels; `shifts` the
    registration's scatter, pixels.
    """
    rng = np.random.default_rng(seed)
    count = len(light)
    fwhm = rng.uniform(2.6, 3.8, count) if fwhm is None else np.asarray(fwhm, float)
    mjd = 60000.0 + 30.0 * np.arange(count) if mjd is None else np.asarray(mjd, float)
    noise = sigma * np.exp(rng.normal(0.0, 0.2, count))
    images, variances = [], []
    for number in range(count):
        dx, dy = rng.normal(0.0, shifts, 2) if shifts else (0.0, 0.0)
        moved = [(x + dx, y + dy, flux, width) for x, y, flux, width in (*sources, (*place, light[number], 0.0))]
        truth = seen(fwhm[number], moved)
        variance = noise[number] ** 2 + np.maximum(truth, 0.0) / 50.0
        images.append(rng.normal(truth, np.sqrt(variance)) if sigma > 0 else truth)
        variances.append(variance if sigma > 0 else np.ones_like(truth))
    masks = np.where(rng.random((count, *images[0].shape)) < holes, int(MaskPlane.CR), 0).astype(np.int32)
    psfs = np.array([stamp(one) for one in fwhm])
    blocks = []
    for number in range(count):
        steps = warp_steps(float(np.median(variances[number])), float(np.abs(images[number]).max()))
        header = WarpHeader(CELL.tract, 0.2, SIDE, BORDER, number, 0, "", *steps)
        planes = images[number].astype(np.float32), masks[number], variances[number].astype(np.float32)
        blocks.append(stored_block(WarpBlock(*planes, psfs[number].astype(np.float32), 1.0), header))
    weights = 1.0 / np.maximum(noise, 1.0) ** 2 / fwhm**2
    stack = Stack(
        np.array([b.image for b in blocks]), masks, np.array([b.variance for b in blocks]), weights,
        np.array([b.psf for b in blocks], float),
    )  # fmt: skip
    outliers = rng.random(masks.shape) < 0.5 * holes
    return Made(_cell(stack, outliers, mjd), stack, outliers, tuple(blocks))


def _cell(stack, outliers, mjd):
    inner = (slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    cut = Stack(stack.image[inner], stack.mask[inner], stack.variance[inner], stack.weights, stack.psfs)
    coadd = combine(cut, outliers[inner], 1)
    rows = zip(mjd, stack.weights, strict=True)
    inputs = tuple(PlannedInput(None, k, 0, float(t), float(w), "0" * 64, "0" * 64) for k, (t, w) in enumerate(rows))
    return stored_cell(
        TemplateCell(
            plan=CellPlan("r", CELL, GRID, 1, inputs, f"T{int(mjd[0])}"),
            image=coadd.image,
            mask=coadd.mask,
            variance=coadd.variance,
            nEpochs=coadd.nEpochs,
            given=np.packbits(coadd.given, axis=0, bitorder="little"),
            psf=coadd.psf,
            used=tuple(coadd.given.mean(axis=(1, 2)).tolist()),
            rejected=(0,) * len(inputs),
            depth=1.0,
            fwhm=3.0,
            noiseCorrelation=1.0,
            psfs=stack.psfs.astype(np.float32),
        )
    )
