"""The records of templates: the plan of a cell, the cell that was built, and its line in the version's list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage, frozen_array
from workers.imaging.tracts import CellId, Tessellation
from workers.templates.vetoed import Veto

__all__ = ["CellPlan", "CellRecord", "PlannedInput", "TemplateCell", "content_id"]


def content_id(prefix: str, parts: Iterable[object]) -> str:
    """Return `prefix` and 20 hexadecimal digits of the SHA-256 of `parts` as JSON."""
    text = json.dumps(list(parts), separators=(",", ":"), sort_keys=True)
    return prefix + hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class PlannedInput:
    """One calibrated exposure that goes into a cell."""

    path: Path | None
    """None where the record was read back from a cell's file, which holds no paths."""
    visit: int
    detector: int
    midpointMjdTai: float
    weight: float
    """Inverse variance of the PSF flux of a faint star, nJy^-2, up to a constant."""
    sha256: str
    """Of the raw file."""
    calexp: str
    """Of the calibrated exposure's content (`CalexpEntry.calexp`)."""


@dataclass(frozen=True)
class CellPlan:
    """What a cell is to be made of. Two plans with one `templateId` give the same bytes."""

    band: str
    cell: CellId
    grid: Tessellation
    min_epochs: int
    """Pixels that fewer inputs cover are NO_DATA."""
    inputs: tuple[PlannedInput, ...]
    """By time, visit and detector."""
    templateId: str
    vetoes: tuple[Veto, ...] = ()
    """Light of known transients that is left out, as `workers.templates.veto.pinned` gives it."""
    bin: str = ""
    """Of airmass; empty for the whole cell."""
    vector: tuple[float, float] | None = None
    """As of `CellRecord`; not in the cell's file."""

    @property
    def epochs(self) -> tuple[float, float]:
        """First and last mid-exposure time, MJD TAI."""
        return self.inputs[0].midpointMjdTai, self.inputs[-1].midpointMjdTai

    @property
    def epoch_count(self) -> int:
        """How many visits."""
        return len({item.visit for item in self.inputs})


@dataclass(frozen=True)
class TemplateCell:
    """A built cell: planes of (cell_size, cell_size) in nJy, nJy² and `MaskPlane` bits."""

    plan: CellPlan
    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    nEpochs: NDArray[np.int16]
    """Inputs that contributed to each pixel."""
    given: NDArray[np.uint8] | None
    """Which of them did, (ceil(inputs / 8), cell_size, cell_size): bit k % 8 of plane k // 8 stands for input k.

    None in cells of an older version, whose files do not say.
    """
    psf: FloatImage
    """Effective PSF at the cell's centre, (n, n), unit sum."""
    used: tuple[float, ...]
    """Per input: the share of the cell's pixels to which it contributed."""
    rejected: tuple[int, ...]
    """Per input: pixels left out as outliers."""
    depth: float
    """Flux of a point source at 5 sigma, nJy."""
    fwhm: float
    """Of the PSF, arcsec."""
    noiseCorrelation: float
    """Noise power at large scales over the mean pixel variance."""
    psfs: FloatImage | None = None
    """The inputs' PSFs at the cell's centre, (inputs, n, n), unit sum; None in cells of an older version."""

    def __post_init__(self) -> None:
        """Make the planes read-only."""
        for name in ("image", "mask", "variance", "nEpochs", "psf", "given", "psfs"):
            plane = getattr(self, name)
            if plane is not None:
                object.__setattr__(self, name, frozen_array(np.ascontiguousarray(plane)))

    def given_at(self, x: int, y: int) -> NDArray[np.bool_]:
        """Return, for each input, whether it is in the mean of the pixel (x, y), bool (inputs,); as `given_in`."""
        return self.given_in(slice(y, y + 1), slice(x, x + 1))[:, 0, 0]

    def given_in(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Return, for each input, in the mean of which of some pixels it is, bool (inputs, height, width).

        Raises DataError for a cell that does not say.
        """
        if self.given is None:
            raise DataError(
                f"template {self.plan.templateId} was built before cells said which inputs are in each pixel; "
                "run `skydelta templates build`"
            )
        bits = np.unpackbits(self.given[:, rows, columns], axis=0, bitorder="little")
        return bits[: len(self.plan.inputs)].astype(bool)


@dataclass(frozen=True)
class CellRecord:
    """A cell's line in the list of a version; names as in the message family `template`."""

    templateId: str
    band: str
    tract: int
    cellX: int
    cellY: int
    firstEpochMjdTai: float
    lastEpochMjdTai: float
    nEpochs: int
    depth: float
    """5 sigma, nJy."""
    fwhm: float
    """Arcsec."""
    sha256: str
    """Of the cell's file."""
    path: str
    """Of the cell's file, relative to the template folder."""
    bin: str = ""
    """Of airmass; empty for the whole cell."""
    vector: tuple[float, float] | None = None
    """Weighted mean of the inputs' `refraction_vector`s; None for a cell without bins."""

    @property
    def cell(self) -> CellId:
        """Identity of the cell."""
        return CellId(self.tract, self.cellX, self.cellY)
