"""Build a sharded reference catalogue from extracts: Gaia's places and motions, with the fluxes of all of them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.imaging.reference import MOTION, ReferenceCatalogue
from workers.imaging.reference_store import ReferenceStore
from workers.imaging.reference_writing import NSIDE, StoreWriter
from workers.reference_build.columns import ColumnMap, TablePlan, plan_table, row_dtype
from workers.reference_build.join import distinct, join
from workers.reference_build.spool import Spool
from workers.reference_build.tables import open_table

__all__ = ["BuildOptions", "BuildReport", "InputReport", "build_reference"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """How a catalogue is built."""

    kind: str = "auto"
    """One of KINDS, or auto: told from each table's columns."""
    columns: ColumnMap = field(default_factory=ColumnMap)
    bands: tuple[str, ...] = ()
    """Only these; empty: all there are."""
    radius: float = 1.0
    """Arcsec within which stars of two catalogues are joined."""
    nside: int = NSIDE
    replace: bool = False


@dataclass
class InputReport:
    """What became of one file's rows."""

    file: str
    kind: str
    bands: tuple[str, ...]
    assumedEpoch: float | None
    """Julian year taken because the file states none."""
    rows: int = 0
    noPosition: int = 0
    noFlux: int = 0


@dataclass
class BuildReport:
    """What became of all rows: rows less what was left out, less what was joined, are the catalogue's stars."""

    inputs: list[InputReport] = field(default_factory=list)
    duplicates: int = 0
    """Rows that repeat a star of the same catalogue."""
    joined: int = 0
    """Stars that are in two catalogues."""
    ambiguous: int = 0
    """Rows of a later catalogue near a star of the first but not certainly it; left out."""
    stars: int = 0


@dataclass
class _Catalogue:
    """The tables that hold one catalogue, in pieces or overlapping."""

    kind: str
    plans: list[TablePlan]
    bands: tuple[str, ...]

    @property
    def rank(self) -> tuple[bool, bool, str, tuple[str, ...]]:
        """The first one's places and motions stand: Gaia's, else what has motions."""
        gaia = self.kind == "gaia" or "G" in self.bands
        motions = all("pmRaErr" in plan.quantities for plan in self.plans)
        return not gaia, not motions, self.kind, self.bands


def build_reference(
    folder: Path, inputs: Sequence[Path], options: BuildOptions, progress: Progress = lambda text: None
) -> tuple[ReferenceStore, BuildReport]:
    """Build the store in `folder` from the tables `inputs`; their order does not matter.

    Tables of one kind that share a band are one catalogue; the catalogues are joined, Gaia's first. Raises
    ConfigurationError for columns that are not understood or a folder that is in the way, DataError for files that
    can't be read or where no star is left, UnreachableError for a full disk.
    """
    tables = [open_table(path) for path in inputs]
    options.columns.check_used(tables)
    catalogues = _catalogues([plan_table(table, options.kind, options.columns) for table in tables], options.bands)
    bands = tuple(band for catalogue in catalogues for band in catalogue.bands)
    report = BuildReport()
    with StoreWriter(folder, bands, options.nside, replace=options.replace) as writer:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
            spools = [
                _spooled(catalogue, Path(work) / str(number), options.nside, len(catalogues) > 1, report, progress)
                for number, catalogue in enumerate(catalogues)
            ]
            pixels = sorted(set[int]().union(*(spool.pixels for spool in spools)))
            for number, pixel in enumerate(pixels):
                writer.add(pixel, _stars(spools, pixel, bands, 1e3 * options.radius, report))
                if number % 500 == 499:
                    progress(f"{number + 1} of {len(pixels)} pixels")
        report.stars = writer.stars
        if report.stars == 0:
            raise DataError(f"no star is left of {', '.join(path.name for path in inputs)}: {_reasons(report)}")
        return writer.publish(asdict(report)), report


def _reasons(report: BuildReport) -> str:
    return "; ".join(
        f"{one.file}: {one.rows} rows, {one.noPosition} without position, {one.noFlux} without flux"
        for one in report.inputs
    )


def _catalogues(plans: Sequence[TablePlan], wanted: tuple[str, ...]) -> list[_Catalogue]:
    """Group tables that hold one catalogue, in the order of their rank; raises ConfigurationError."""
    found: list[_Catalogue] = []
    for plan in plans:
        same = [one for one in found if one.kind == plan.kind and set(one.bands) & set(plan.band_names)]
        apart = [one for one in found if one not in same]
        bands = {band for one in same for band in one.bands} | set(plan.band_names)
        found = [*apart, _Catalogue(plan.kind, [p for one in same for p in one.plans] + [plan], tuple(sorted(bands)))]
    times = Counter(band for one in found for band in one.bands)
    if twice := [band for band, count in times.items() if count > 1]:
        raise ConfigurationError(
            f"two catalogues have a band {', '.join(twice)}: name one of them otherwise with --band NAME=COLUMN"
        )
    if unknown := sorted(set(wanted) - set(times)):
        raise ConfigurationError(f"no input has a band {', '.join(unknown)}; there are {', '.join(sorted(times))}")
    for one in found:
        one.bands = tuple(band for band in one.bands if not wanted or band in wanted)
    return sorted((one for one in found if one.bands), key=lambda one: one.rank)


def _spooled(
    catalogue: _Catalogue, folder: Path, nside: int, margin: bool, report: BuildReport, progress: Progress
) -> Spool:
    """Put the rows of a catalogue on disk by pixel, and count what is left out."""
    spool = Spool(folder, row_dtype(len(catalogue.bands)), nside, margin=margin)
    for plan in catalogue.plans:
        kept = tuple(band for band in plan.band_names if band in catalogue.bands)
        one = InputReport(plan.table.path.name, plan.kind, kept, plan.assumed_epoch)
        report.inputs.append(one)
        for rows in plan.chunks(catalogue.bands):
            placed = np.isfinite(rows["ra"]) & np.isfinite(rows["dec"])
            bright = np.isfinite(rows["flux"]).any(axis=1)
            one.rows += len(rows)
            one.noPosition += int(np.count_nonzero(~placed))
            one.noFlux += int(np.count_nonzero(placed & ~bright))
            spool.add(rows[placed & bright])
            progress(f"{one.file}: {one.rows} rows")
    return spool


def _stars(
    spools: Sequence[Spool], pixel: int, bands: tuple[str, ...], radius: float, report: BuildReport
) -> ReferenceCatalogue:
    """Return the stars of a pixel, joined from all catalogues."""
    rows, own = _distinct(spools[0], pixel, report)
    for spool in spools[1:]:
        others, others_own = _distinct(spool, pixel, report)
        both = join(rows, own, others, others_own, radius)
        report.joined += int(np.count_nonzero(both.joined & own))
        report.ambiguous += int(np.count_nonzero(both.left_out & others_own))
        rows, own = both.rows, both.own
    return _record(rows[own], bands)


def _distinct(spool: Spool, pixel: int, report: BuildReport) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    rows, own = spool.read(pixel)
    kept = distinct(rows)
    report.duplicates += int(np.count_nonzero(own)) - int(np.count_nonzero(own[kept]))
    return rows[kept], own[kept]


def _record(rows: NDArray[Any], bands: tuple[str, ...]) -> ReferenceCatalogue:
    motion: dict[str, Any] = {name: rows[name] for name in MOTION}
    flux = {band: rows["flux"][:, at] for at, band in enumerate(bands)}
    error = {band: rows["fluxErr"][:, at] for at, band in enumerate(bands)}
    return ReferenceCatalogue(rows["ra"], rows["dec"], flux, error, **motion)
