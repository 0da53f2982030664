"""Partitions are dealt out evenly, completely, stickily and the same in every process."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stream.bus.embedded_group import assign

TOPICS = ("a", "b", "c")
slots = st.dictionaries(st.integers(1, 40), st.sampled_from(TOPICS), max_size=24)
alike = st.sets(st.integers(1, 30), min_size=1, max_size=6).map(lambda ids: {n: set(TOPICS) for n in ids})
mixed = st.dictionaries(st.integers(1, 30), st.sets(st.sampled_from(TOPICS), min_size=1), max_size=6)
before = st.dictionaries(st.integers(1, 40), st.integers(0, 30))


@given(slots, alike, before)
def test_even_and_complete(topics: dict[int, str], members: dict[int, set[str]], current: dict[int, int]) -> None:
    given_ = assign(topics, members, current)
    load = Counter({member: 0 for member in members})
    load.update(given_.values())
    assert given_.keys() == topics.keys()
    assert max(load.values()) - min(load.values()) <= 1


@given(slots, mixed, before)
def test_only_to_those_who_read_the_topic(
    topics: dict[int, str], members: dict[int, set[str]], current: dict[int, int]
) -> None:
    given_ = assign(topics, members, current)
    assert all(topics[slot] in members[member] for slot, member in given_.items())
    read = set().union(*members.values())
    assert given_.keys() == {slot for slot, topic in topics.items() if topic in read}


@given(slots, mixed, before)
def test_stable(topics: dict[int, str], members: dict[int, set[str]], current: dict[int, int]) -> None:
    once = assign(topics, members, current)
    assert assign(topics, members, once) == once
    reordered = dict(reversed(members.items()))
    assert assign(dict(reversed(topics.items())), reordered, current) == once


@given(slots, alike, before)
def test_a_newcomer_takes_no_more_than_its_share(
    topics: dict[int, str], members: dict[int, set[str]], current: dict[int, int]
) -> None:
    old = assign(topics, members, current)
    new = assign(topics, members | {99: set(TOPICS)}, old)
    moved = [slot for slot in topics if new[slot] != old[slot]]
    assert all(new[slot] == 99 for slot in moved)
    assert len(moved) == len(topics) // (len(members) + 1)


@given(slots, alike, before)
def test_a_leaver_moves_nothing_but_its_own(
    topics: dict[int, str], members: dict[int, set[str]], current: dict[int, int]
) -> None:
    everyone = members | {99: set(TOPICS)}
    old = assign(topics, everyone, current)
    new = assign(topics, members, old)
    assert all(new[slot] == old[slot] for slot in topics if old[slot] != 99)


def test_topics_are_spread_too() -> None:
    topics = {1: "a", 2: "a", 3: "a", 4: "a", 5: "b", 6: "b", 7: "b", 8: "b"}
    both = {1: {"a", "b"}, 2: {"a", "b"}}
    given_ = assign(topics, both, dict.fromkeys(topics, 1))
    assert Counter(topics[slot] for slot, member in given_.items() if member == 2) == {"a": 2, "b": 2}
