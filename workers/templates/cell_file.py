"""A template cell as one FITS file: planes, which inputs are in each pixel, PSF, and the table of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits

from schemas.errors import DataError
from workers.imaging.fits import card_of, current_bits, hdus_to_buffer, planes_to_hdus
from workers.imaging.masks import planes_from_header
from workers.imaging.plain_fits import PlainHdu, plain_hdus
from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell

__all__ = ["INPUT_DTYPE", "cell_from_bytes", "cell_to_bytes", "inputs_table"]

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


def cell_to_bytes(cell: TemplateCell) -> bytes:
    """Return the file of a cell; equal cells give equal bytes (no date, no path, no version is written)."""
    planes = planes_to_hdus(cell.image, cell.mask, cell.variance, "nJy")
    planes[0].header.extend(cell.plan.grid.cell_wcs(cell.plan.cell).header(), strip=True, update=True)
    extra = [
        fits.ImageHDU(cell.nEpochs, name="NEPOCHS"),
        *([] if cell.given is None else [fits.ImageHDU(cell.given, name="GIVEN")]),
        fits.ImageHDU(cell.psf, name="PSF"),
        fits.BinTableHDU(inputs_table(cell), name="INPUTS"),
    ]
    return bytes(hdus_to_buffer(_header(cell), [*planes, *extra]))


def _header(cell: TemplateCell) -> fits.Header:
    plan = cell.plan
    first, last = plan.epochs
    header = fits.Header()
    header["TEMPLID"] = (plan.templateId, "template")
    header["BAND"] = card_of(plan.band)
    header["TRACT"] = (plan.cell.tract, "nested HEALPix pixel, nside 32")
    header["CELLX"], header["CELLY"] = plan.cell.cellX, plan.cell.cellY
    header["CELLSIZE"] = (plan.grid.cell_size, "[pixel]")
    header["PIXSCALE"] = (card_of(plan.grid.pixel_scale), "[arcsec]")
    header["MINEPOCH"] = (plan.min_epochs, "inputs below which a pixel is NO_DATA")
    header["NEPOCH"] = (plan.epoch_count, "visits")
    header["FIRSTMJD"] = (card_of(first), "first mid-exposure, MJD TAI")
    header["LASTMJD"] = (card_of(last), "last mid-exposure, MJD TAI")
    header["DEPTH"] = (card_of(cell.depth), "[nJy] point source at 5 sigma")
    header["FWHM"] = (card_of(cell.fwhm), "[arcsec]")
    header["NOISECOR"] = (card_of(cell.noiseCorrelation), "large-scale noise power / variance")
    return header


def cell_from_bytes(data: bytes, label: str) -> TemplateCell:
    """Read what `cell_to_bytes` wrote; raises DataError naming `label` where it is damaged or something else."""
    try:
        hdus = plain_hdus(data)
        header, table = hdus["PRIMARY"].cards, hdus["INPUTS"].table(INPUT_DTYPE)
        return TemplateCell(
            plan=_plan(header, table),
            image=_plane(hdus, "IMAGE", label),
            mask=current_bits(_plane(hdus, "MASK", label), planes_from_header(hdus["MASK"].cards)),
            variance=_plane(hdus, "VARIANCE", label),
            nEpochs=hdus["NEPOCHS"].image().astype(np.int16),
            given=hdus["GIVEN"].image() if "GIVEN" in hdus else None,
            psf=hdus["PSF"].image().astype(np.float32),
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
    return hdus[name].image()


def _plan(header: fits.Header, table: Any) -> CellPlan:
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
        band=str(header["BAND"]),
        cell=CellId(int(header["TRACT"]), int(header["CELLX"]), int(header["CELLY"])),
        grid=Tessellation(float(header["PIXSCALE"]), int(header["CELLSIZE"])),
        min_epochs=int(header["MINEPOCH"]),
        inputs=inputs,
        templateId=str(header["TEMPLID"]),
    )
