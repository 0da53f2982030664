"""Consumer groups of the embedded bus: who is a member, and who reads which partition.

A group's *seat* is its position in one slot, with the member that owns it and, while the owner still works on
messages of it, the heir that gets it next. Groups are balanced by whoever joins, leaves or notices that a
member's heart stopped; there is no coordinator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from stream.bus.embedded_log import Log

__all__ = ["assign", "beat", "join", "leave", "release"]


def assign(
    topics: Mapping[int, str], members: Mapping[int, Collection[str]], current: Mapping[int, int]
) -> dict[int, int]:
    """Give each slot (id to topic) to one of `members` (id to its topics): even, and moving as few as it can.

    `current` is slot to member as it was; members that are gone are ignored. Slots that nobody reads are left
    out. The same input gives the same result in every process.
    """
    given = {s: current[s] for s in sorted(topics) if topics[s] in members.get(current.get(s, 0), ())}
    for slot in sorted(topics.keys() - given.keys()):
        takers = [member for member in sorted(members) if topics[slot] in members[member]]
        if takers:
            load = Counter(given.values())
            given[slot] = min(takers, key=lambda member: (load[member], member))
    while move := _fairer(topics, members, given):
        slot, member = move
        given[slot] = member
    return given


def _fairer(
    topics: Mapping[int, str], members: Mapping[int, Collection[str]], given: Mapping[int, int]
) -> tuple[int, int] | None:
    """Return the next move (slot, to member) from a loaded member to one with at least two slots fewer."""
    load = Counter(given.values())
    for giver in sorted(members, key=lambda member: (-load[member], member)):
        own = [slot for slot in given if given[slot] == giver]
        per_topic = Counter(topics[slot] for slot in own)
        for slot in sorted(own, key=lambda s: (-per_topic[topics[s]], -s)):
            for taker in sorted(members, key=lambda member: (load[member], member)):
                if load[giver] - load[taker] >= 2 and topics[slot] in members[taker]:
                    return slot, taker
    return None


def join(log: Log, group: str, topics: Sequence[str], now: float, timeout: float) -> int:
    """Add a member that reads `topics` and return its id; a group that is new begins at the oldest messages kept.

    Raises ConfigurationError for an unknown topic. To be called within a transaction, as all that follow.
    """
    for slot in log.slots(topics):
        log.execute("INSERT OR IGNORE INTO seat (team, slot, position) VALUES (?, ?, ?)", (group, slot.id, slot.first))
    inserted = log.execute(
        "INSERT INTO member (team, topics, beat) VALUES (?, ?, ?)", (group, json.dumps(sorted(topics)), now)
    )
    _balance(log, group, now, timeout)
    return int(inserted.lastrowid or 0)


def leave(log: Log, group: str, member: int, now: float, timeout: float) -> None:
    """Remove a member; its seats pass to the others at once."""
    log.execute("DELETE FROM member WHERE id = ?", (member,))
    _balance(log, group, now, timeout)


def beat(log: Log, group: str, member: int, now: float, timeout: float) -> bool:
    """Renew a member's lease and remove the dead ones; return False where it was itself removed before."""
    if log.execute("UPDATE member SET beat = ? WHERE id = ?", (now, member)).rowcount == 0:
        return False
    lease = (group, now - timeout, now + timeout)
    if log.execute("SELECT 1 FROM member WHERE team = ? AND NOT beat BETWEEN ? AND ?", lease).fetchone():
        _balance(log, group, now, timeout)
    return True


def release(log: Log, group: str, member: int, busy: Collection[int]) -> None:
    """Hand over the member's seats that have an heir, but for the `busy` slots that it works on."""
    log.execute(
        "UPDATE seat SET owner = heir, heir = 0 WHERE team = ? AND owner = ? AND heir != 0 "
        "AND slot NOT IN (SELECT value FROM json_each(?))",
        (group, member, json.dumps(sorted(busy))),
    )


def _balance(log: Log, group: str, now: float, timeout: float) -> None:
    """Remove the dead, and reassign the group's seats among the living; an owned one moves at its release."""
    lease = (group, now - timeout, now + timeout)  # a beat from the future is one from before the clock was set back
    log.execute("DELETE FROM member WHERE team = ? AND NOT beat BETWEEN ? AND ?", lease)
    rows = log.execute("SELECT id, topics FROM member WHERE team = ?", (group,))
    members = {member: set(json.loads(topics)) for member, topics in rows.fetchall()}
    seats = log.execute(
        "SELECT slot, topic, owner, heir FROM seat JOIN slot ON slot.id = seat.slot WHERE team = ?", (group,)
    ).fetchall()
    current = {slot: heir if heir in members else owner for slot, _, owner, heir in seats}
    wanted = assign({slot: topic for slot, topic, _, _ in seats}, members, current)
    for slot, _, owner, heir in seats:
        target = wanted.get(slot, 0)
        new = (owner, target) if owner in members and owner != target else (target, 0)
        if new != (owner, heir):
            log.execute("UPDATE seat SET owner = ?, heir = ? WHERE team = ? AND slot = ?", (*new, group, slot))
