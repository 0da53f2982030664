"""What every bus must do, as checks through the port alone: `check_bus(make_bus)`, or one by one over `CHECKS`.

`make_bus()` opens another Bus on the same store (the same SQLite file, the same cluster). Every check uses
topics and groups of its own, so that a shared cluster may serve. A check that fails raises AssertionError and
says what it saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from schemas.errors import ConfigurationError, DataError, ExpiredError, PositionLostError
from stream.bus import Bus, Outgoing, Session
from stream.bus.conformance_trial import (
    POLL,
    TIMESTAMP,
    Trial,
    equal,
    numbers,
    record,
    refused,
    require,
    values,
)

__all__ = ["CHECKS", "Trial", "check_bus", "run_check"]

# Kafka's Java client: Utils.murmur2 as in its UtilsTest.testMurmur2, made positive, modulo 8.
_PARTITIONS_OF_8 = {
    b"21": 4,
    b"foobar": 6,
    b"a-little-bit-long-string": 0,
    b"a-little-bit-longer-string": 3,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": 5,
    b"abc": 3,
    b"": 1,
}


def run_check(
    check: Callable[[Trial], None],
    make_bus: Callable[[], Bus],
    *,
    patience: float = 10.0,
    silence: float = 2.0,
    expire: Callable[[str], None] | None = None,
) -> None:
    """Run one of `CHECKS` on the store that `make_bus` opens; parameters as the fields of `Trial`.

    Raises AssertionError where the bus breaks the port's promise.
    """
    with Trial(make_bus, patience, silence, expire) as trial:
        check(trial)


def check_bus(
    make_bus: Callable[[], Bus],
    *,
    patience: float = 10.0,
    silence: float = 2.0,
    expire: Callable[[str], None] | None = None,
) -> None:
    """Run every check; raises AssertionError at the first promise broken."""
    for check in CHECKS:
        run_check(check, make_bus, patience=patience, silence=silence, expire=expire)


def topics_are_created_once(trial: Trial) -> None:
    """`ensure` creates what is missing, leaves what is there, refuses another partition count."""
    bus, name, other = trial.bus(), trial.name("topic"), trial.name("topic")
    bus.ensure({name: 3})
    bus.ensure({name: 3, other: 1})
    seen = trial.bus().topics()
    equal((seen.get(name), seen.get(other)), (3, 1), "partition counts")
    refused(lambda: bus.ensure({name: 4}), ConfigurationError, name, "3", "4")


def unknown_topics_are_named(trial: Trial) -> None:
    """Every call that meets a topic that doesn't exist says which."""
    bus, name = trial.bus(), trial.name("missing")
    refused(lambda: bus.publish([record(name, 0)]), ConfigurationError, name)
    refused(lambda: bus.session(trial.name("group"), [name]), ConfigurationError, name)
    refused(lambda: list(bus.read(name)), ConfigurationError, name)
    refused(lambda: bus.lag(trial.name("group"), [name]), ConfigurationError, name)


def records_travel_unchanged(trial: Trial) -> None:
    """Key, value, timestamp and headers arrive as published: binary, empty, long."""
    bus, topic = trial.bus(), trial.topic()
    every_byte = bytes(range(256))
    sent = [
        Outgoing(topic, every_byte, every_byte * 40, 1, {"a": b"1:2", "binary": every_byte, "empty": b""}),
        Outgoing(topic, b"", b"no key", TIMESTAMP),
        Outgoing(topic, b"no value", b"", TIMESTAMP - 1),
    ]
    bus.publish(sent)
    read = list(bus.read(topic))
    polled = trial.take(trial.session(trial.name("group"), topic), 3)
    equal(polled, read, "what a group is given, against what read() gives")
    for number, (got, gave) in enumerate(zip(read, sent, strict=True)):
        equal((got.topic, got.partition, got.offset), (topic, 0, number), "position")
        equal(
            (got.key, got.value, got.timestamp, dict(got.headers)),
            (gave.key, gave.value, gave.timestamp, dict(gave.headers)),
            "record",
        )


