"""Which column of a table is what, from its kind and the user's word; and its rows in one layout and one unit each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.bright_stars import AB_NJY
from workers.imaging.proper_motion import epoch_mjd
from workers.imaging.reference import MOTION
from workers.reference_build.presets import KINDS, BandColumn, flux_factor, guess_kind, preset_bands
from workers.reference_build.tables import Chunk, InputTable

__all__ = ["QUANTITIES", "ColumnMap", "TablePlan", "plan_table", "read_column_map", "row_dtype"]

_Float = NDArray[np.float64]
QUANTITIES = {"ra": "deg", "dec": "deg", **MOTION}
"""What is known of a star but its fluxes, with the unit it is kept in."""
_FASTEST = 2e4
"""mas per year; Barnard's star moves by half as much, so what is beyond is a sign for nothing."""
_SPEC = re.compile(r"([^\[\],]+)(?:,([^\[\],]+))?(?:\[([^\]]+)\])?")


@dataclass(frozen=True)
class Mapped:
    """One column as the user gives it."""

    column: str
    error: str
    unit: str


@dataclass(frozen=True)
class ColumnMap:
    """The user's word on columns, by quantity and by band; it goes before what a kind knows."""

    columns: Mapping[str, Mapped] = field(default_factory=dict)
    bands: Mapping[str, Mapped] = field(default_factory=dict)

    def check_used(self, tables: Iterable[InputTable]) -> None:
        """Raise ConfigurationError where a column named is in none of the tables."""
        tables = list(tables)
        for key, mapped in [*self.columns.items(), *self.bands.items()]:
            for name in filter(None, (mapped.column, mapped.error)):
                if _number(name) is None and not any(table.column(name) for table in tables):
                    there = "; ".join(f"{table.path.name} has {', '.join(table.units)}" for table in tables)
                    raise ConfigurationError(f"{key}={name}: no input has such a column. {there}")


def read_column_map(path: Path | None, columns: Iterable[str], bands: Iterable[str]) -> ColumnMap:
    """Return the mapping of a TOML file (tables columns and bands) overlaid by NAME=COLUMN[unit] texts.

    Raises ConfigurationError for a text that is not understood, or a quantity that does not exist.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path} can't be read as TOML: {error}") from error
    if set(tree) - {"columns", "bands"}:
        raise ConfigurationError(f"{path}: only the tables [columns] and [bands] are understood, not {sorted(tree)}")
    named = {key: str(value) for key, value in tree.get("columns", {}).items()} | _split(columns)
    if wrong := [key for key in named if key not in QUANTITIES]:
        raise ConfigurationError(f"there is no quantity {', '.join(wrong)}; there are {', '.join(QUANTITIES)}")
    bright = {key: str(value) for key, value in tree.get("bands", {}).items()} | _split(bands)
    return ColumnMap(
        {key: _mapped(key, text) for key, text in named.items()},
        {key: _mapped(key, text) for key, text in bright.items()},
    )


def _split(texts: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key.strip() and sign and value.strip()):
            raise ConfigurationError(f"{text!r} is not understood: give NAME=COLUMN or NAME=COLUMN[unit]")
        found[key.strip()] = value
    return found


def _mapped(key: str, text: str) -> Mapped:
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{key}={text} is not understood: give COLUMN, COLUMN[unit] or COLUMN,ERROR[unit]")
    return Mapped(*((part or "").strip() for part in match.groups()))


@dataclass(frozen=True)
class Quantity:
    """Where a quantity of the stars is in a table: a column times a factor, or one number for all."""

    column: str
    factor: float = 1.0
    number: float = np.nan

    def of(self, chunk: Chunk, stars: int) -> _Float:
        """Return it for all rows of a chunk, in the unit of `QUANTITIES`."""
        return chunk[self.column] * self.factor if self.column else np.full(stars, self.number)


@dataclass(frozen=True)
class TablePlan:
    """How one table's rows are read."""

    table: InputTable
    kind: str
    quantities: Mapping[str, Quantity]
    bands: tuple[BandColumn, ...]
    assumed_epoch: float | None
    """Julian year taken because the table states none."""

    @property
    def band_names(self) -> tuple[str, ...]:
        """Bands, sorted."""
        return tuple(sorted(band.band for band in self.bands))

    def chunks(self, bands: tuple[str, ...]) -> Iterator[NDArray[np.void]]:
        """Yield the table's rows in the layout `row_dtype` of `bands`, NaN where nothing is known."""
        names = {quantity.column for quantity in self.quantities.values() if quantity.column}
        names |= {name for band in self.bands for name in (band.column, band.error) if name}
        for chunk in self.table.read(sorted(names)):
            yield self._rows(chunk, bands)

    def _rows(self, chunk: Chunk, bands: tuple[str, ...]) -> NDArray[np.void]:
        stars = len(next(iter(chunk.values())))
        rows = np.full(stars, np.nan, row_dtype(len(bands)))
        for key, quantity in self.quantities.items():
            rows[key] = quantity.of(chunk, stars)
        rows["epoch"] = epoch_mjd(rows["epoch"])
        _take_out_signs(rows, "pmRaErr" in self.quantities)
        for band in self.bands:
            if band.band in bands:
                at = bands.index(band.band)
                rows["flux"][:, at], rows["fluxErr"][:, at] = _fluxes(band, chunk)
        return rows


def row_dtype(bands: int) -> np.dtype[Any]:
    """Return the layout of a star on its way into the catalogue: QUANTITIES, then fluxes and errors, nJy."""
    shape = (bands,)
    return np.dtype([*((key, "f8") for key in QUANTITIES), ("flux", "f8", shape), ("fluxErr", "f8", shape)])


