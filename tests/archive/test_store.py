"""The archive gives back what it was given, once, in one order."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas.errors import ConflictError, DataError, SchemaError
from stream import codec
from tests.archive.packets import NIGHT, alert
from workers.archive import store
from workers.archive.alert import ArchivedAlert
from workers.archive.store import AlertArchive

FILE = f"{NIGHT}/alerts-1.2.avro"


def ids(path: Path) -> list[int]:
    """Return what a plain Avro reader finds."""
    with path.open("rb") as file:
        return [packet["diaSourceId"] for packet in fastavro.reader(file)]


@pytest.fixture
def archive(tmp_path: Path) -> AlertArchive:
    return AlertArchive(tmp_path / "alerts")


def test_an_empty_archive_reads_as_empty_and_leaves_no_trace(archive: AlertArchive, tmp_path: Path) -> None:
    assert archive.get(1) is None
    assert (archive.nights(), archive.sizes(), archive.digests(NIGHT), archive.consumed()) == ({}, {}, {}, {})
    assert list(archive.night(NIGHT)) == []
    archive.flush()
    archive.close()
    assert list(tmp_path.iterdir()) == []


def test_an_alert_comes_back_whole(archive: AlertArchive, tmp_path: Path) -> None:
    given_ = alert(2**62 + 5, noise=bytes(range(256)) * 20, offset=17)
    archive.append(given_)
    assert archive.get(given_.alertId) is None  # until the flush
    archive.flush()
    archive.close()
    again = AlertArchive(tmp_path / "alerts")
    assert again.get(given_.alertId) == given_
    assert again.digests(NIGHT) == {given_.alertId: hashlib.sha256(given_.value).hexdigest()}
    assert again.nights() == {NIGHT: 1}
    assert again.sizes() == {NIGHT: (tmp_path / "alerts" / FILE).stat().st_size}
    assert again.consumed() == {("alerts", 0): 18}
    assert ids(tmp_path / "alerts" / FILE) == [given_.alertId]


def test_alerts_of_an_earlier_version_stay_as_they_were(archive: AlertArchive, tmp_path: Path) -> None:
    old = schemas.get("alert", "1.0")
    buffer = io.BytesIO(b"\x00" + old.id.to_bytes(4, "big"))
    buffer.seek(5)
    fastavro.schemaless_writer(buffer, old.parsed, codec.decode(alert(3).value).record)
    early = replace(alert(3), value=buffer.getvalue())
    for one in (early, alert(4)):
        archive.append(one)
    archive.flush()
    assert list(archive.night(NIGHT)) == [early, alert(4)]
    versions = [schemas.table_dtype("alert", "diaSource", version).names for version in ("1.0", "")]
    later = dict.fromkeys(versions[1][len(versions[0]) :])
    assert {"snapDiffFlux", "dcrDipole", "psfFluxCorrected"} < later.keys()
    expected = codec.decode(alert(3).value).record
    assert codec.decode(early.value).record == expected | {"diaSource": expected["diaSource"] | later}
    assert ids(tmp_path / "alerts" / f"{NIGHT}/alerts-1.0.avro") == [3]
    assert ids(tmp_path / "alerts" / FILE) == [4]
    archive.reindex()
    assert list(archive.digests(NIGHT)) == [3, 4]


def test_nights_are_apart_and_in_order_of_alert_id(archive: AlertArchive) -> None:
    for number in (5, 3, 9, 4, 8):
        archive.append(alert(number, NIGHT + number % 2))
        if number == 9:
            archive.flush()
    archive.flush()
    assert [one.alertId for one in archive.night(NIGHT)] == [4, 8]
    assert [one.alertId for one in archive.night(NIGHT + 1)] == [3, 5, 9]
    assert archive.nights() == {NIGHT: 2, NIGHT + 1: 3}
    assert list(archive.digests(NIGHT + 1)) == [3, 5, 9]


def test_reading_a_night_goes_over_pages(archive: AlertArchive) -> None:
    for number in range(1100, 0, -1):
        archive.append(alert(number))
    archive.flush()
    assert [one.alertId for one in archive.night(NIGHT)] == list(range(1, 1101))


def test_a_repeat_changes_nothing(archive: AlertArchive, tmp_path: Path) -> None:
    archive.append(alert(1))
    archive.append(alert(1))
    archive.flush()
    size = (tmp_path / "alerts" / FILE).stat().st_size
    archive.append(alert(1))
    archive.append(alert(1, offset=99, partition=2))  # the same bytes elsewhere on the bus
    archive.flush()
    assert (tmp_path / "alerts" / FILE).stat().st_size == size
    assert archive.get(1) == alert(1)
    assert archive.consumed() == {("alerts", 0): 2, ("alerts", 2): 100}


@pytest.mark.parametrize("flushed", [True, False])
def test_other_bytes_are_a_conflict(archive: AlertArchive, tmp_path: Path, flushed: bool) -> None:
    archive.append(alert(1, offset=7))
    if flushed:
        archive.flush()
    other = alert(1, noise=b"other", offset=8, partition=3)
    with pytest.raises(ConflictError, match=r"alerts\[3\] offset 8 .* alerts\[0\] offset 7 .* first stands"):
        archive.append(other)
    archive.append(alert(2))
    archive.flush()
    assert archive.get(1) == alert(1, offset=7)
    assert ids(tmp_path / "alerts" / FILE) == [1, 2]


def test_a_conflict_that_another_writer_made_is_found_by_the_flush(archive: AlertArchive, tmp_path: Path) -> None:
    archive.append(alert(5))
    archive.append(alert(1, noise=b"mine"))
    other = AlertArchive(tmp_path / "alerts")
    other.append(alert(1, noise=b"other"))
    other.flush()
    with pytest.raises(ConflictError, match="first stands"):
        archive.flush()
    assert ids(tmp_path / "alerts" / FILE) == [1]
    archive.append(alert(5))  # all is given again, and the one in question is refused at once
    with pytest.raises(ConflictError):
        archive.append(alert(1, noise=b"mine"))
    archive.flush()
    assert ids(tmp_path / "alerts" / FILE) == [1, 5]


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (ArchivedAlert(2, NIGHT, alert(1).value), DataError, "names alert 2 holds alert 1"),
        (ArchivedAlert(1, -1, alert(1).value), DataError, "no YYYYMMDD"),
        (ArchivedAlert(1, NIGHT, b""), SchemaError, "without Confluent framing"),
        (ArchivedAlert(1, NIGHT, b"\0\0\0\0\0\2"), SchemaError, "schema id 0"),
    ],
)
def test_what_is_no_alert_is_refused(archive: AlertArchive, wrong: ArchivedAlert, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        archive.append(wrong)
    archive.flush()
    assert archive.nights() == {}


def test_the_buffer_is_bounded(archive: AlertArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUFFER", 10_000)
    for number in range(1, 101):
        archive.append(alert(number))
    assert 0 < sum(archive.nights().values()) < 100
    archive.flush()
    assert archive.nights() == {NIGHT: 100}


_STEPS = st.lists(st.one_of(st.integers(1, 12), st.sampled_from(["flush", "reopen", "forget", "reindex"])), max_size=40)


@settings(max_examples=40, deadline=None)
@given(_STEPS)
def test_any_sequence_of_calls_keeps_each_alert_once(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    folder = tmp_path_factory.mktemp("sequence") / "alerts"
    archive = AlertArchive(folder)
    waiting: set[int] = set()
    kept: set[int] = set()
    for step in steps:
        if isinstance(step, int):
            archive.append(alert(step, NIGHT + step % 3))
            waiting.add(step)
        elif step == "reindex":
            assert archive.reindex().alerts == len(kept)
        elif step == "forget":  # a crash before the flush
            archive.close()
            archive, waiting = AlertArchive(folder), set()
        else:
            archive.flush()
            kept |= waiting
            waiting = set()
            if step == "reopen":
                archive.close()
                archive = AlertArchive(folder)
    found = {one.alertId: one for night in archive.nights() for one in archive.night(night)}
    archive.close()
    assert found == {number: alert(number, NIGHT + number % 3) for number in kept}
    assert sorted(number for path in folder.glob("*/*.avro") for number in ids(path)) == sorted(kept)
