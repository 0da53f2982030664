"""Keys go to the partitions that Apache Kafka's Java client would choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from stream.bus.partition import murmur2, partition_of

# clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2 (signed 32-bit)
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_hash_equals_the_java_client(key: bytes) -> None:
    assert murmur2(key) == JAVA[key] % 2**32


@given(st.binary(max_size=40), st.integers(1, 300))
def test_partition_is_within_the_topic(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
    assert 0 <= murmur2(key) < 2**32


@given(st.binary(max_size=40))
def test_partition_is_a_function_of_the_key(key: bytes) -> None:
    assert partition_of(key, 1) == 0
    assert partition_of(bytes(bytearray(key)), 16) == partition_of(key, 16)
    assert partition_of(key, 16) % 4 == partition_of(key, 4)  # the same positive hash below both


@given(st.integers(0, 10**9), st.sampled_from([2, 3, 4, 8, 12]))
def test_keys_spread_evenly(visit: int, partitions: int) -> None:
    """Chi-square of 400 keys as the night makes them: 6 sigma above its mean at most."""
    keys = [b"%d:%d" % (visit + n // 8, n % 8) for n in range(400)]
    counts = [0] * partitions
    for key in keys:
        counts[partition_of(key, partitions)] += 1
    expected = len(keys) / partitions
    chi2 = sum((count - expected) ** 2 / expected for count in counts)
    freedom = partitions - 1
    assert chi2 < freedom + 6 * (2 * freedom) ** 0.5 + 12


def test_agrees_with_librdkafka() -> None:
    """librdkafka's own partitioner, through its in-process mock cluster (4 partitions per topic)."""
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "partitioner": "murmur2", "log_level": 0})
    found: dict[bytes, int] = {}
    keys = [b"%d:%d" % (n * 7919, n % 9) for n in range(60)] + [b"\xff" * n for n in range(1, 9)]
    for key in keys:
        producer.produce("t", key=key, value=b"", on_delivery=lambda _, m: found.update({m.key(): m.partition()}))
    assert producer.flush(20) == 0
    assert found == {key: partition_of(key, 4) for key in keys}


def test_refuses_a_topic_without_partitions() -> None:
    with pytest.raises(ConfigurationError, match=r"at least 1 partition, not 0; set bus\.partitions"):
        partition_of(b"key", 0)
