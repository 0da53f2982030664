"""`skydelta alerts` on the archive and on the bus: the same answers, wherever an alert is."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import fastavro
import pytest

from stream import codec
from stream.bus import Bus, Outgoing
from tests.archive.packets import NIGHT, value
from tests.cli.command import Done, skydelta
from workers.cli import alerts
from workers.connect import open_archive, open_bus, open_topics
from workers.survey.config import Survey, load_survey

STAGES = b'[["isr", 61000.5, 1.25], ["associate", 61000.6, 0.5]]'


def outgoing(topic: str, number: int, night: int = NIGHT, *, headers: bool = True) -> Outgoing:
    said = {"alertId": b"%d" % number, "night": b"%d" % night}
    said |= {"stageTimes": STAGES, "timeProcessedMjdTai": b"61000.625"}
    message = value(number, night, noise=b"SIMPLE %d" % number)
    return Outgoing(topic, b"k%d" % number, message, 2000 - number, said if headers else {})


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    assert skydelta("init", tmp_path / "survey").code == 0
    return load_survey(tmp_path / "survey")


def publish(survey: Survey, numbers: range, night: int = NIGHT, prefix: str = "") -> None:
    bus = open_bus(survey)
    topic = open_topics(survey, bus, prefix).name("alerts")
    bus.publish([outgoing(topic, number, night, headers=number % 2 == 0) for number in numbers])
    bus.close()


def archive(survey: Survey, prefix: str = "") -> None:
    """Archive all that is on the bus, as the worker does, and commit its positions."""
    from workers.archive.worker import GROUP, ArchiveWorker

    bus = open_bus(survey)
    topics = open_topics(survey, bus, prefix)
    worker = ArchiveWorker(open_archive(survey, prefix), topics)
    session = bus.session(prefix + GROUP, worker.inputs)
    while messages := session.poll(100, 0.1):
        for message in messages:
            worker.process(message)
        worker.flush()
        session.commit([], messages)
    session.close()
    bus.close()
    worker.archive.close()


def alerts_of(survey: Survey, *words: object) -> Done:
    return skydelta("alerts", *words, "-s", survey.root)


def no_bus(survey: Survey) -> None:
    raise AssertionError("the bus was opened")


def test_show_answers_from_the_archive(survey: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(survey, range(1, 7))
    from_bus = {number: alerts_of(survey, "show", number, "--json") for number in (3, 4)}
    archive(survey)
    monkeypatch.setattr(alerts, "open_bus", no_bus)
    for number, before in from_bus.items():
        done = alerts_of(survey, "show", number, "--json")
        assert (done.code, done.err, done.out) == (0, "", before.out)
        assert done.json["diaSourceId"] == number
    assert from_bus[3].json["headers"] == {}
    assert from_bus[4].json["headers"] == {
        "alertId": 4,
        "night": NIGHT,
        "stageTimes": [["isr", 61000.5, 1.25], ["associate", 61000.6, 0.5]],
        "timeProcessedMjdTai": 61000.625,
    }
    plain = alerts_of(survey, "show", 4, "-o", tmp_path / "cut")
    assert (plain.code, plain.err) == (0, "")
    rows = [line.split() for line in plain.out.splitlines()]
    assert ["timeProcessedMjdTai", "61000.625"] in rows
    assert rows[-3:] == [["stage", "seconds"], ["isr", "1.25"], ["associate", "0.5"]]
    assert (tmp_path / "cut" / "4_cutoutScience.fits").read_bytes() == b"SIMPLE 4"


def test_show_of_an_unknown_alert(survey: Survey) -> None:
    publish(survey, range(1, 3))
    archive(survey)
    done = alerts_of(survey, "show", 99)
    assert (done.code, done.out) == (5, "")
    assert "there is no alert 99, in the archive or on the bus" in done.err


def saved(survey: Survey, path: Path, *words: object) -> list[int]:
    done = alerts_of(survey, "save", path, *words)
    found = list(fastavro.reader(io.BytesIO(path.read_bytes())))
    assert (done.code, done.out) == (0, f"{path}: {len(found)} alerts\n")
    assert found == [codec.decode(value(p["diaSourceId"], p["night"], p["cutoutScience"])).record for p in found]
    return [packet["diaSourceId"] for packet in found]


def test_save_gives_one_file_wherever_the_alerts_are(survey: Survey, tmp_path: Path) -> None:
    one, two = tmp_path / "one.avro", tmp_path / "two.avro"
    publish(survey, range(1, 9))
    publish(survey, range(20, 23), NIGHT - 1)
    assert saved(survey, one) == [20, 21, 22, *range(1, 9)]
    archive(survey)
    assert saved(survey, two) == [20, 21, 22, *range(1, 9)]
    assert two.read_bytes() == one.read_bytes()
    publish(survey, range(9, 12))  # not archived yet
    assert saved(survey, one, "--night", NIGHT) == list(range(1, 12))
    archive(survey)
    assert saved(survey, two, "--night", NIGHT) == list(range(1, 12))
    assert two.read_bytes() == one.read_bytes()
    assert saved(survey, one, "--night", NIGHT - 1) == [20, 21, 22]
    assert saved(survey, one, "--night", 20200101) == []


def test_save_from_the_archive_when_the_bus_has_forgotten(survey: Survey, tmp_path: Path) -> None:
    publish(survey, range(1, 5))
    archive(survey)
    bus = open_bus(survey)
    bus.trim(10_000)  # type: ignore[attr-defined]
    assert list(bus.read("alerts")) == []
    bus.close()
    assert saved(survey, tmp_path / "a.avro") == [1, 2, 3, 4]
    assert alerts_of(survey, "show", 2, "--json").json["diaSourceId"] == 2


def test_nights(survey: Survey) -> None:
    assert alerts_of(survey, "nights", "--json").json == []
    publish(survey, range(1, 4))
    publish(survey, range(7, 8), NIGHT + 1)
    publish(survey, range(7, 9), NIGHT + 1, prefix="again.")
    archive(survey)
    archive(survey, "again.")
    sizes = [path.stat().st_size for path in sorted((survey.archive / "alerts").glob("*/*.avro"))]
    expected = [[NIGHT, 3, sizes[0]], [NIGHT + 1, 1, sizes[1]]]
    assert [list(row.values()) for row in alerts_of(survey, "nights", "--json").json] == expected
    table = [line.split() for line in alerts_of(survey, "nights").out.splitlines()]
    assert table == [["night", "alerts", "bytes"], *[[str(cell) for cell in row] for row in expected]]
    (row,) = alerts_of(survey, "nights", "--prefix", "again.", "--json").json
    assert (row["night"], row["alerts"]) == (NIGHT + 1, 2)


def test_reindex(survey: Survey) -> None:
    publish(survey, range(1, 4))
    archive(survey)
    folder = survey.archive / "alerts"
    for path in folder.glob("index.sqlite*"):
        path.unlink()
    done = alerts_of(survey, "show", 2)
    assert (done.code, "run `skydelta alerts reindex`" in done.err) == (4, True)
    (container,) = folder.glob("*/*.avro")
    container.write_bytes(container.read_bytes() + b"torn")
    done = alerts_of(survey, "reindex")
    assert (done.code, done.out) == (0, "3 alerts in 1 files; 3 without headers\n")
    assert done.err == f"{NIGHT}/alerts-1.2.avro: 4 bytes belong to no whole alert\n"
    assert alerts_of(survey, "reindex", "--json").json["alerts"] == 3
    assert alerts_of(survey, "show", 2, "--json").json["diaSourceId"] == 2


def test_tail_is_in_order_of_time(survey: Survey) -> None:
    publish(survey, range(1, 9))
    lines = alerts_of(survey, "tail").out.splitlines()
    assert [line.split()[0] for line in lines] == ["alertId", *map(str, range(8, 0, -1))]
    lines = alerts_of(survey, "tail", "--limit", 3).out.splitlines()
    assert [line.split()[0] for line in lines] == ["alertId", "3", "2", "1"]


def test_tail_follows_without_decoding_twice(survey: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(survey, range(1, 9))
    decoded: list[int] = []
    decode, readings, stop = codec.decode, [0], threading.Event()

    def counting(data: bytes) -> codec.Decoded:
        found = decode(data)
        decoded.append(found.record["diaSourceId"])
        return found

    def read(bus: Bus, topic: str) -> None:
        readings[0] += 1

    def sleep(seconds: float) -> None:
        steps.pop(0)()

    steps = [lambda: publish(survey, range(9, 12)), lambda: None, lambda: publish(survey, range(12, 13)), stop.set]
    fresh = alerts._Reading.fresh
    monkeypatch.setattr(alerts._Reading, "fresh", lambda self: (read(self.bus, self.topic), fresh(self))[1])
    monkeypatch.setattr(alerts.codec, "decode", counting)
    monkeypatch.setattr(alerts.time, "sleep", sleep)
    monkeypatch.setattr(alerts, "stop_on_signals", lambda: _Held(stop))
    done = alerts_of(survey, "tail", "--follow", "--limit", 2)
    assert (done.code, done.err) == (0, "")
    shown = [int(line.split()[0]) for line in done.out.splitlines() if line[0].isdigit()]
    assert shown == [2, 1, 11, 10, 9, 12]
    assert sorted(decoded) == sorted(shown)
    assert readings == [3]  # where nothing came, nothing was read


class _Held:
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __enter__(self) -> threading.Event:
        return self.stop

    def __exit__(self, *error: object) -> None:
        return None
