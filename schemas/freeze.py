"""Freeze released schemas: ``python -m schemas.freeze`` adds new versions to frozen.json and changes no old entry."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.compatibility import transitive_problems
from schemas.errors import SchemaError
from schemas.families import families
from schemas.references import ROOT, files_of
from schemas.registry import Schema, all_schemas, get, versions

__all__ = ["FROZEN", "added", "entry", "main", "problems", "read_frozen"]

FROZEN = ROOT / "frozen.json"
"""``{family: {version: {id, fingerprint, files: {name: sha256}}}}``."""

Entries = dict[str, dict[str, dict[str, Any]]]


def entry(schema: Schema) -> dict[str, Any]:
    """Return what is frozen of one schema: id, fingerprint of the canonical form, SHA-256 of each file's bytes."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of(schema.family, schema.version)
    }
    return {"id": schema.id, "fingerprint": schema.fingerprint, "files": files}


def read_frozen(path: Path = FROZEN) -> Entries:
    """Return the frozen entries; none where the file does not exist yet."""
    if not path.exists():
        return {}
    entries: Entries = json.loads(path.read_text(encoding="utf-8"))
    return entries


def problems(frozen: Entries, current: Mapping[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Return how `current`, the entries by (family, version), departs from what is frozen; new versions do not."""
    found = []
    for family, by_version in sorted(frozen.items()):
        for version, old in sorted(by_version.items()):
            new = current.get((family, version))
            if new is None:
                found.append(f"{family} {version} is frozen but its files are gone")
            elif new != old:
                changed = [name for name in old if new[name] != old[name]]
                found.append(f"{family} {version} is frozen but was changed: {', '.join(changed)} differ")
    return found


def added(frozen: Entries, current: Mapping[tuple[str, str], dict[str, Any]]) -> Entries:
    """Return the frozen entries with those of new versions added.

    Raises SchemaError where an old version has changed: released schemas stay as they are.
    """
    found = problems(frozen, current)
    if found:
        raise SchemaError(f"{'; '.join(found)}. Undo the change and make a new version folder instead")
    entries = {family: dict(by_version) for family, by_version in frozen.items()}
    for (family, version), new in sorted(current.items()):
        entries.setdefault(family, {})[version] = new
    return entries


def main() -> int:
    """Add the new versions to frozen.json; exit code 5 where that is refused."""
    incompatible = [
        problem
        for family in families()
        for problem in transitive_problems([get(family, version) for version in versions(family)])
    ]
    try:
        if incompatible:
            raise SchemaError("; ".join(incompatible))
        entries = added(read_frozen(), {(item.family, item.version): entry(item) for item in all_schemas()})
    except SchemaError as error:
        sys.stderr.write(f"nothing was frozen: {error}\n")
        return error.exit_code
    FROZEN.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{FROZEN.name} holds {sum(map(len, entries.values()))} schemas\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
