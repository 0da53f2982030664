"""What the report shows of one master: facts, per-amplifier tables, its picture, or the curves of its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.calibrate.certify import Verdict
from workers.calibrate.covariances import charge_covariances
from workers.calibrate.night_families import clipped_mean
from workers.calibrate.report_plots import Curve, curves_svg, heat_map_svg, histogram_svg, master_svg
from workers.imaging.calibrations import FOREVER, KINDS, TABLE_KINDS, Calibration
from workers.imaging.masks import MaskPlane
from workers.quality.page import Table
from workers.survey.camera import Detector, parse_section

__all__ = ["Figure", "Section", "product_section"]

_Float = NDArray[np.float64]

_OUTLIER_SIGMA = 5.0
_MOST_CELLS = 64
_ERRORS = ("Err", "Error")
_PULLS = (-6.0, 6.0)


@dataclass(frozen=True)
class Figure:
    """SVG text and what it shows."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    title: str
    facts: Mapping[str, str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    inputs: Sequence[str] = ()
    """sha256 of the raw files."""


def product_section(master: Calibration, detector: Detector, verdict: Verdict | None) -> Section:
    """Return what there is to see of one master."""
    if master.kind in TABLE_KINDS:
        figures, tables = _of_tables(master, detector)
    else:
        figures, tables = _of_picture(master, detector)
    if verdict is not None and verdict.rows:
        tables = [*tables, _verdict_table(verdict, KINDS[master.kind])]
    words = [master.kind, f"detector {master.detector}", master.band, f"lamp {master.lamp}" if master.lamp else ""]
    return Section(
        title=" · ".join(word for word in words if word),
        facts=_facts(master, verdict),
        figures=[figure for figure in figures if figure.svg],
        tables=[table for table in tables if table.rows],
        inputs=master.inputs,
    )


def _facts(master: Calibration, verdict: Verdict | None) -> dict[str, str]:
    end = "something newer is there" if master.validTo >= FOREVER else f"{master.validTo:.5f}"
    facts = {"id": master.id, "valid, MJD TAI": f"{master.validFrom:.5f} until {end}"}
    facts["raw files"] = str(len(master.inputs))
    if "rejectedPixels" in master.tables and master.image.size:
        rejected = master.tables["rejectedPixels"] / master.image.size
        facts["clipped pixels per frame"] = (
            f"{_percent(float(rejected.mean()))}, at most {_percent(float(rejected.max()))}"
        )
    for name, value in master.metadata.items():
        facts[name] = f"{value:.6g}"
    if verdict is not None:
        reasons = "; ".join(verdict.reasons) or f"within its limits of {verdict.previous}"
        facts["verdict"] = f"{'certified' if verdict.certified else 'QUARANTINE'}: {reasons}"
    return facts


def _percent(fraction: float) -> str:
    return f"{100.0 * fraction:.3g} %"


def _of_picture(master: Calibration, detector: Detector) -> tuple[list[Figure], list[Table]]:
    unit = KINDS[master.kind].replace("1", "")
    image = np.where(master.mask == 0, master.image, np.float32(np.nan))
    if master.kind == "defects":
        flagged = (master.mask & np.int32(MaskPlane.BAD) != 0).astype(np.float32)
        figures = [Figure("fraction of bad pixels", master_svg(flagged, detector, ""))]
    else:
        error = np.sqrt(np.where(master.mask == 0, master.variance, np.float32(np.nan)))
        label = f"{master.kind}, {unit}".rstrip(", ")
        figures = [
            Figure(f"{label}; flagged pixels left out", master_svg(image, detector, unit)),
            Figure("its error", master_svg(error, detector, unit)),
            Figure("all good pixels", histogram_svg(image, label)),
        ]
    return figures, [_amplifier_levels(master, image, detector)]


def _amplifier_levels(master: Calibration, image: NDArray[np.float32], detector: Detector) -> Table:
    """Return level, scatter, error and outliers of each amplifier."""
    if master.kind == "defects":
        return _bad_pixels(master, detector)
    rows = []
    for amplifier in detector.amplifiers:
        place = parse_section(amplifier.position)
        part, flagged = image[place], master.mask[place] != 0
        level, scatter, kept = clipped_mean(part)
        good = max(int(np.isfinite(part).sum()), 1)
        error = float(np.sqrt(np.mean(master.variance[place], where=~flagged))) if not flagged.all() else float("nan")
        cells = [f"{level:.5g}", f"{scatter:.4g}", f"{error:.3g}", _percent(1.0 - kept / good)]
        rows.append([amplifier.name, *cells, _percent(float(flagged.mean()))])
    unit = KINDS[master.kind].replace("1", "")
    level_name = f"level {unit}".strip()
    return Table(
        "Amplifiers",
        ["amplifier", level_name, "scatter of pixels", "error of a pixel", "outliers", "flagged"],
        rows,
        note=f"Outliers are farther than {_OUTLIER_SIGMA:.0f} sigma of the scatter from the level.",
    )


def _bad_pixels(master: Calibration, detector: Detector) -> Table:
    rows = []
    for amplifier in detector.amplifiers:
        bad = (master.mask[parse_section(amplifier.position)] & np.int32(MaskPlane.BAD)) != 0
        columns = int(np.count_nonzero(bad.mean(axis=0) > 0.1))
        rows.append([amplifier.name, str(int(bad.sum())), _percent(float(bad.mean())), str(columns)])
    return Table("Amplifiers", ["amplifier", "bad pixels", "fraction", "columns a tenth bad"], rows)


def _verdict_table(verdict: Verdict, unit: str) -> Table:
    rows = [
        [row.amplifier, f"{row.difference:+.3g}", f"{row.error:.2g}", f"{row.scatter:.3g}", _percent(row.outliers)]
        for row in verdict.rows
    ]
    columns = ["amplifier", f"difference {unit}".replace(" 1", ""), "its error", "scatter of pixels", "outliers"]
    return Table(f"Against {verdict.previous}", columns, rows)


def _of_tables(master: Calibration, detector: Detector) -> tuple[list[Figure], list[Table]]:
    names = [amplifier.name for amplifier in detector.amplifiers]
    special = _SPECIAL.get(master.kind)
    try:
        figures = special(master, names) if special else []
    except (KeyError, ValueError, IndexError):  # tables of another make: they get what every kind gets
        figures = []
    shown = figures or _generic_figures(master, names)
    return shown, [_numbers_by_amplifier(master, names), _numbers_of_detector(master, names)]


def _numbers_by_amplifier(master: Calibration, names: Sequence[str]) -> Table:
    """Return every table with one number per amplifier, values with their errors."""
    single = [name for name, table in master.tables.items() if table.shape == (len(names),)]
    errors = {f"{name}{ending}" for name in single for ending in _ERRORS}
    shown = [name for name in single if name not in errors]
    rows = [[amplifier, *(_with_error(master, name, index) for name in shown)] for index, amplifier in enumerate(names)]
    return Table("Amplifiers", ["amplifier", *shown], rows if shown else [])


def _with_error(master: Calibration, name: str, index: int) -> str:
    value = f"{master.tables[name][index]:.5g}"
    for error in (master.tables.get(f"{name}{ending}") for ending in _ERRORS):
        if error is not None and error.shape == master.tables[name].shape:
            return f"{value} ± {error[index]:.2g}"
    return value


def _numbers_of_detector(master: Calibration, names: Sequence[str]) -> Table:
    """Return the shape and the range of every other table."""
    rows = []
    for name, table in master.tables.items():
        good = table[np.isfinite(table)]
        if table.shape != (len(names),):
            extent = " × ".join(str(size) for size in table.shape)
            numbers = [f"{good.min():.4g}", f"{np.median(good):.4g}", f"{good.max():.4g}"] if good.size else ["-"] * 3
            rows.append([name, extent, *numbers])
    return Table("Tables", ["table", "shape", "least", "median", "greatest"], rows)


def _generic_figures(master: Calibration, names: Sequence[str]) -> list[Figure]:
    """Return a heat map or curves of every table that is more than one number per amplifier."""
    return [
        Figure(name, _drawn(name, table, names))
        for name, table in master.tables.items()
        if table.shape != (len(names),) and not name.endswith(("Err", "rror"))
    ]


def _drawn(name: str, table: _Float, names: Sequence[str]) -> str:
    if table.ndim >= 3:
        table = _typical(table.reshape(-1, *table.shape[-2:]))
    if table.ndim == 2 and len(table) == len(names) != table.shape[1]:
        curves = [
            Curve(amplifier, np.arange(float(len(row))), row) for amplifier, row in zip(names, table, strict=True)
        ]
        return curves_svg(curves, ("index", name))
    if table.ndim == 2 and max(table.shape) <= _MOST_CELLS:
        return heat_map_svg(table, names, name)
    return curves_svg([Curve("", np.arange(float(table.size)), table.ravel())], ("index", name)) if table.size else ""


def _typical(planes: _Float) -> _Float:
    """Return the mean of the finite values over the first axis."""
    good = np.isfinite(planes)
    count = good.sum(axis=0)
    return np.where(count > 0, np.where(good, planes, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _photon_transfer(master: Calibration, names: Sequence[str]) -> list[Figure]:
    """Return the photon transfer curves, their residuals and the area coefficients."""
    tables = master.tables
    gain, level, variance = tables["gain"], tables["level"], tables["variance"]
    charge = level * gain[:, None]
    bent = variance * gain[:, None] ** 2 / charge
    curves = [Curve(name, x, y, joined=False) for name, x, y in zip(names, charge, bent, strict=True)]
    figures = [
        Figure("variance over charge: 1 is Poisson noise", curves_svg(curves, ("electrons", "variance / charge")))
    ]
    pulls = []
    for index, name in enumerate(names):
        model = charge_covariances(charge[index], tables["aMatrix"][index])[:, 0, 0] + tables["noise"][index, 0, 0]
        pull = (variance[index] - model / gain[index] ** 2) / tables["varianceErr"][index]
        pulls.append(Curve(name, charge[index], np.where(tables["used"][index] > 0, pull, np.nan), joined=False))
    figures.append(
        Figure("residuals of the pairs used", curves_svg(pulls, ("electrons", "residual / error"), rows=_PULLS))
    )
    figures.append(
        Figure("mean of the amplifiers", heat_map_svg(_typical(tables["aMatrix"]), (), "a_ij, per electron"))
    )
    return figures


def _linearity(master: Calibration, names: Sequence[str]) -> list[Figure]:
    """Return the corrections relative to the level."""
    knots, correction, error = (master.tables[name] for name in ("knots", "correction", "error"))
    with np.errstate(divide="ignore", invalid="ignore"):
        percent, width = 100.0 * correction / knots, 100.0 * error / knots
    lit = knots > 0.005 * np.nanmax(knots, axis=1, keepdims=True)
    curves = [Curve(name, knots[i], np.where(lit[i], percent[i], np.nan), width[i]) for i, name in enumerate(names)]
    return [Figure("correction of the level", curves_svg(curves, ("ADU", "correction, %")))]


def _crosstalk(master: Calibration, names: Sequence[str]) -> list[Figure]:
    """Return what each amplifier (row) hears of each other one (column), and its significance."""
    heard, error = master.tables["coefficients"][:, :, 0], master.tables["error"][:, :, 0]
    sigma = np.where(error > 0, heard / np.where(error > 0, error, 1.0), 0.0)
    return [
        Figure("crosstalk: rows hear columns", heat_map_svg(heard, names, "ADU per ADU")),
        Figure("in units of its error", heat_map_svg(sigma, names, "sigma")),
    ]


_SPECIAL: Mapping[str, Callable[[Calibration, Sequence[str]], list[Figure]]] = {
    "crosstalk": _crosstalk,
    "ptc": _photon_transfer,
    "linearity": _linearity,
}
