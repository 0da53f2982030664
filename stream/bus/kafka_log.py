"""Read the partitions of Kafka topics without a group: from an offset to the last committed message there is now."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from schemas.errors import PositionLostError
from stream.bus import Message
from stream.bus.kafka_cluster import Cluster, error_of, wait

__all__ = [
    "SETTLING",
    "Place",
    "lost",
    "message_of",
    "positions_of",
    "read_span",
    "settled_spans",
    "spans",
    "start_positions",
]

Place = tuple[str, int]
"""Topic and partition."""

_LOG = logging.getLogger(__name__)
_FIRST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LAST = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_LED_ANEW = frozenset(  # the partition's leader died, or came back
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)
SETTLING = 1.0  # s; that a transaction takes from the answer to its commit until everybody sees it


def message_of(raw: KafkaMessage) -> Message:
    """Return the record that librdkafka read, as the port's Message."""
    headers = raw.headers() or []
    return Message(
        topic=raw.topic() or "",
        partition=raw.partition() or 0,
        offset=raw.offset() or 0,
        key=raw.key() or b"",
        value=raw.value() or b"",
        timestamp=raw.timestamp()[1],
        headers={name: _bytes(value) for name, value in (headers.items() if isinstance(headers, dict) else headers)},
    )


def _bytes(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def spans(cluster: Cluster, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
    """Return the oldest offset kept and the end of what is committed at each of `places`; raises UnreachableError."""
    asked = [TopicPartition(*place) for place in places]
    lows = _offsets(cluster, asked, _FIRST, IsolationLevel.READ_COMMITTED)
    ends = _offsets(cluster, asked, _LAST, IsolationLevel.READ_COMMITTED)
    return {place: (low, max(low, ends[place])) for place, low in lows.items()}


def settled_spans(cluster: Cluster, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """Return `spans` once the transactions in flight have ended, for which it waits a second at most.

    A commit returns before its markers are on every partition: what was just committed must not be missing here.
    """
    asked = [TopicPartition(*place) for place in places]
    written = _offsets(cluster, asked, _LAST, IsolationLevel.READ_UNCOMMITTED)
    deadline = time.monotonic() + SETTLING
    while True:
        found = spans(cluster, places)
        if all(end >= written[place] for place, (_, end) in found.items()) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _offsets(
    cluster: Cluster, asked: Sequence[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel
) -> dict[Place, int]:
    deadline = time.monotonic() + cluster.patience
    while asked:
        try:
            answers = cluster.admin().list_offsets(
                dict.fromkeys(asked, spec), isolation_level=isolation, request_timeout=cluster.patience
            )
            found = {(at.topic, at.partition): answer.result().offset for at, answer in answers.items()}
            if min(found.values()) < 0:  # so librdkafka answers, without an error, for a leader that just died
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            return found
        except KafkaException as exception:
            if error_of(exception).code() not in _LED_ANEW or not wait(deadline):
                raise cluster.failure("asking for the ends of the partitions", exception) from exception
            cluster.topics()  # by itself the client would ask the old leader, in the old epoch, for ever
    return {}


def _committed_positions(cluster: Cluster, consumer: Consumer, places: Iterable[Place]) -> dict[Place, int | None]:
    """Return the position of the group of `consumer` at each of `places`, None where it has none.

    Waits for the end of transactions in flight, a dead member's too. Raises UnreachableError.
    """
    asked = [TopicPartition(*place) for place in places]
    try:
        answered = consumer.committed(asked, timeout=cluster.patience) if asked else []
        return positions_of(answered)
    except KafkaException as exception:
        doing = "asking for the group's positions"
        if not cluster.in_trouble():
            doing += " (which wait until a dead member's transaction has timed out)"
        raise cluster.failure(doing, exception) from exception


def positions_of(answered: Iterable[TopicPartition]) -> dict[Place, int | None]:
    """Return the group's positions that a broker answered, None for nowhere; raises the KafkaException of one."""
    positions = {}
    for each in answered:
        if each.error is not None:
            raise KafkaException(each.error)
        positions[each.topic, each.partition] = each.offset if each.offset >= 0 else None
    return positions


def start_positions(cluster: Cluster, consumer: Consumer, group: str, places: Iterable[Place]) -> dict[Place, int]:
    """Return where `group` stands at each of `places`, or their beginning; waits for transactions in flight.

    Raises UnreachableError, PositionLostError where what follows was deleted.
    """
    starts = {}
    positions = _committed_positions(cluster, consumer, places)
    kept = spans(cluster, positions)
    for place, committed in positions.items():
        low, end = kept[place]
        starts[place] = start = committed or 0
        if not low <= start <= end:
            raise lost(cluster, group, place, committed, (low, end))
    if new := [f"{topic}[{at}]" for (topic, at), known in positions.items() if known is None and kept[topic, at][1]]:
        _LOG.warning(
            "group %r has no position at %s and starts at the beginning: it is new, or the broker forgot it and all is "
            "done again (docs/kafka.md, 'A lost position')",
            group,
            ", ".join(sorted(new)),
        )
    return starts


def lost(cluster: Cluster, group: str, place: Place, committed: int | None, kept: tuple[int, int]) -> PositionLostError:
    """Return the error of a group whose next message is not kept any more."""
    where = "has no position" if committed is None else f"stands at offset {committed}"
    return PositionLostError(
        f"group {group!r} {where} at {place[0]}[{place[1]}] of Kafka {cluster.bootstrap}, which keeps offsets "
        f"{kept[0]} to {kept[1]}: messages were deleted unread (retention), or the topic was made anew. Replay what "
        "is missing; then set the group's position (docs/kafka.md, 'A lost position') and start again"
    )


def read_span(cluster: Cluster, consumer: Consumer, place: Place, start: int, end: int) -> Iterator[Message]:
    """Yield the committed messages of `place` with start <= offset < end; `consumer` is the cluster's reader.

    Offsets have gaps (transaction markers, aborted records), so the end of the partition is told by its event.
    Raises UnreachableError.
    """
    if start >= end:
        return
    consumer.assign([TopicPartition(*place, start)])
    patient_until = time.monotonic() + cluster.patience
    while time.monotonic() < patient_until:
        raw = consumer.poll(0.5)
        if raw is None:
            continue
        error = raw.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and (raw.offset() or 0) >= end:
                return
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                low, _ = spans(cluster, [place])[place]  # retention went past us: go on with what is kept
                consumer.assign([TopicPartition(*place, low)])
            continue
        if (raw.offset() or 0) >= end:
            return
        yield message_of(raw)
        patient_until = time.monotonic() + cluster.patience
    raise cluster.failure(f"reading {place[0]}[{place[1]}]", KafkaError(KafkaError._TIMED_OUT))
