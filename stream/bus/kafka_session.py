"""One member of a Kafka consumer group, with its transactional producer."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from schemas.errors import DataError, ExpiredError, FencedError, SkydeltaError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.kafka_cluster import Cluster
from stream.bus.kafka_log import Place, lost, message_of, spans
from stream.bus.kafka_membership import Membership
from stream.bus.kafka_transaction import Transactions

__all__ = ["KafkaSession"]

_LOG = logging.getLogger(__name__)

_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class KafkaSession:
    """A member of `group` that reads `topics`; see the port's Session for the promise.

    The heartbeat runs in librdkafka's own thread; a member that calls nothing for max.poll.interval is dead all
    the same. A partition moves to another member only after this one served the revocation, which happens in `poll`
    and, where nothing polled awaits its commit, in `keep_alive`; or after it was declared dead, and then
    its commit is refused.
    """

    def __init__(self, cluster: Cluster, group: str, topics: Sequence[str], settings: Mapping[str, object]) -> None:
        cluster.require(topics)
        self._cluster, self._group = cluster, group
        self._max_poll = float(str(settings["max.poll.interval.ms"])) / 1000
        self._lease = min(self._max_poll, float(str(settings.get("session.timeout.ms", "45000"))) / 1000)
        self._membership = Membership(cluster, group)
        self._ahead: deque[KafkaMessage] = deque()  # fetched while only the callbacks were wanted
        self._rewind_due = self._paused = self._closed = False
        self._served = self._awake = time.monotonic()
        self._transactions = Transactions(cluster, f"skydelta.{group}.{uuid.uuid4().hex}")
        self._consumer: Consumer = cluster.member(group, settings)
        self._consumer.subscribe(
            list(topics),
            on_assign=self._membership.assigned,
            on_revoke=self._revoked,
            on_lost=partial(self._revoked, lost=True),
        )

    def poll(self, limit: int, timeout: float) -> list[Message]:
        """Return up to `limit` further messages; waits at most `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        idle = not self._membership.unfinished()
        self._rewind_due |= self._slept() and idle
        try:
            while True:
                self._recover()
                left = max(0.0, deadline - time.monotonic())
                got = self._accepted(self._fetch(limit, left))
                self._raise_failure()
                if idle and (self._slept() or (got and not self._consumer.memberid())):
                    self._rewind_due, got = True, []  # others may have it: this member is out, and joins again first
                if got or not left:
                    break
        except ExpiredError as error:  # declared dead without work: it hears of that, and joins again
            self._fetch_new(1, 0.1)
            raise FencedError(str(error)) from error
        if not got and self._cluster.in_trouble():
            self._cluster.topics(seconds=5.0)  # raises where the brokers are still away
        return got

    def commit(self, outgoing: Sequence[Outgoing], consumed: Sequence[Message]) -> None:
        """Publish `outgoing` and advance the group past `consumed`, in one Kafka transaction."""
        if not outgoing and not consumed:
            return
        try:
            positions = self._membership.positions_after(consumed)
            self._transactions.run(outgoing, positions, lambda: self._membership.proof(self._consumer, positions))
        except DataError:  # nothing was sent: `consumed` may be committed with other outputs
            raise
        except SkydeltaError as error:
            self._rewind_due = True
            if isinstance(error, ExpiredError) and self._cluster.in_trouble():
                self._cluster.topics(seconds=5.0)  # raises where it is the brokers that are silent, not this member
            raise
        self._membership.committed(positions)
        self._awake = time.monotonic()

    def rewind(self) -> None:
        """Forget what was polled but not committed; the next poll goes back."""
        self._rewind_due = True

    def keep_alive(self) -> None:
        """Reset the clock of max.poll.interval, without taking messages.

        While polled messages await their commit, rebalances wait too, as long as that clock allows.
        """
        working = self._membership.unfinished() and not self._rewind_due
        if working and time.monotonic() - self._served < self._max_poll / 2:
            return
        self._consumer.pause(self._consumer.assignment())
        self._paused = True
        self._ahead.extend(self._fetch_new(1, 0.0))

    def assigned(self) -> set[tuple[str, int]]:
        """Return the (topic, partition) pairs that this member owns now."""
        return self._membership.places()

    def close(self) -> None:
        """Leave the group at once."""
        if not self._closed:
            self._closed = True
            self._transactions.close()
            self._consumer.close()

    def _revoked(self, _: Consumer, partitions: Sequence[TopicPartition], *, lost: bool = False) -> None:
        gone = {(each.topic, each.partition) for each in partitions}
        self._membership.revoked(gone, lost=lost and not self._rewind_due)
        self._ahead = deque(raw for raw in self._ahead if _place(raw) not in gone)

    def _recover(self) -> None:
        """Bring the consumer back to the committed positions, and to reading, where that is due."""
        self._raise_failure()
        if self._rewind_due:
            self._ahead.clear()
            self._membership.go_back(self._consumer)
            self._rewind_due, self._paused = False, True
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    def _slept(self) -> bool:
        """Tell whether the last call is so long ago that others may have done since what was fetched before."""
        before, self._awake = self._awake, time.monotonic()
        return self._awake - before > self._lease

    def _raise_failure(self) -> None:
        failure, self._membership.failure = self._membership.failure, None
        if failure is not None:
            self._rewind_due = True
            raise failure

    def _fetch(self, limit: int, timeout: float) -> list[KafkaMessage]:
        """Return up to `limit` raw messages and events: those set aside first, then those that are there."""
        raw = [self._ahead.popleft() for _ in range(min(limit, len(self._ahead)))]
        if not raw:
            raw = self._fetch_new(1, timeout)
        if raw and len(raw) < limit:
            raw += self._fetch_new(limit - len(raw), 0.0)
        return raw

    def _fetch_new(self, limit: int, timeout: float) -> list[KafkaMessage]:
        self._served = time.monotonic()
        try:
            return self._consumer.consume(limit, timeout)
        except KafkaException as exception:
            raise self._cluster.failure(f"polling as a member of {self._group!r}", exception) from exception

    def _accepted(self, fetched: Sequence[KafkaMessage]) -> list[Message]:
        """Return the messages among `fetched` that are ours; events of the consumer go into failures or the log."""
        got = []
        for raw in fetched:
            error = raw.error()
            if error is not None:
                self._membership.failure = self._membership.failure or self._told(error, _place(raw))
            elif self._membership.accept(message := message_of(raw)):
                got.append(message)
        return got

    def _told(self, error: KafkaError, place: Place) -> SkydeltaError | None:
        """Return what the caller must hear of an event; None where librdkafka goes on by itself."""
        if error.code() in _GONE:
            position = self._membership.position(place)
            if position is None:
                return None
            try:
                kept = spans(self._cluster, [place])[place]
            except UnreachableError as unreachable:
                return unreachable
            if kept[0] <= position <= kept[1]:  # told of a start before the position was known: go there again
                self._rewind_due = True
                return None
            return lost(self._cluster, self._group, place, position, kept)
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            _LOG.warning("silent for %.0f s: group %r took the partitions away", self._max_poll, self._group)
            return None
        failure = self._cluster.failure(f"polling as a member of {self._group!r}", error)
        if isinstance(failure, UnreachableError) and not error.fatal():
            _LOG.info("%s", failure)
            return None
        return failure


def _place(raw: KafkaMessage) -> Place:
    return raw.topic() or "", raw.partition() or 0
