"""What the Kafka bus does without a broker: settings, error texts, partitions, the proof of membership."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError, DataError, ExpiredError, FencedError, SkydeltaError, UnreachableError
from stream.bus import Message, Outgoing
from stream.bus.kafka import KafkaBus
from stream.bus.kafka_cluster import Cluster
from stream.bus.kafka_log import spans
from stream.bus.kafka_membership import Membership, _generation, group_settings
from stream.bus.partition import murmur2, partition_of

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(NOWHERE, {}, 0.5)


@given(st.binary(max_size=200))
def test_librdkafka_places_keys_as_we_do(key: bytes) -> None:
    assert confluent_kafka.murmur2(key, 7) == partition_of(key, 7)
    assert 0 <= murmur2(key) < 2**32


def test_an_address_is_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"bus\.bootstrap"):
        KafkaBus("")


@pytest.mark.parametrize("name", ["isolation.level", "enable.auto.commit", "auto.offset.reset", "partitioner"])
def test_the_promise_of_delivery_cannot_be_configured_away(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"must not set {name}"):
        KafkaBus(NOWHERE, properties={name: "x"})


def test_an_unknown_property_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r'"no\.such".*bus\.properties'):
        KafkaBus(NOWHERE, properties={"no.such": "1"}).topics()


def test_an_absent_broker_is_named_with_what_to_check(capfd: pytest.CaptureFixture[str]) -> None:
    bus = KafkaBus(NOWHERE, session_timeout=0.5)
    for call in (bus.topics, lambda: bus.ensure({"t": 1}), lambda: bus.publish([Outgoing("t", b"", b"", 1)])):
        with pytest.raises(UnreachableError, match=rf"{NOWHERE} failed.*no broker answers: check that it runs"):
            call()
    bus.close()
    bus.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError.PRODUCER_FENCED, ExpiredError, "nothing was committed"),
        (KafkaError._FENCED, ExpiredError, "nothing was committed"),
        (KafkaError.FENCED_MEMBER_EPOCH, ExpiredError, "Start it again"),
        (KafkaError.INVALID_PRODUCER_EPOCH, ExpiredError, "Start it again"),
        (KafkaError._MAX_POLL_EXCEEDED, ExpiredError, "Start it again"),
        (KafkaError.UNKNOWN_MEMBER_ID, ExpiredError, "another member owns"),
        (KafkaError.ILLEGAL_GENERATION, FencedError, "another member owns"),
        (KafkaError.STALE_MEMBER_EPOCH, FencedError, "another member owns"),
        (KafkaError.MSG_SIZE_TOO_LARGE, DataError, "inline_max_bytes"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ConfigurationError, "ACL"),
        (KafkaError.INVALID_SESSION_TIMEOUT, ConfigurationError, "session_timeout_s"),
        (KafkaError.INVALID_REPLICATION_FACTOR, ConfigurationError, "replication"),
        (KafkaError._TRANSPORT, UnreachableError, "no broker answers"),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, UnreachableError, "try again"),
    ],
)
def test_errors_say_what_to_do(cluster: Cluster, code: int, kind: type[SkydeltaError], words: str) -> None:
    failure = cluster.failure("testing", KafkaException(KafkaError(code)))
    assert type(failure) is kind
    assert words in str(failure)
    assert f"testing at Kafka {NOWHERE} failed" in str(failure)


def test_a_refused_login_is_told_as_such(cluster: Cluster) -> None:
    assert not cluster.in_trouble()
    heard = cluster._settings(frozenset(), {}, {})["error_cb"]
    heard(KafkaError(KafkaError._AUTHENTICATION, "SASL handshake failed"))
    heard(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))  # follows, and says less
    failure = cluster.failure("polling", KafkaError(KafkaError._TRANSPORT))
    assert isinstance(failure, UnreachableError)
    assert "refused the login (SASL handshake failed): check sasl.username" in str(failure)
    assert cluster.in_trouble()


def test_users_tune_but_do_not_override(cluster: Cluster) -> None:
    tuned = Cluster(NOWHERE, {"linger.ms": "50", "fetch.min.bytes": "9", "ssl.ca.location": "ca.pem"}, 1.0)
    settings = tuned._settings(frozenset({"fetch.min.bytes"}), {"linger.ms": 5}, {"acks": "all"})
    assert (settings["linger.ms"], settings["acks"], settings["ssl.ca.location"]) == ("50", "all", "ca.pem")
    assert "fetch.min.bytes" not in settings


def test_group_settings_fit_the_protocol() -> None:
    classic = group_settings(30.0, "classic", {})
    assert classic["session.timeout.ms"] == 30_000
    assert classic["heartbeat.interval.ms"] == 3000
    assert classic["partition.assignment.strategy"] == "cooperative-sticky"
    assert int(str(classic["max.poll.interval.ms"])) >= 600_000
    modern = group_settings(30.0, "consumer", {"max.poll.interval.ms": "7"})
    assert modern == {"group.protocol": "consumer", "max.poll.interval.ms": "7"}  # the rest is the broker's


def test_a_member_without_generation_is_recognised(cluster: Cluster) -> None:
    loose = cluster.reader()
    assert _generation(loose.consumer_group_metadata()) == -1
    membership = Membership(cluster, "group")
    with pytest.raises(ExpiredError, match=r"group 'group' was declared dead while it worked on t\[0\]"):
        membership.proof(loose, {("t", 0): 4})
    membership._member = loose.memberid()
    with pytest.raises(FencedError, match=r"t\[0\] was taken from this member of group 'group'"):
        membership.proof(loose, {("t", 0): 4})
    loose.close()
    assert _generation(b"CGMDv2:\x05\x00\x00\x00group\x00member\x00\x01") == 5
    assert _generation(b"of another version") == 1


def test_only_what_was_polled_is_committed(cluster: Cluster) -> None:
    membership = Membership(cluster, "group")
    message = Message("t", 0, 4, b"", b"", 1)
    assert not membership.accept(message)
    with pytest.raises(FencedError):
        membership.positions_after([message])


@pytest.mark.parametrize(("lost", "kind"), [(False, FencedError), (True, ExpiredError)])
def test_a_lost_partition_is_told_from_a_revoked_one(cluster: Cluster, lost: bool, kind: type[FencedError]) -> None:
    membership = Membership(cluster, "group")
    membership._next = {("t", 0): 4, ("t", 1): 0}
    message = Message("t", 0, 4, b"", b"", 1)
    assert membership.accept(message)
    membership.revoked({("t", 0), ("t", 1)}, lost=lost)
    with pytest.raises(FencedError) as caught:
        membership.positions_after([message])
    assert type(caught.value) is kind
    with pytest.raises(FencedError) as caught:  # nothing of the other was in work
        membership.positions_after([Message("t", 1, 0, b"", b"", 1)])
    assert type(caught.value) is FencedError


class _Dying:
    """An admin client as librdkafka's is while a leader dies: no error, and no offset."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers

    def list_offsets(self, asked: dict[TopicPartition, object], **_: object) -> dict[TopicPartition, Future[object]]:
        future: Future[object] = Future()
        future.set_result(SimpleNamespace(offset=self.answers.pop(0)))
        return dict.fromkeys(asked, future)


@pytest.mark.parametrize("answers", [[-1001, 0, 7], [0, -1001, -1001, 7]])
def test_no_offset_is_no_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, answers: list[int]) -> None:
    monkeypatch.setattr(cluster, "admin", lambda: _Dying(answers))
    monkeypatch.setattr(cluster, "topics", dict)
    assert spans(cluster, [("t", 0)]) == {("t", 0): (0, 7)}


def test_no_offset_for_long_is_unreachable(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "admin", lambda: _Dying([-1001] * 100))
    monkeypatch.setattr(cluster, "topics", dict)
    with pytest.raises(UnreachableError, match="asking for the ends of the partitions"):
        spans(cluster, [("t", 0)])
