"""Three brokers with SASL/SCRAM and ACLs: who may do what, and one of the three is killed in mid-stream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import Message as KafkaMessage

from schemas.errors import ConfigurationError, UnreachableError
from stream.bus import Outgoing
from stream.bus.kafka import KafkaBus
from tests.stream.kafka_brokers import KAFKA, BrokerCluster, home, missing
from tests.stream.kafka_flow import Flow, Reader

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

PREFIX = "survey."
ALERTS = f"{PREFIX}alerts"
WRONG = "not the password"


class Guarded:
    """The cluster, with the rights given as docs/kafka.md says."""

    def __init__(self, cluster: BrokerCluster, address: str) -> None:
        self.cluster, self.address = cluster, address

    def access(self, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KAFKA_ADMIN_PASSWORD": password or self.cluster.passwords["admin"]}
        command = [sys.executable, str(KAFKA / "access.py"), arguments[0], self.address, *arguments[1:]]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def bus(self, user: str = "skydelta", password: str = "") -> KafkaBus:
        return KafkaBus(self.address, properties=self.cluster.settings(user, password), replication=3)

    def client(self, user: str) -> dict[str, str]:
        return {**self.cluster.settings(user), "bootstrap.servers": self.address}

    def first(self, topic: str, group: str) -> KafkaMessage:
        """Return the first message, or error, that the user `reader` gets of `topic` as a member of `group`."""
        settings = {"group.id": group, "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
        consumer = Consumer({**self.client("reader"), **settings, "log_level": 2})
        try:
            consumer.subscribe([topic])
            got = consumer.poll(30.0)
            assert got is not None
            return got
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    cluster = BrokerCluster(tmp_path_factory.mktemp("cluster"))
    guarded = Guarded(cluster, cluster.start())
    for _ in range(2):  # repeating is harmless
        for role, user in (("worker", "skydelta"), ("reader", "reader")):
            done = guarded.access(role, PREFIX, user)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bus = guarded.bus()
    bus.ensure({ALERTS: 1, f"{PREFIX}scored": 1})
    bus.publish([Outgoing(topic, b"k", b"published", 1) for topic in (ALERTS, f"{PREFIX}scored")])
    bus.close()
    yield guarded
    cluster.stop()


def code_of(message: KafkaMessage) -> int | None:
    error = message.error()
    return None if error is None else error.code()


def test_passwords_are_kept_from_others(guarded: Guarded) -> None:
    users = guarded.cluster.folder / "users"
    assert users.stat().st_mode & 0o077 == 0
    assert set(guarded.cluster.passwords) == {"admin", "skydelta", "reader"}
    properties = guarded.cluster.folder / "node-1/server.properties"
    assert properties.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("group", ["reader", "reader.archive"])
def test_a_reader_reads_the_alerts_in_groups_of_its_own(guarded: Guarded, group: str) -> None:
    message = guarded.first(ALERTS, group)
    assert (message.error(), message.value()) == (None, b"published")


@pytest.mark.parametrize("group", ["readers", "skydelta", f"{PREFIX}associate"])
def test_a_reader_may_not_join_groups_of_others(guarded: Guarded, group: str) -> None:
    assert code_of(guarded.first(ALERTS, group)) == KafkaError.GROUP_AUTHORIZATION_FAILED


def test_a_reader_may_not_read_anything_else(guarded: Guarded) -> None:
    assert code_of(guarded.first(f"{PREFIX}scored", "reader.x")) == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_reader_may_not_write(guarded: Guarded) -> None:
    errors: list[KafkaError | None] = []
    producer = Producer({**guarded.client("reader"), "log_level": 2})
    producer.produce(ALERTS, b"forged", on_delivery=lambda error, _: errors.append(error))
    producer.flush(30.0)
    (error,) = errors
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    bus = guarded.bus()
    assert [message.value for message in bus.read(ALERTS)] == [b"published"]
    bus.close()


def test_workers_get_by_with_their_rights(guarded: Guarded, tmp_path: Path) -> None:
    """Create, publish, consume, commit, read, lag: all that the bus does."""
    flow = Flow(guarded.bus, tmp_path, PREFIX)
    try:
        flow.bus.ensure({flow.source: 4})  # once more: settings are looked at
        flow.publish(50)
        flow.work(1)
        flow.finish(60.0)
        assert flow.check() == 50
    finally:
        flow.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda bus: bus.ensure({"theirs": 1}), "creating topic theirs"),
        (lambda bus: bus.publish([Outgoing("theirs", b"", b"", 1)]), "no topic theirs"),
        (lambda bus: bus.session("reader", [ALERTS]).poll(1, 20.0), "READ the group"),
        (lambda bus: bus.lag("reader", [ALERTS]), "READ the group"),
    ],
    ids=["create", "publish", "group", "lag"],
)
def test_workers_have_no_rights_beyond_their_prefix(
    guarded: Guarded, call: Callable[[KafkaBus], Any], words: str
) -> None:
    bus = guarded.bus()
    with pytest.raises(ConfigurationError, match=words):
        call(bus)
    bus.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.ensure({ALERTS: 1}),
        lambda bus: bus.publish([Outgoing(ALERTS, b"", b"", 1)]),
        lambda bus: bus.session(f"{PREFIX}isr", [ALERTS]),
    ],
    ids=["ensure", "publish", "session"],
)
def test_a_wrong_password_is_told_at_once(guarded: Guarded, call: Callable[[KafkaBus], Any]) -> None:
    bus = guarded.bus(password=WRONG)
    begin = time.monotonic()
    with pytest.raises(UnreachableError, match=r"refused the login.*check sasl\.username, sasl\.password"):
        call(bus)
    assert time.monotonic() - begin < 10.0  # of 30 that the cluster's answers are awaited
    bus.close()


def test_the_administrator_hears_of_a_wrong_password(guarded: Guarded) -> None:
    done = guarded.access("reader", PREFIX, "reader", password=WRONG)
    assert done.returncode == 1
    assert "invalid credentials" in done.stderr
    assert "Traceback" not in done.stderr
    assert "prefix" in guarded.access("reader", "", "reader").stderr


def test_a_quota_slows_a_reader_down(guarded: Guarded, tmp_path: Path) -> None:
    """The command of docs/kafka.md, with the cached jars: 100 kB/s for 1.2 MB."""
    topic = f"{ALERTS}-{uuid.uuid4().hex[:8]}"
    bus = guarded.bus()
    bus.ensure({topic: 1})
    bus.publish([Outgoing(topic, b"", os.urandom(60_000), 1 + n) for n in range(20)])
    bus.close()
    password = guarded.cluster.passwords["admin"]
    login = f'org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="{password}";'
    lines = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-512", f"sasl.jaas.config={login}"]
    (tmp_path / "admin.properties").write_text("\n".join(lines))

    def configure(change: str, setting: str) -> None:
        command = ["java", "-cp", f"{home()}/lib/*", "kafka.admin.ConfigCommand", "--bootstrap-server", guarded.address]
        command += ["--command-config", str(tmp_path / "admin.properties"), "--alter", "--entity-type", "users"]
        command += ["--entity-name", "reader", change, setting]
        subprocess.run(command, check=True, timeout=60, capture_output=True)

    configure("--add-config", "consumer_byte_rate=100000")
    settings = {"group.id": "reader.slow", "auto.offset.reset": "earliest", "max.partition.fetch.bytes": "100000"}
    consumer = Consumer({**guarded.client("reader"), **settings})
    consumer.subscribe([topic])
    begin = time.monotonic()
    try:
        for _ in range(20):
            message = consumer.poll(60.0)
            assert message is not None
            assert message.error() is None
    finally:
        consumer.close()
        configure("--delete-config", "consumer_byte_rate")
    assert time.monotonic() - begin > 3.0


def test_one_of_three_brokers_is_killed_and_nothing_is_lost_or_doubled(guarded: Guarded, tmp_path: Path) -> None:
    flow = Flow(guarded.bus, tmp_path, ALERTS)  # a name that the reader may read
    reader = Reader(guarded.client("reader"), flow.target)
    try:
        flow.work(2)
        flow.produce()
        reader.wait_for(150, 60.0)
        before = flow.slowest
        guarded.cluster.kill(2)
        killed = time.monotonic()
        reader.wait_for(len(reader.values) + 150, 90.0)
        gap = reader.gap()
        guarded.cluster.start_node(2)
        reader.wait_for(len(reader.values) + 100, 60.0)
        flow.finish(60.0)
        count = flow.check()
        reader.wait_for(count, 30.0)
    finally:
        flow.close()
        reader.close()
    assert len(reader.values) == count
    assert flow.slowest < 45.0
    assert any(each > killed for each in reader.times)
    print(f"\n{count} messages; slowest commit {flow.slowest:.1f} s ({before:.2f} s before), gap {gap:.1f} s")
