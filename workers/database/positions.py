"""Transactions, and the positions on the bus that were applied in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from workers.database import Position, StoredOutput
from workers.database.connection import Connection
from workers.database.outputs import pack_outputs, unpack_outputs

__all__ = ["SqlPositions"]

_KEEP_OUTPUTS = 256
"""Offsets for which outputs stay remembered: more than one bus transaction holds."""


class SqlPositions:
    """`workers.database.Positions` in SQL."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def exclusive(self) -> bool:
        """True where a transaction excludes every other one."""
        return self.connection.exclusive

    @contextmanager
    def transaction(self, tiles: Collection[int] = ()) -> Iterator[None]:
        """Everything written inside is kept together, or not at all when the block raises; holds the sky tiles."""
        self.connection.begin(tiles)
        try:
            yield
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise

    def applied(self, position: Position) -> list[StoredOutput] | None:
        """Return the remembered outputs of a message applied before, or None for a new one."""
        key = (position.group, position.topic, position.partition)
        self.connection.lock("position", *key)
        rows = self.connection.query(
            "SELECT p.next, o.packed FROM positions p "
            "LEFT JOIN outputs o ON o.grp = p.grp AND o.topic = p.topic AND o.part = p.part AND o.off = ? "
            "WHERE p.grp = ? AND p.topic = ? AND p.part = ?",
            (position.offset, *key),
        )
        if not rows or rows[0][0] <= position.offset:
            return None
        return [] if rows[0][1] is None else unpack_outputs(rows[0][1])

    def remember(self, position: Position, outputs: Sequence[StoredOutput]) -> None:
        """Mark a message as applied, with its outputs, and drop outputs that the bus has had long since."""
        key = (position.group, position.topic, position.partition)
        self.connection.execute(
            "INSERT INTO positions(grp, topic, part, next) VALUES(?,?,?,?) "
            "ON CONFLICT(grp, topic, part) DO UPDATE SET next = excluded.next",
            (*key, position.offset + 1),
        )
        if outputs:
            self.connection.execute(
                "INSERT INTO outputs(grp, topic, part, off, packed) VALUES(?,?,?,?,?) "
                "ON CONFLICT(grp, topic, part, off) DO UPDATE SET packed = excluded.packed",
                (*key, position.offset, pack_outputs(outputs)),
            )
        self.connection.execute(
            "DELETE FROM outputs WHERE grp = ? AND topic = ? AND part = ? AND off <= ?",
            (*key, position.offset - _KEEP_OUTPUTS),
        )
