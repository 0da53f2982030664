"""A broker that is killed and comes back, and positions that are gone: nothing is lost, doubled or skipped silently."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.bus.kafka import KafkaBus
from tests.stream.kafka_brokers import Broker, missing
from tests.stream.kafka_flow import Flow, Reader

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

SESSION = 10.0  # s


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def address(broker: Broker) -> str:
    return (broker.folder / "bootstrap").read_text().strip()


def test_a_broker_killed_in_mid_stream_comes_back_and_nothing_is_lost_or_doubled(
    broker: Broker, address: str, tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    """Transactions by two workers while a producer goes on; `kill -9`, 2 s of nothing, a start on the same log."""
    flow = Flow(lambda: KafkaBus(address, session_timeout=SESSION), tmp_path)
    reader = Reader({"bootstrap.servers": address}, flow.target)
    try:
        flow.work(2)
        flow.produce(0.05)
        reader.wait_for(200, 30.0)
        broker.kill()
        killed = time.monotonic()
        time.sleep(2.0)
        assert broker.start() == address
        back = time.monotonic()
        before = len(reader.values)
        reader.wait_for(before + 200, 60.0)
        flow.finish(60.0)
        count = flow.check()
        reader.wait_for(count, 30.0)
    finally:
        flow.close()
        reader.close()
    assert len(reader.values) == len(set(reader.values)) + (count - flow.sent)
    resumed = next(each for each in reader.times if each > back)
    print(
        f"\n{count} messages; down {back - killed:.1f} s, resumed after {resumed - back:.1f} s more, gap {reader.gap():.1f} s, "
        f"slowest commit {flow.slowest:.1f} s, restarts {flow.restarts}, publications repeated {flow.repeated}"
    )