def keys_choose_the_partition(trial: Trial) -> None:
    """The partition is Kafka's murmur2 of the key, and the order within a key is the order of publication."""
    bus, topic = trial.bus(), trial.topic(8)
    keys = list(_PARTITIONS_OF_8)
    for first in range(0, 35, 5):
        bus.publish([record(topic, n, keys[n % 7]) for n in range(first, first + 5)])
    polled = trial.take(trial.session(trial.name("group"), topic), 35)
    for source in (polled, list(bus.read(topic))):
        for index, key in enumerate(keys):
            mine = [message for message in source if message.key == key]
            equal(values(mine), numbers(35)[index::7], f"order of key {key!r}")
            equal({m.partition for m in mine}, {_PARTITIONS_OF_8[key]}, f"partition of key {key!r}")


def large_messages_pass(trial: Trial) -> None:
    """A message of 5 MiB, twice, next to a small one."""
    bus, topic = trial.bus(), trial.topic()
    large = bytes(range(256)) * (5 * 4096)
    bus.publish([Outgoing(topic, b"a", large, TIMESTAMP), Outgoing(topic, b"b", b"small", TIMESTAMP)])
    bus.publish([Outgoing(topic, b"c", large[::-1], TIMESTAMP)])
    got = trial.take(trial.session(trial.name("group"), topic), 3)
    require(values(got) == [large, b"small", large[::-1]], "a large message changed on its way")


def too_large_messages_are_refused(trial: Trial) -> None:
    """A record beyond 10 MiB is a DataError of its message, not a trouble of the bus; the session lives on."""
    bus, topic, out, group = trial.bus(), trial.topic(), trial.topic(), trial.name("group")
    giant = Outgoing(out, b"giant", bytes(12 << 20), TIMESTAMP)
    refused(lambda: bus.publish([record(out, 0), giant]), DataError)
    bus.publish([record(topic, 1)])
    session = trial.session(group, topic)
    got = trial.take(session, 1)
    refused(lambda: session.commit([record(out, 2), giant], got), DataError)
    equal(values(list(bus.read(out))), [], "outputs beside a record that is too large")
    session.commit([record(out, 3)], got)
    equal(values(list(bus.read(out))), [b"value 3"], "outputs of the next commit")
    equal(bus.lag(group, [topic]), {(topic, 0): 0}, "lag after the next commit")


def publishing_is_all_or_nothing(trial: Trial) -> None:
    """One record that can't be published keeps the others of its call unpublished."""
    bus, topic, missing = trial.bus(), trial.topic(), trial.name("missing")
    refused(lambda: bus.publish([record(topic, 0), record(missing, 1)]), ConfigurationError, missing)
    equal(values(list(bus.read(topic))), [], "messages after a refused publish")
    bus.publish([])
    bus.publish([record(topic, 7)])
    equal(values(list(bus.read(topic))), [b"value 7"], "messages after a good publish")


def polling_goes_forward(trial: Trial) -> None:
    """Polls without a commit give what follows; `rewind` gives it again; `keep_alive` takes nothing."""
    bus, topic = trial.bus(), trial.topic()
    bus.publish([record(topic, n) for n in range(6)])
    session = trial.session(trial.name("group"), topic)
    equal(values(trial.take(session, 2)), numbers(2), "first poll")
    session.keep_alive()
    equal(values(trial.take(session, 4)), numbers(4, 2), "second poll")
    session.rewind()
    equal(values(trial.take(session, 6)), numbers(6), "after rewind")
    equal(session.assigned(), {(topic, 0)}, "assigned")


def commits_publish_and_advance(trial: Trial) -> None:
    """Outputs and position move together; who joins later goes on from there."""
    bus, topic, out, group = trial.bus(), trial.topic(), trial.topic(), trial.name("group")
    bus.publish([record(topic, n) for n in range(5)])
    first = trial.session(group, topic)
    got = trial.take(first, 5)
    equal(values(list(bus.read(out))), [], "outputs before the commit")
    first.commit([record(out, n) for n in range(100, 103)], got[:3])
    equal(values(list(bus.read(out))), numbers(3, 100), "outputs after the commit")
    equal(bus.lag(group, [topic]), {(topic, 0): 2}, "lag after the commit")
    equal(values(first.poll(1, POLL)), [], "polled after the commit of a part, which leaves the rest in work")
    first.rewind()
    equal(values(trial.take(first, 2)), numbers(2, 3), "after a commit of a part, and rewind")
    first.close()
    second = trial.session(group, topic)
    rest = trial.take(second, 2)
    equal(values(rest), numbers(2, 3), "next member")
    second.commit([], rest)
    trial.nothing(second)
    equal(bus.lag(group, [topic]), {(topic, 0): 0}, "lag at the end")


