"""Workers that are stopped beyond the session time-out and go on: they publish nothing, and end to be started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas.errors import ExpiredError
from stream.bus import Bus, Outgoing
from tests.stream.zombie import open_bus

SCRIPT = Path(__file__).with_name("zombie.py")
ROOT = Path(__file__).parents[2]
BROKER = os.environ.get("SKYDELTA_TEST_KAFKA", "")
NO_BROKER = pytest.mark.skipif(not BROKER, reason="no Kafka broker: set SKYDELTA_TEST_KAFKA (see docs/kafka.md)")


@dataclass
class Scene:
    """A bus, a topic for input, one for output, a group, and the workers started."""

    folder: Path
    kind: str
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.address = BROKER if self.kind == "kafka" else str(self.folder / "bus.sqlite")
        self.group, self.topic, self.out = f"g-{self.tag}", f"in-{self.tag}", f"out-{self.tag}"
        self.bus: Bus = open_bus(self.kind, self.address)
        self.bus.ensure({self.topic: 1, self.out: 1})

    def publish(self, *values: bytes) -> None:
        self.bus.publish([Outgoing(self.topic, b"k", value, 1_700_000_000_000) for value in values])

    def start(self, name: str) -> subprocess.Popen[str]:
        words = [self.kind, self.address, self.group, self.topic, self.out, str(self.folder), name]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.processes.append(process)
        return process

    def until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def working(self, name: str) -> bool:
        return (self.folder / f"{name}.working").exists()

    def outputs(self) -> list[bytes]:
        return [message.value for message in self.bus.read(self.out)]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()
        self.bus.close()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=[NO_BROKER, pytest.mark.kafka])])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.close()


def test_a_zombie_publishes_nothing_and_ends(scene: Scene) -> None:
    scene.publish(b"0", b"1", b"2")
    zombie = scene.start("zombie")
    scene.until(lambda: scene.working("zombie"), "the zombie's work")
    zombie.send_signal(signal.SIGSTOP)  # in the middle of process()
    heir = scene.start("heir")
    scene.until(lambda: scene.working("heir"), "the heir's work")
    (scene.folder / "go").touch()
    scene.until(lambda: len(scene.outputs()) == 3, "three outputs of the heir")
    zombie.send_signal(signal.SIGCONT)
    said, _ = zombie.communicate(timeout=40)
    assert zombie.returncode == ExpiredError.exit_code == 75, said
    assert "ExpiredError" in said
    assert "declared dead while it worked" in said or "another member owns" in said
    scene.publish(b"3")  # the heir was not disturbed
    scene.until(lambda: len(scene.outputs()) == 4, "the fourth output")
    heir.terminate()
    assert heir.wait(30) == 0
    assert scene.outputs() == [b"heir 0", b"heir 1", b"heir 2", b"heir 3"]


def test_a_sleeper_without_work_just_joins_again(scene: Scene) -> None:
    """A laptop that slept: the idle worker is put out of its group, comes back, and is no zombie."""
    (scene.folder / "go").touch()
    scene.publish(b"0")
    sleeper = scene.start("sleeper")
    scene.until(lambda: len(scene.outputs()) == 1, "the first output")
    sleeper.send_signal(signal.SIGSTOP)
    heir = scene.start("heir")
    scene.publish(b"1")
    scene.until(lambda: len(scene.outputs()) == 2, "the output of the heir")
    sleeper.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    heir.terminate()
    assert heir.wait(30) == 0
    scene.publish(b"2")
    scene.until(lambda: len(scene.outputs()) == 3, "the output of the sleeper")
    sleeper.terminate()
    assert sleeper.wait(30) == 0
    assert scene.outputs() == [b"sleeper 0", b"heir 1", b"sleeper 2"]
