"""What the drill calls lost, duplicate and different: a night that is wrong in one way must be found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workers.drill.compare import LATE, Difference, Ending, Letter, compare
from workers.imaging.identity import dia_source_ids

FIRST, SECOND, FURTHER = (int(dia_source_ids(visit, 0, 1)[0]) for visit in (202501010001, 202501010002, 202501010901))
LABEL, OTHER = "202501010901:0", "202501010901:1"
EXPECTED = Ending(
    alerts={FIRST: ["a"], SECOND: ["b"]},
    order={"77": [FIRST, SECOND]},
    outcomes={"202501010001:0": "alerts", "202501010002:0": "alerts"},
    rows={"object 77": "r", "number of objects": "1"},
    letters=[],
)
LETTER = Letter("isr+subtract+score", "DataError", "exposures", LABEL)


def told(difference: Difference) -> tuple[int, int, int]:
    return difference.lost, difference.duplicate, difference.different


def test_the_same_night_is_no_difference() -> None:
    difference = compare(EXPECTED, replace(EXPECTED))
    assert (told(difference), difference.notes, bool(difference)) == ((0, 0, 0), [], False)


@pytest.mark.parametrize(
    ("change", "counts", "note"),
    [
        ({"alerts": {FIRST: ["a"]}}, (1, 0, 0), f"{SECOND} is an alert that is missing"),
        ({"alerts": {FIRST: ["a", "a"], SECOND: ["b"]}}, (0, 1, 0), f"{FIRST} is an alert that came more than once"),
        ({"alerts": {FIRST: ["x"], SECOND: ["b"]}}, (0, 0, 1), f"{FIRST} has other bytes"),
        ({"alerts": {**EXPECTED.alerts, FURTHER: ["c"]}}, (0, 0, 1), f"{FURTHER} has other bytes"),
        ({"outcomes": {"202501010001:0": "alerts"}}, (1, 0, 0), "202501010002:0 never ended"),
        ({"outcomes": {**EXPECTED.outcomes, "202501010002:0": "open"}}, (1, 0, 0), "202501010002:0 never ended"),
        ({"outcomes": {**EXPECTED.outcomes, "202501010002:0": f"alerts{LATE}"}}, (0, 0, 1), "ended otherwise"),
        ({"outcomes": {**EXPECTED.outcomes, LABEL: "alerts"}}, (0, 0, 1), f"{LABEL} ended otherwise"),
        ({"rows": {**EXPECTED.rows, "object 77": "x"}}, (0, 0, 1), "object 77 has other rows"),
        ({"rows": {**EXPECTED.rows, "number of objects": "2"}}, (0, 0, 1), "number of objects has other rows"),
        ({"letters": [LETTER]}, (0, 0, 1), "is a dead letter too many or too few"),
    ],
)
def test_what_is_wrong_is_counted(change: dict, counts: tuple[int, int, int], note: str) -> None:
    difference = compare(EXPECTED, replace(EXPECTED, **change))
    assert told(difference) == counts
    assert len(difference.notes) == 1
    assert note in difference.notes[0]


def test_the_order_of_an_objects_alerts_is_told_and_not_counted() -> None:
    difference = compare(EXPECTED, replace(EXPECTED, order={"77": [SECOND, FIRST]}))
    assert told(difference) == (0, 0, 0)
    assert "77 is an object whose alerts came in another order" in difference.notes[0]


def test_expected_letters_must_be_there_once() -> None:
    assert not compare(EXPECTED, replace(EXPECTED, letters=[LETTER]), [LETTER])
    assert told(compare(EXPECTED, EXPECTED, [LETTER])) == (0, 0, 1)
    assert told(compare(EXPECTED, replace(EXPECTED, letters=[LETTER, LETTER]), [LETTER])) == (0, 0, 1)
    assert told(compare(EXPECTED, replace(EXPECTED, letters=[replace(LETTER, key=OTHER)]), [LETTER])) == (0, 0, 2)


def test_further_exposures_may_end_as_they_do_and_the_others_may_not() -> None:
    more = replace(
        EXPECTED,
        alerts={**EXPECTED.alerts, FURTHER: ["c"]},
        outcomes={**EXPECTED.outcomes, LABEL: "alerts"},
        rows={"object 77": "other"},
    )
    assert not compare(EXPECTED, more, also=[LABEL])
    assert told(compare(EXPECTED, replace(more, alerts={FIRST: ["x"], SECOND: ["b"]}), also=[LABEL])) == (0, 0, 1)
    assert told(compare(EXPECTED, more, also=[OTHER])) == (0, 0, 2)  # the rows, which further ones change, are left out


def test_differences_add_up() -> None:
    total = Difference()
    total.add(Difference(1, 2, 3, ["one"]))
    total.differs("two", 4)
    assert (told(total), total.notes, bool(total)) == ((1, 2, 7), ["one", "two"], True)


def test_an_exposure_that_fails_by_itself_fails_again() -> None:
    natural = replace(EXPECTED, letters=[LETTER])
    assert not compare(natural, natural)
    assert told(compare(natural, EXPECTED)) == (0, 0, 1)
    assert not compare(
        natural, replace(natural, letters=[LETTER, replace(LETTER, key=OTHER)]), [replace(LETTER, key=OTHER)]
    )
