"""Processes that share the work are killed at every step: what comes out is exactly what went in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream import codec
from stream.bus import Outgoing
from stream.bus.embedded import EmbeddedBus

RELAY = Path(__file__).with_name("relay.py")
ROOT = Path(__file__).parents[2]
DEATHS = [
    ("1-before", 3),
    ("1-after", 4),
    ("2-before", 8),
    ("2-after", 13),
    ("3-before", 1),
    ("3-after", 1),
    ("4-before", 2),
    ("4-after", 3),
    ("5-before", 2),
    ("inside", 2),
    ("5-after", 1),
    ("6-before", 2),
    ("6-after", 2),
]


def start(tmp_path: Path, *death: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(RELAY), str(tmp_path / "bus.sqlite"), str(tmp_path / "blobs"), *map(str, death)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def publish(bus: EmbeddedBus, numbers: range) -> None:
    bus.publish([Outgoing("in", b"k%d" % (n % 23), b"%d" % n, 1000 + n) for n in numbers])


@pytest.fixture
def bus(tmp_path: Path) -> EmbeddedBus:
    bus = EmbeddedBus(tmp_path / "bus.sqlite")
    bus.ensure({"in": 6, "out": 3, "dead": 1})
    return bus


def drained(bus: EmbeddedBus) -> bool:
    return sum(bus.lag("relay", ["in"]).values()) == 0


def check_outputs(bus: EmbeddedBus, count: int) -> None:
    bad = set(range(0, count, 17))
    got = [message.value for message in bus.read("out")]
    expected = [b"failed %d" % n if n in bad else b"%d" % n for n in range(count)]
    assert sorted(got) == sorted(expected)
    letters = [codec.decode(message.value).record for message in bus.read("dead")]
    assert sorted(int(letter["value"]["inline"]) for letter in letters) == sorted(bad)
    per_key: dict[bytes, list[int]] = {}
    for message in bus.read("out"):
        per_key.setdefault(message.key, []).append(int(message.value.split()[-1]))
    assert all(numbers == sorted(numbers) for numbers in per_key.values())


def test_kill_at_every_step(bus: EmbeddedBus, tmp_path: Path) -> None:
    """Thirteen members, each dying in its own place of the transaction; then one that finishes the work."""
    publish(bus, range(300))
    doomed = [start(tmp_path, *death) for death in DEATHS]
    for number in range(300, 600, 20):
        publish(bus, range(number, number + 20))
        time.sleep(0.05)
    for process in doomed[:4]:
        assert process.wait(30) == -signal.SIGKILL
    survivor = start(tmp_path)
    for process in doomed[4:]:
        assert process.wait(30) == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not drained(bus) and time.monotonic() < deadline:
        time.sleep(0.05)
    survivor.terminate()
    assert survivor.wait(20) == 0
    for process in [*doomed, survivor]:
        process.communicate()
    assert drained(bus)
    check_outputs(bus, 600)


def test_sigterm_commits_what_is_done_and_leaves(bus: EmbeddedBus, tmp_path: Path) -> None:
    publish(bus, range(100))
    with start(tmp_path) as process:
        deadline = time.monotonic() + 30
        while not list(bus.read("out")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate()
        done, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    left = sum(bus.lag("relay", ["in"]).values())
    assert int(done) == 100 - left == len(list(bus.read("out")))
    heir = bus.session("relay", ["in"])
    assert len(heir.assigned()) == 6  # at once: the session timeout is not waited for
    heir.close()
