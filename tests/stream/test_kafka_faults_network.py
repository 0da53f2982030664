"""Kafka behind a bad network: 200 ms round trips, a cut cable, connections reset. Nothing is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream.bus.conformance import CHECKS, Trial, run_check
from stream.bus.kafka import KafkaBus
from tests.stream.kafka_brokers import Broker, missing
from tests.stream.kafka_flow import Flow, Reader
from tests.stream.kafka_proxy import Proxy

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

ONE_WAY = 0.1  # s
FAR = {
    "topics_are_created_once",
    "unknown_topics_are_named",
    "records_travel_unchanged",
    "large_messages_pass",
    "publishing_is_all_or_nothing",
    "polling_goes_forward",
    "commits_publish_and_advance",
    "failed_commits_leave_nothing",
    "lag_counts_what_is_left",
}
"""Checks made over the slow line."""


class Line:
    """A broker, and a proxy on the way to it."""

    def __init__(self, broker: Broker, proxy: Proxy) -> None:
        self.broker, self.proxy = broker, proxy

    def bus(self) -> KafkaBus:
        return KafkaBus(self.proxy.address)

    def direct(self) -> KafkaBus:
        return KafkaBus(self.broker.address)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    proxy = Proxy(ONE_WAY)
    broker = Broker(tmp_path_factory.mktemp("broker"), proxy.address)
    broker.start()
    proxy.upstream = broker.forwarded
    yield Line(broker, proxy)
    broker.stop()
    proxy.close()


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.__name__ in FAR], ids=lambda check: check.__name__
)
def test_conforms_over_200_ms(line: Line, check: Callable[[Trial], None]) -> None:
    made = line.proxy.connections
    run_check(
        check,
        lambda: KafkaBus(line.proxy.address, session_timeout=6.0, properties={"max.poll.interval.ms": "6000"}),
        patience=60.0,
        silence=7.0,
    )
    assert line.proxy.connections > made


@pytest.mark.parametrize("batch", [8, 64])
def test_the_runner_over_200_ms(line: Line, tmp_path: Path, batch: int) -> None:
    """How fast one worker copies messages of 1 kB, far from the broker and beside it."""
    rates = {}
    for name, open_bus, count in (("direct", line.direct, 100 * batch), ("far", line.bus, 12 * batch)):
        flow = Flow(open_bus, tmp_path)
        reader = Reader({"bootstrap.servers": line.broker.address}, flow.target)
        try:
            flow.publish(count, 1000)
            flow.work(1, batch)
            reader.wait_for(count, 120.0)
            flow.finish(60.0)
            assert flow.check() == count
        finally:
            flow.close()
            reader.close()
        first = reader.times[batch]  # without the start
        rates[name] = (count - batch) / (reader.times[-1] - first)
        assert sorted(map(int, reader.values)) == list(range(count))
    for name, rate in rates.items():
        print(f"\nbatch {batch} {name}: {rate:.1f} messages/s, {rate / batch:.2f} transactions/s", end="")
    assert rates["far"] > 2.0


def test_a_cut_cable_costs_time_only(line: Line, tmp_path: Path) -> None:
    """Eight seconds in which nothing passes, in mid-stream."""
    line.proxy.delay = 0.0
    try:
        _disturb(line, tmp_path, lambda: _cut(line.proxy, 8.0))
    finally:
        line.proxy.delay = ONE_WAY


def test_resets_cost_time_only(line: Line, tmp_path: Path) -> None:
    """All connections are reset ten times."""
    line.proxy.delay = 0.005
    try:
        _disturb(line, tmp_path, lambda: _reset(line.proxy, 10))
    finally:
        line.proxy.delay = ONE_WAY


def _cut(proxy: Proxy, seconds: float) -> None:
    proxy.block()
    time.sleep(seconds)
    proxy.unblock()


def _reset(proxy: Proxy, times: int) -> None:
    for number in range(times):
        proxy.reset()
        time.sleep(0.2 + 0.15 * number)


def _disturb(line: Line, folder: Path, trouble: Callable[[], None]) -> None:
    flow = Flow(line.bus, folder)
    reader = Reader({"bootstrap.servers": line.broker.address}, flow.target)
    try:
        flow.work(2)
        flow.produce()
        reader.wait_for(100, 60.0)
        trouble()
        over = time.monotonic()
        reader.wait_for(len(reader.values) + 100, 90.0)
        flow.finish(90.0)
        count = flow.check()
        reader.wait_for(count, 30.0)
    finally:
        flow.close()
        reader.close()
    assert len(reader.values) == count
    resumed = next(each for each in reader.times if each > over) - over
    print(f"\n{count} messages; gap {reader.gap():.1f} s, {resumed:.1f} s of it after the trouble")
