"""Killed writers, several writers, full disks, damage: nothing is lost that was flushed, nothing is there twice."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import schemas
from schemas.errors import DataError, UnreachableError
from tests.archive.packets import NIGHT, alert
from tests.archive.test_store import FILE, ids
from workers.archive import container
from workers.archive.store import AlertArchive

DYING = Path(__file__).with_name("dying.py")
ROOT = Path(__file__).parents[2]
BIG = os.urandom(60_000)


def writer(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(DYING), str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


def check(folder: Path, numbers: range) -> None:
    """Files and index hold each alert once, as it was given."""
    archive = AlertArchive(folder)
    found = [one for night in archive.nights() for one in archive.night(night)]
    archive.close()
    expected = [alert(n, NIGHT + n % 2, b"%d" % n * 300) for n in numbers]
    assert sorted(found, key=lambda one: one.alertId) == expected
    assert sorted(n for path in folder.glob("*/*.avro") for n in ids(path)) == list(numbers)


@pytest.mark.parametrize("place", ["torn", "written", "synced", "committed"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_kill_in_a_flush(tmp_path: Path, place: str, count: int) -> None:
    doomed = writer(tmp_path, 0, 24, place, count)
    doomed.communicate(timeout=60)
    assert doomed.returncode == -signal.SIGKILL
    archive = AlertArchive(tmp_path)
    for number in range(24):  # the bus gives all again since its last commit
        archive.append(alert(number, NIGHT + number % 2, b"%d" % number * 300))
        if number % 5 == 4:
            archive.flush()
    archive.flush()
    archive.close()
    check(tmp_path, range(24))


def test_writers_at_once_and_one_that_dies(tmp_path: Path) -> None:
    writers = [writer(tmp_path, *part) for part in ((0, 40), (20, 60), (40, 80, "torn", 7))]
    for one in writers:
        _, errors = one.communicate(timeout=120)
        assert one.returncode in (0, -signal.SIGKILL), errors.decode()
    assert [one.returncode for one in writers] == [0, 0, -signal.SIGKILL]
    writer(tmp_path, 60, 80).communicate(timeout=60)
    check(tmp_path, range(80))


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(tmp_path: Path) -> None:
    archive = AlertArchive(tmp_path)
    archive.append(alert(1, noise=BIG))
    archive.flush()
    size = (tmp_path / FILE).stat().st_size
    archive.append(alert(2, NIGHT + 1))
    archive.append(alert(3, noise=BIG * 3))
    with file_limit(size + 90_000):
        for _ in range(2):
            with pytest.raises(UnreachableError, match="room"):
                archive.flush()
            assert (tmp_path / FILE).stat().st_size == size
            assert not (tmp_path / f"{NIGHT + 1}" / "alerts-1.2.avro").exists()
        assert archive.get(1) == alert(1, noise=BIG)
    archive.flush()
    assert (ids(tmp_path / FILE), archive.nights()) == ([1, 3], {NIGHT: 2, NIGHT + 1: 1})


def test_full_disk_for_the_index(tmp_path: Path) -> None:
    archive = AlertArchive(tmp_path)
    archive.append(alert(1))
    archive.flush()
    archive.append(alert(2))
    with file_limit((tmp_path / "index.sqlite-wal").stat().st_size), pytest.raises(UnreachableError, match="room"):
        archive.flush()
    assert (ids(tmp_path / FILE), archive.nights()) == ([1], {NIGHT: 1})
    archive.flush()
    assert (ids(tmp_path / FILE), archive.nights()) == ([1, 2], {NIGHT: 2})


def filled(folder: Path, count: int = 6) -> AlertArchive:
    archive = AlertArchive(folder)
    for number in range(1, count + 1):
        archive.append(alert(number))
    archive.flush()
    return archive


def test_a_lost_index_is_not_taken_for_an_empty_archive(tmp_path: Path) -> None:
    filled(tmp_path).close()
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    archive = AlertArchive(tmp_path)
    for call in (lambda: archive.get(1), lambda: archive.append(alert(9)), archive.nights):
        with pytest.raises(UnreachableError, match=r"index\.sqlite is missing.*alerts reindex"):
            call()
    report = archive.reindex()
    assert (report.alerts, report.containers, report.bare, report.damaged) == (6, 1, 6, {})
    found = archive.get(3)
    assert found is not None
    assert (found.value, found.night, found.headers, found.topic) == (alert(3).value, NIGHT, {}, "")
    archive.append(alert(3))  # given again: what the index lost is filled in
    archive.append(alert(7))
    archive.flush()
    assert archive.get(3) == alert(3)
    assert ids(tmp_path / FILE) == list(range(1, 8))


def test_a_running_writer_sees_that_its_index_was_replaced(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    AlertArchive(tmp_path).reindex()
    archive.append(alert(7))
    archive.flush()
    assert ids(tmp_path / FILE) == list(range(1, 8))
    assert AlertArchive(tmp_path).nights() == {NIGHT: 7}


def test_reindex_keeps_what_the_index_knows(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    before = list(archive.night(NIGHT))
    report = archive.reindex()
    assert (report.alerts, report.bare, report.lost, report.doubled) == (6, 0, 0, 0)
    assert list(archive.night(NIGHT)) == before
    assert archive.consumed() == {("alerts", 0): 7}


def test_a_damaged_index_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    archive = AlertArchive(tmp_path)
    with pytest.raises(UnreachableError, match="damaged: stop the archive workers and run `skydelta alerts reindex`"):
        archive.get(1)
    assert archive.reindex().alerts == 6
    assert [one.value for one in archive.night(NIGHT)] == [alert(n).value for n in range(1, 7)]
    assert (tmp_path / "index.sqlite.damaged1").read_bytes().startswith(b"no database")


def test_an_index_of_another_layout_is_refused(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    archive._index.rows("PRAGMA user_version = 7")
    archive.close()
    with pytest.raises(UnreachableError, match="its layout is 7"):
        archive.get(1)


def test_a_damaged_alert_is_told_and_the_others_are_found(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    entry = archive._index.find(3)
    assert entry is not None
    overwrite(tmp_path / FILE, entry.start + 3, b"\xff\xff")  # no deflate begins so
    with pytest.raises(DataError, match=rf"{FILE}: the {entry.length} bytes from {entry.start} are not alert 3"):
        archive.get(3)
    assert archive.get(4) == alert(4)
    report = archive.reindex()
    assert (report.alerts, report.lost, report.damaged) == (5, 1, {FILE: entry.length})
    assert (archive.get(3), archive.get(4)) == (None, alert(4))
    archive.append(alert(3))
    archive.flush()
    assert archive.get(3) == alert(3)


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def test_bytes_that_were_changed_are_never_given_as_the_alert(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    entry = archive._index.find(3)
    assert entry is not None
    body = container.split(alert(3).value)[1]
    sync = container.sync_marker(schemas.latest("alert"), NIGHT)
    others = (body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in range(8, len(body)))
    changed = (container.block(other, sync) for other in others)
    block = next(block for block in changed if len(block) == entry.length)
    overwrite(tmp_path / FILE, entry.start, block)
    report = archive.reindex()
    assert (report.alerts, report.changed) == (6, 1)
    with pytest.raises(DataError, match="are not alert 3 as it was written"):
        archive.get(3)


def test_a_file_that_is_gone_or_short(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    size = (tmp_path / FILE).stat().st_size
    os.truncate(tmp_path / FILE, size - 5)
    archive.append(alert(9))
    with pytest.raises(UnreachableError, match=rf"has {size - 5} bytes, and the archive's index knows {size}"):
        archive.flush()
    assert (tmp_path / FILE).stat().st_size == size - 5  # evidence stays as it is
    with pytest.raises(DataError, match="are not alert 6"):
        archive.get(6)
    (tmp_path / FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(UnreachableError, match="put the file back"):
        archive.get(1)
    (tmp_path / "elsewhere").rename(tmp_path / FILE)
    report = archive.reindex()
    assert (report.alerts, report.lost) == (5, 1)
    archive.append(alert(6))
    archive.flush()
    assert (ids(tmp_path / FILE), archive.nights()) == ([1, 2, 3, 4, 5, 9, 6], {NIGHT: 7})


def test_a_file_that_the_index_does_not_know_is_taken_in(tmp_path: Path) -> None:
    """Its writer died before the commit, or an older index was put back."""
    archive = filled(tmp_path)
    archive._index.rows("DELETE FROM alert")
    archive._index.rows("DELETE FROM container")
    archive.append(alert(2))
    archive.append(alert(7))
    archive.flush()
    assert ids(tmp_path / FILE) == list(range(1, 8))
    assert archive.get(2) == alert(2)
    found = archive.get(5)
    assert found is not None
    assert found.value == alert(5).value


def test_a_file_with_a_damaged_head_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir()
    path.write_bytes(bytes(4096))
    archive = AlertArchive(tmp_path)
    with pytest.raises(UnreachableError, match="missing"):
        archive.append(alert(1))
    report = archive.reindex()
    assert (report.alerts, report.damaged) == (0, {FILE: 4096})
    archive.append(alert(1))
    archive.flush()
    assert ids(path) == [1]
    assert path.with_name(path.name + ".damaged1").read_bytes() == bytes(4096)
