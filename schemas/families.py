"""The families of messages, and the schema ids that follow from family and version without asking anyone."""

from __future__ import annotations

import re

from schemas.errors import SchemaError

__all__ = ["FAMILY_CODES", "families", "schema_id", "split_id"]

FAMILY_CODES = {
    "alert": 0,
    "visit": 1,
    "exposure": 2,
    "calexp": 3,
    "diasources": 4,
    "scored": 5,
    "dead_letter": 6,
    "quality": 7,
    "template": 8,
    "tick": 9,
}
"""A code is given once and never reused; alerts have 0, so that version 1.0 of the alert has id 100."""

_PER_FAMILY = 10_000
_PER_MAJOR = 100
_VERSION = re.compile(r"^(\d+)\.(\d+)$")


def families() -> list[str]:
    """Return the names of all families, sorted."""
    return sorted(FAMILY_CODES)


def schema_id(family: str, version: str) -> int:
    """Return the id of one schema: family code * 10000 + major * 100 + minor.

    Raises SchemaError for an unknown family or a version that is not ``major.minor`` with both below 100.
    """
    if family not in FAMILY_CODES:
        raise SchemaError(f"there is no schema family {family!r}; known are {', '.join(families())}")
    match = _VERSION.match(version)
    if match is None or int(match[1]) >= _PER_MAJOR or int(match[2]) >= _PER_MAJOR:
        raise SchemaError(f"{version!r} is not a schema version: need major.minor, both below {_PER_MAJOR}, like 1.0")
    return FAMILY_CODES[family] * _PER_FAMILY + int(match[1]) * _PER_MAJOR + int(match[2])


def split_id(number: int) -> tuple[str, str]:
    """Return (family, version) of a schema id: the inverse of `schema_id`.

    Raises SchemaError where no family has the id's code.
    """
    code, rest = divmod(number, _PER_FAMILY)
    for family, known in FAMILY_CODES.items():
        if known == code:
            return family, f"{rest // _PER_MAJOR}.{rest % _PER_MAJOR}"
    raise SchemaError(f"schema id {number} belongs to no family")
