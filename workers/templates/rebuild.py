"""Make template cells again from their own table of inputs, and compare the bytes with the version's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.errors import DataError
from workers.imaging.fits import read_exposure
from workers.templates.build import cell_of_warps
from workers.templates.calexps import CalexpEntry
from workers.templates.cell import CellPlan, CellRecord, PlannedInput, TemplateCell
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes, inputs_table
from workers.templates.method import made_alike
from workers.templates.store import Manifest, TemplateStore
from workers.templates.warp_file import WarpBlock
from workers.templates.warps import ExposureCache, WarpStore, fresh_block

__all__ = ["Rebuilt", "rebuild", "spread_sample"]

_PLANES = ("image", "mask", "variance", "nEpochs", "given", "psf", "psfs")


@dataclass(frozen=True)
class Rebuilt:
    """A cell that was made again."""

    record: CellRecord
    fault: str | None
    """What differs, or what it can't be made of; None where all bytes are the same."""
    kept: int = 0
    """Inputs of which a warp was kept."""
    warped: int = 0
    """Inputs warped again, from the calibrated exposure."""

    @property
    def label(self) -> str:
        """Band, cell and airmass bin."""
        airmass = f"-{self.record.bin}" if self.record.bin else ""
        return f"{self.record.band} {self.record.cell.label}{airmass}"


def spread_sample(cells: Sequence[CellRecord], count: int) -> tuple[CellRecord, ...]:
    """Return `count` cells spread evenly over the list; all where it is no longer."""
    if count >= len(cells):
        return tuple(cells)
    return tuple(cells[int(place)] for place in np.linspace(0, len(cells) - 1, count))


def rebuild(
    store: TemplateStore, manifest: Manifest, cells: Iterable[CellRecord], calexps: Iterable[CalexpEntry]
) -> Iterator[Rebuilt]:
    """Make cells of a version again, one by one, and compare them with their files.

    Inputs are the kept warps and, where one is gone, the calibrated exposure with the same visit, detector and digest
    among `calexps`.
    """
    again = _Inputs(WarpStore(store.warps, manifest.grid), calexps)
    for record in cells:
        try:
            yield _rebuilt(store, record, again)
        except DataError as error:
            yield Rebuilt(record, str(error))


class _Inputs:
    """Finds the warps of inputs that a cell names."""

    def __init__(self, warps: WarpStore, calexps: Iterable[CalexpEntry]) -> None:
        self._warps = warps
        self._calexps = {(entry.visit, entry.detector): entry for entry in calexps}
        self._load = ExposureCache(read_exposure)
        self.warped = 0

    def blocks(self, plan: CellPlan) -> list[WarpBlock]:
        """Return the warps of the inputs of a cell; raises DataError where one can't be had."""
        self.warped = 0
        return [self._block(item, plan) for item in plan.inputs]

    def _block(self, item: PlannedInput, plan: CellPlan) -> WarpBlock:
        block = self._warps.block(item, plan.cell)
        if block is not None:
            return block
        entry, label = self._calexps.get((item.visit, item.detector)), f"{item.visit}:{item.detector}"
        if entry is None:
            raise DataError(f"the warp of exposure {label} is gone, and so is the calibrated exposure")
        if entry.calexp != item.calexp:
            raise DataError(f"the warp of exposure {label} is gone, and {entry.path} was calibrated anew")
        self.warped += 1
        found = PlannedInput(**{**vars(item), "path": entry.path})
        return fresh_block(found, plan.cell, plan.grid, self._load)


def _rebuilt(store: TemplateStore, record: CellRecord, again: _Inputs) -> Rebuilt:
    path = store.root / record.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})") from error
    old = cell_from_bytes(data, str(path))
    if not made_alike(old.plan):
        raise DataError("it was made by another version of this software, which gives other pixels")
    built = cell_of_warps(old.plan, again.blocks(old.plan))
    kept = len(old.plan.inputs) - again.warped
    if built is None:
        return Rebuilt(record, "no pixel has enough epochs any more", kept, again.warped)
    fault = None if cell_to_bytes(built) == data else _difference(built, old)
    return Rebuilt(record, fault, kept, again.warped)


def _difference(new: TemplateCell, old: TemplateCell) -> str:
    """Return what differs between two cells whose files do."""
    for name in _PLANES:
        one, other = getattr(new, name), getattr(old, name)
        if one is None or other is None or one.shape != other.shape:
            return f"{name} differs"
        if not np.array_equal(one, other):
            return f"{name} differs in {np.count_nonzero(one != other)} of {one.size} values"
    return "the table of inputs differs" if inputs_table(new).tobytes() != inputs_table(old).tobytes() else "the header"
