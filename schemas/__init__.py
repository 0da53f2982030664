"""The Avro schemas of everything that travels: one folder per family and version, frozen once released.

Importing this package is cheap: Avro and numpy are imported when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.families import families
from schemas.registry import Schema, all_schemas, by_id, get, latest, versions

if TYPE_CHECKING:
    from schemas.compatibility import compatibility_problems
    from schemas.tables import records_to_rows, rows_to_records, table_dtype

__all__ = [
    "Schema",
    "all_schemas",
    "by_id",
    "compatibility_problems",
    "families",
    "get",
    "latest",
    "records_to_rows",
    "rows_to_records",
    "table_dtype",
    "versions",
]

_LAZY = {
    "compatibility_problems": "schemas.compatibility",
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
