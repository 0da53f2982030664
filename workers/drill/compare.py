"""How a night ended, and in what it differs from the undisturbed one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import SchemaError
from stream import codec
from stream.bus import Bus, Message
from stream.topics import Topics
from workers.connect import open_database
from workers.database import Database
from workers.imaging.identity import unpack_dia_source_id
from workers.survey.config import Survey

__all__ = ["LATE", "Difference", "Ending", "Letter", "compare", "read_ending"]

LATE = ", late"


@dataclass(frozen=True)
class Letter:
    """A dead letter: what it is about, and where and why it was given up."""

    stage: str
    errorType: str
    topic: str
    """Without the survey's prefix; empty from ingest."""
    key: str
    message: str = field(default="", compare=False)
    failedMjdTai: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Ending:
    """Everything that a night left behind, as digests."""

    alerts: dict[int, list[str]]
    """sha256 of every alert message (key and value) with this id."""
    order: dict[str, list[int]]
    """Ids of an object's alerts as a consumer reads them."""
    outcomes: dict[str, str]
    """By visit:detector; a late exposure's ends with LATE."""
    rows: dict[str, str]
    """sha256 of the database's rows: sources by visit:detector, objects by id."""
    letters: list[Letter]


@dataclass
class Difference:
    """What is wrong with a night."""

    lost: int = 0
    duplicate: int = 0
    different: int = 0
    notes: list[str] = field(default_factory=list)
    """In words, the first of each kind."""

    def __bool__(self) -> bool:
        """Whether anything is."""
        return bool(self.lost or self.duplicate or self.different)

    def add(self, other: Difference) -> None:
        """Count in what is wrong with another night."""
        self.lost += other.lost
        self.duplicate += other.duplicate
        self.different += other.different
        self.notes += other.notes

    def differs(self, text: str, count: int = 1) -> None:
        """Count something that is not as it should be."""
        self.different += count
        self.notes.append(text)


def read_ending(survey: Survey, bus: Bus, topics: Topics, prefix: str = "") -> Ending:
    """Read back what the night of `survey` left on its bus and in its database."""
    alerts: dict[int, list[str]] = {}
    order: dict[str, list[int]] = {}
    for message in bus.read(topics.name("alerts")):
        number = int(codec.decode(message.value).record["diaSourceId"])
        alerts.setdefault(number, []).append(hashlib.sha256(message.key + b"\0" + message.value).hexdigest())
        order.setdefault(message.key.decode(), []).append(number)
    database = open_database(survey, prefix)
    try:
        outcomes = {
            f"{one.visit}:{one.detector}": one.outcome + (LATE if one.late else "") for one in database.announcements()
        }
        rows = dict(_rows(database))
    finally:
        database.close()
    letters = [_letter(message, topics.prefix) for message in bus.read(topics.name("dead"))]
    return Ending(alerts, order, outcomes, rows, letters)


def _rows(database: Database) -> Iterable[tuple[str, str]]:
    objects: set[int] = set()
    for one in database.announcements():
        sources = database.sources_in(one.visit, one.detector)
        objects |= set(sources["diaObjectId"].tolist())
        yield f"sources of {one.visit}:{one.detector}", hashlib.sha256(sources.tobytes()).hexdigest()
    for number in sorted(objects):
        yield f"object {number}", hashlib.sha256(database.object(number).tobytes()).hexdigest()
    for table, count in database.counts().items():
        yield f"number of {table}", str(count)


def _letter(message: Message, prefix: str) -> Letter:
    record: dict[str, Any] = codec.decode(message.value).record
    if "errorType" not in record:
        raise SchemaError(f"no dead letter at offset {message.offset} of {message.topic}")
    topic = str(record["topic"]).removeprefix(prefix)
    told = record["message"], record["failedMjdTai"]
    return Letter(record["stage"], record["errorType"], topic, bytes(record["key"]).decode(), *told)


def compare(
    expected: Ending, found: Ending, letters: Collection[Letter] = (), also: Collection[str] = ()
) -> Difference:
    """Return what of `found` is not as in `expected`, but for further dead `letters` that it must have.

    Exposures named in `also` (visit:detector) are further ones: their outcomes and alerts are left out, and the rows
    of the database, which they change, are not compared.
    """
    result = Difference()
    extra = {number for number in found.alerts if _label_of(number) in also} if also else set()
    _alerts(expected, found, extra, result)
    missing = [label for label in expected.outcomes if found.outcomes.get(label, "open") == "open"]
    result.lost += len(missing)
    _note(result, missing, "never ended")
    ended = {label: outcome for label, outcome in found.outcomes.items() if label not in {*also, *missing}}
    _differing(expected.outcomes, ended, "ended otherwise", result, missing)
    if not also:
        _differing(expected.rows, found.rows, "has other rows", result)
    wanted, there = Counter([*expected.letters, *letters]), Counter(found.letters)
    odd = (there - wanted) + (wanted - there)
    result.different += odd.total()
    _note(result, odd, "is a dead letter too many or too few")
    return result


def _label_of(number: int) -> str:
    """Return visit:detector of an alert, by the packing of ids."""
    visit, detector, _ = unpack_dia_source_id(number)
    return f"{visit}:{detector}"


def _alerts(expected: Ending, found: Ending, extra: Collection[int], result: Difference) -> None:
    missing = sorted(expected.alerts.keys() - found.alerts.keys())
    result.lost += len(missing)
    _note(result, missing, "is an alert that is missing")
    doubled = [number for number, digests in found.alerts.items() if len(digests) > 1]
    result.duplicate += sum(len(found.alerts[number]) - 1 for number in doubled)
    _note(result, doubled, "is an alert that came more than once")
    one, two = ({number: digests[:1] for number, digests in side.alerts.items()} for side in (expected, found))
    _differing(one, {number: two[number] for number in two if number not in extra}, "has other bytes", result, missing)
    disordered = []
    for key, ids in expected.order.items():
        told = list(dict.fromkeys(number for number in found.order.get(key, []) if number in ids))
        if told != [number for number in ids if number in told]:
            disordered.append(key)
    _note(result, disordered, "is an object whose alerts came in another order, which is not promised")


def _differing(
    expected: Mapping[Any, object],
    found: Mapping[Any, object],
    what: str,
    result: Difference,
    but: Collection[Any] = (),
) -> None:
    keys = [key for key in {**expected, **found} if key not in but and expected.get(key) != found.get(key)]
    result.different += len(keys)
    _note(result, keys, what)


def _note(result: Difference, things: Iterable[Hashable], what: str) -> None:
    names = [str(thing) for thing in things]
    if names:
        result.notes.append(f"{names[0]} {what}" + (f", and {len(names) - 1} more" if names[1:] else ""))
