"""A template cell as one FITS file: planes, which inputs are in each pixel, PSFs, and the table of the inputs.

Planes are tile-compressed; image and variance are rounded to steps far below their noise (`stored_cell`). Files of
older versions, with plain images, are read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import numpy as np

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage
from workers.imaging.fits import card_of, current_bits
from workers.imaging.masks import header_cards, planes_from_header
from workers.imaging.plain_fits import PlainHdu, image_hdu, plain_hdus, primary_hdu, table_hdu
from workers.imaging.tiled_fits import pixels, power_below, quantised, tiled_hdu
from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell
from workers.templates.vetoed import VETO_DTYPE, Veto

__all__ = [
    "INPUT_DTYPE",
    "PSF_STEP",
    "cell_from_bytes",
    "cell_to_bytes",
    "inputs_table",
    "plane_steps",
    "positive",
    "stored_cell",
]

PSF_STEP = 2.0**-20
"""Of the inputs' PSFs (unit sum)."""
_PER_SIGMA = 16.0
"""Steps in a background sigma, at least: rounding adds less than 0.02 % to the noise's variance."""
_PER_VARIANCE = 250.0
"""Steps in the median variance, at least: rounded to 0.2 %."""
_PEAK = 2.0**30
"""Steps in the brightest pixel, at most."""
INPUT_DTYPE = np.dtype(
    [
        ("visit", "i8"),
        ("detector", "i4"),
        ("midpointMjdTai", "f8"),
        ("weight", "f8"),
        ("sha256", "S64"),
        ("calexp", "S64"),
        ("used", "f8"),
        ("rejected", "i8"),
    ]
)
"""Columns of INPUTS: identity, MJD TAI, weight (nJy^-2), digests of the raw file and of the calibrated pixels, the
share of the cell's pixels to which the input contributed, and how many of its pixels were left out as outliers."""


def inputs_table(cell: TemplateCell) -> np.ndarray[Any, Any]:
    """Return the inputs of a cell as rows of INPUT_DTYPE, by time, visit and detector."""
    rows = [
        (i.visit, i.detector, i.midpointMjdTai, i.weight, i.sha256.encode(), i.calexp.encode(), used, rejected)
        for i, used, rejected in zip(cell.plan.inputs, cell.used, cell.rejected, strict=True)
    ]
    return np.array(rows, INPUT_DTYPE)


def plane_steps(variance: float, peak: float, per_variance: float = _PER_VARIANCE) -> tuple[float, float]:
    """Return the steps, powers of two, of an image and its variance plane.

    `variance` is the background's (> 0, nJy²), `peak` the brightest absolute value (nJy). The steps of planes already
    rounded are the same: that of the image follows from the rounded variance.
    """
    fine = power_below(variance / per_variance)
    variance = float(np.rint(variance / fine)) * fine
    coarse = power_below(variance / per_variance)  # rounded up to where the next step begins
    variance = float(np.rint(variance / coarse)) * coarse
    step = power_below(np.sqrt(variance) / _PER_SIGMA)
    return (step if peak < _PEAK * step else 2.0 * power_below(peak / _PEAK)), coarse


def _steps(cell: TemplateCell) -> tuple[float | None, float | None]:
    """Return the steps of a cell's image and variance, from every fourth pixel; None, lossless, without variance."""
    sample = cell.variance[::2, ::2]
    data = sample[sample > 0]
    if not data.size:
        return None, None
    middle = data.size // 2
    median = float(np.partition(data, middle)[middle])  # a pixel's own value: it is rounded as they are
    return plane_steps(median, max(-float(cell.image.min()), float(cell.image.max())))


def positive(variance: FloatImage, step: float | None) -> FloatImage:
    """Return a variance plane with nothing between 0 and a step: what is rounded to 0 would weigh infinitely."""
    if step is None:
        return variance
    return np.where(variance > 0, np.maximum(variance, np.float32(step)), np.float32(0.0))


def stored_cell(cell: TemplateCell) -> TemplateCell:
    """Return the cell as its file holds it: what `cell_from_bytes` reads of `cell_to_bytes`, without the file."""
    step, variance_step = _steps(cell)
    return replace(
        cell,
        image=quantised(cell.image, step),
        variance=quantised(positive(cell.variance, variance_step), variance_step),
        psfs=None if cell.psfs is None else quantised(cell.psfs, PSF_STEP),
    )


def cell_to_bytes(cell: TemplateCell) -> bytes:
    """Return the file of a cell; equal cells give equal bytes (no date, no path, no version is written).

    Raises DataError where a plane holds NaN.
    """
    step, variance_step = _steps(cell)
    unit = [("BUNIT", "nJy")]
    vetoes = np.array([astuple(veto) for veto in cell.plan.vetoes], VETO_DTYPE)
    hdus = [
        tiled_hdu("IMAGE", cell.image, step, [*unit, *_wcs_cards(cell.plan)]),
        tiled_hdu("MASK", cell.mask, cards=header_cards().items()),
        tiled_hdu("VARIANCE", positive(cell.variance, variance_step), variance_step, [("BUNIT", "(nJy)2")]),
        tiled_hdu("NEPOCHS", cell.nEpochs),
        *([] if cell.given is None else [tiled_hdu("GIVEN", cell.given)]),
        image_hdu("PSF", cell.psf),
        *([] if cell.psfs is None else [tiled_hdu("INPUTPSF", cell.psfs, PSF_STEP, whole=True)]),
        table_hdu("INPUTS", inputs_table(cell)),
        *([table_hdu("VETOES", vetoes)] if len(vetoes) else []),
    ]
    return b"".join([primary_hdu(_cards(cell), len(hdus)), *hdus])


