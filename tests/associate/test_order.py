"""The same objects, ids and packets, however messages arrive, for 1, 2 and 8 workers, where sky tiles meet."""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import TransientError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.bus.partition import partition_of
from tests.associate.scored_night import CORNER, TOPICS, ScoredNight, make_night, messages_of, open_worker, survey_of
from workers.database.sqlite import SqliteDatabase
from workers.ingest.pipeline import tiles_touched

URL = os.environ.get("SKYDELTA_TEST_POSTGRES", "")
NEEDS_POSTGRES = pytest.mark.skipif(not URL, reason="no PostgreSQL: set SKYDELTA_TEST_POSTGRES to its URL")

Open = Callable[[], Any]


@dataclass
class Result:
    packets: dict[int, bytes] = field(default_factory=dict)
    letters: list[Outgoing] = field(default_factory=list)
    outcomes: dict[tuple[int, int], tuple[str, bool]] = field(default_factory=dict)
    objects: dict[int, bytes] = field(default_factory=dict)

    def take(self, outputs: list[Outgoing]) -> None:
        for one in outputs:
            if one.topic == TOPICS.name("alerts"):
                number = int(one.headers["alertId"])
                assert number not in self.packets
                self.packets[number] = one.value
            elif one.topic == TOPICS.name("dead"):
                self.letters.append(one)

    def read(self, database: Any) -> Result:
        self.outcomes = {(a.visit, a.detector): (a.outcome, a.late) for a in database.announcements()}
        numbers = {codec.decode(value).record["diaSource"]["diaObjectId"] for value in self.packets.values()}
        self.objects = {n: database.object(n).tobytes() + database.sources_of(n).tobytes() for n in sorted(numbers)}
        assert database.counts()["dia_objects"] == len(numbers)
        return self


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def night(blobs: BlobStore) -> ScoredNight:
    return make_night(blobs)


def queues_of(announcements: list[Outgoing], scored: list[Outgoing]) -> list[list[Message]]:
    """Return the partitions of the two topics, each in its order."""
    parts: dict[int, list[Outgoing]] = {n: [] for n in range(TOPICS.partitions)}
    for one in scored:
        parts[partition_of(one.key, TOPICS.partitions)].append(one)
    queues = [messages_of(announcements, TOPICS.name("visits"), 0)]
    return queues + [messages_of(part, TOPICS.name("scored"), n) for n, part in parts.items() if part]


def one_by_one(open_database: Open, blobs: BlobStore, queues: list[list[Message]], workers: int, seed: int) -> Result:
    """Interleave the partitions at random; each belongs to one of `workers` workers with its own database handle."""
    choice = random.Random(seed)
    survey = survey_of(Path("."))
    handles = [open_database() for _ in range(workers)]
    team = [open_worker(survey, blobs, handle) for handle in handles]
    left = [list(queue) for queue in queues]
    result = Result()
    while any(left):
        number = choice.choice([i for i, queue in enumerate(left) if queue])
        message = left[number].pop(0)
        outputs = team[number % workers].process(message)
        again = team[choice.randrange(workers)].process(message)
        assert again == outputs  # seen again, by whoever: remembered, byte for byte
        result.take(outputs)
    result.read(handles[0])
    for handle in handles:
        handle.close()
    return result


