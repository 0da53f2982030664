"""A stream of transactions under faults: a producer, workers of the runner, a reader outside, and their accounts."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import ExpiredError, TransientError
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.kafka import KafkaBus
from stream.dead_letters import DeadLetters
from stream.retry import Retry
from stream.runner import run

RETRY = Retry(pause=0.5, longest_pause=2.0, fenced=50)
TIMESTAMP = 1_700_000_000_000
PARTITIONS = 4


class Relay:
    """Copies one topic to another."""

    name = "relay"

    def __init__(self, source: str, target: str) -> None:
        self.inputs = (source,)
        self.target = target

    def process(self, message: Message) -> Sequence[Outgoing]:
        return [Outgoing(self.target, message.key, message.value, message.timestamp)]

    def failed(self, message: Message, failure: str) -> Sequence[Outgoing]:
        return []

    def committed(self, messages: Sequence[Message]) -> None:
        pass

    def flush(self) -> None:
        pass


class Flow:
    """Numbers go through `source`, workers and `target`, each exactly once; `open_bus` opens another bus."""

    def __init__(self, open_bus: Callable[[], KafkaBus], folder: Path, prefix: str = "") -> None:
        tag = uuid.uuid4().hex[:10]
        self.source, self.target, self.dead = (f"{prefix}{name}-{tag}" for name in ("in", "out", "dead"))
        self.group = f"{prefix}relay-{tag}"
        self.sent = 0
        self.repeated = 0
        """Publications whose outcome was unknown, made again."""
        self.restarts = 0
        """Of workers that were declared dead, as the supervisor would."""
        self.slowest = 0.0
        """Seconds of the slowest commit that succeeded."""
        self.errors: list[BaseException] = []
        self._open_bus = open_bus
        self._letters = DeadLetters(self.dead, BlobStore(folder / "blobs"), lambda: 61000.0, "test")
        self._producing, self._working = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._producer: threading.Thread | None = None
        self.bus = open_bus()
        self.bus.ensure({self.source: PARTITIONS, self.target: PARTITIONS, self.dead: 1})

    def publish(self, count: int, value: int = 0) -> None:
        """Publish the next `count` numbers, padded to `value` bytes."""
        numbers = range(self.sent, self.sent + count)
        self.bus.publish(
            [Outgoing(self.source, b"k%d" % (n % 13), b"%d".ljust(value) % n, TIMESTAMP + n) for n in numbers]
        )
        self.sent += count

    def produce(self, pause: float = 0.1) -> None:
        """Publish ten numbers again and again from now on; what fails is published again."""
        self._producer = self._start(self._produce, pause)

    def work(self, workers: int, batch: int = 8) -> None:
        """Start workers."""
        for _ in range(workers):
            self._start(self._work, batch)

    def stop_producing(self, patience: float | None = None) -> None:
        """Stop the producer, once what it publishes now is there."""
        self._producing.set()
        if self._producer is not None:
            self._producer.join(patience)
            assert not self._producer.is_alive(), f"a publication takes longer than {patience} s"

    def finish(self, patience: float) -> None:
        """Stop the producer; let the workers do the rest, and stop them."""
        deadline = time.monotonic() + patience
        try:
            self.stop_producing(patience)  # before it, no lag is the last one
            while sum(self.bus.lag(self.group, [self.source]).values()):
                if self.errors:
                    raise self.errors[0]
                assert time.monotonic() < deadline, f"work is left after {patience} s"
                time.sleep(0.1)
        finally:
            self.close()
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Stop all threads."""
        self._producing.set()
        self._working.set()
        for thread in self._threads:
            thread.join(90.0)

    def check(self, patience: float = 20.0) -> int:
        """Require each number once in the target, in order within its key; return how many there are.

        What was committed last may be seen later than a read waits for it, on a busy machine: it has `patience` (s).
        """
        deadline = time.monotonic() + patience
        while True:
            came = [int(message.value) for message in self.bus.read(self.source)]
            gone = [int(message.value) for message in self.bus.read(self.target)]
            lost = {"published": set(range(self.sent)) ^ set(came), "worked on": set(came) ^ set(gone)}
            if not any(lost.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert not any(lost.values()), lost
        doubled = [number for number, times in Counter(gone).items() if times != Counter(came)[number]]
        assert not doubled, f"not as often as they came: {doubled[:10]}"
        assert self.repeated or len(came) == self.sent
        assert list(self.bus.read(self.dead)) == []
        for key in range(13):
            mine = [number for number in gone if number % 13 == key]
            assert self.repeated or mine == sorted(mine)
        return len(gone)

    def _start(self, function: Callable[..., None], *arguments: object) -> threading.Thread:
        def guarded() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _produce(self, pause: float) -> None:
        while not self._producing.wait(pause):
            try:
                self.publish(10)
            except TransientError:
                self.repeated += 1

    def _work(self, batch: int) -> None:
        while not self._working.is_set():
            bus = self._open_bus()
            begun = 0.0

            def on_step(step: int, side: str) -> None:
                nonlocal begun
                if step == 5 and side == "before":
                    begun = time.monotonic()
                elif step == 5:
                    self.slowest = max(self.slowest, time.monotonic() - begun)

            try:
                run(
                    Relay(self.source, self.target),
                    bus,
                    group=self.group,
                    dead_letters=self._letters,
                    batch=batch,
                    stop=self._working,
                    retry=RETRY,
                    on_step=on_step,
                )
            except (ExpiredError, TransientError):
                self.restarts += 1
                time.sleep(0.5)
            finally:
                bus.close()


class Reader:
    """A consumer outside, with Kafka's own client: when each committed message came."""

    def __init__(self, settings: Mapping[str, str], topic: str) -> None:
        self.values: list[bytes] = []
        self.times: list[float] = []
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                **settings,
                "group.id": "reader.of-the-test",
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(topic, each, 0) for each in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30.0)
        self._consumer.close()

    def wait_for(self, count: int, patience: float) -> None:
        """Wait until `count` messages came."""
        deadline = time.monotonic() + patience
        while len(self.values) < count:
            assert time.monotonic() < deadline, f"{len(self.values)} of {count} messages after {patience} s"
            time.sleep(0.05)

    def gap(self) -> float:
        """Return the longest time (s) between two messages."""
        return max((after - before for before, after in itertools.pairwise(self.times)), default=0.0)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                message = self._consumer.poll(0.2)
            except KafkaException:  # librdkafka goes on by itself
                continue
            if message is not None and message.error() is None:
                self.values.append(message.value() or b"")
                self.times.append(time.monotonic())
