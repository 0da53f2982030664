"""Tables as archives give them (FITS, VOTable, ECSV, CSV), read in chunks as float64 columns."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import ascii as text_tables
from astropy.io import fits, votable
from astropy.table import Table
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["Chunk", "InputTable", "open_table"]

Chunk = dict[str, NDArray[np.float64]]
"""Some rows: float64 by column, NaN where the table has nothing."""

_ROWS, _BYTES = 500_000, 64 << 20
"""Of a chunk, where the format lets it be read in pieces."""
_EMPTY = [(word, "nan") for word in ("", "null", "NULL", "None", "--", "N/A", "NaN")]


@dataclass(frozen=True)
class InputTable:
    """One file: what columns it has, and how to read some of them."""

    path: Path
    units: dict[str, str]
    """By column, as the file states it; empty where it does not."""
    read: Callable[[Sequence[str]], Iterator[Chunk]]
    """Yields the rows of the columns named; raises DataError where one does not hold numbers."""

    def column(self, *names: str) -> str | None:
        """Return the first of `names` that the file has, in any case of letters if not as written; None for none."""
        lower = {name.lower(): name for name in reversed(self.units)}
        for name in names:
            if name in self.units:
                return name
        return next((lower[name.lower()] for name in names if name.lower() in lower), None)


def open_table(path: Path) -> InputTable:
    """Open a table; raises DataError where the file is missing or is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how archives write their headers
            return _opener(_beginning(path))(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError, IndexError, text_tables.InconsistentTableError) as error:
        raise DataError(f"{path} can't be read as a FITS table, VOTable, ECSV or CSV: {error}") from error


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as stream:
        return stream.read(512)


def _opener(head: bytes) -> Callable[[Path], InputTable]:
    if head.startswith(b"SIMPLE"):
        return _open_fits
    return _open_votable if b"<VOTABLE" in head or head.lstrip().startswith(b"<?xml") else _open_text


def _open_fits(path: Path) -> InputTable:
    def read(names: Sequence[str]) -> Iterator[Chunk]:
        with fits.open(path) as hdus:
            table = _first_table(hdus, path)
            null = {column.name: column.null for column in table.columns}
            for start in range(0, len(table.data), _ROWS):
                part = table.data[start : start + _ROWS]
                yield {name: _numbers(part[name], name, path, null[name]) for name in names}

    with fits.open(path) as hdus:
        columns = _first_table(hdus, path).columns
        return InputTable(path, {column.name: column.unit or "" for column in columns}, read)


def _first_table(hdus: Any, path: Path) -> Any:
    for hdu in hdus:
        if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
            return hdu
    raise DataError(f"{path} holds no table")


def _open_votable(path: Path) -> InputTable:
    table = votable.parse_single_table(path).to_table(use_names_over_ids=True)

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        yield {name: _numbers(table[name], name, path) for name in names}

    return InputTable(path, _units(table), read)


def _open_text(path: Path) -> InputTable:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        lines = [line.rstrip("\r\n") for line in islice(stream, 2000)]
    heading = next(line for line in [*lines, ""] if not line.startswith("#"))
    if lines and lines[0].startswith("# %ECSV"):
        units = _units(text_tables.read("\n".join(lines), format="ecsv"))
    else:
        units = dict.fromkeys((name.strip().strip('"') for name in heading.split(_delimiter(heading))), "")

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        delimiter = _delimiter(heading) or " "
        chunks = text_tables.read(
            str(path),
            format="fast_tab" if delimiter == "\t" else "fast_basic",
            delimiter=delimiter,
            comment="#",
            guess=False,
            include_names=list(names),
            fill_values=_EMPTY,
            fast_reader={"chunk_size": _BYTES, "chunk_generator": True},
        )
        try:
            for part in chunks:
                yield {name: _numbers(part[name], name, path) for name in names}
        except text_tables.InconsistentTableError as error:
            raise DataError(f"{path} can't be read as a table: {error}") from error

    return InputTable(path, units, read)


def _delimiter(heading: str) -> str | None:
    """Return what separates the columns' names; None for white space."""
    return next((mark for mark in ",;\t|" if mark in heading), None)


def _units(table: Table) -> dict[str, str]:
    return {name: "" if table[name].unit is None else str(table[name].unit) for name in table.colnames}


def _numbers(values: Any, name: str, path: Path, null: int | None = None) -> NDArray[np.float64]:
    """Return a column as float64, NaN where it is masked or holds the table's sign for nothing."""
    try:
        masked: Any = np.ma.array(values, dtype=float)
    except ValueError as error:
        raise DataError(f"{path}: the column {name} does not hold numbers ({error})") from error
    if masked.ndim != 1:
        raise DataError(f"{path}: the column {name} holds arrays, not numbers")
    nothing = np.ma.getmaskarray(masked) if null is None else masked.data == null
    return np.where(nothing, np.nan, masked.data)