@pytest.fixture(scope="module")
def expected(night: ScoredNight, blobs: BlobStore, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Everything in the order of time, by one worker."""
    path = tmp_path_factory.mktemp("expected") / "dia.sqlite"
    queues = queues_of(list(night.announcements), list(night.scored))
    worker = open_worker(survey_of(Path(".")), blobs, SqliteDatabase(path))
    result = Result()
    for message in [*queues[0], *(m for queue in queues[1:] for m in queue)]:
        result.take(worker.process(message))
    return result.read(worker.database)


def test_the_night_is_worth_the_trouble(expected: Result, night: ScoredNight) -> None:
    assert len(expected.packets) > 60
    assert set(expected.outcomes.values()) == {("alerts", False)}
    assert len(tiles_touched(*CORNER, 0.01)) >= 3
    tiles = {one.key for one in night.scored}
    assert len(tiles) >= 3
    records = [codec.decode(value).record for value in expected.packets.values()]
    seen: dict[int, set[int]] = {}
    for record in records:
        seen.setdefault(record["diaSource"]["diaObjectId"], set()).add(record["diaSource"]["detector"])
    assert sum(len(detectors) > 1 for detectors in seen.values()) > 5
    assert len(seen) <= 30  # no duplicate objects
    assert expected.letters == []


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("seed", range(4))
def test_any_interleaving_gives_the_same(
    workers: int, seed: int, night: ScoredNight, expected: Result, blobs: BlobStore, tmp_path: Path
) -> None:
    choice = random.Random(100 * workers + seed)
    visits = [list(night.announcements[start : start + 4]) for start in range(0, len(night.announcements), 4)]
    for visit in visits:
        choice.shuffle(visit)  # arrival order within a visit
    scored = list(night.scored)
    choice.shuffle(scored)
    queues = queues_of([one for visit in visits for one in visit], scored)
    found = one_by_one(lambda: SqliteDatabase(tmp_path / "dia.sqlite"), blobs, queues, workers, seed)
    assert found == expected


@pytest.fixture
def postgres() -> Iterator[Open]:
    from psycopg import connect

    from workers.database.postgres import PostgresDatabase

    name = f"order_{uuid.uuid4().hex[:12]}"
    yield lambda: PostgresDatabase(URL, name)
    with connect(URL, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@NEEDS_POSTGRES
def test_postgresql_gives_the_same(postgres: Open, night: ScoredNight, expected: Result, blobs: BlobStore) -> None:
    queues = queues_of(list(night.announcements), list(night.scored)[::-1])
    assert one_by_one(postgres, blobs, queues, 2, 7) == expected


@NEEDS_POSTGRES
@pytest.mark.parametrize("seed", range(3))
def test_eight_workers_at_once_on_postgresql(
    seed: int, postgres: Open, night: ScoredNight, expected: Result, blobs: BlobStore
) -> None:
    """Threads that really run beside each other: one writer per sky tile, and nobody misses a turn."""
    choice = random.Random(seed)
    scored = list(night.scored)
    choice.shuffle(scored)
    parts = [[one] for one in scored]  # as many partitions as messages: the hardest case
    queues = [messages_of(list(night.announcements), TOPICS.name("visits"), 0)]
    queues += [messages_of(part, TOPICS.name("scored"), n) for n, part in enumerate(parts)]
    lock, result, errors = threading.Lock(), Result(), []

    def work(mine: list[list[Message]]) -> None:
        try:
            database = postgres()
            worker = open_worker(survey_of(Path(".")), blobs, database)
            for message in (m for queue in mine for m in queue):
                outputs = _patiently(worker, message)
                with lock:
                    result.take(outputs)
            database.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(queues[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    database = postgres()
    found = result.read(database)
    database.close()
    assert found == expected


def _patiently(worker: Any, message: Message) -> list[Outgoing]:
    for _ in range(5):
        try:
            return worker.process(message)
        except TransientError:
            continue
    raise AssertionError("five transient errors in a row")


LATE = (1001, 2)


def _without(night: ScoredNight) -> tuple[list[Outgoing], Outgoing]:
    late = next(a for a in night.announcements if a.key == b"1001:2")
    return [a for a in night.announcements if a is not late], late


@pytest.mark.parametrize("seed", range(3))
def test_a_late_detector_is_flagged_and_always_the_same(
    seed: int, night: ScoredNight, blobs: BlobStore, tmp_path: Path, expected: Result
) -> None:
    """Announced after the night was over: its visit closed without it when event time passed the deadline."""
    in_time, late = _without(night)
    results = []
    for number in range(2):
        scored = list(night.scored)
        random.Random(10 * seed + number).shuffle(scored)
        queues = queues_of([*in_time, late], scored)
        path = tmp_path / f"{number}.sqlite"
        results.append(one_by_one(lambda path=path: SqliteDatabase(path), blobs, queues, 2 + number, seed))
    assert results[0] == results[1]
    found = results[0]
    assert found.outcomes[LATE] == ("alerts", True)
    assert {outcome for key, outcome in found.outcomes.items() if key != LATE} == {("alerts", False)}
    records = {n: codec.decode(value).record for n, value in found.packets.items()}
    flagged = {n for n, record in records.items() if record["late"]}
    assert flagged == {n for n, r in records.items() if (r["diaSource"]["visit"], r["diaSource"]["detector"]) == LATE}
    for number in flagged:  # as of its visit: nothing that came later
        history = records[number]["prvDiaSources"] or []
        assert all(row["midpointMjdTai"] < records[number]["diaSource"]["midpointMjdTai"] for row in history)
    assert found.packets.keys() == expected.packets.keys()


def test_a_missing_detector_holds_up_nothing_else(
    night: ScoredNight, blobs: BlobStore, tmp_path: Path, expected: Result
) -> None:
    in_time, _ = _without(night)
    scored = [one for one in night.scored if codec.decode(one.value).record["fileName"] != "1_2.fits"]
    queues = queues_of(in_time, scored)
    found = one_by_one(lambda: SqliteDatabase(tmp_path / "dia.sqlite"), blobs, queues, 1, 0)
    assert found.outcomes.pop(LATE) == ("missing", False)
    assert Counter(found.outcomes.values()) == {("alerts", False): 23}
    before = {n for n, value in expected.packets.items() if codec.decode(value).record["diaSource"]["visit"] == 1000}
    assert {n: found.packets[n] for n in before} == {n: expected.packets[n] for n in before}