def _wcs_cards(plan: CellPlan) -> list[tuple[Any, ...]]:
    """Return the WCS of the cell: its tract's with another CRPIX."""
    x, y = plan.grid.origin(plan.cell)
    moved = {"CRPIX1": x, "CRPIX2": y}
    cards = _tract_cards(plan.grid, plan.cell.tract)
    return [(key, value - moved[key] if key in moved else value, note) for key, value, note in cards]


@lru_cache(maxsize=64)
def _tract_cards(grid: Tessellation, tract: int) -> tuple[tuple[str, Any, str], ...]:
    """Return the WCS cards of a tract, which take astropy milliseconds."""
    return tuple((card.keyword, card.value, card.comment) for card in grid.tract_wcs(tract).header().cards)


def _cards(cell: TemplateCell) -> list[tuple[Any, ...]]:
    plan = cell.plan
    first, last = plan.epochs
    return [
        ("TEMPLID", plan.templateId, "template"),
        ("BAND", card_of(plan.band)),
        ("TRACT", plan.cell.tract, "nested HEALPix pixel, nside 32"),
        ("CELLX", plan.cell.cellX),
        ("CELLY", plan.cell.cellY),
        *([("BIN", plan.bin, "of airmass")] if plan.bin else []),
        ("CELLSIZE", plan.grid.cell_size, "[pixel]"),
        ("PIXSCALE", plan.grid.pixel_scale, "[arcsec]"),
        ("MINEPOCH", plan.min_epochs, "inputs below which a pixel is NO_DATA"),
        ("NEPOCH", plan.epoch_count, "visits"),
        ("FIRSTMJD", first, "first mid-exposure, MJD TAI"),
        ("LASTMJD", last, "last mid-exposure, MJD TAI"),
        ("DEPTH", cell.depth, "[nJy] point source at 5 sigma"),
        ("FWHM", cell.fwhm, "[arcsec]"),
        ("NOISECOR", cell.noiseCorrelation, "large-scale noise power / variance"),
    ]


def cell_from_bytes(data: bytes, label: str) -> TemplateCell:
    """Read what `cell_to_bytes` wrote; raises DataError naming `label` where it is damaged or something else."""
    try:
        hdus = plain_hdus(data)
        header, table = hdus["PRIMARY"].cards, hdus["INPUTS"].table(INPUT_DTYPE)
        return TemplateCell(
            plan=_plan(header, table, hdus["VETOES"].table(VETO_DTYPE) if "VETOES" in hdus else ()),
            image=_plane(hdus, "IMAGE", label),
            mask=current_bits(_plane(hdus, "MASK", label), planes_from_header(hdus["MASK"].cards)),
            variance=_plane(hdus, "VARIANCE", label),
            nEpochs=_plane(hdus, "NEPOCHS", label).astype(np.int16),
            given=_plane(hdus, "GIVEN", label) if "GIVEN" in hdus else None,
            psf=_plane(hdus, "PSF", label).astype(np.float32),
            psfs=_plane(hdus, "INPUTPSF", label) if "INPUTPSF" in hdus else None,
            used=tuple(table["used"].tolist()),
            rejected=tuple(table["rejected"].tolist()),
            depth=float(header["DEPTH"]),
            fwhm=float(header["FWHM"]),
            noiseCorrelation=float(header["NOISECOR"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{label}: damaged, or not a template cell of this version ({error}); run `skydelta templates build`"
        ) from error


def _plane(hdus: Mapping[str, PlainHdu], name: str, label: str) -> Any:
    """Return a plane's pixels; raises DataError where its checksum is wrong."""
    if not hdus[name].intact():
        raise DataError(f"{label}: the checksum of its {name} plane is wrong; the file is damaged")
    return pixels(hdus[name])


def _plan(header: Mapping[str, Any], table: Any, vetoes: Iterable[Any]) -> CellPlan:
    inputs = tuple(
        PlannedInput(
            path=None,
            visit=int(row["visit"]),
            detector=int(row["detector"]),
            midpointMjdTai=float(row["midpointMjdTai"]),
            weight=float(row["weight"]),
            sha256=row["sha256"].decode("ascii"),
            calexp=row["calexp"].decode("ascii"),
        )
        for row in table
    )
    return CellPlan(
        band=unquote(str(header["BAND"])),
        cell=CellId(int(header["TRACT"]), int(header["CELLX"]), int(header["CELLY"])),
        grid=Tessellation(float(header["PIXSCALE"]), int(header["CELLSIZE"])),
        min_epochs=int(header["MINEPOCH"]),
        inputs=inputs,
        templateId=str(header["TEMPLID"]),
        vetoes=tuple(Veto(*veto.tolist()) for veto in vetoes),
        bin=str(header.get("BIN", "")),
    )
