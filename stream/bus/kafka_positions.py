"""Where consumer groups stand on Kafka, for whoever is no member of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.bus.kafka_cluster import Cluster, error_of
from stream.bus.kafka_log import SETTLING, Place, positions_of

__all__ = ["Positions"]

_EVENTS = 1000  # of a watcher, taken at once
_REFUSED = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})


class Positions:
    """The positions of groups, told by consumers ("watchers") that carry a group's name and never join it.

    Never by the AdminClient: its list_consumer_group_offsets ends the whole process (librdkafka 2.16: SIGSEGV in
    rd_kafka_cgrp_op, or a failed assertion) where the group's coordinator has just died or is not back yet.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._watchers: dict[tuple[str, bool], Consumer] = {}  # by group, and whether transactions are awaited
        self._lock = threading.Lock()

    def of(self, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
        """Return where `group` stands at each of `places`, None where nowhere.

        Waits a second at most for transactions in flight; then their positions don't count yet. Raises
        ConfigurationError where this user may not see the group, UnreachableError.
        """
        asked = [TopicPartition(*place) for place in places]
        try:
            try:
                return self._ask(group, asked, SETTLING, stable=True)
            except KafkaException as exception:
                if error_of(exception).code() in _REFUSED:
                    raise
            return self._ask(group, asked, self._cluster.patience, stable=False)
        except KafkaException as exception:
            self._forget(group)  # a refusal is told once; and another one may do better
            raise self._cluster.failure(f"asking for the positions of group {group!r}", exception) from exception

    def close(self) -> None:
        """Let the watchers go; a later question starts new ones."""
        with self._lock:
            while self._watchers:
                self._watchers.popitem()[1].close()

    def _ask(
        self, group: str, asked: Sequence[TopicPartition], seconds: float, *, stable: bool
    ) -> dict[Place, int | None]:
        watcher = self._watcher(group, stable=stable)
        try:
            return positions_of(watcher.committed(list(asked), timeout=seconds)) if asked else {}
        except KafkaException as exception:
            if refusal := _refusal(watcher):
                raise KafkaException(refusal) from exception
            raise
        finally:
            watcher.consume(_EVENTS, 0.0)  # or what it heard of its connections would pile up

    def _watcher(self, group: str, *, stable: bool) -> Consumer:
        """Return the watcher of `group`, kept: to find the coordinator takes a new one longer than the question."""
        with self._lock:
            if (group, stable) not in self._watchers:
                self._watchers[group, stable] = self._cluster.watcher(group, stable=stable)
            return self._watchers[group, stable]

    def _forget(self, group: str) -> None:
        with self._lock:  # not closed: another thread may be asking it
            for stable in (True, False):
                self._watchers.pop((group, stable), None)


def _refusal(watcher: Consumer) -> KafkaError | None:
    """Return why the watcher may not ask: it hears of that as of an event, and its question just times out."""
    errors = [event.error() for event in watcher.consume(_EVENTS, 0.0)]
    return next((error for error in errors if error is not None and error.code() in _REFUSED), None)
