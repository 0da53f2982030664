"""One alert as it stood on the bus, and its entry in the index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ArchivedAlert", "Entry"]


@dataclass(frozen=True, slots=True)
class ArchivedAlert:
    """A message of the alerts topic; all but `alertId`, `night` and `value` may be unknown after a reindex."""

    alertId: int
    night: int
    """YYYYMMDD."""
    value: bytes
    """Frame and body, byte for byte."""
    key: bytes = b""
    timestamp: int = 0
    """Milliseconds since 1970 UTC."""
    headers: Mapping[str, bytes] = field(default_factory=dict)
    """What the wall clock said: stageTimes, timeProcessedMjdTai."""
    topic: str = ""
    """Empty where the position is unknown."""
    partition: int = 0
    offset: int = 0

    @property
    def sha256(self) -> bytes:
        """Digest of `value`, 32 bytes."""
        return hashlib.sha256(self.value).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an alert lies, and what its container does not hold."""

    alertId: int
    night: int
    container: str
    """Path of the file below the archive's folder."""
    start: int
    """Byte offset of its block in the file."""
    length: int
    """Bytes of its block."""
    sha256: bytes
    """Of the whole message, 32 bytes."""
    topic: str = ""
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes = b""
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def position(self) -> str:
        """Where on the bus it stood, for messages."""
        return f"{self.topic}[{self.partition}] offset {self.offset}" if self.topic else "an unknown position"
