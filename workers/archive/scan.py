"""What a container file holds by itself: everything but key, timestamp, headers and position of its alerts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from workers.archive.alert import Entry
from workers.archive.container import blocks, first_long, framed, read_header
from workers.archive.files import mapped

__all__ = ["Scan"]


class Scan:
    """The whole blocks of one file; `name` is its path below the archive's folder.

    Raises SchemaError where its head is damaged or not the archive's, OSError where it can't be read.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._name = folder / name, name
        with mapped(self._path) as data:
            self._head = read_header(data)
        self.night = self._head.night
        self.length = self._head.length
        """Bytes up to the end of the last whole block that was given."""
        self.damaged = 0
        """Bytes before that which belong to no whole block."""

    def entries(self) -> Iterator[Entry]:
        """Yield the alerts in the order of the file."""
        schema = self._head.schema
        with mapped(self._path) as data:
            for start, length, body in blocks(data, self._head.length, self._head.sync):
                digest = hashlib.sha256(framed(schema, body)).digest()
                self.damaged += start - self.length
                self.length = start + length
                yield Entry(first_long(body), self.night, self._name, start, length, digest)
