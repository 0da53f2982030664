"""A broker that is killed and comes back: the workers resume by themselves, and nothing is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.bus.kafka import KafkaBus
from tests.stream.kafka_brokers import Broker, missing
from tests.stream.kafka_flow import Flow, Reader

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


def test_a_broker_killed_in_mid_stream_comes_back_and_nothing_is_lost_or_doubled(
    broker: Broker, tmp_path: Path
) -> None:
    """Transactions by two workers while a producer goes on; `kill -9`, 2 s of nothing, a start on the same log."""
    address = broker.address
    flow = Flow(lambda: KafkaBus(address), tmp_path)
    reader = Reader({"bootstrap.servers": address}, flow.target)
    try:
        flow.work(2)
        flow.produce()
        reader.wait_for(100, 30.0)
        broker.kill()
        time.sleep(2.0)
        assert broker.start() == address
        back = time.monotonic()
        reader.wait_for(len(reader.values) + 100, 60.0)
        flow.finish(60.0)
        count = flow.check()
        reader.wait_for(count, 30.0)
    finally:
        flow.close()
        reader.close()
    assert len(reader.values) == count
    assert sorted(map(int, reader.values)) == list(range(flow.sent)) or flow.repeated
    resumed = next(each for each in reader.times if each > back) - back
    assert resumed < 30.0
    print(f"\ngap {reader.gap():.1f} s, of it {resumed:.1f} s after the return; slowest commit {flow.slowest:.1f} s")
