"""The bus port: publish, and consume-publish-commit in one transaction. Implemented by embedded and kafka."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Bus", "Message", "Outgoing", "Session"]


@dataclass(frozen=True, slots=True)
class Message:
    """One record read from a topic; (topic, partition, offset) is its position."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    timestamp: int
    """Milliseconds since 1970 UTC, as given by whoever published it."""
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to publish; its partition is murmur2(key) modulo the topic's partitions, on every bus."""

    topic: str
    key: bytes
    value: bytes
    timestamp: int
    headers: Mapping[str, bytes] = field(default_factory=dict)


class Session(Protocol):
    """One member of a consumer group, with its transactional producer. Not shared between threads."""

    def poll(self, limit: int, timeout: float) -> list[Message]:
        """Return up to `limit` committed messages after those polled before, in order within each partition.

        Waits at most `timeout` s for the first. Raises PositionLostError, FencedError, UnreachableError.
        """

    def commit(self, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
        """Publish `outgoing` and advance the group past `consumed`, all or nothing.

        Raises FencedError where a partition of `consumed` was taken from this member meanwhile: nothing is
        published, and the next poll (rejoining where needed) starts from the committed positions. Raises
        UnreachableError, after which `rewind` is due; DataError for a record too large for the bus, after which
        `consumed` may be committed with other outputs.
        """

    def rewind(self) -> None:
        """Forget what was polled but not committed: the next poll starts from the committed positions."""

    def keep_alive(self) -> None:
        """Tell the group that this member lives, without taking messages (long work, a pause)."""

    def assigned(self) -> set[tuple[str, int]]:
        """Return the (topic, partition) pairs that this member owns now."""

    def close(self) -> None:
        """Leave the group at once, so that the partitions move; closing twice is allowed."""


class Bus(Protocol):
    """A durable, partitioned log with consumer groups and transactions."""

    def ensure(self, topics: Mapping[str, int]) -> None:
        """Create missing topics with this many partitions; raises ConfigurationError if one differs."""

    def topics(self) -> dict[str, int]:
        """Return the partition count of every topic."""

    def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish all of `outgoing` durably, or nothing; raises DataError for a record too large (over 10 MiB)."""

    def session(self, group: str, topics: Sequence[str]) -> Session:
        """Join `group` as a new member, reading `topics` from its positions (first ever: the beginning)."""

    def read(self, topic: str) -> Iterator[Message]:
        """Return every committed message of `topic` kept now, partition by partition, without a group."""

    def lag(self, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return how many messages each (topic, partition) holds beyond the group's position."""

    def close(self) -> None:
        """Release connections; closing twice is allowed."""
