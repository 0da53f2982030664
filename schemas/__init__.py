"""The Avro schemas of everything that travels: one folder per family and version, frozen once released.

Importing this package is cheap: Avro and numpy are imported when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.families import families
from schemas.registry import Schema, all_schemas, by_id, get, latest, versions

if TYPE_CHECKING:
    from schemas.compatibility import compatibility_problems
    from schemas.row_encoding import EncodedRows, encode_fields, encode_long, encode_rows, frame
    from schemas.tables import Column, RowGroups, columns_of, records_to_rows, rows_to_records, table_dtype

__all__ = [
    "Column",
    "EncodedRows",
    "RowGroups",
    "Schema",
    "all_schemas",
    "by_id",
    "columns_of",
    "compatibility_problems",
    "encode_fields",
    "encode_long",
    "encode_rows",
    "families",
    "frame",
    "get",
    "latest",
    "records_to_rows",
    "rows_to_records",
    "table_dtype",
    "versions",
]

_LAZY = {
    "Column": "schemas.tables",
    "EncodedRows": "schemas.row_encoding",
    "RowGroups": "schemas.tables",
    "columns_of": "schemas.tables",
    "compatibility_problems": "schemas.compatibility",
    "encode_fields": "schemas.row_encoding",
    "encode_long": "schemas.row_encoding",
    "encode_rows": "schemas.row_encoding",
    "frame": "schemas.row_encoding",
    "records_to_rows": "schemas.tables",
    "rows_to_records": "schemas.tables",
    "table_dtype": "schemas.tables",
}


def __getattr__(name: str) -> Any:
    """Import on first use what needs numpy (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
