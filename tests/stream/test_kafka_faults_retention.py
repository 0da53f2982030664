"""A worker away for longer than its topic, or its position, was kept: it says so and skips nothing silently."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.errors import PositionLostError
from stream.blobs import BlobStore
from stream.bus.kafka import KafkaBus
from stream.dead_letters import DeadLetters
from stream.retry import RunReport
from stream.runner import run
from tests.stream.kafka_flow import PARTITIONS, RETRY, Flow, Relay

BROKER = os.environ.get("SKYDELTA_TEST_KAFKA", "")
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not BROKER, reason="no Kafka broker: set SKYDELTA_TEST_KAFKA (see docs/kafka.md)"),
]


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    """A stream whose first 40 messages are done; its worker has left."""
    flow = Flow(lambda: KafkaBus(BROKER, session_timeout=6.0), tmp_path)
    flow.publish(40)
    assert work(flow, tmp_path).messages == 40
    yield flow
    flow.bus.close()


def work(flow: Flow, folder: Path) -> RunReport:
    """Run a worker until nothing is left."""
    letters = DeadLetters(flow.dead, BlobStore(folder / "blobs"), lambda: 61000.0, "test")
    relay = Relay(flow.source, flow.target)
    return run(relay, flow.bus, group=flow.group, dead_letters=letters, idle_exit=2.0, retry=RETRY)


def done(flow: Flow) -> list[int]:
    return sorted(int(message.value) for message in flow.bus.read(flow.target))


def trim(flow: Flow) -> None:
    """Delete everything, as retention would."""
    admin = AdminClient({"bootstrap.servers": BROKER})
    places = [TopicPartition(flow.source, each, -1) for each in range(PARTITIONS)]
    for answer in admin.delete_records(places).values():
        answer.result()


def test_a_worker_away_longer_than_retention_stops_loudly(flow: Flow, tmp_path: Path) -> None:
    flow.publish(40)
    trim(flow)
    flow.publish(40)
    lag = flow.bus.lag(flow.group, [flow.source])
    for _ in range(2):  # and a restart does not make it forget
        with pytest.raises(PositionLostError, match=rf"{flow.group}.*stands at offset \d+ at {flow.source}") as caught:
            work(flow, tmp_path)
        assert caught.value.exit_code == 4
    assert done(flow) == list(range(40))
    assert flow.bus.lag(flow.group, [flow.source]) == lag == dict(lag)
    assert sum(lag.values()) == 40


def test_it_goes_on_where_a_person_says(flow: Flow, tmp_path: Path) -> None:
    flow.publish(40)
    trim(flow)
    flow.publish(40)
    kept: dict[int, int] = {}
    for message in flow.bus.read(flow.source):
        kept[message.partition] = min(message.offset, kept.get(message.partition, message.offset))
    admin = AdminClient({"bootstrap.servers": BROKER})
    places = [TopicPartition(flow.source, partition, offset) for partition, offset in kept.items()]
    for answer in admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(flow.group, places)]).values():
        answer.result()
    assert work(flow, tmp_path).messages == 40
    assert done(flow) == [*range(40), *range(80, 120)]


def test_a_forgotten_position_is_told_and_everything_is_done_again(
    flow: Flow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow.publish(10)
    admin = AdminClient({"bootstrap.servers": BROKER})
    for answer in admin.delete_consumer_groups([flow.group]).values():  # what offsets.retention.minutes does
        answer.result()
    with caplog.at_level(logging.WARNING):
        assert work(flow, tmp_path).messages == 50
    assert done(flow) == sorted([*range(40), *range(50)])
    (said,) = {each.getMessage() for each in caplog.records if "no position" in each.getMessage()}
    assert f"group '{flow.group}' has no position at {flow.source}[0]" in said
    assert "starts at the beginning" in said
    assert "docs/kafka.md" in said


def test_a_forgotten_position_on_a_trimmed_topic_stops_loudly(flow: Flow, tmp_path: Path) -> None:
    flow.publish(10)
    trim(flow)
    admin = AdminClient({"bootstrap.servers": BROKER})
    for answer in admin.delete_consumer_groups([flow.group]).values():
        answer.result()
    with pytest.raises(PositionLostError, match=f"'{flow.group}' has no position at {flow.source}"):
        work(flow, tmp_path)
    assert done(flow) == list(range(40))
