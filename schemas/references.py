"""From the avsc files of a version to one self-contained schema: every named type lies in a file of its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from schemas.errors import SchemaError

__all__ = ["ROOT", "file_of", "files_of", "load_resolved", "version_folder"]

ROOT = Path(__file__).parent
"""The folder that holds ``<family>/<version>/<name>.avsc``."""

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_FULL_NAME = re.compile(r"^skydelta\.([a-z_]+)\.v(\d+_\d+)\.(\w+)$")


def version_folder(family: str, version: str, root: Path = ROOT) -> Path:
    """Return the folder of a family's version, whether it exists or not: 1.0 lies in ``1_0``."""
    return root / family / version.replace(".", "_")


def files_of(family: str, version: str, root: Path = ROOT) -> list[Path]:
    """Return the avsc files of a family's version, sorted by name."""
    return sorted(version_folder(family, version, root).glob("*.avsc"))


def file_of(full_name: str, root: Path = ROOT) -> Path:
    """Return the file that a full name such as ``skydelta.alert.v1_0.diaSource`` stands for."""
    match = _FULL_NAME.match(full_name)
    if match is None:
        raise SchemaError(f"{full_name!r} is no name of the form skydelta.<family>.v<major>_<minor>.<record>")
    return root / match[1] / match[2] / f"{match[3]}.avsc"


def load_resolved(full_name: str, root: Path = ROOT) -> dict[str, Any]:
    """Return the schema of a named type with each type that it refers to written out where first used.

    Raises SchemaError where a name has no file, or a file holds a type of another name.
    """
    resolved = _resolve(full_name, set(), root)
    if not isinstance(resolved, dict):
        raise SchemaError(f"{full_name} is not a record")
    return resolved


def _resolve(node: Any, seen: set[str], root: Path) -> Any:
    """Return `node` with names replaced by definitions; names in `seen` are defined already and stay names."""
    if isinstance(node, str):
        if node in PRIMITIVES or node in seen:
            return node
        seen.add(node)
        return _resolve_children(_read(node, root), seen, root)
    if isinstance(node, list):
        return [_resolve(branch, seen, root) for branch in node]
    return _resolve_children(node, seen, root)


def _resolve_children(node: dict[str, Any], seen: set[str], root: Path) -> dict[str, Any]:
    """Return a copy of a complex type whose inner types are resolved."""
    result = dict(node)
    for key in ("items", "values"):
        if key in node:
            result[key] = _resolve(node[key], seen, root)
    if "fields" in node:
        result["fields"] = [{**item, "type": _resolve(item["type"], seen, root)} for item in node["fields"]]
    return result


def _read(full_name: str, root: Path) -> dict[str, Any]:
    """Read the file of a full name and check that it defines that name."""
    path = file_of(full_name, root)
    try:
        definition: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SchemaError(f"the schema {full_name} is referred to, but {path} does not exist") from error
    except ValueError as error:
        raise SchemaError(f"{path} is not JSON: {error}") from error
    found = f"{definition.get('namespace')}.{definition.get('name')}"
    if found != full_name:
        raise SchemaError(f"{path} defines {found}, not {full_name}: name, namespace and path must agree")
    return definition
