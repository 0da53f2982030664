"""kill -9 of the PostgreSQL server in the middle of the night."""

from __future__ import annotations

from workers.drill.night import Stage
from workers.drill.outage import killed_in_the_night
from workers.drill.place import Place
from workers.drill.report import Finding, skipped

__all__ = ["inject"]


def inject(stage: Stage, place: Place) -> Finding:
    """Kill and start the server with the operator's commands."""
    if place.database != "postgresql":
        return skipped("database", place, "SQLite has no server")
    if not stage.settings.server:
        return skipped("database", place, "give --postgres-kill and --postgres-start")
    return killed_in_the_night("database", stage, place, stage.settings.server)
