"""The coverage of a version as files: one page that needs no network, a picture and a MOC for each band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from workers.calibrate.report_plots import Curve, curves_svg
from workers.quality.page import Report, Table, render
from workers.templates.cell import CellRecord
from workers.templates.coverage import (
    Change,
    Coverage,
    ab_magnitude,
    changes_between,
    worst_cells,
)
from workers.templates.coverage_picture import coverage_svg
from workers.templates.moc import Moc, moc_of_cells
from workers.templates.store import Manifest

__all__ = ["coverage_files", "coverage_tree"]

_Float = NDArray[np.float64]

_HISTOGRAMS: tuple[tuple[str, str, Callable[[Sequence[CellRecord]], _Float]], ...] = (
    ("epochs", "epochs in a cell", lambda records: np.array([record.nEpochs for record in records], float)),
    ("depth", "depth, AB mag at 5 sigma", lambda records: ab_magnitude([record.depth for record in records])),
    ("seeing", "FWHM of the cell's PSF, arcsec", lambda records: np.array([record.fwhm for record in records], float)),
)
_BINS = 30


def coverage_files(
    manifest: Manifest, coverage: Coverage, previous: Manifest | None = None, title: str = "Templates"
) -> dict[str, bytes]:
    """Return the files of a version by name: report.html, and coverage-<band>.svg, .moc.fits and .moc.json.

    `previous` is the version to which changes are told. Raises nothing for a version without cells, whose page says so.
    """
    files: dict[str, bytes] = {}
    pictures: dict[str, str] = {}
    areas: dict[str, float] = {}
    for band in coverage.bands:
        records = [record for record in manifest.cells if record.band == band.band]
        name = f"coverage-{quote(band.band, safe='')}"
        heading = f"{title}: band {band.band}, version {manifest.version}, {band.cells} cells, {band.area:.4g} deg²"
        svg = coverage_svg(manifest.grid, records, heading)
        moc = moc_of_cells(manifest.grid, [record.cell for record in records])
        areas[band.band] = moc.area
        pictures[f"band {band.band}: what a point source at 5 sigma has, and visits in a cell"] = svg
        files[f"{name}.svg"] = svg.encode()
        files[f"{name}.moc.fits"] = _moc_fits(moc, manifest.version, band.band)
        files[f"{name}.moc.json"] = moc.to_json().encode()
    pictures = {**_histograms(manifest), **pictures}
    report = Report(
        title=f"{title}: coverage of version {manifest.version}",
        summary=_summary(manifest, coverage, previous, areas),
        tables=_tables(manifest, coverage, previous),
        pictures={caption: svg for caption, svg in pictures.items() if svg},
    )
    return {**files, "report.html": render(report).encode()}


def coverage_tree(coverage: Coverage, manifest: Manifest, previous: Manifest | None = None) -> dict[str, Any]:
    """Return the same numbers for programs: the coverage, the changes and the worst cells."""
    changes = [] if previous is None else [asdict(change) for change in changes_between(previous, manifest)]
    worst = [
        {"templateId": one.record.templateId, "band": one.record.band, "cell": one.record.cell.label}
        | {"ra": one.ra, "dec": one.dec, "nEpochs": one.record.nEpochs, "depth": one.depth, "below": one.below}
        for one in worst_cells(manifest)
    ]
    before = None if previous is None else previous.version
    return {**asdict(coverage), "previousVersion": before, "changes": changes, "worstCells": worst}


def _moc_fits(moc: Moc, version: str, band: str) -> bytes:
    return moc.to_fits([("MOCID", f"{version}/{band}", "template version and band"), ("BAND", band, "of the cells")])


def _summary(
    manifest: Manifest, coverage: Coverage, previous: Manifest | None, areas: dict[str, float]
) -> dict[str, str]:
    grid = manifest.grid
    side = grid.pixel_scale * grid.cell_size
    tracts = len({record.tract for record in manifest.cells})
    return {
        "version": manifest.version,
        "window": f"MJD TAI {manifest.begin:g} to {manifest.end:g} ({_day(manifest.begin)} to {_day(manifest.end)})",
        "ages to": f"MJD TAI {coverage.at:.2f} ({_day(coverage.at)})",
        "cells": f"{len(manifest.cells)} in {tracts} tracts, {grid.cell_size} pixels of {grid.pixel_scale:g} arcsec "
        f"= {side:.4g} arcsec on a side",
        "sky in the maps (MOC)": ", ".join(f"{band} {area:.4g} deg²" for band, area in areas.items()) or "none",
        "previous version": "none" if previous is None else previous.version,
    }


def _day(mjd: float) -> str:
    """Return the date of an MJD TAI as text; empty far from today, where there is no calendar to go by."""
    return str(Time(mjd, format="mjd", scale="tai").strftime("%Y-%m-%d")) if 0.0 < mjd < 1e5 else ""


def _tables(manifest: Manifest, coverage: Coverage, previous: Manifest | None) -> list[Table]:
    note = "Area: cells that their tract owns, so that overlaps of tracts count once; all else: all cells."
    tables = [Table("By band", coverage.columns, coverage.rows(), note)]
    if previous is not None:
        rows = [_change_row(change) for change in changes_between(previous, manifest)]
        columns = ("band", "new", "rebuilt", "kept", "gone", "rebuilt ones deeper by, mag")
        note = "Rebuilt: at the same place, of other inputs or in another way."
        if previous.grid != manifest.grid:
            note = "The grid of cells is another one: no cell is what it was."
        tables.append(Table(f"Changes since version {previous.version}", columns, rows, note))
    tables.append(_worst_table(manifest, coverage))
    return tables


def _change_row(change: Change) -> list[str]:
    counts = (change.new, change.rebuilt, change.kept, change.gone)
    return [change.band, *(str(count) for count in counts), _number(change.deeper, "+.3f")]


def _worst_table(manifest: Manifest, coverage: Coverage) -> Table:
    rows = [
        [
            one.record.band,
            one.record.cell.label,
            f"{one.ra:.5f}",
            f"{one.dec:+.5f}",
            f"{one.record.nEpochs}{' (few)' if one.record.nEpochs < coverage.fewEpochs else ''}",
            _number(one.depth, ".2f"),
            _number(one.below, "+.2f"),
            f"{one.record.fwhm:.2f}",
            f"{one.record.lastEpochMjdTai:.2f}",
            one.record.templateId,
        ]
        for one in worst_cells(manifest)
    ]
    places = ("band", "tract/x_y", "RA", "Dec")
    numbers = ("epochs", "depth AB", "shallower than median", "fwhm arcsec", "last MJD TAI", "templateId")
    note = "The shallowest against the median cell of their band."
    return Table("Worst cells", (*places, *numbers), rows, note)


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "-"


def _histograms(manifest: Manifest) -> dict[str, str]:
    """Return how epochs, depth and seeing are spread over the cells: a stepped curve per band, SVG by caption."""
    by_band: dict[str, list[CellRecord]] = {}
    for record in manifest.cells:
        by_band.setdefault(record.band, []).append(record)
    pictures = {}
    for name, label, values_of in _HISTOGRAMS:
        values = {band: values_of(records) for band, records in sorted(by_band.items())}
        edges = _edges(list(values.values()), whole=name == "epochs")
        curves = [_steps(band, numbers, edges) for band, numbers in values.items()] if edges.size else []
        pictures[f"{name} of the cells, by band"] = curves_svg(curves, (label, "cells"), size=(355, 210))
    return pictures


def _edges(values: Sequence[_Float], whole: bool) -> _Float:
    """Return the borders of the bins of all bands; none where there is no finite value."""
    every = np.concatenate([np.zeros(0), *values])
    good = np.asarray(every[np.isfinite(every)], float)
    if not good.size:
        return good
    low, high = float(good.min()), float(good.max())
    if whole:
        width = max(math.ceil((high - low + 1.0) / _BINS), 1)
        return np.arange(low - 0.5, high + 0.5 + width, width)
    margin = max(0.02 * (high - low), 0.005)
    return np.asarray(np.linspace(low - margin, high + margin, _BINS + 1), float)


def _steps(name: str, values: _Float, edges: _Float) -> Curve:
    counts, _ = np.histogram(values[np.isfinite(values)], bins=edges)
    heights = np.concatenate([[0], np.repeat(counts, 2), [0]])
    return Curve(name, np.repeat(edges, 2), heights)
