"""A template without some of its inputs, from the template and the kept warps: means are linear.

T' = (T sum(w) - sum_c(w_c V_c)) / (sum(w) - sum_c(w_c)), c the inputs that are left out, both sums over the inputs that
gave the pixel; or the mean of the others' warps, where these weigh less: rounding would then be magnified.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane
from workers.imaging.tracts import CellId
from workers.templates.cell import PlannedInput, TemplateCell
from workers.templates.warp_file import WarpBlock

__all__ = ["Box", "Rest", "Warps", "box_round", "given_in", "leave_out", "rest_psf", "whole"]

Warps = Callable[[PlannedInput, CellId], WarpBlock | None]
"""Returns the kept warp of an input on a cell, None where it is gone."""
_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
_NO_DATA = int(MaskPlane.NO_DATA)
_LEAST = 1e-6
"""Of the template's variance: what is left where rounding took all of it."""


@dataclass(frozen=True)
class Box:
    """Pixels of a cell: first ones and sides."""

    x: int
    y: int
    width: int
    height: int

    def slices(self, border: int = 0) -> tuple[slice, slice]:
        """Return where they are in planes of the cell grown by `border` pixels on each side."""
        y, x = self.y + border, self.x + border
        return slice(y, y + self.height), slice(x, x + self.width)


@dataclass(frozen=True)
class Rest:
    """A template, or a stamp of it, without the inputs that were left out: nJy, `MaskPlane` bits and nJy²."""

    box: Box
    image: FloatImage
    mask: MaskImage
    """The template's planes; NO_DATA, 0 in image and variance, where no input is left."""
    variance: FloatImage
    nEpochs: NDArray[np.int16]
    share: FloatImage
    """Of the pixel's weight, what was left out; 0 where no input gave the pixel."""
    psf: FloatImage
    """Of what is left, unit sum: in the middle of a stamp, and for a whole cell of all inputs that are left."""


def whole(cell: TemplateCell) -> Box:
    """Return all pixels of a cell."""
    height, width = cell.image.shape
    return Box(0, 0, width, height)


def box_round(cell: TemplateCell, x: float, y: float, size: int = 64) -> Box:
    """Return the pixels of the cell within `size` / 2 of a position on it (its own pixels); less at the cell's edge."""
    height, width = cell.image.shape
    left, low = (int(np.round(place)) - size // 2 for place in (x, y))
    right, high = min(left + size, width), min(low + size, height)
    left, low = max(left, 0), max(low, 0)
    if right <= left or high <= low:
        raise ValueError(f"({x}, {y}) is too far outside of cell {cell.plan.cell.label}")
    return Box(left, low, right - left, high - low)


def given_in(cell: TemplateCell, box: Box) -> _Bool:
    """Return which inputs are in the mean of each pixel, (inputs, height, width).

    Raises DataError for a cell that does not say.
    """
    return cell.given_in(*box.slices())


def leave_out(cell: TemplateCell, out: Collection[int], warps: Warps, box: Box | None = None) -> Rest | None:
    """Return the cell, or the pixels of `box`, without the inputs of the numbers `out` (places in plan.inputs).

    The same as a template combined without them, up to the rounding of the stored planes: where a pixel's core was
    masked in all inputs (the mean of masked values, which no input gave) it is NO_DATA here. A stamp ends at the cell's
    edge. None where the warps that this needs are gone. Raises DataError where one is damaged, or the cell is of a
    version that doesn't say which inputs are in a pixel.
    """
    box = box or whole(cell)
    given = given_in(cell, box)
    weights = _weights(cell)
    gone = np.isin(np.arange(len(weights)), list(out))
    total = np.einsum("n,nij->ij", weights, given)
    removed = np.einsum("n,nij->ij", weights * gone, given)
    sums = _sums_left(cell, box, (given, gone, total), warps)
    if sums is None:
        return None
    left = np.where(gone[:, None, None], False, given).sum(axis=0)
    weight = np.where(left > 0, total - removed, 1.0)
    empty = left == 0
    view = box.slices()
    variance = np.maximum(sums[1] / weight**2, _LEAST * cell.variance[view])
    return Rest(
        box=box,
        image=np.where(empty, 0.0, sums[0] / weight).astype(np.float32),
        mask=np.where(empty, np.int32(_NO_DATA), cell.mask[view]).astype(np.int32),
        variance=np.where(empty, 0.0, variance).astype(np.float32),
        nEpochs=left.astype(np.int16),
        share=np.where(total > 0, removed / np.where(total > 0, total, 1.0), 0.0).astype(np.float32),
        psf=rest_psf(cell, gone, None if box == whole(cell) else given[:, box.height // 2, box.width // 2]),
    )


def rest_psf(cell: TemplateCell, gone: _Bool, given: _Bool | None = None) -> FloatImage:
    """Return the PSF without the inputs that are `gone`, of those `given` if any of them stays, unit sum.

    Raises DataError for a cell that doesn't hold its inputs' PSFs.
    """
    if cell.psfs is None:
        raise DataError(
            f"template {cell.plan.templateId} was built before cells held their inputs' PSFs; "
            "run `skydelta templates build`"
        )
    weights = _weights(cell) * ~gone
    if given is not None and (weights * given).any():
        weights = weights * given
    if not weights.any():
        return cell.psf
    psf = np.einsum("n,nij->ij", weights, np.asarray(cell.psfs, float))
    return np.asarray(psf / psf.sum(), np.float32)


def _weights(cell: TemplateCell) -> _Float:
    weights = np.array([item.weight for item in cell.plan.inputs])
    return np.asarray(weights / weights.max())


def _sums_left(
    cell: TemplateCell, box: Box, parts: tuple[_Bool, _Bool, _Float], warps: Warps
) -> tuple[_Float, _Float] | None:
    """Return sum(w V) and sum(w² v) over the inputs that stay; None where too many warps are gone.

    Of the warps of those that go and those that stay, the side of less weight is read; the other where one is gone.
    """
    given, gone, total = parts
    weights, view = _weights(cell), box.slices()
    touched = given.any(axis=(1, 2))
    heavy = float((weights * gone * touched).sum()) > float((weights * ~gone * touched).sum())
    for from_rest in (heavy, not heavy):
        chosen = np.flatnonzero(touched & (~gone if from_rest else gone))
        sums = _sums(cell, box, given, chosen, warps)
        if sums is not None and from_rest:
            return sums
        if sums is not None:
            return total * cell.image[view] - sums[0], total**2 * cell.variance[view] - sums[1]
    return None


def _sums(
    cell: TemplateCell, box: Box, given: _Bool, chosen: Iterable[int], warps: Warps
) -> tuple[_Float, _Float] | None:
    """Return sum(w V) and sum(w² v) over the inputs `chosen`; None where the warp of one is gone."""
    weights = _weights(cell)
    value, noise = np.zeros((box.height, box.width)), np.zeros((box.height, box.width))
    for number in chosen:
        block = warps(cell.plan.inputs[number], cell.plan.cell)
        if block is None:
            return None
        view = box.slices((block.image.shape[0] - cell.image.shape[0]) // 2)
        here = weights[number] * given[number]
        value += here * block.image[view]
        noise += here * here * block.variance[view]
    return value, noise
