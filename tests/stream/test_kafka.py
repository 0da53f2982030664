"""The Kafka bus on a real broker: the conformance suite, and what only several processes can show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from schemas.errors import DeliveryError, FencedError, PositionLostError, UnreachableError
from stream.bus import Message, Outgoing, Session
from stream.bus.conformance import CHECKS, Trial, run_check
from stream.bus.kafka import KafkaBus
from stream.bus.kafka_cluster import GroupProtocol

BROKER = os.environ.get("SKYDELTA_TEST_KAFKA", "")
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not BROKER, reason="no Kafka broker: set SKYDELTA_TEST_KAFKA (see docs/kafka.md)"),
]

SESSION = 2.5  # s
MAX_POLL = {"max.poll.interval.ms": "3000"}
TIMESTAMP = 1_700_000_000_000
KIP_848 = {  # what rests on the group protocol; a silent member's case takes the broker's 45 s there
    "commits_publish_and_advance",
    "failed_commits_leave_nothing",
    "members_share_the_partitions",
    "keeping_alive_keeps_the_partitions",
}

PRELUDE = f"""
import os, signal, sys
from confluent_kafka import Producer
from schemas.errors import SkydeltaError
from stream.bus import Outgoing, kafka_cluster
from stream.bus.kafka import KafkaBus
topic, out, group = sys.argv[1:]
bus = KafkaBus({BROKER!r}, session_timeout={SESSION})
session = bus.session(group, [topic])
got = []
while len(got) < 3:
    got += session.poll(3, 0.5)
