"""How to reach a Kafka cluster: the settings of every client, its topics, and its errors in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from schemas.errors import ConfigurationError, DataError, ExpiredError, FencedError, SkydeltaError, UnreachableError

__all__ = ["LARGEST_MESSAGE", "LARGEST_VALUE", "MAX_POLL_SECONDS", "Cluster", "GroupProtocol", "error_of", "wait"]

GroupProtocol = Literal["classic", "consumer"]

LARGEST_VALUE = 10 * 2**20  # bytes; what any bus takes
LARGEST_MESSAGE = LARGEST_VALUE + 2**18  # bytes; with key, headers and framing
MAX_POLL_SECONDS = 900.0  # a member that calls nothing for so long has hung: its partitions move

_LOG = logging.getLogger(__name__)

_OURS = frozenset(  # the promise of delivery stands on these
    "bootstrap.servers group.id group.protocol isolation.level enable.auto.commit enable.auto.offset.store"
    " auto.offset.reset enable.partition.eof transactional.id enable.idempotence acks request.required.acks"
    " partitioner".split()
)
_MEMBER_ONLY = frozenset(
    "max.poll.interval.ms group.instance.id session.timeout.ms heartbeat.interval.ms"
    " partition.assignment.strategy".split()
)
_CONSUMER_ONLY = _MEMBER_ONLY | frozenset(
    "fetch.wait.max.ms fetch.min.bytes fetch.max.bytes fetch.message.max.bytes max.partition.fetch.bytes"
    " queued.min.messages queued.max.messages.kbytes check.crcs".split()
)
_PRODUCER_ONLY = frozenset(
    "transaction.timeout.ms message.timeout.ms delivery.timeout.ms linger.ms queue.buffering.max.ms batch.size"
    " batch.num.messages compression.type compression.codec compression.level queue.buffering.max.messages"
    " queue.buffering.max.kbytes retries message.send.max.retries retry.backoff.ms".split()
)

_REFUSED_LOGIN = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_SILENCE = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})
_EXPIRED = frozenset(  # the group, or the transaction's coordinator, declared this client dead
    {
        KafkaError._FENCED,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)
_FENCED = frozenset(  # the group went on to a new generation, as it does whenever a member comes or goes
    {KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH, KafkaError.REBALANCE_IN_PROGRESS}
)
_SETTLED_BY = {  # what a person can do about it
    KafkaError.UNKNOWN_TOPIC_OR_PART: "the topic doesn't exist; create it with ensure()",
    KafkaError._UNKNOWN_TOPIC: "the topic doesn't exist; create it with ensure()",
    KafkaError._UNKNOWN_PARTITION: "the topic lost partitions; create it anew",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "let this user READ, WRITE, DESCRIBE and CREATE the topic (ACL)",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "let this user READ the group (ACL)",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "let this user WRITE and DESCRIBE the transactional id (ACL)",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "let this user CREATE topics, or create them beforehand (ACL)",
    KafkaError.INVALID_TIMESTAMP: "the topic refuses this timestamp; raise its message.timestamp.after.max.ms",
    KafkaError.INVALID_SESSION_TIMEOUT: "set bus.session_timeout_s within the broker's group.*.session.timeout.ms",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "the group has members of another protocol or assignor; stop them first",
    KafkaError.INVALID_REPLICATION_FACTOR: "lower bus.replication to the number of brokers at most",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "lower transaction.timeout.ms in bus.properties",
    KafkaError.POLICY_VIOLATION: "the cluster's policy forbids it; ask who runs it",
    KafkaError.UNSUPPORTED_VERSION: "use Apache Kafka 4.0 or later",
    KafkaError._INVALID_ARG: "correct bus.properties in survey.toml",
}


def error_of(exception: KafkaException) -> KafkaError:
    """Return the KafkaError that `exception` carries."""
    error: KafkaError = exception.args[0]
    return error


class Cluster:
    """A Kafka cluster as its clients see it.

    No call waits longer than `patience` seconds for an answer. `properties` go to librdkafka as they are; those that
    the promise of delivery stands on can't be set (ConfigurationError).
    """

    def __init__(self, bootstrap: str, properties: Mapping[str, str], patience: float) -> None:
        if not bootstrap:
            raise ConfigurationError("no Kafka address: set bus.bootstrap = 'host:port' in survey.toml")
        if forbidden := sorted(_OURS & set(properties)):
            raise ConfigurationError(f"bus.properties must not set {', '.join(forbidden)}: skydelta sets it")
        self.bootstrap = bootstrap
        self.patience = patience
        self._properties = dict(properties)
        self._admin: AdminClient | None = None
        self._trouble: KafkaError | None = None

    def member(self, group: str, settings: Mapping[str, Any]) -> Consumer:
        """Return a consumer that may join `group`."""
        return self._consumer(_PRODUCER_ONLY, group, settings)

    def reader(self) -> Consumer:
        """Return a consumer that joins no group and tells the end of each partition."""
        settings = {"enable.partition.eof": True, "fetch.wait.max.ms": 20}
        return self._consumer(_PRODUCER_ONLY | _MEMBER_ONLY, "skydelta.read", settings)

    def watcher(self, group: str, *, stable: bool) -> Consumer:
        """Return a consumer that asks for the positions of `group`, which it must not join.

        `stable`: its answers wait for the end of transactions in flight.
        """
        isolation = "read_committed" if stable else "read_uncommitted"
        return self._consumer(_PRODUCER_ONLY | _MEMBER_ONLY, group, {}, isolation)

    def _consumer(
        self, foreign: frozenset[str], group: str, settings: Mapping[str, Any], isolation: str = "read_committed"
    ) -> Consumer:
        """Return a consumer that resets no position by itself, of committed messages where not told otherwise."""
        fixed = {
            "group.id": group,
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
        }
        try:
            return Consumer(self._settings(foreign, settings, fixed), logger=_LOG)
        except KafkaException as exception:
            raise self.failure("starting a consumer", exception) from exception

    def producer(self, transactional_id: str, transaction_seconds: float) -> Producer:
        """Return a transactional producer that places keys as Kafka's Java client does (murmur2)."""
        tuned = {
            "transaction.timeout.ms": round(transaction_seconds * 1000),
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.max.bytes": LARGEST_MESSAGE,
        }
        fixed = {"transactional.id": transactional_id, "acks": "all", "partitioner": "murmur2_random"}
        try:
            return Producer(self._settings(_CONSUMER_ONLY, tuned, fixed), logger=_LOG)
        except KafkaException as exception:
            raise self.failure("starting a producer", exception) from exception

    def admin(self) -> AdminClient:
        """Return the cluster's administration client."""
        if self._admin is None:
            try:
                self._admin = AdminClient(self._settings(_PRODUCER_ONLY | _CONSUMER_ONLY, {}, {}), logger=_LOG)
            except KafkaException as exception:
                raise self.failure("starting an admin client", exception) from exception
        return self._admin

    def topics(self, seconds: float | None = None) -> dict[str, int]:
        """Return the partition count of every topic, Kafka's own left out.

        Raises UnreachableError where no answer came within `seconds` (default: patience), or a login was refused.
        """
        try:
            found = self._metadata(seconds or self.patience).topics
        except KafkaException as exception:
            raise self.failure("asking for the topics", exception) from exception
        self._trouble = None
        return {
            name: len(topic.partitions)
            for name, topic in found.items()
            if topic.error is None and not name.startswith("__")
        }

    def _metadata(self, seconds: float) -> ClusterMetadata:
        """Ask, ever more patiently, until an answer or a refused login comes: librdkafka would go on logging in."""
        admin, deadline, patience = self.admin(), time.monotonic() + seconds, 1.0
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                return admin.list_topics(timeout=min(left, patience))
            except KafkaException:
                admin.poll(0)  # lets error_cb tell the cause
                if left <= patience or (self._trouble is not None and self._trouble.code() in _REFUSED_LOGIN):
                    raise
            patience *= 2.0

    def require(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the partition counts of `topics`; raises ConfigurationError where one doesn't exist."""
        counts = self.topics()
        if missing := sorted(set(topics) - set(counts)):
            raise ConfigurationError(
                f"no topic {', '.join(missing)} at Kafka {self.bootstrap}: create it with ensure(), "
                "or correct bus.prefix in survey.toml"
            )
        return {topic: counts[topic] for topic in topics}

    def in_trouble(self) -> bool:
        """Tell whether no broker was reachable when a client last said so."""
        return self._trouble is not None

    def failure(self, doing: str, cause: KafkaException | KafkaError) -> SkydeltaError:
        """Return the error of our tree for `cause`, met while `doing`; the caller raises it."""
        error = error_of(cause) if isinstance(cause, KafkaException) else cause
        text = f"{doing} at Kafka {self.bootstrap} failed: {error.str()} ({error.name()})"
        if error.code() in _EXPIRED:
            return ExpiredError(f"{text}; another member owns these positions, nothing was committed. Start it again")
        if error.code() in _FENCED:
            return FencedError(f"{text}; another member owns these positions, nothing was committed")
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return DataError(f"{text}; lower blobs.inline_max_bytes, or have the topic's max.message.bytes raised")
        if error.code() in _SETTLED_BY:
            return ConfigurationError(f"{text}; {_SETTLED_BY[error.code()]}")
        return UnreachableError(f"{text}; {self._what_next(error)}")

    def _what_next(self, error: KafkaError) -> str:
        trouble = self._trouble if self._trouble is not None and error.code() in _SILENCE else error
        if trouble.code() in _REFUSED_LOGIN:
            return (
                f"the broker refused the login ({trouble.str()}): check sasl.username, sasl.password and "
                "sasl.mechanism in bus.properties"
            )
        if trouble.code() == KafkaError._SSL:
            return f"TLS failed ({trouble.str()}): check security.protocol and ssl.* in bus.properties"
        if trouble.code() in _SILENCE - {KafkaError._TIMED_OUT}:
            return "no broker answers: check that it runs, bus.bootstrap and security.protocol"
        return "try again; if it stays, look at the broker's log"

    def _heard(self, error: KafkaError) -> None:
        """Remember what a client says about its connections (librdkafka's error_cb)."""
        _LOG.info("Kafka %s: %s (%s)", self.bootstrap, error.str(), error.name())
        refused = self._trouble is not None and self._trouble.code() in _REFUSED_LOGIN
        if error.code() in _REFUSED_LOGIN or (
            error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._SSL) and not refused
        ):
            self._trouble = error

    def _settings(self, foreign: frozenset[str], tuned: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return a client's settings: `tuned` may be overridden by the user's properties, `fixed` not."""
        chosen = {name: value for name, value in self._properties.items() if name not in foreign}
        return {
            "client.id": "skydelta",
            "log_level": 2,  # a line per refused connection says nothing that our errors don't say
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 2000,
            # After a broker's death librdkafka 2.16 would start over from bootstrap.servers; a transactional producer
            # then waits for ever, longer than any time-out of its calls.
            "metadata.recovery.strategy": "none",
            **tuned,
            **chosen,
            "bootstrap.servers": self.bootstrap,
            "error_cb": self._heard,
            **fixed,
        }


def wait(deadline: float) -> bool:
    """Pause a little before the same call again; False when the deadline (monotonic seconds) has passed."""
    time.sleep(0.1)
    return time.monotonic() < deadline
