"""Checks of the line in which exposures are associated."""

from __future__ import annotations

from pathlib import Path

from workers.database import Announcement, Database
from workers.database.conformance.samples import Check, MakeDatabase, make_announcement, require

__all__ = ["LINE_CHECKS"]


def _open(make: MakeDatabase, path: Path, *announcements: Announcement) -> Database:
    database = make(path)
    with database.transaction({tile for announcement in announcements for tile in announcement.tiles}):
        for announcement in announcements:
            database.announce(announcement, [], 10)
    return database


def _heads(database: Database, *tiles: int) -> list[int | None]:
    heads = [database.head(tile) for tile in tiles]
    return [None if head is None else head.visit for head in heads]


def line_goes_by_rank_on_every_tile(make: MakeDatabase, path: Path) -> None:
    """What got its place first is the head, on each of its tiles, until it ends; what has no place is nowhere."""
    first, second, third = make_announcement(3, 0, 1), make_announcement(1, 0, 1, 2), make_announcement(2, 0, 2)
    database = _open(make, path, first, second, third)
    require(_heads(database, 1, 2) == [None, None], "there is a head before anything was enqueued")
    with database.transaction([1, 2]):
        for visit, late in ((3, False), (1, True), (2, False), (3, True), (44, False)):
            database.enqueue(visit, 0, late)
        require(_heads(database, 1, 2, 9) == [3, 1, None], "the line is not in order of rank")
        head = database.head(2)
        require(head == make_announcement(1, 0, 1, 2, late=True), f"the head is {head}")
        waiting = database.head(1)
        require(waiting is not None and not waiting.late, "a second place was given to one that has its place")
        database.finish(3, 0, "alerts", 12, 61003.5)
        require(_heads(database, 1, 2) == [1, 1], "what ended is still in the line")
        database.finish(1, 0, "no_alerts", 0, 61003.75)
        require(_heads(database, 1, 2) == [None, 2], "what ended is still in the line of its other tile")
    ended = database.announced(3, 0)
    require(ended == make_announcement(3, 0, 1, outcome="alerts", alerts=12), f"the outcome is {ended}")
    require(ended is not None and ended.processedMjdTai == 61003.5, "the time of processing was not kept")
    database.close()


def messages_wait_for_their_turn(make: MakeDatabase, path: Path) -> None:
    """A scored message is kept before it is announced too, given back by its sha256, and dropped at the end."""
    database = _open(make, path, make_announcement(1))
    with database.transaction([5]):
        require(database.delivered(1, 0) is None, "something was delivered that was not")
        require(database.deliver(1, 0, "1:0", b"\x00one\xff"), "delivery refused")
        require(not database.deliver(1, 0, "1:0", b"\x00one\xff"), "a repeat was taken")
        require(not database.deliver(1, 0, "other", b"other"), "a message of other bytes was taken")
        require(database.delivered(1, 0) == b"\x00one\xff", "the message changed")
        require(database.deliver(1, 0, "1:0", b"better", instead=True), "a better message was refused")
        require(database.delivered(1, 0) == b"better", "the better message was not kept")
        database.deliver(1, 0, "1:0", b"\x00one\xff", instead=True)
        require(database.deliver(2, 0, "other", b"other"), "a message before its announcement was refused")
        require(database.deliver(2, 0, "2:0", b"two"), "a message before its announcement was refused")
        require(database.delivered(2, 0) is None, "delivered before it was announced")
        database.announce(make_announcement(2), [], 20)
        require(database.delivered(2, 0) == b"two", "the message of the announced bytes is not the one")
        for visit in (1, 2):
            database.enqueue(visit, 0, False)
            database.finish(visit, 0, "no_alerts", 0, 61001.0)
            require(database.delivered(visit, 0) is None, "the message is kept after the end")
            require(not database.deliver(visit, 0, f"{visit}:0", b"again"), "what has ended took a message")
    database.close()


def messages_of_missing_detectors_wait_too(make: MakeDatabase, path: Path) -> None:
    """A scored message may come before the late announcement of a detector that counts as missing."""
    database = make(path)
    with database.transaction([5]):
        database.announce(make_announcement(1), [0, 1], 10)
        database.close_visit(1)
        require(database.deliver(1, 1, "1:1", b"late"), "the message of a missing detector was refused")
        require(database.announce(make_announcement(1, 1), [0, 1], 11) == "late", "not seen as late")
        require(database.head(5) is None, "a late one has a place before it was given one")
        database.enqueue(1, 1, True)
        head = database.head(5)
        require(head == make_announcement(1, 1, late=True), f"the head is {head}")
        require(database.delivered(1, 1) == b"late", "its message was lost")
    database.close()


def failed_exposures_open_again(make: MakeDatabase, path: Path) -> None:
    """Only what failed can be opened again: without a place, and ready to take a message."""
    database = _open(make, path, make_announcement(1, 0, 1, 2), make_announcement(2, 0, 2))
    with database.transaction([1, 2]):
        database.enqueue(1, 0, False)
        database.reopen(1, 0)
        require(_heads(database, 1, 2) == [1, 1], "opening what is open changed the line")
        database.deliver(1, 0, "1:0", b"first")
        database.finish(1, 0, "failed", 0, 61001.0)
        require(not database.deliver(1, 0, "1:0", b"second"), "what failed took a message")
        database.enqueue(1, 0, True)
        require(_heads(database, 1, 2) == [None, None], "what failed was enqueued")
        database.enqueue(2, 0, False)
        database.reopen(1, 0)
        require(_heads(database, 1, 2) == [None, 2], "an exposure has a place when it is opened again")
        require(database.deliver(1, 0, "1:0", b"second"), "what was opened again takes no message")
        database.enqueue(1, 0, True)
        require(_heads(database, 1, 2) == [1, 2], "what was opened again did not go behind the others")
        database.finish(2, 0, "alerts", 1, 61001.0)
        database.reopen(2, 0)
        require(_heads(database, 1, 2) == [1, 1], "what ended well was opened again")
    again = database.announced(1, 0)
    require(again == make_announcement(1, 0, 1, 2, late=True), f"it is {again}")
    database.close()


LINE_CHECKS: tuple[Check, ...] = (
    line_goes_by_rank_on_every_tile,
    messages_wait_for_their_turn,
    messages_of_missing_detectors_wait_too,
    failed_exposures_open_again,
)