outputs = [Outgoing(out, m.key, b"from the first", m.timestamp) for m in got]
"""
DIE_IN_THE_MIDDLE = """
class Dying(Producer):
    def commit_transaction(self, *_):
        print("everything is sent", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
kafka_cluster.Producer = Dying
session.commit(outputs, got)
"""
WAKE_UP_LATE = """
print("polled", flush=True)
sys.stdin.readline()
try:
    session.commit(outputs, got)
    print("committed")
except SkydeltaError as error:
    print(type(error).__name__)
bus.close()
"""


def open_bus(protocol: GroupProtocol = "classic", properties: Mapping[str, str] | None = None) -> KafkaBus:
    return KafkaBus(BROKER, session_timeout=SESSION, properties=properties or {}, group_protocol=protocol)


@pytest.fixture(scope="module")
def admin() -> AdminClient:
    return AdminClient({"bootstrap.servers": BROKER})


@pytest.fixture
def bus() -> Iterator[KafkaBus]:
    bus = open_bus()
    yield bus
    bus.close()


@pytest.fixture
def names(bus: KafkaBus) -> list[str]:
    """A topic with one partition, one for outputs, a group."""
    tag = uuid.uuid4().hex[:10]
    bus.ensure({f"in-{tag}": 1, f"out-{tag}": 1})
    return [f"in-{tag}", f"out-{tag}", f"group-{tag}"]


def record(topic: str, number: int) -> Outgoing:
    return Outgoing(topic, b"k", b"value %d" % number, TIMESTAMP + number)


def delete_all(admin: AdminClient, topic: str) -> None:
    for answer in admin.delete_records([TopicPartition(topic, 0, -1)]).values():
        answer.result()


def take(session_bus: KafkaBus, group: str, topic: str, count: int, patience: float) -> tuple[Session, list[Message]]:
    """Return a new session and the first `count` messages; those that a rebalance brings again count once."""
    session = session_bus.session(group, [topic])
    got: dict[tuple[int, int], Message] = {}
    deadline = time.monotonic() + patience
    while len(got) < count and time.monotonic() < deadline:
        with suppress(UnreachableError):  # positions in an open transaction
            got |= {(message.partition, message.offset): message for message in session.poll(count - len(got), 0.5)}
    return session, [got[place] for place in sorted(got)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(check: Callable[[Trial], None], admin: AdminClient) -> None:
    run_check(
        check,
        lambda: open_bus(properties=MAX_POLL),
        patience=25.0,
        silence=4.0,
        expire=lambda topic: delete_all(admin, topic),
    )


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.__name__ in KIP_848], ids=lambda check: check.__name__
)
def test_conforms_under_kip_848(check: Callable[[Trial], None]) -> None:
    run_check(check, lambda: open_bus("consumer", MAX_POLL), patience=30.0, silence=4.0)


def test_a_member_killed_in_mid_transaction_leaves_nothing(bus: KafkaBus, names: list[str]) -> None:
    topic, out, group = names
    bus.publish([record(topic, n) for n in range(3)])
    child = subprocess.run(
        [sys.executable, "-c", PRELUDE + DIE_IN_THE_MIDDLE, *names],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.returncode, child.stdout.strip()) == (-signal.SIGKILL, "everything is sent"), child.stderr
    assert list(bus.read(out)) == []
    assert bus.lag(group, [topic]) == {(topic, 0): 3}
    session, got = take(bus, group, topic, 3, 40.0)  # session timeout, then the transaction's
    assert [message.value for message in got] == [b"value 0", b"value 1", b"value 2"]
    session.commit([record(out, 7)], got)
    assert [message.value for message in bus.read(out)] == [b"value 7"]
    assert bus.lag(group, [topic]) == {(topic, 0): 0}


def test_a_member_that_was_stopped_is_fenced(bus: KafkaBus, names: list[str]) -> None:
    topic, out, group = names
    bus.publish([record(topic, n) for n in range(3)])
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + WAKE_UP_LATE, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as zombie:
        assert zombie.stdin is not None
        assert zombie.stdout is not None
        assert zombie.stdout.readline() == "polled\n"
        zombie.send_signal(signal.SIGSTOP)
        try:
            session, got = take(bus, group, topic, 3, 30.0)
            session.commit([record(out, n) for n in range(3)], got)
        finally:
            zombie.send_signal(signal.SIGCONT)
        said, _ = zombie.communicate("go on\n", timeout=30)
    assert said == "ExpiredError\n"
    assert [message.value for message in bus.read(out)] == [b"value 0", b"value 1", b"value 2"]


def test_a_partition_lost_during_a_pause_is_read_again(names: list[str]) -> None:
    """As when the brokers are away for longer than the session: librdkafka gives it back as it was, paused."""
    topic, _, group = names
    bus = open_bus(properties=MAX_POLL)
    bus.publish([record(topic, n) for n in range(3)])
    session, _ = take(bus, group, topic, 3, 20.0)
    session.rewind()
    session.keep_alive()
    time.sleep(4.0)
    deadline = time.monotonic() + 20.0
    while session.assigned() and time.monotonic() < deadline:
        session.keep_alive()
    got: list[Message] = []
    while len(got) < 3 and time.monotonic() < deadline:
        got += session.poll(3, 0.5)
    assert [message.value for message in got] == [b"value 0", b"value 1", b"value 2"]
    bus.close()


def test_retention_below_a_running_member_is_loud(bus: KafkaBus, names: list[str], admin: AdminClient) -> None:
    topic, _, group = names
    bus.publish([record(topic, n) for n in range(4)])
    session, got = take(bus, group, topic, 2, 20.0)
    session.commit([], got)
    delete_all(admin, topic)
    session.rewind()
    for _ in range(2):  # and it stays so
        with pytest.raises(PositionLostError, match=r"stands at offset 2 .* keeps offsets 5 to 5"):
            session.poll(1, 1.0)


def test_a_group_without_position_on_a_trimmed_topic_is_loud(
    bus: KafkaBus, names: list[str], admin: AdminClient
) -> None:
    topic, _, group = names
    bus.publish([record(topic, 0)])
    delete_all(admin, topic)
    with pytest.raises(PositionLostError, match=f"group '{group}' has no position at {topic}"):
        take(bus, group, topic, 1, 20.0)


def test_a_lost_position_is_set_as_documented(bus: KafkaBus, names: list[str], admin: AdminClient) -> None:
    topic, _, group = names
    bus.publish([record(topic, 0)])
    delete_all(admin, topic)
    bus.publish([record(topic, 1)])
    place = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 2)])
    for answer in admin.alter_consumer_group_offsets([place]).values():
        answer.result()
    _, got = take(bus, group, topic, 1, 20.0)
    assert [message.value for message in got] == [b"value 1"]


def test_messages_of_another_member_are_not_committed(bus: KafkaBus, names: list[str]) -> None:
    topic, out, group = names
    bus.publish([record(topic, n) for n in range(3)])
    session, got = take(bus, group, topic, 3, 20.0)
    with pytest.raises(DeliveryError, match="would skip"):
        session.commit([record(out, 0)], got[1:])
    session.rewind()
    session.poll(0, 0.0)
    with pytest.raises(FencedError):
        session.commit([record(out, 0)], got)
    assert list(bus.read(out)) == []
    assert bus.lag(group, [topic]) == {(topic, 0): 3}


def test_topics_of_others_get_room(bus: KafkaBus, admin: AdminClient) -> None:
    name = f"theirs-{uuid.uuid4().hex[:10]}"
    admin.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "1000000"})])[name].result()
    bus.ensure({name: 1})
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    assert int(answer.result()["max.message.bytes"].value) > 10 * 2**20
    giant = Outgoing(name, b"", bytes(range(256)) * 4 * 10 * 2**10, TIMESTAMP)
    bus.publish([giant])
    assert [message.value for message in bus.read(name)] == [giant.value]


def test_long_lags_are_given_in_offsets(bus: KafkaBus, names: list[str]) -> None:
    topic, _, group = names
    bus.publish([record(topic, n) for n in range(300)])
    assert bus.lag(group, [topic]) == {(topic, 0): 301}  # with the transaction's marker
    assert [message.value for message in bus.read(topic)] == [b"value %d" % n for n in range(300)]
