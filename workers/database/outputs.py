"""Remembered outputs as one compressed value: all messages that an input gave, in order."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import zstandard

from workers.database import StoredOutput

__all__ = ["pack_outputs", "unpack_outputs"]

_LEVEL = 1  # alerts hold compressed cut-outs already: more effort gains next to nothing
_COUNT = struct.Struct("<I")
_TIMESTAMP = struct.Struct("<q")


def pack_outputs(outputs: Sequence[StoredOutput]) -> bytes:
    """Return messages as bytes: little-endian, each part behind its length (uint32), then zstandard."""
    parts: list[bytes] = [_COUNT.pack(len(outputs))]
    for output in outputs:
        parts += _sized((output.topic.encode(), output.key, output.value))
        parts += (_TIMESTAMP.pack(output.timestamp), _COUNT.pack(len(output.headers)))
        for name, value in output.headers.items():
            parts += _sized((name.encode(), value))
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def _sized(values: Iterable[bytes]) -> list[bytes]:
    return [part for value in values for part in (_COUNT.pack(len(value)), value)]


def unpack_outputs(packed: bytes) -> list[StoredOutput]:
    """Return the messages of `pack_outputs`."""
    reader = _Reader(zstandard.ZstdDecompressor().decompress(packed))
    return [reader.output() for _ in range(reader.count())]


class _Reader:
    """Takes packed bytes apart from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def count(self) -> int:
        (value,) = _COUNT.unpack_from(self.data, self.at)
        self.at += _COUNT.size
        return int(value)

    def sized(self) -> bytes:
        begin = self.at + _COUNT.size
        self.at = begin + self.count()
        return self.data[begin : self.at]

    def output(self) -> StoredOutput:
        topic, key, value = self.sized().decode(), self.sized(), self.sized()
        (timestamp,) = _TIMESTAMP.unpack_from(self.data, self.at)
        self.at += _TIMESTAMP.size
        headers = {}
        for _ in range(self.count()):
            name = self.sized().decode()
            headers[name] = self.sized()
        return StoredOutput(topic, key, value, timestamp, headers)
