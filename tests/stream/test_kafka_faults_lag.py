"""A broker is killed under somebody who looks at the lag all the time: that process lives on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.bus import Outgoing
from stream.bus.kafka import KafkaBus
from tests.stream.kafka_brokers import Broker, missing

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

KILLS = 3
UP = 3.0
"""Seconds that the broker is up between two kills; what kills a process comes as it wakes up."""

LOOK = """
import sys
from pathlib import Path
from schemas.errors import UnreachableError
from stream.bus.kafka import KafkaBus
bus = KafkaBus(sys.argv[1], session_timeout=2.0)
while not Path(sys.argv[2]).exists():
    for group in ("one", "two", "three"):
        try:
            lag = bus.lag(group, ["looked-at"])
            assert lag == {("looked-at", 0): 1}, lag
        except UnreachableError:
            pass
bus.close()
print("lives")
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


def test_who_looks_at_the_lag_survives_the_broker(broker: Broker, tmp_path: Path) -> None:
    bus = KafkaBus(broker.address)
    bus.ensure({"looked-at": 1})
    bus.publish([Outgoing("looked-at", b"", b"", 1)])
    enough = tmp_path / "enough"
    looker = subprocess.Popen([sys.executable, "-c", LOOK, broker.address, enough], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(KILLS):
            time.sleep(UP)
            broker.kill()
            time.sleep(1.0)
            broker.start()
        time.sleep(UP)
        enough.touch()
        told, _ = looker.communicate(timeout=60.0)
    finally:
        looker.kill()
        bus.close()
    assert (looker.returncode, told) == (0, "lives\n")  # -11 or -6 before: librdkafka ended the process
