"""Visits close by event time, in one order, however their announcements come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from workers.associate.line import Rules, closing_visits, next_tick
from workers.database import LineState, OpenVisit

NIGHT = 20260228
RULES = Rules(deadline=60_000)
DETECTORS = (0, 1, 2)


def time_of(visit: int) -> int:
    """Shutter closing of a visit, one every 30 s."""
    return 1_000_000_000 + 30_000 * visit


@dataclass
class Night:
    """Announcements applied one by one, as the worker does it."""

    rules: Rules = RULES
    state: LineState = field(default_factory=LineState)
    waiting: dict[int, OpenVisit] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    line: list[tuple[int, int, bool]] = field(default_factory=list)

    def announce(self, visit: int, detector: int) -> None:
        if visit in self.closed:
            self.line.append((visit, detector, True))
        else:
            one = self.waiting.get(visit)
            if one is None:
                one = OpenVisit(visit, 61000.0 + visit * 30 / 86400, time_of(visit), DETECTORS, (), NIGHT)
            self.waiting[visit] = replace(one, seen=tuple(sorted({*one.seen, detector})))
        self.pass_time(time_of(visit))

    def pass_time(self, watermark: int) -> None:
        closing = closing_visits(list(self.waiting.values()), self.state, watermark, self.rules)
        self.state = closing.state
        for visit, late in closing.visits:
            del self.waiting[visit.visit]
            self.closed.append(visit.visit)
            self.line += [(visit.visit, detector, late) for detector in visit.seen]


def run(order: list[tuple[int, int]], rules: Rules = RULES) -> Night:
    night = Night(rules)
    for visit, detector in order:
        night.announce(visit, detector)
    return night


ALL = [(visit, detector) for visit in range(5) for detector in DETECTORS]


@given(st.lists(st.permutations(DETECTORS), min_size=5, max_size=5))
def test_the_order_within_a_visit_does_not_matter(orders: list[tuple[int, ...]]) -> None:
    night = run([(visit, detector) for visit, order in enumerate(orders) for detector in order])
    assert night.line == [(visit, detector, False) for visit, detector in ALL]
    assert not night.waiting


@given(st.data())
def test_detectors_that_overtake_within_the_deadline_change_nothing(data: st.DataObject) -> None:
    """Once a detector of every visit is known, the others may come in any order before the next visit but one."""
    late = [(visit, 2) for visit in range(4)]
    order = [pair for pair in ALL if pair not in late]
    for pair in late:
        first = order.index((pair[0], 1)) + 1
        last = order.index((pair[0] + 1, 1)) + 1
        order.insert(data.draw(st.integers(first, last)), pair)
    assert run(order).line == [(visit, detector, False) for visit, detector in ALL]


@given(st.permutations(ALL))
def test_with_time_to_reorder_any_order_gives_the_same_line(order: list[tuple[int, int]]) -> None:
    night = run(order, Rules(deadline=10_000_000, reorder=1_000_000))
    assert night.line == []
    night.pass_time(next_tick(night.waiting.values(), night.rules))
    assert night.line == [(visit, detector, False) for visit, detector in ALL]


@given(st.permutations(ALL))
def test_every_announced_exposure_gets_exactly_one_place(order: list[tuple[int, int]]) -> None:
    night = run(order)
    if night.waiting:
        night.pass_time(next_tick(night.waiting.values(), night.rules))
    assert sorted((visit, detector) for visit, detector, _ in night.line) == ALL
    places = [visit for visit, _, late in night.line if not late]
    assert places == sorted(places)


def test_a_missing_detector_holds_the_visit_until_the_deadline() -> None:
    night = run([pair for pair in ALL if pair != (1, 2)][:8])  # up to the second detector of visit 2
    assert [visit for visit, _, _ in night.line] == [0, 0, 0]
    night = run([pair for pair in ALL if pair != (1, 2)])
    assert night.closed[:2] == [0, 1]  # visit 3 is 60 s later
    night.announce(1, 2)
    assert night.line[-1] == (1, 2, True)


def test_a_tick_closes_what_is_left() -> None:
    night = run([(0, 0), (1, 0), (1, 1)])
    assert night.line == []
    tick = next_tick(night.waiting.values(), RULES)
    assert tick == time_of(1) + 60_000
    night.pass_time(tick - 1)
    assert night.line == [(0, 0, False)]
    night.pass_time(tick)
    assert night.line == [(0, 0, False), (1, 0, False), (1, 1, False)]


def test_an_earlier_visit_that_comes_after_a_later_one_has_closed_is_late() -> None:
    night = run([(3, d) for d in DETECTORS] + [(1, d) for d in DETECTORS] + [(4, d) for d in DETECTORS])
    assert [(visit, late) for visit, _, late in night.line[::3]] == [(3, False), (1, True), (4, False)]


def test_time_never_goes_back() -> None:
    night = run(ALL)
    night.pass_time(0)
    assert night.state.watermark == time_of(4)