def failed_commits_leave_nothing(trial: Trial) -> None:
    """A commit that is refused publishes nothing and moves nothing; the work can be done again."""
    bus, topic, out, group = trial.bus(), trial.topic(), trial.topic(), trial.name("group")
    missing = trial.name("missing")
    bus.publish([record(topic, n) for n in range(3)])
    session = trial.session(group, topic)
    got = trial.take(session, 3)
    refused(lambda: session.commit([record(out, 0), record(missing, 1)], got), ConfigurationError, missing)
    equal(values(list(bus.read(out))), [], "outputs of a refused commit")
    equal(bus.lag(group, [topic]), {(topic, 0): 3}, "lag after a refused commit")
    session.rewind()
    again = trial.take(session, 3)
    session.commit([record(out, 5)], again)
    equal(values(list(bus.read(out))), [b"value 5"], "outputs of the second try")


def groups_are_independent(trial: Trial) -> None:
    """Each group gets every message and keeps a position of its own; a new one starts at the beginning."""
    bus, topic, groups = trial.bus(), trial.topic(), (trial.name("group"), trial.name("group"))
    bus.publish([record(topic, n) for n in range(4)])
    one, two = (trial.session(group, topic) for group in groups)
    one.commit([], trial.take(one, 4, two))
    equal(values(trial.take(two, 4, one)), numbers(4), "second group")
    equal([bus.lag(group, [topic])[topic, 0] for group in groups], [0, 4], "lags")


def lag_counts_what_is_left(trial: Trial) -> None:
    """Lag is given for every partition, for a group that never was too."""
    bus, topic, group = trial.bus(), trial.topic(2), trial.name("group")
    keys = (b"21", b"abc")  # partitions 0 and 1 of 2
    bus.publish([record(topic, n, keys[n % 2]) for n in range(6)])
    equal(bus.lag(group, [topic]), {(topic, 0): 3, (topic, 1): 3}, "lag of a new group")
    session = trial.session(group, topic)
    session.commit([], [message for message in trial.take(session, 6) if message.partition == 0])
    equal(bus.lag(group, [topic]), {(topic, 0): 0, (topic, 1): 3}, "lag after a commit")


def members_share_the_partitions(trial: Trial) -> None:
    """Two members own disjoint partitions that make the whole, and handle each message once between them."""
    bus, topic, out, group = trial.bus(), trial.topic(4), trial.topic(), trial.name("group")
    members = [trial.session(group, topic)]
    trial.until(lambda: not members[0].poll(1, POLL) and len(members[0].assigned()) == 4, "all 4 partitions")
    members.append(trial.session(group, topic))
    trial.until(lambda: _polled_dry(members) and _shared(members, 4), "4 partitions on 2 members")
    bus.publish([record(topic, n) for n in range(40)])
    handled = [0, 0]

    def work() -> bool:
        for index, member in enumerate(members):
            got = member.poll(5, POLL)
            member.commit([Outgoing(out, m.key, m.value, m.timestamp) for m in got], got)
            handled[index] += len(got)
        return sum(handled) >= 40

    trial.until(work, "40 messages handled")
    equal(sorted(values(list(bus.read(out)))), sorted(numbers(40)), "outputs")
    require(min(handled) > 0, f"one member did all the work: {handled}")


def _polled_dry(members: Sequence[Session]) -> bool:
    return not any([member.poll(1, POLL) for member in members])


def _shared(members: Sequence[Session], partitions: int) -> bool:
    owned = [member.assigned() for member in members]
    return all(owned) and sum(map(len, owned)) == len(set().union(*owned)) == partitions


def closing_moves_partitions(trial: Trial) -> None:
    """A member that closes leaves its partitions, and what it did not commit, to the others."""
    bus, topic, group = trial.bus(), trial.topic(4), trial.name("group")
    one, two = trial.session(group, topic), trial.session(group, topic)
    trial.until(lambda: _polled_dry([one, two]) and _shared([one, two], 4), "4 partitions on 2 members")
    bus.publish([record(topic, n) for n in range(24)])
    trial.take(one, 1, two)
    one.close()
    one.close()
    got = trial.take(two, 24)
    equal(sorted(values(got)), sorted(numbers(24)), "messages of the member that stayed")
    equal(len(two.assigned()), 4, "partitions of the member that stayed")


