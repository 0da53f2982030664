"""Can a reader with one schema decode what another wrote? Avro 1.12 specification, "Schema Resolution"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from schemas.registry import Schema

__all__ = ["compatibility_problems", "transitive_problems"]

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
"""Reader types that also accept what was written as the key."""


def compatibility_problems(writer: dict[str, Any], reader: dict[str, Any]) -> list[str]:
    """Return why `reader` can't decode every record that `writer` writes; an empty list if it can.

    Both are schemas as JSON (or fastavro) gives them, self-contained. Each problem starts with the field's path.
    """
    return list(_Resolution(_definitions(writer), _definitions(reader)).problems(writer, reader, ""))


def transitive_problems(versions: Sequence[Schema]) -> list[str]:
    """Return the problems of every ordered pair of schemas of one family: full transitive compatibility."""
    return [
        f"{reader.name} can't read {writer.name}: {problem}"
        for writer, reader in permutations(versions, 2)
        for problem in compatibility_problems(writer.parsed, reader.parsed)
    ]


@dataclass
class _Resolution:
    """Compares two schemas node by node; named types are looked up and each pair is compared once."""

    writers: dict[str, dict[str, Any]]
    readers: dict[str, dict[str, Any]]
    compared: set[tuple[str, str]] = field(default_factory=set)

    def problems(self, writer: Any, reader: Any, path: str) -> Iterator[str]:
        """Yield the problems of one pair of nodes at `path`."""
        writer, reader = _node(writer, self.writers), _node(reader, self.readers)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.problems(branch, reader, path)
        elif isinstance(reader, list):
            yield from self._union(writer, reader, path)
        elif _kind(writer) == _kind(reader):
            yield from self._same_kind(writer, reader, path)
        elif _kind(reader) not in _PROMOTIONS.get(_kind(writer), set()):
            yield f"{path or '/'}: {_kind(writer)} can't be read as {_kind(reader)}"

    def _union(self, writer: Any, reader: list[Any], path: str) -> Iterator[str]:
        """Yield nothing if one branch takes it; else what is wrong with the branch of its kind, if there is one."""
        branches = [_node(branch, self.readers) for branch in reader]
        # a branch that fails says nothing about the others, so each trial forgets what it compared
        trials = [
            list(_Resolution(self.writers, self.readers, set(self.compared)).problems(writer, branch, path))
            for branch in branches
        ]
        if all(trials):
            alike = [trial for branch, trial in zip(branches, trials, strict=True) if _kind(branch) == _kind(writer)]
            none = [f"{path or '/'}: no branch of the reader's union takes the written {_kind(writer)}"]
            yield from alike[0] if len(alike) == 1 else none

    def _same_kind(self, writer: Any, reader: Any, path: str) -> Iterator[str]:
        """Yield the problems of two nodes of the same kind."""
        kind = _kind(writer)
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            yield from self.problems(writer[inner], reader[inner], f"{path}/*")
        elif kind in ("record", "enum", "fixed"):
            if _short(writer) != _short(reader):
                yield f"{path or '/'}: the {kind} {_short(writer)} can't be read as {_short(reader)}"
            elif kind == "record":
                yield from self._records(writer, reader, path)
            elif kind == "enum":
                yield from _enums(writer, reader, path)
            elif writer["size"] != reader["size"]:
                yield f"{path or '/'}: fixed of {writer['size']} bytes can't be read as {reader['size']}"

    def _records(self, writer: dict[str, Any], reader: dict[str, Any], path: str) -> Iterator[str]:
        """Yield the problems of two records, field by field."""
        pair = (writer["name"], reader["name"])
        if pair in self.compared:
            return
        self.compared.add(pair)
        written = {item["name"]: item["type"] for item in writer["fields"]}
        for item in reader["fields"]:
            names = [name for name in (item["name"], *item.get("aliases", ())) if name in written]
            if names:
                yield from self.problems(written[names[0]], item["type"], f"{path}/{item['name']}")
            elif "default" not in item:
                yield f"{path}/{item['name']}: not written, and the reader has no default for it"


def _enums(writer: dict[str, Any], reader: dict[str, Any], path: str) -> Iterator[str]:
    missing = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if missing and "default" not in reader:
        yield f"{path or '/'}: the reader's enum lacks {', '.join(missing)} and has no default"


def _definitions(node: Any) -> dict[str, dict[str, Any]]:
    """Return every named type that is defined within a schema, by its name as written there."""
    if isinstance(node, list):
        return {name: found for branch in node for name, found in _definitions(branch).items()}
    if not isinstance(node, dict):
        return {}
    found = {node["name"]: node} if "name" in node else {}
    inner = [item["type"] for item in node.get("fields", ())]
    inner += [node[key] for key in ("items", "values") if key in node]
    return found | _definitions(inner)


def _node(node: Any, definitions: dict[str, dict[str, Any]]) -> Any:
    """Return what a name stands for, or the node itself; {"type": "long", ...} is a plain long."""
    if isinstance(node, dict) and "fields" not in node and isinstance(node["type"], dict | list):
        return _node(node["type"], definitions)
    return definitions.get(node, node) if isinstance(node, str) else node


def _kind(node: Any) -> str:
    return str(node["type"]) if isinstance(node, dict) else str(node)


def _short(node: dict[str, Any]) -> str:
    """Return the unqualified name, the one by which Avro matches named types."""
    return str(node["name"]).rpartition(".")[2]
