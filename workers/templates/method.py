"""The identity of a cell: a digest of all that its bytes follow from, the way it is made among it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple

from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, PlannedInput, content_id
from workers.templates.vetoed import Veto
from workers.templates.warps import BORDER
from workers.templates.warps import METHOD as WARP_METHOD

__all__ = ["made_alike", "template_id"]

_METHOD = 6
"""Raised whenever the same inputs would give other pixels, so that no cell of the old method is kept."""


def template_id(
    band: str,
    cell: CellId,
    grid: Tessellation,
    min_epochs: int,
    inputs: Iterable[PlannedInput],
    vetoes: Iterable[Veto] = (),
    airmass_bin: str = "",
) -> str:
    """Return the `templateId` of a cell that is to be made of these inputs, in their order, without what is vetoed.

    `airmass_bin` is the bin that they are, empty for the whole cell.
    """
    settings = [_METHOD, WARP_METHOD, BORDER, grid.pixel_scale, grid.cell_size, min_epochs]
    where = [band, cell.tract, cell.cellX, cell.cellY, *([airmass_bin] if airmass_bin else [])]
    what = [[i.visit, i.detector, i.midpointMjdTai, i.weight, i.sha256, i.calexp] for i in inputs]
    return content_id("T", [settings, where, what, [astuple(veto) for veto in vetoes]])


def made_alike(plan: CellPlan) -> bool:
    """Return whether the plan of a built cell would have the same identity now: it was made by the present method."""
    made = (plan.band, plan.cell, plan.grid, plan.min_epochs, plan.inputs, plan.vetoes, plan.bin)
    return template_id(*made) == plan.templateId
