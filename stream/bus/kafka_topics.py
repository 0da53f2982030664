"""Create Kafka topics that keep what they are given, and give existing ones room for our messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from schemas.errors import ConfigurationError, UnreachableError
from stream.bus.kafka_cluster import LARGEST_MESSAGE, Cluster, error_of, wait

__all__ = ["ensure_topics"]

_SETTINGS = {
    "max.message.bytes": str(LARGEST_MESSAGE),
    # Time retention counts from the records' timestamps, which are those of the night: a replayed night would be
    # deleted as soon as it is written. Whoever wants retention sets it on the topic (docs/kafka.md).
    "retention.ms": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(2**63 - 1),
}


def ensure_topics(cluster: Cluster, topics: Mapping[str, int], replication: int) -> None:
    """Create those of `topics` (name → partitions) that don't exist, and raise too low message limits of the others.

    Raises ConfigurationError where one has another partition count, UnreachableError.
    """
    existing = cluster.topics()
    missing = {name: count for name, count in topics.items() if name not in existing}
    if missing:
        _create(cluster, missing, replication)
        existing = _seen(cluster, missing)
    for name, count in topics.items():
        if existing[name] != count:
            raise ConfigurationError(
                f"topic {name} at Kafka {cluster.bootstrap} has {existing[name]} partitions, wanted {count}: keys "
                "would move, so it is never changed; set bus.partitions back, or use another bus.prefix"
            )
    _make_room(cluster, [name for name in topics if name not in missing])


def _create(cluster: Cluster, topics: Mapping[str, int], replication: int) -> None:
    new = [
        NewTopic(name, num_partitions=count, replication_factor=replication, config=dict(_SETTINGS))
        for name, count in topics.items()
    ]
    answers = cluster.admin().create_topics(new, request_timeout=cluster.patience)
    for name, answer in answers.items():
        try:
            answer.result()
        except KafkaException as exception:
            if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was quicker: fine
                raise cluster.failure(f"creating topic {name}", exception) from exception


def _seen(cluster: Cluster, names: Iterable[str]) -> dict[str, int]:
    """Wait until the brokers show the new topics; return the partition counts of all."""
    deadline = time.monotonic() + cluster.patience
    while not set(names) <= set(existing := cluster.topics()):
        if not wait(deadline):
            raise UnreachableError(
                f"topics {', '.join(sorted(names))} were created, but Kafka {cluster.bootstrap} does not show them: "
                "try again"
            )
    return existing


def _make_room(cluster: Cluster, names: Sequence[str]) -> None:
    """Raise max.message.bytes of topics that somebody else created with less."""
    small = _too_small(cluster, names)
    if not small:
        return
    entry = ConfigEntry("max.message.bytes", str(LARGEST_MESSAGE), incremental_operation=AlterConfigOpType.SET)
    changes = [ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]) for name in small]
    answers = cluster.admin().incremental_alter_configs(changes, request_timeout=cluster.patience)
    _settled(cluster, "raising max.message.bytes", answers)
    deadline = time.monotonic() + cluster.patience
    while _too_small(cluster, small) and wait(deadline):  # until the brokers know
        pass


def _too_small(cluster: Cluster, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers = cluster.admin().describe_configs(asked, request_timeout=cluster.patience)
    settings = _settled(cluster, "reading the settings", answers)
    return [name for name, each in settings.items() if int(each["max.message.bytes"].value or 0) < LARGEST_MESSAGE]


def _settled(
    cluster: Cluster, doing: str, answers: Mapping[ConfigResource, Future[Any]]
) -> dict[str, dict[str, ConfigEntry]]:
    settled = {}
    for resource, answer in answers.items():
        try:
            settled[resource.name] = answer.result()
        except KafkaException as exception:
            raise cluster.failure(f"{doing} of topic {resource.name}", exception) from exception
    return settled
