"""Which partitions a member of a Kafka consumer group owns, how far it has read them, and the proof for the broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import DeliveryError, ExpiredError, FencedError, SkydeltaError
from stream.bus import Message
from stream.bus.kafka_cluster import MAX_POLL_SECONDS, Cluster, GroupProtocol, error_of
from stream.bus.kafka_log import Place, start_positions

__all__ = ["Membership", "group_settings"]

_METADATA_MAGIC = b"CGMDv2:"  # how librdkafka begins a serialised group metadata; the generation follows


def group_settings(session_timeout: float, protocol: GroupProtocol, properties: Mapping[str, str]) -> dict[str, object]:
    """Return the consumer settings of a group member; `session_timeout` in seconds.

    'classic' rebalances cooperatively (KIP-429); 'consumer' is KIP-848, whose session timeout the broker sets.
    Of `properties` only max.poll.interval.ms is looked at.
    """
    max_poll = properties.get("max.poll.interval.ms", round(MAX_POLL_SECONDS * 1000))
    settings: dict[str, object] = {"max.poll.interval.ms": max_poll}
    if protocol == "consumer":
        return {**settings, "group.protocol": "consumer"}
    return {
        **settings,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": round(session_timeout * 1000),
        "heartbeat.interval.ms": round(min(3.0, session_timeout / 3) * 1000),
    }


class Membership:
    """The partitions owned now. `assigned` and `revoked` are called by librdkafka within poll, consume and close."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group
        self._next: dict[Place, int] = {}  # by partition owned, the offset after what was polled
        self._polled: dict[Place, list[int]] = {}  # offsets that await their commit
        self._lost: set[Place] = set()  # taken away while messages of them awaited their commit
        self._member = ""
        self.failure: SkydeltaError | None = None
        """What went wrong within a callback; whoever polls raises it."""

    def places(self) -> set[Place]:
        """Return the partitions owned."""
        return set(self._next)

    def unfinished(self) -> bool:
        """Tell whether messages were polled that are not committed."""
        return any(self._polled.values())

    def position(self, place: Place) -> int | None:
        """Return the offset after what was polled of `place`, None where it is not owned."""
        return self._next.get(place)

    def assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Take over `partitions` at the group's positions."""
        places = [(each.topic, each.partition) for each in partitions]
        self._member = consumer.memberid() or ""
        try:
            starts = start_positions(self._cluster, consumer, self._group, places)
        except SkydeltaError as failure:  # the poll that we are in raises it; the next one tries to place them
            self.failure = failure
            starts = dict.fromkeys(places, 0)
        else:
            consumer.incremental_assign([TopicPartition(*place, at) for place, at in starts.items()])
            consumer.resume(list(partitions))  # one lost while it was paused (`keep_alive`) comes back paused
        self._next.update(starts)

    def revoked(self, places: set[Place], *, lost: bool) -> None:
        """Forget `places`, and what was polled of them; `lost`: because the group declared this member dead."""
        for place in places:
            self._next.pop(place, None)
            if self._polled.pop(place, None) and lost:
                self._lost.add(place)

    def go_back(self, consumer: Consumer) -> None:
        """Let `consumer` go on from the committed positions; raises PositionLostError, UnreachableError."""
        starts = start_positions(self._cluster, consumer, self._group, self._next)
        for place, at in starts.items():
            try:
                _move(consumer, TopicPartition(*place, at))
            except KafkaException as exception:
                raise self._cluster.failure(f"going back in {place[0]}[{place[1]}]", exception) from exception
        self._next, self._polled, self._lost = starts, {}, set()

    def accept(self, message: Message) -> bool:
        """Note `message` as polled; False where it is not ours, or was polled before."""
        place = message.topic, message.partition
        if message.offset < self._next.get(place, message.offset + 1):
            return False
        self._next[place] = message.offset + 1
        self._polled.setdefault(place, []).append(message.offset)
        return True

    def positions_after(self, consumed: Sequence[Message]) -> dict[Place, int]:
        """Return the positions to commit.

        Raises FencedError where one of `consumed` is not ours any more, ExpiredError where that is because this member
        was declared dead, DeliveryError where they leave out messages polled before them.
        """
        offsets: dict[Place, list[int]] = {}
        for message in consumed:
            offsets.setdefault((message.topic, message.partition), []).append(message.offset)
        for place, mine in offsets.items():
            polled = self._polled.get(place, [])
            if place in self._lost:
                raise self._expired(place)
            if not set(mine) <= set(polled):
                raise self._fenced(place)
            if sorted(mine) != polled[: len(mine)]:
                raise DeliveryError(
                    f"commit would skip messages of {place[0]}[{place[1]}] in group {self._group!r}, polled from "
                    f"offset {polled[0]} on; commit messages in the order in which they were polled"
                )
        return {place: max(mine) + 1 for place, mine in offsets.items()}

    def committed(self, positions: Mapping[Place, int]) -> None:
        """Note `positions` as committed."""
        for place, position in positions.items():
            if place in self._polled:
                self._polled[place] = [offset for offset in self._polled[place] if offset >= position]

    def proof(self, consumer: Consumer, positions: Mapping[Place, int]) -> object:
        """Return the metadata by which the broker checks that this member owns `positions`.

        Raises ExpiredError where it was put out of the group, FencedError where it has no generation: the broker lets
        offsets without a member or a generation pass unchecked, for the sake of clients older than KIP-447.
        """
        metadata = consumer.consumer_group_metadata()
        if consumer.memberid() != self._member:
            raise self._expired(next(iter(positions)))
        if _generation(metadata) <= 0:
            raise self._fenced(next(iter(positions)))
        return metadata

    def _expired(self, place: Place) -> ExpiredError:
        return ExpiredError(
            f"this member of group {self._group!r} was declared dead while it worked on {place[0]}[{place[1]}]: "
            "nothing was committed, and others have its work; it was stopped or silent too long, see "
            "bus.session_timeout_s and max.poll.interval.ms in bus.properties. Start it again"
        )

    def _fenced(self, place: Place) -> FencedError:
        return FencedError(
            f"{place[0]}[{place[1]}] was taken from this member of group {self._group!r} since it polled: nothing was "
            "committed, and the owner of now does the work again. If it happens often, call keep_alive during long "
            "work or raise max.poll.interval.ms in bus.properties"
        )


def _move(consumer: Consumer, target: TopicPartition) -> None:
    """Let `consumer` read a partition it owns from the offset of `target`."""
    try:
        consumer.seek(target)
    except KafkaException as exception:
        if error_of(exception).code() != KafkaError._STATE:
            raise
        # It was never started, because its position was out of reach when it was assigned.
        consumer.incremental_unassign([target])
        consumer.incremental_assign([target])


def _generation(metadata: object) -> int:
    """Return the group generation (KIP-848: member epoch) of librdkafka's serialised group metadata; -1: none."""
    serialised = metadata if isinstance(metadata, bytes) else b""
    if not serialised.startswith(_METADATA_MAGIC):
        return 1  # of another librdkafka: the check by member id must do
    start = len(_METADATA_MAGIC)
    return int.from_bytes(serialised[start : start + 4], "little", signed=True)
