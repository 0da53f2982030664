"""Checks of several connections to one database: what waits for what, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.database import Database, Position, StoredOutput
from workers.database.conformance.samples import (
    Check,
    MakeDatabase,
    make_announcement,
    make_exposure,
    make_object,
    make_sources,
    require,
)

__all__ = ["SHARING_CHECKS"]

_SOON = 10.0  # s; what must happen happens in that time, on a busy machine too
_NOT_YET = 0.3  # s; what must wait is given that time to be wrong
_HERE = Position("associate", "scored", 0, 7)


class _Other:
    """Another worker: its own connection in its own thread, doing one thing in one transaction."""

    def __init__(self, make: MakeDatabase, path: Path, tiles: tuple[int, ...], act: Callable[[Database], None]) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(make, path, tiles, act), daemon=True)
        self.thread.start()

    def _run(self, make: MakeDatabase, path: Path, tiles: tuple[int, ...], act: Callable[[Database], None]) -> None:
        try:
            database = make(path)
            with database.transaction(tiles):
                act(database)
                self.done.set()
            database.close()
        except BaseException as error:
            self.error = error
            raise

    def must_wait(self, what: str) -> None:
        require(not self.done.wait(_NOT_YET), what)

    def must_end(self, what: str) -> None:
        require(self.done.wait(_SOON), f"{what}: {self.error!r}")
        self.thread.join(_SOON)
        require(self.error is None, f"{what}: {self.error!r}")


@contextmanager
def _opened(make: MakeDatabase, path: Path) -> Iterator[Database]:
    database = make(path)
    yield database
    database.close()


def tiles_have_one_writer(make: MakeDatabase, path: Path) -> None:
    """A transaction waits for the one that holds a tile it wants, and then sees what that one wrote."""
    seen: list[int] = []

    def look(database: Database) -> None:
        head = database.head(3)
        seen.append(-1 if head is None else head.visit)

    with _opened(make, path) as database:
        with database.transaction([2, 3]):
            other = _Other(make, path, (3, 4), look)
            other.must_wait("two transactions hold the same tile")
            database.announce(make_announcement(1, 0, 3), [], 10)
            database.enqueue(1, 0, False)
        other.must_end("a tile was not given back")
    require(seen == [1], f"what was written under the lock was not seen: {seen}")


def other_tiles_do_not_wait(make: MakeDatabase, path: Path) -> None:
    """Transactions that hold other tiles go on side by side, unless one excludes every other."""

    def store(database: Database) -> None:
        database.store(make_object(2), make_sources(2, [61000.0]), make_exposure(2, 61000.0))

    with _opened(make, path) as database:
        if database.exclusive:
            return
        with database.transaction([2, 3]):
            database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
            database.applied(_HERE)
            _Other(make, path, (1, 4), store).must_end("a transaction waits for a tile that it does not want")
            _Other(make, path, (), store).must_end("a transaction without tiles waits for one")
            elsewhere = Position("associate", "scored", 1, 7)
            other = _Other(make, path, (), lambda there: require(there.applied(elsewhere) is None, "applied before"))
            other.must_end("a partition waits for another one")
        require(database.counts()["dia_sources"] == 2, "a row of one of the two is missing")


def positions_have_one_owner(make: MakeDatabase, path: Path) -> None:
    """Of two workers with the same message the second gets the outputs of the first."""
    outputs = [StoredOutput("alerts", b"k", b"v", 1)]
    found: list[list[StoredOutput] | None] = []
    with _opened(make, path) as database:
        with database.transaction([1]):
            require(database.applied(_HERE) is None, "applied before it was")
            other = _Other(make, path, (2,), lambda there: found.append(there.applied(_HERE)))
            other.must_wait("two transactions own the same position")
            database.remember(_HERE, outputs)
        other.must_end("a position was not given back")
    require(found == [outputs], f"the second worker got {found}")


def locks_end_with_their_transaction(make: MakeDatabase, path: Path) -> None:
    """A transaction that is undone gives its tiles and its position back."""
    with _opened(make, path) as database:
        try:
            with database.transaction([1]):
                database.applied(_HERE)
                raise KeyError("inside")
        except KeyError:
            pass
        other = _Other(make, path, (1,), lambda there: require(there.applied(_HERE) is None, "applied before"))
        other.must_end("an undone transaction holds its tiles")


def readers_do_not_wait(make: MakeDatabase, path: Path) -> None:
    """A second connection reads, while a transaction is under way, what was committed before it."""
    seen: list[tuple[int, int, int]] = []
    with _opened(make, path) as database:
        with database.transaction([5]):
            database.announce(make_announcement(1), [0, 1], 10)
        with database.transaction([5]):
            database.announce(make_announcement(2), [], 20)
            database.close_visit(1)
            require(len(database.open_visits()) == 1, "what was written is not seen inside")

            def read() -> None:
                with _opened(make, path) as there:
                    visits, all_of_them = there.open_visits(), there.announcements()
                    seen.append((len(visits), len(all_of_them), there.line_state(20251120).watermark))

            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            thread.join(_SOON)
            require(seen == [(1, 1, 0)], f"a reader saw {seen}")


SHARING_CHECKS: tuple[Check, ...] = (
    tiles_have_one_writer,
    other_tiles_do_not_wait,
    positions_have_one_owner,
    locks_end_with_their_transaction,
    readers_do_not_wait,
)
