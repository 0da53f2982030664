"""Where a night runs: which bus and which database, and what survey.toml says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from workers.drill.settings import DrillSettings
from workers.simulate.camera import to_toml

__all__ = ["NO_TABLES", "Place", "Tables", "places"]

Tables = Mapping[str, Mapping[str, object]]
NO_TABLES: Tables = MappingProxyType({})

_INLINE_BYTES = 4096
"""Larger pixels go to the blob store: low, so that raw frames and stamps do."""


@dataclass(frozen=True)
class Place:
    """One combination of bus and database."""

    bus: str = "embedded"
    """``embedded`` or ``kafka``."""
    database: str = "sqlite"
    """``sqlite`` or ``postgresql``."""

    def tables(self, settings: DrillSettings, name: str, more: Tables = NO_TABLES) -> str:
        """Return the tables of survey.toml for the night `name`, with `more` keys in them."""
        bus: dict[str, Any] = {"batch": 2, "session_timeout_s": settings.session_timeout, "kind": self.bus}
        if self.bus == "kafka":
            bus |= {"bootstrap": settings.kafka, "prefix": f"drill-{name}."}
        database: dict[str, Any] = {"kind": self.database}
        if self.database == "postgresql":
            database |= {"url": settings.postgres, "namespace": "drill_" + name.replace("-", "_")}
        tree = {"bus": bus, "database": database, "blobs": {"inline_max_bytes": _INLINE_BYTES}}
        for table, keys in more.items():
            tree[table] = {**tree.get(table, {}), **keys}
        return to_toml(tree)


def places(settings: DrillSettings) -> list[Place]:
    """Return the combinations to try: embedded and SQLite always, the others where an address is given."""
    buses = ["embedded", *(["kafka"] if settings.kafka else [])]
    databases = ["sqlite", *(["postgresql"] if settings.postgres else [])]
    return [Place(bus, database) for bus in buses for database in databases]
