"""The narrow connection on which the SQL of this room runs; SQLite and PostgreSQL each have one.

The SQL is what both understand, with `?` for values. Statements without an answer may be held back and travel with the
next one that has one, or with the commit: over a slow network a transaction costs as many round trips as it asks
questions. An error of such a statement appears there; nothing of the transaction is kept then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

__all__ = ["Connection"]

Values = Sequence[Any]


class Connection(Protocol):
    """One session with the database, used by one thread; every method raises UnreachableError."""

    @property
    def exclusive(self) -> bool:
        """True where `begin` excludes every other transaction."""

    def begin(self, tiles: Collection[int]) -> None:
        """Begin a transaction that holds the sky tiles; tries a new session once where the old one was lost."""

    def commit(self) -> None:
        """Make the transaction durable; it is rolled back where this raises, or was done and the answer was lost."""

    def rollback(self) -> None:
        """Undo the transaction, if there is one; never raises."""

    def lock(self, *names: str | int) -> None:
        """Wait for what goes by these names, and hold it until the transaction ends."""

    def query(self, text: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""

    def execute(self, text: str, values: Values = ()) -> None:
        """Run one statement that gives no rows."""

    def executemany(self, text: str, rows: Sequence[Values]) -> None:
        """Run one statement, that gives no rows, for many rows of values."""

    def among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        """Return the condition that `column` is one of many numbers, and the value of its one `?`."""

    def close(self) -> None:
        """End the session; closing twice is allowed."""
