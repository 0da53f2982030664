"""Find a schema by family and version or by id, parsed once; everything is read from the avsc files beside this one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from schemas.errors import SchemaError
from schemas.families import families, schema_id, split_id
from schemas.references import ROOT, load_resolved

__all__ = ["Schema", "all_schemas", "by_id", "get", "latest", "versions"]

_FOLDER = re.compile(r"^\d+_\d+$")


@dataclass(frozen=True)
class Schema:
    """One version of one family."""

    family: str
    version: str
    """``major.minor``."""
    id: int
    """What the wire framing carries; it follows from family and version."""
    parsed: dict[str, Any] = field(repr=False, compare=False)
    """The self-contained schema as fastavro's `parse_schema` returns it; not to be changed."""
    fingerprint: str = ""
    """SHA-256, hexadecimal, of Avro's parsing canonical form."""

    @property
    def name(self) -> str:
        """Family and version as error texts name them."""
        return f"{self.family} {self.version}"


def versions(family: str) -> list[str]:
    """Return the versions of a family that exist, oldest first."""
    schema_id(family, "0.0")  # an unknown family is an error, not an empty list
    folders = [path.name for path in (ROOT / family).iterdir() if _FOLDER.match(path.name)]
    ordered = sorted(tuple(int(part) for part in name.split("_")) for name in folders)
    return [f"{major}.{minor}" for major, minor in ordered]


@cache
def get(family: str, version: str) -> Schema:
    """Return the schema of a family's version.

    Raises SchemaError naming the versions that exist, where this one does not.
    """
    number = schema_id(family, version)
    if version not in versions(family):
        raise SchemaError(
            f"there is no version {version} of the schema family {family}; known are {', '.join(versions(family))}"
        )
    from fastavro.schema import parse_schema, to_parsing_canonical_form

    major_minor = version.replace(".", "_")
    resolved = load_resolved(f"skydelta.{family}.v{major_minor}.{family}")
    parsed: dict[str, Any] = parse_schema(resolved)  # type: ignore[assignment]
    return Schema(family, version, number, parsed, _sha256(to_parsing_canonical_form(parsed)))


@cache
def latest(family: str) -> Schema:
    """Return the newest version of a family: what is written today."""
    return get(family, versions(family)[-1])


@cache
def by_id(number: int) -> Schema:
    """Return the schema that an id on the wire stands for.

    Raises SchemaError naming the known ids.
    """
    known = {schema_id(family, version): None for family in families() for version in versions(family)}
    if number not in known:
        raise SchemaError(
            f"schema id {number} is unknown; this installation knows {', '.join(map(str, sorted(known)))}. "
            "The message is not ours, or was written by a newer skydelta: upgrade this one"
        )
    return get(*split_id(number))


def all_schemas() -> list[Schema]:
    """Return every version of every family, ordered by id."""
    found = [get(family, version) for family in families() for version in versions(family)]
    return sorted(found, key=lambda schema: schema.id)


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
