"""Checks of transactions, positions and remembered outputs."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import DeliveryError
from workers.database import LineState, Position, StoredOutput
from workers.database.conformance.samples import (
    Check,
    MakeDatabase,
    make_announcement,
    make_exposure,
    make_object,
    make_sources,
    require,
)

__all__ = ["POSITION_CHECKS"]

_HERE = Position("associate", "scored", 0, 7)


def transaction_is_all_or_nothing(make: MakeDatabase, path: Path) -> None:
    """A block that raises leaves no row, no position and no output, in any table."""
    database = make(path)
    try:
        with database.transaction([5]):
            database.store(make_object(1), make_sources(1, [61000.0]), make_exposure(1, 61000.0))
            database.remember(_HERE, [StoredOutput("alerts", b"k", b"v", 1)])
            database.announce(make_announcement(1), [0, 1], 10)
            database.deliver(1, 0, "1:0", b"message")
            database.close_visit(1)
            database.enqueue(1, 0, False)
            database.keep_line_state(20251120, LineState(5, 1.0, 1))
            require(database.head(5), "what was written is not seen inside")
            raise KeyError("inside")
    except KeyError:
        pass
    require(database.applied(_HERE) is None, "the position survived a rollback")
    require(sum(database.counts().values()) == 0, "rows survived a rollback")
    require(database.head(5) is None and not database.open_visits(), "the line survived a rollback")
    require(database.line_state(20251120) == LineState(), "the state of the line survived a rollback")
    with database.transaction([5]):
        require(database.announce(make_announcement(1), [0], 10) == "new", "a visit survived a rollback")
        require(database.deliver(1, 0, "1:0", b"message"), "a kept message survived a rollback")
    database.close()


def outputs_are_remembered(make: MakeDatabase, path: Path) -> None:
    """A message applied before gives the same outputs in the same order, after a restart as well."""
    headers = {"night": b"20251120", "empty": b"", "alertId": bytes(range(256))}
    outputs = [
        StoredOutput("alerts", b"a", b"1", 5, headers),
        StoredOutput("alerts", b"", bytes(range(256)) * 1000, -6),
        StoredOutput("tóta", b"b", b"", 2**62),
    ]
    database = make(path)
    with database.transaction():
        database.remember(_HERE, outputs)
    database.close()
    database = make(path)
    found = database.applied(_HERE)
    require(found == outputs, "outputs differ after a restart")
    require(found is not None and list(found[0].headers) == list(headers), "headers changed their order")
    require(database.applied(Position("associate", "scored", 0, 6)) is None, "a message that was left out is applied")
    require(database.applied(Position("associate", "scored", 0, 8)) is None, "a later message counts as applied")
    require(database.applied(Position("associate", "scored", 1, 7)) is None, "partitions share positions")
    require(database.applied(Position("other", "scored", 0, 7)) is None, "groups share positions")
    database.close()


def outputs_are_dropped_when_settled(make: MakeDatabase, path: Path) -> None:
    """Outputs are kept until their message is settled, however many follow; a settled one is done for ever."""
    database = make(path)
    output = StoredOutput("alerts", b"k", b"v", 1)
    with database.transaction():
        for offset in (0, 1, 1000):
            database.remember(Position("associate", "scored", 0, offset, 50), [output])
        database.remember(Position("associate", "scored", 1, 0, 50), [output])
        database.settle(Position("associate", "scored", 0, 1, 50))
    for offset, expected in ((0, []), (1, []), (999, None), (1000, [output])):
        found = database.applied(Position("associate", "scored", 0, offset, 50))
        require(found == expected, f"offset {offset} gives {found}")
    require(database.applied(Position("associate", "scored", 1, 0, 50)) == [output], "partitions are settled together")
    with database.transaction():
        database.settle(Position("associate", "scored", 0, 0, 50))
    require(database.applied(Position("associate", "scored", 0, 1, 50)) == [], "settling went back")
    database.close()


def a_topic_made_anew_is_told(make: MakeDatabase, path: Path) -> None:
    """A message at a settled offset that is newer than any that was applied is a DeliveryError, an older one is not."""
    database = make(path)
    with database.transaction():
        database.remember(Position("associate", "scored", 0, 7, 500), [])
        database.remember(Position("associate", "scored", 0, 8, 400), [])
        database.settle(Position("associate", "scored", 0, 8, 400))
    require(database.applied(Position("associate", "scored", 0, 3, 500)) == [], "an old message is not taken for done")
    try:
        database.applied(Position("associate", "scored", 0, 3, 501))
    except DeliveryError:
        pass
    else:
        require(False, "a message of another topic was taken for done")
    require(database.applied(Position("associate", "scored", 0, 9, 501)) is None, "the next message is not new")
    database.close()


POSITION_CHECKS: tuple[Check, ...] = (
    transaction_is_all_or_nothing,
    outputs_are_remembered,
    outputs_are_dropped_when_settled,
    a_topic_made_anew_is_told,
)
