"""kill -9 of the Kafka broker in the middle of the night."""

from __future__ import annotations

from workers.drill.night import Stage
from workers.drill.outage import killed_in_the_night
from workers.drill.place import Place
from workers.drill.report import Finding, skipped

__all__ = ["inject"]


def inject(stage: Stage, place: Place) -> Finding:
    """Kill and start the broker with the operator's commands."""
    if place.bus != "kafka":
        return skipped("broker", place, "the embedded bus has no broker")
    if not stage.settings.broker:
        return skipped("broker", place, "give --kafka-kill and --kafka-start")
    return killed_in_the_night("broker", stage, place, stage.settings.broker)
