"""The bus on Apache Kafka 4: transactions end to end, and a loud error instead of a silent offset reset."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from confluent_kafka import Consumer

from stream.bus import Message, Outgoing
from stream.bus.kafka_cluster import Cluster, GroupProtocol
from stream.bus.kafka_log import read_span, settled_spans
from stream.bus.kafka_membership import group_settings
from stream.bus.kafka_positions import Positions
from stream.bus.kafka_session import KafkaSession
from stream.bus.kafka_topics import ensure_topics
from stream.bus.kafka_transaction import Transactions

__all__ = ["KafkaBus"]

_COUNTED = 200  # offsets; a lag up to this is counted message by message, beyond it markers count too


class KafkaBus:
    """Topics of one Kafka cluster.

    Parameters
    ----------
    bootstrap
        host:port[,host:port]
    properties
        For librdkafka as they are: security, tuning. Those the promise of delivery stands on are refused.
    replication
        Of topics created here.
    session_timeout
        Seconds without a heartbeat after which the group gives a member's partitions away; with
        `group_protocol` 'consumer' the broker's group.consumer.session.timeout.ms counts instead. No call waits
        longer for the cluster's answer, a commit twice as long.
    group_protocol
        'classic' (cooperative-sticky) or 'consumer' (KIP-848). All members of a group use the same.

    Raises ConfigurationError where `bootstrap` is empty or `properties` are refused. Connects at the first call.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        properties: Mapping[str, str] = MappingProxyType({}),
        replication: int = 1,
        session_timeout: float = 30.0,
        group_protocol: GroupProtocol = "classic",
    ) -> None:
        self._cluster = Cluster(bootstrap, properties, session_timeout)
        self._replication = replication
        self._group_settings = group_settings(session_timeout, group_protocol, properties)
        self._transactions = Transactions(self._cluster, f"skydelta.publish.{uuid.uuid4().hex}")
        self._positions = Positions(self._cluster)
        self._sessions: list[KafkaSession] = []

    def ensure(self, topics: Mapping[str, int]) -> None:
        """Create the topics that don't exist; raises ConfigurationError where one has another partition count."""
        ensure_topics(self._cluster, topics, self._replication)

    def topics(self) -> dict[str, int]:
        """Return the partition count of every topic, Kafka's own left out."""
        return self._cluster.topics()

    def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish all of `outgoing` in one transaction, or nothing.

        After UnreachableError the outcome may be unknown: publishing again may then publish twice.
        """
        if outgoing:
            self._transactions.run(outgoing)

    def session(self, group: str, topics: Sequence[str]) -> KafkaSession:
        """Join `group` as a new member that reads `topics`."""
        session = KafkaSession(self._cluster, group, topics, self._group_settings)
        self._sessions.append(session)
        return session

    def read(self, topic: str) -> Iterator[Message]:
        """Yield every committed message of `topic` that is there at the first call, partition by partition."""
        partitions = self._cluster.require([topic])[topic]
        spans = settled_spans(self._cluster, [(topic, each) for each in range(partitions)])
        with self._reader() as reader:
            for place, (low, end) in spans.items():
                yield from read_span(self._cluster, reader, place, low, end)

    def lag(self, group: str, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return how many messages each (topic, partition) holds beyond the group's position.

        Exact up to 200 offsets; beyond, the offsets between, which count a transaction's marker as a message.
        """
        counts = self._cluster.require(topics)
        places = [(topic, each) for topic, partitions in counts.items() for each in range(partitions)]
        positions = self._positions.of(group, places)
        left = {
            place: (max(low, positions[place] or 0), end)
            for place, (low, end) in settled_spans(self._cluster, places).items()
        }
        lags = {place: max(0, end - start) for place, (start, end) in left.items()}
        if few := [place for place, lag in lags.items() if 0 < lag <= _COUNTED]:
            with self._reader() as reader:
                for place in few:
                    lags[place] = sum(1 for _ in read_span(self._cluster, reader, place, *left[place]))
        return lags

    def close(self) -> None:
        """Close every session and client; closing twice is allowed."""
        while self._sessions:
            self._sessions.pop().close()
        self._transactions.close()
        self._positions.close()

    @contextmanager
    def _reader(self) -> Iterator[Consumer]:
        """Lend a consumer of no group."""
        reader = self._cluster.reader()
        try:
            yield reader
        finally:
            reader.close()