def silent_members_expire(trial: Trial) -> None:
    """A member too long silent at work loses its partitions; its late commit publishes nothing; it can rejoin."""
    bus, topic, out, group = trial.bus(), trial.topic(), trial.topic(), trial.name("group")
    bus.publish([record(topic, n) for n in range(3)])
    zombie = trial.session(group, topic)
    stale = trial.take(zombie, 3)
    heir = trial.session(group, topic)
    got = trial.take(heir, 3)
    equal(values(got), numbers(3), "messages of the heir")
    refused(lambda: zombie.commit([record(out, 666)], stale), ExpiredError)
    heir.commit([record(out, 1)], got)
    equal(values(list(bus.read(out))), [b"value 1"], "outputs")
    heir.close()
    bus.publish([record(topic, 3)])
    equal(values(trial.take(zombie, 1)), [b"value 3"], "messages of the expired member, back in the group")
    equal(bus.lag(group, [topic]), {(topic, 0): 1}, "lag")


def silent_idle_members_join_again(trial: Trial) -> None:
    """A member too long silent that has nothing in work is no zombie: its next polls bring it back."""
    bus, topic, group = trial.bus(), trial.topic(), trial.name("group")
    bus.publish([record(topic, 0)])
    sleeper = trial.session(group, topic)
    sleeper.commit([], trial.take(sleeper, 1))
    heir = trial.session(group, topic)
    bus.publish([record(topic, 1)])
    heir.commit([], trial.take(heir, 1))
    heir.close()
    bus.publish([record(topic, 2)])
    got = trial.take(sleeper, 1)
    equal(values(got), [b"value 2"], "messages of the sleeper, back in the group")
    sleeper.commit([], got)
    equal(bus.lag(group, [topic]), {(topic, 0): 0}, "lag")


def keeping_alive_keeps_the_partitions(trial: Trial) -> None:
    """`keep_alive` during long work holds the partition against a newcomer, and the commit passes."""
    bus, topic, out, group = trial.bus(), trial.topic(), trial.topic(), trial.name("group")
    bus.publish([record(topic, 0)])
    worker = trial.session(group, topic)
    got = trial.take(worker, 1)
    newcomer = trial.session(group, topic)
    end = time.monotonic() + 1.5 * trial.silence
    while time.monotonic() < end:
        worker.keep_alive()
        equal(newcomer.poll(1, POLL), [], "messages of the newcomer")
    worker.commit([record(out, 0)], got)
    equal(values(list(bus.read(out))), [b"value 0"], "outputs")


def lost_positions_are_loud(trial: Trial) -> None:
    """A group whose next messages were deleted gets PositionLostError, never a silent jump."""
    if trial.expire is None:
        return
    bus, topic, group = trial.bus(), trial.topic(), trial.name("group")
    bus.publish([record(topic, n) for n in range(5)])
    early = trial.session(group, topic)
    early.commit([], trial.take(early, 2))
    early.close()
    trial.expire(topic)
    bus.publish([record(topic, 9)])
    equal(values(list(bus.read(topic))), [b"value 9"], "messages kept")
    late = trial.session(group, topic)
    refused(lambda: trial.take(late, 1), PositionLostError, group, topic)
    late.close()
    fresh = trial.session(trial.name("group"), topic)
    with suppress(PositionLostError):  # from a bus that can't tell a new group from one whose position it forgot
        equal(values(trial.take(fresh, 1)), [b"value 9"], "messages of a new group")


CHECKS: tuple[Callable[[Trial], None], ...] = (
    topics_are_created_once,
    unknown_topics_are_named,
    records_travel_unchanged,
    keys_choose_the_partition,
    large_messages_pass,
    too_large_messages_are_refused,
    publishing_is_all_or_nothing,
    polling_goes_forward,
    commits_publish_and_advance,
    failed_commits_leave_nothing,
    groups_are_independent,
    lag_counts_what_is_left,
    members_share_the_partitions,
    closing_moves_partitions,
    silent_members_expire,
    silent_idle_members_join_again,
    keeping_alive_keeps_the_partitions,
    lost_positions_are_loud,
)
