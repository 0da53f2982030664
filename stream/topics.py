"""The topics of the night: their names under a prefix, and their partitions."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigurationError

__all__ = ["TOPICS", "Topics"]

TOPICS = ("visits", "exposures", "calexps", "diasources", "scored", "alerts", "dead", "quality")
"""The announcements; from the raw frame to the alert; then what failed, and the numbers about each stage."""

_SINGLE = ("visits", "dead", "quality")
"""In one order: one partition each, whatever the survey's count. The order of `visits` is that of the night."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names of one survey or replay; `prefix` keeps several apart on one bus."""

    prefix: str = ""
    partitions: int = 4

    def name(self, topic: str) -> str:
        """Return the full name of one of `TOPICS`; raises ConfigurationError for another."""
        if topic not in TOPICS:
            raise ConfigurationError(f"there is no topic {topic!r}; choose one of {', '.join(TOPICS)}")
        return self.prefix + topic

    def all(self) -> dict[str, int]:
        """Return the partition count of every topic by its full name, as `Bus.ensure` takes it."""
        return {self.name(topic): 1 if topic in _SINGLE else self.partitions for topic in TOPICS}
