"""What made a pixel of a template: which visits, with what weights, and what was left out there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.imaging.masks import MaskPlane
from workers.templates.cell import TemplateCell
from workers.templates.store import Manifest, TemplateStore, cells_at

__all__ = ["PixelInput", "PixelOrigin", "pixel_origins"]


@dataclass(frozen=True)
class PixelInput:
    """One exposure that covers a cell, as far as it concerns one of its pixels."""

    visit: int
    detector: int
    midpointMjdTai: float
    share: float
    """Of its weight in the pixel's mean; 0 where it is not in it: masked there, an outlier, or it does not reach."""
    sha256: str
    """Of the raw file."""


@dataclass(frozen=True)
class PixelOrigin:
    """A pixel of one band's template, and what it was made of."""

    band: str
    templateId: str
    cell: str
    """``<tract>/<cellX>_<cellY>``."""
    x: int
    """Pixel of the cell."""
    y: int
    flux: float
    """nJy."""
    fluxErr: float
    mask: tuple[str, ...]
    """Names of the planes set."""
    inputs: tuple[PixelInput, ...]
    """By time, visit and detector."""


def pixel_origins(store: TemplateStore, manifest: Manifest, ra: float, dec: float) -> list[PixelOrigin]:
    """Return the pixel at a position (degrees ICRS) in each band that has a template there, by band.

    The cell is that of the tract that holds the position; only its own files are read, a millisecond each. Raises
    DataError where one is damaged.
    """
    cell = manifest.grid.cell_at(ra, dec)
    x, y = manifest.grid.cell_wcs(cell).sky_to_pixel(ra, dec)
    found = cells_at(store.root, manifest.version, cell)
    return [_origin(one, int(np.round(x)), int(np.round(y))) for one in found]


def _origin(cell: TemplateCell, x: int, y: int) -> PixelOrigin:
    size = cell.image.shape[0] - 1
    x, y = min(max(x, 0), size), min(max(y, 0), size)  # a position on the last pixel's edge
    given, inputs = cell.given_at(x, y), cell.plan.inputs
    weights = np.where(given, [item.weight for item in inputs], 0.0)
    shares = weights / max(weights.sum(), 1e-300)
    mask = int(cell.mask[y, x])
    return PixelOrigin(
        band=cell.plan.band,
        templateId=cell.plan.templateId,
        cell=cell.plan.cell.label,
        x=x,
        y=y,
        flux=float(cell.image[y, x]),
        fluxErr=float(np.sqrt(cell.variance[y, x])),
        mask=tuple(str(plane.name) for plane in MaskPlane if mask & plane),
        inputs=tuple(
            PixelInput(item.visit, item.detector, item.midpointMjdTai, float(share), item.sha256)
            for item, share in zip(inputs, shares, strict=True)
        ),
    )
