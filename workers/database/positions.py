"""Transactions, and the positions on the bus that were applied in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from schemas.errors import DeliveryError
from workers.database import Position, StoredOutput
from workers.database.connection import Connection
from workers.database.outputs import pack_outputs, unpack_outputs

__all__ = ["SqlPositions"]


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
            "SELECT p.next, p.latest, o.packed FROM positions p "
            "LEFT JOIN outputs o ON o.grp = p.grp AND o.topic = p.topic AND o.part = p.part AND o.off = ? "
            "WHERE p.grp = ? AND p.topic = ? AND p.part = ?",
            (position.offset, *key),
        )
        if not rows:
            return None
        done, latest, packed = rows[0]
        if packed is not None:
            return unpack_outputs(packed)
        if position.offset >= done:
            return None
        if position.timestamp > latest:
            raise DeliveryError(
                f"offset {position.offset} of {position.topic}[{position.partition}] was done long since (group "
                f"{position.group!r} is at {done}), but this message is newer than all that were: the topic was made "
                "anew. Give the new bus a new database too (survey.toml [database]), or another prefix"
            )
        return []

    def remember(self, position: Position, outputs: Sequence[StoredOutput]) -> None:
        """Mark a message as applied, with its outputs."""
        key = (position.group, position.topic, position.partition)
        self.connection.execute(
            "INSERT INTO positions(grp, topic, part, next, latest) VALUES(?,?,?,0,?) "
            "ON CONFLICT(grp, topic, part) DO UPDATE SET latest = excluded.latest "
            "WHERE positions.latest < excluded.latest",
            (*key, position.timestamp),
        )
        self.connection.execute(
            "INSERT INTO outputs(grp, topic, part, off, packed) VALUES(?,?,?,?,?) "
            "ON CONFLICT(grp, topic, part, off) DO UPDATE SET packed = excluded.packed",
            (*key, position.offset, pack_outputs(outputs)),
        )

    def settle(self, position: Position) -> None:
        """Mark all messages up to this one as done for good, and drop their outputs."""
        key = (position.group, position.topic, position.partition)
        self.connection.execute(
            "INSERT INTO positions(grp, topic, part, next, latest) VALUES(?,?,?,?,?) "
            "ON CONFLICT(grp, topic, part) DO UPDATE SET next = excluded.next WHERE positions.next < excluded.next",
            (*key, position.offset + 1, position.timestamp),
        )
        self.connection.execute(
            "DELETE FROM outputs WHERE grp = ? AND topic = ? AND part = ? AND off <= ?", (*key, position.offset)
        )
