"""Catalogue rows and Avro records: one numpy column per scalar field of a record, converted column by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SchemaError
from schemas.families import families
from schemas.registry import get, latest

__all__ = ["STRING_WIDTH", "Column", "RowGroups", "columns_of", "records_to_rows", "rows_to_records", "table_dtype"]

STRING_WIDTH = 32
"""Characters that a string column holds."""

_COLUMN_TYPES = {
    "long": "i8",
    "int": "i4",
    "double": "f8",
    "float": "f4",
    "boolean": "?",
    "string": f"U{STRING_WIDTH}",
}
_NULLS: dict[str, Any] = {"i": 0, "f": float("nan"), "b": False, "U": ""}
"""What stands for null in a column, by the kind of its dtype."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Column:
    """One scalar field of a record."""

    name: str
    kind: str
    """Its dtype."""
    branches: tuple[int, int] | None
    """How Avro writes the number of null's branch and of the value's (zigzag); None where it can't be null."""


@dataclass(frozen=True)
class RowGroups:
    """Rows that belong to the members of another table: all groups in one array, one after another."""

    rows: NDArray[Any]
    """Shape (sum of counts,), any dtype."""
    counts: NDArray[np.int64]
    """How many rows each member has, shape (n,)."""

    def __post_init__(self) -> None:
        """Raise SchemaError where the counts don't add up to the rows."""
        if int(self.counts.sum()) != len(self.rows):
            raise SchemaError(f"groups of {int(self.counts.sum())} rows in all can't be made of {len(self.rows)} rows")

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.counts)

    def part(self, start: int, stop: int) -> RowGroups:
        """Return the groups from `start` up to `stop`, as views."""
        first, last = int(self.counts[:start].sum()), int(self.counts[:stop].sum())
        return RowGroups(self.rows[first:last], self.counts[start:stop])

    def split(self) -> list[NDArray[Any]]:
        """Return each group's rows, as views."""
        ends = np.cumsum(self.counts).tolist()
        return [self.rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def table_dtype(family: str, record: str, version: str = "") -> np.dtype[np.void]:
    """Return the dtype of a table of records of one named type of a family's latest schema, or of its `version`.

    One column per scalar field, in the schema's order: long i8, int i4, double f8, float f4, boolean ?, string U32;
    arrays, maps, bytes and records have no column. Raises SchemaError where the family has no such record.
    """
    return np.dtype([(column.name, column.kind) for column in columns_of(family, record, version)])


def rows_to_records(rows: NDArray[np.void]) -> list[dict[str, Any]]:
    """Return table rows, shape (n,), as Avro records (plain Python values).

    In nullable fields NaN, 0 and "" become null; a flag that is not set stays false. The dtype must be one
    that `table_dtype` gives, since the nullable fields are found by the column names; else SchemaError.
    """
    names = rows.dtype.names or ()
    nullable = _nullable_columns(names)
    columns = [_to_values(rows[name], name in nullable) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def records_to_rows(records: Sequence[Mapping[str, Any]], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Return Avro records as rows of `dtype`, shape (n,): the inverse of `rows_to_records`.

    null becomes NaN, 0, "" or False. Raises SchemaError where a record lacks a column, or a text is too long for it.
    """
    rows = np.zeros(len(records), dtype)
    for name in dtype.names or ():
        try:
            values = [record[name] for record in records]
        except KeyError as error:
            raise SchemaError(f"a record has no field {name!r}, which the table needs") from error
        rows[name] = _to_column(values, name, dtype[name])
    return rows


def _to_values(column: NDArray[Any], nullable: bool) -> list[Any]:
    """Return one column as a list of Python values with None where a nullable field holds its null."""
    kind = column.dtype.kind
    if nullable and kind != "b":
        null = np.isnan(column) if kind == "f" else column == column.dtype.type(_NULLS[kind])
        if null.any():
            column = column.astype(object)  # a copy: the caller's rows stay as they are
            column[null] = None
    return list(column.tolist())


def _to_column(values: list[Any], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return Python values as one column; None becomes the null of the column's kind."""
    null = _NULLS[dtype.kind]
    filled = [null if value is None else _plain(value) for value in values]
    if dtype.kind == "U":
        limit = dtype.itemsize // 4
        too_long = [value for value in filled if len(str(value)) > limit]
        if too_long:
            raise SchemaError(f"the text {too_long[0]!r} of {name} is longer than the table's {limit} characters")
    try:
        return np.array(filled, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaError(f"the field {name} holds a value that does not fit its column {dtype}: {error}") from error


def _plain(value: Any) -> Any:
    """Return a timestamp as microseconds since 1970 UTC, everything else as it is."""
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


@cache
def columns_of(family: str, record: str, version: str = "", *, complete: bool = False) -> tuple[Column, ...]:
    """Return the columns of a record of a family's latest schema, or of its `version`, in the schema's order.

    Raises SchemaError where the family has no such record or, if `complete`, where a field without a column stands
    before one with a column.
    """
    schema = get(family, version) if version else latest(family)
    definitions = dict(_records(schema.parsed))
    if record not in definitions:
        raise SchemaError(f"the schema {schema.name} has no record {record!r}; it has {', '.join(sorted(definitions))}")
    fields = definitions[record]["fields"]
    columns = tuple(column for column in map(_column, fields) if column is not None)
    if complete and [item["name"] for item in fields[: len(columns)]] != [column.name for column in columns]:
        raise SchemaError(f"{record} of {schema.name} has arrays, maps or records between its columns")
    return columns


def _column(item: Mapping[str, Any]) -> Column | None:
    """Return the column of one field; None for what has none."""
    kind, branches = _scalar(item["type"])
    return Column(item["name"], _COLUMN_TYPES[kind], branches) if kind in _COLUMN_TYPES else None


@cache
def _nullable_columns(names: tuple[str, ...]) -> frozenset[str]:
    """Return the nullable ones among the columns of a table, found by the full list of names."""
    for family in families():
        for record, _ in _records(latest(family).parsed):
            columns = columns_of(family, record)
            if tuple(column.name for column in columns) == names:
                return frozenset(column.name for column in columns if column.branches is not None)
    raise SchemaError(
        f"no record has exactly the columns {', '.join(names[:6])} ... ({len(names)} in all); "
        "make the rows with the dtype that `table_dtype` gives"
    )


def _scalar(avro_type: Any) -> tuple[str, tuple[int, int] | None]:
    """Return (primitive type or "", bytes of the branches if nullable) of a field's type."""
    if isinstance(avro_type, list):
        if len(avro_type) != 2 or "null" not in avro_type:
            return "", None
        null = avro_type.index("null")
        return _scalar(avro_type[1 - null])[0], (2 * null, 2 - 2 * null)
    if isinstance(avro_type, dict):
        avro_type = avro_type["type"]
    return (avro_type if avro_type in _COLUMN_TYPES else ""), None


def _records(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (unqualified name, definition) of every record defined within a schema."""
    children: Iterable[Any] = ()
    if isinstance(node, list):
        children = node
    elif isinstance(node, dict):
        if node["type"] == "record":
            yield node["name"].rpartition(".")[2], node
        fields = [item["type"] for item in node.get("fields", ())]
        children = [*fields, *(node[key] for key in ("items", "values") if key in node)]
    for child in children:
        yield from _records(child)