def _take_out_signs(rows: NDArray[np.void], errors: bool) -> None:
    """Make NaN of what says 'nothing' in numbers: -999, a zero error, a motion without the error its table gives."""
    away = ~((np.abs(rows["dec"]) <= 90.0) & (rows["ra"] >= -360.0) & (rows["ra"] <= 720.0))
    rows["ra"][away] = rows["dec"][away] = np.nan
    rows["ra"] = np.where(rows["ra"] % 360.0 >= 360.0, 0.0, rows["ra"] % 360.0)
    for key in ("raErr", "decErr", "pmRaErr", "pmDecErr"):
        rows[key][~(rows[key] > 0.0)] = np.nan
    still = ~(np.hypot(rows["pmRa"], rows["pmDec"]) < _FASTEST)
    if errors:
        still |= ~np.isfinite(rows["pmRaErr"])
    for key in ("pmRa", "pmDec", "pmRaErr", "pmDecErr"):
        rows[key][still] = np.nan


def _fluxes(band: BandColumn, chunk: Chunk) -> tuple[_Float, _Float]:
    """Return flux and error, nJy; a flux that is not positive was not measured, nor an error that is not."""
    value = chunk[band.column]
    error = chunk[band.error] if band.error else np.full_like(value, np.nan)
    if band.magnitude:
        value = np.where(np.abs(value) < 90.0, value, np.nan)
        flux = band.factor * 10.0 ** (0.4 * (AB_NJY - value))
    else:
        flux = band.factor * value
    flux = np.where(flux > 0.0, flux, np.nan)
    error = np.where((error > 0.0) & np.isfinite(flux), error, np.nan)
    if band.ratio:
        return flux, flux / error
    return flux, flux * error * (0.4 * np.log(10.0)) if band.magnitude else error * band.factor


def plan_table(table: InputTable, kind: str, given: ColumnMap) -> TablePlan:
    """Decide what each column of a table is; `kind` is one of KINDS or auto.

    Raises ConfigurationError, naming the columns there are, where there is no position or no band.
    """
    kind = guess_kind(table) if kind == "auto" else kind
    found = {
        key: _given_quantity(table, key, given) or _known_quantity(table, key, kind) or _given_number(key, given)
        for key in QUANTITIES
    }
    quantities = {key: quantity for key, quantity in found.items() if quantity is not None}
    assumed = None
    if "epoch" not in quantities and KINDS[kind].epoch is not None:
        assumed = KINDS[kind].epoch
        quantities["epoch"] = Quantity("", number=float(assumed or np.nan))
    bands = _given_bands(table, given) or preset_bands(kind, table)
    lacking = [key for key in ("ra", "dec") if key not in quantities]
    if lacking or not bands:
        what = " and ".join(lacking) or "a flux or magnitude of any band"
        raise ConfigurationError(
            f"{table.path}, read as {kind}, has no column for {what}; its columns are {', '.join(table.units)}. "
            "Say which is which with --column ra=COLUMN and --band r=COLUMN"
        )
    return TablePlan(table, kind, quantities, tuple(bands), assumed)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _given_quantity(table: InputTable, key: str, given: ColumnMap) -> Quantity | None:
    mapped = given.columns.get(key)
    column = None if mapped is None else table.column(mapped.column)
    return None if mapped is None or column is None else Quantity(column, _factor(table, column, key, mapped.unit))


def _given_number(key: str, given: ColumnMap) -> Quantity | None:
    """Return the one number for all stars that the user gives, in a table that has no column for it."""
    number = _number(given.columns[key].column) if key in given.columns else None
    return None if number is None else Quantity("", number=number)


def _known_quantity(table: InputTable, key: str, kind: str) -> Quantity | None:
    column = table.column(*KINDS[kind].names.get(key, ()))
    return None if column is None else Quantity(column, _factor(table, column, key, "", KINDS[kind].units.get(key, "")))


def _factor(table: InputTable, column: str, key: str, given: str, usual: str = "") -> float:
    """Return what turns a column into the unit of `QUANTITIES`: the given unit, the file's, or the usual one."""
    if key == "epoch":  # told from its size
        return 1.0
    stated, wanted = given or table.units[column] or usual or QUANTITIES[key], QUANTITIES[key]
    try:
        return float(units.Unit(stated).to(wanted))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{table.path}: {column} is in {stated!r}, which is not understood as {wanted}; "
            f"give it as --column {key}={column}[{wanted}]"
        ) from error


def _given_bands(table: InputTable, given: ColumnMap) -> list[BandColumn]:
    found = []
    for band, mapped in given.bands.items():
        column = table.column(mapped.column)
        if column is not None:
            found.append(_given_band(table, band, column, mapped))
    return found


def _given_band(table: InputTable, band: str, column: str, mapped: Mapped) -> BandColumn:
    """Return a band as the user gives it: AB magnitudes, magnitudes with an offset to AB, or a flux unit."""
    near = (f"{column}Err", f"{column}_err", f"{column}_error", f"{column}Sigma", f"e_{column}")
    error = table.column(mapped.error) if mapped.error else table.column(*near)
    unit = mapped.unit or table.units[column] or ("mag" if "mag" in column.lower() else "")
    if match := re.fullmatch(r"(?:mag|mag\(AB\))\s*([+-]\s*[\d.]+)?", unit):
        offset = float((match[1] or "0").replace(" ", ""))
        return BandColumn(band, column, error or "", True, 10.0 ** (-0.4 * offset))
    try:
        return BandColumn(band, column, error or "", False, flux_factor(unit or "?"))
    except (ValueError, TypeError) as wrong:
        raise ConfigurationError(
            f"{table.path}: what {column} is in ({unit or 'no unit'}) is not understood; give it as "
            f"--band {band}={column}[mag], [mag+0.1137] where AB is that much more, or [nJy], [Jy]"
        ) from wrong
