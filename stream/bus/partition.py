"""Which partition a key belongs to: the default partitioner of Apache Kafka's Java client."""

from __future__ import annotations

import struct

from schemas.errors import ConfigurationError

__all__ = ["murmur2", "partition_of"]

_SEED = 0x9747B28C
_MIX = 0x5BD1E995
_MASK = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit MurmurHash2 of `data`, unsigned.

    The same as `org.apache.kafka.common.utils.Utils.murmur2`: A. Appleby's MurmurHash2 (public domain) with
    Kafka's seed 0x9747b28c.
    """
    length = len(data)
    whole = length & ~3
    h = (_SEED ^ length) & _MASK
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        k = (word * _MIX) & _MASK
        k = ((k ^ (k >> 24)) * _MIX) & _MASK
        h = ((h * _MIX) & _MASK) ^ k
    if length > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _MIX) & _MASK
    h = ((h ^ (h >> 13)) * _MIX) & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of `key` among `partitions`: murmur2 made positive, modulo the count.

    Raises ConfigurationError where `partitions` < 1.
    """
    if partitions < 1:
        raise ConfigurationError(f"a topic needs at least 1 partition, not {partitions}; set bus.partitions")
    return (murmur2(key) & _POSITIVE) % partitions
