"""Publish records and consumed positions in one Kafka transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from schemas.errors import DataError, FencedError, SkydeltaError, UnreachableError
from stream.bus import Outgoing
from stream.bus.kafka_cluster import LARGEST_VALUE, Cluster, error_of, wait

__all__ = ["Transactions"]

_STALE = frozenset(  # the group is rebalancing and this member is still in it: its next generation will do
    {KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH, KafkaError.REBALANCE_IN_PROGRESS}
)
_TRANSACTION_SECONDS = 5.0, 60.0  # least and most that the broker waits before it aborts a dead member's


class Transactions:
    """One transactional producer, started at its first use and after a fatal error anew.

    `identity` is its transactional.id and must be unique: a second producer of the same fences the first. The
    successor of a failed one keeps it, so that a transaction left in doubt is ended before the next begins.
    """

    def __init__(self, cluster: Cluster, identity: str) -> None:
        self._cluster = cluster
        self._identity = identity
        least, most = _TRANSACTION_SECONDS
        self._seconds = max(least, min(most, 2 * cluster.patience))
        self._producer: Producer | None = None
        self._known: set[str] = set()
        self._undelivered: KafkaError | None = None
        self._lock = threading.Lock()

    def run(
        self,
        outgoing: Sequence[Outgoing],
        positions: Mapping[tuple[str, int], int] | None = None,
        membership: Callable[[], object] | None = None,
    ) -> None:
        """Publish `outgoing` and store `positions` (topic, partition → next offset), all or nothing.

        `membership` gives the consumer group metadata by which the broker tells a member from a zombie.
        Raises DataError for a record too large, ConfigurationError, FencedError, and UnreachableError, after which
        the outcome may be unknown.
        """
        _require_size(outgoing)
        with self._lock:
            self._require({record.topic for record in outgoing})
            deadline = time.monotonic() + self._seconds
            while True:
                try:
                    self._attempt(outgoing, positions or {}, membership, deadline)
                    return
                except KafkaException as exception:
                    again = self._give_up(exception, deadline)
                    if not again:
                        raise self._explained(exception, fencible=bool(positions)) from exception

    def close(self) -> None:
        """Let the producer go; a second call does nothing."""
        with self._lock:
            self._drop()

    def _require(self, topics: set[str]) -> None:
        # An unknown topic would cost librdkafka half a minute of asking before it says so.
        if not topics <= self._known:
            self._known |= set(self._cluster.require(sorted(topics)))

    def _attempt(
        self,
        outgoing: Sequence[Outgoing],
        positions: Mapping[tuple[str, int], int],
        membership: Callable[[], object] | None,
        deadline: float,
    ) -> None:
        producer = self._started(deadline)
        metadata = membership() if membership is not None else None
        producer.begin_transaction()
        for record in outgoing:
            self._produce(producer, record, deadline)
        self._flush(producer, deadline)
        if positions:  # after the records: their coordinator refuses two changes at once, and its "later" costs 0.1 s
            offsets = [TopicPartition(topic, partition, at) for (topic, partition), at in positions.items()]
            _again(lambda left: producer.send_offsets_to_transaction(offsets, metadata, left), deadline)
        _again(producer.commit_transaction, deadline)

    def _started(self, deadline: float) -> Producer:
        if self._producer is None:
            producer = self._cluster.producer(self._identity, self._seconds)
            _again(producer.init_transactions, deadline)
            self._producer = producer
        return self._producer

    def _produce(self, producer: Producer, record: Outgoing, deadline: float) -> None:
        arguments: dict[str, Any] = {
            "value": record.value,
            "key": record.key,
            "timestamp": record.timestamp,
            "headers": list(record.headers.items()),
            "on_delivery": self._delivered,
        }
        while True:
            try:
                producer.produce(record.topic, **arguments)
                return
            except BufferError:  # the send queue is full: let it drain
                producer.poll(0.1)
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "send queue full")) from None

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None and self._undelivered is None:
            self._undelivered = error

    def _flush(self, producer: Producer, deadline: float) -> None:
        left = producer.flush(max(0.1, deadline - time.monotonic()))
        error, self._undelivered = self._undelivered, None
        if error is not None:
            raise KafkaException(error)
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} records not acknowledged"))

    def _give_up(self, exception: KafkaException, deadline: float) -> bool:
        """End the failed transaction; tell whether the whole of it is worth another try."""
        error, producer = error_of(exception), self._producer
        self._known.clear()
        if producer is not None and not error.fatal():
            try:
                _again(producer.abort_transaction, time.monotonic() + self._cluster.patience)
            except KafkaException:  # not begun, in doubt, or out of reach: its successor ends it
                self._drop()
        else:
            self._drop()
        self._undelivered = None
        return error.code() in _STALE and wait(deadline)

    def _explained(self, exception: KafkaException, *, fencible: bool) -> SkydeltaError:
        failure = self._cluster.failure("a transaction", exception)
        if isinstance(failure, FencedError) and not fencible:  # no position to lose: the broker timed it out
            return UnreachableError(f"a transaction at Kafka {self._cluster.bootstrap} took too long; try again")
        return failure

    def _drop(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer = None


def _require_size(outgoing: Sequence[Outgoing]) -> None:
    for record in outgoing:
        if len(record.value) > LARGEST_VALUE:
            raise DataError(
                f"a message of {len(record.value)} bytes for {record.topic}, key {record.key!r}, is larger than the "
                f"{LARGEST_VALUE} that a bus takes; put its pixels into the blob store (blobs.inline_max_bytes)"
            )


def _again(call: Callable[[float], object], deadline: float) -> None:
    """Make the same call again, with the seconds left, while its error is retriable."""
    while True:
        try:
            call(max(0.1, deadline - time.monotonic()))
            return
        except KafkaException as exception:
            if not (error_of(exception).retriable() and wait(deadline)):
                raise
