"""Random records of any schema: every field filled, or with nulls where they are allowed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

Make = Callable[..., Any]


def _definitions(node: Any, found: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node, list):
        for branch in node:
            _definitions(branch, found)
    elif isinstance(node, dict):
        if "name" in node:
            found[node["name"]] = node
        for item in node.get("fields", ()):
            _definitions(item["type"], found)
        for key in ("items", "values"):
            if key in node:
                _definitions(node[key], found)
    return found


class _Maker:
    def __init__(self, schema: Any, rng: np.random.Generator, nulls: float) -> None:
        self.names, self.rng, self.nulls = _definitions(schema, {}), rng, nulls

    def make(self, node: Any) -> Any:
        rng = self.rng
        if isinstance(node, list):
            branches = [branch for branch in node if branch != "null"]
            if "null" in node and rng.random() < self.nulls:
                return None
            return self.make(branches[rng.integers(len(branches))])
        if isinstance(node, dict) and node.get("logicalType") == "timestamp-micros":
            micros = int(rng.integers(0, 2**52))
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        kind = node["type"] if isinstance(node, dict) else node
        if kind == "record":
            return {item["name"]: self.make(item["type"]) for item in node["fields"]}
        if kind == "array":
            return [self.make(node["items"]) for _ in range(rng.integers(1, 4))]
        if kind == "map":
            return {f"key{k}": self.make(node["values"]) for k in range(rng.integers(1, 4))}
        return self.primitive(kind)

    def primitive(self, kind: str) -> Any:
        rng = self.rng
        values: dict[str, Callable[[], Any]] = {
            "boolean": lambda: bool(rng.integers(2)),
            "int": lambda: int(rng.integers(-(2**31), 2**31)),
            "long": lambda: int(rng.integers(-(2**62), 2**62)),
            "float": lambda: float(np.float32(rng.normal(0, 1e6))),
            "double": lambda: float(rng.normal(0, 1e6)),
            "string": lambda: "".join(chr(c) for c in rng.integers(0x61, 0x3C0, rng.integers(1, 20))),
            "bytes": lambda: rng.bytes(int(rng.integers(1, 50))),
        }
        return values[kind]() if kind in values else self.make(self.names[kind])


@pytest.fixture(scope="session")
def random_record() -> Make:
    """``random_record(schema, seed, nulls=0.0)`` returns a record of a parsed schema."""

    def make(schema: Any, seed: int, nulls: float = 0.0) -> Any:
        return _Maker(schema, np.random.default_rng(seed), nulls).make(schema)

    return make
