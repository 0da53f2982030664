"""Old versions go, and what they alone held; nights that were compared with them are refused, not compared anew."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import DataError, TransientError
from workers.templates.prune import outdated, prune, size_of
from workers.templates.store import TemplateStore, only_job


def publish(store, manifest, name, day):
    """Publish a version whose cells are links to the first one's, but for one."""
    cells = []
    for number, record in enumerate(manifest.cells):
        target = store.root / record.path.replace(manifest.version, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if number:
            os.link(store.root / record.path, target)
        else:
            shutil.copy(store.root / record.path, target)
        cells.append(replace(record, path=str(target.relative_to(store.root))))
    store.publish(replace(manifest, version=name, digest=name, day=day, cells=tuple(cells)))


@pytest.fixture
def five(copy):
    """Versions of four days beside one of a window that stood still."""
    for name, day in (("0002-b", 60100.0), ("0003-c", 60101.0), ("0004-d", 60105.0), ("0005-e", 60110.0)):
        publish(copy, copy.manifest("0001-" + copy.versions()[0].split("-")[1]), name, day)
    return TemplateStore(copy.root)


@pytest.mark.parametrize(
    ("before", "names"),
    [
        (60100.0, []),
        (60101.0, ["0002-b"]),
        (60104.9, ["0002-b"]),  # that night is compared with the version of the day 60101
        (60107.0, ["0002-b", "0003-c"]),
        (60200.0, ["0002-b", "0003-c", "0004-d"]),
        (60000.0, []),
    ],
)
def test_only_what_no_later_night_needs_is_outdated(five, before, names):
    assert list(outdated(five, before)) == names


def test_a_version_that_was_never_finished_goes_after_a_day(five):
    folder = five.root / "versions" / "0006-f"
    (folder / "r").mkdir(parents=True)
    (folder / "r" / "half.fits").write_bytes(b"half")
    written = (folder / "r").stat().st_mtime
    assert outdated(five, 60000.0, now=written + 3600.0) == ()
    assert outdated(five, 60000.0, now=written + 90_000.0) == ("0006-f",)
    prune(five, ["0006-f"], 400.0)
    assert not folder.exists()


def test_what_is_shared_stays_and_its_nights_are_refused(five):
    first, manifest = five.versions()[0], five.manifest("0004-d")
    shared = sum((five.root / record.path).stat().st_size for record in manifest.cells[1:])
    own = (five.root / manifest.cells[0].path).stat().st_size
    assert own <= size_of(five, ["0004-d"]) < own + shared
    assert size_of(five, five.versions()) > shared  # with the last of those that share it
    assert prune(five, ["0002-b", "0004-d"], 400.0) == 0
    again = TemplateStore(five.root)
    assert again.versions() == [first, "0003-c", "0005-e"]
    assert [again.holds(name) for name in ("0004-d", "0003-c")] == [False, True]
    for record in again.manifest("0003-c").cells:
        again.read(record)
    assert again.manifest_for(60103.0).version == "0003-c"
    assert again.manifest_for(60110.0).version == "0005-e"
    assert again.serving(60107.0) == "0004-d"
    for mjd, name in ((60100.2, "0002-b"), (60107.0, "0004-d")):
        with pytest.raises(DataError, match=f"{name} was removed"):
            again.manifest_for(mjd)
    assert again.begin("dddddddd").startswith("0006-")
    assert outdated(again, 60107.0) == ("0003-c",)


def test_neither_the_current_one_nor_one_that_is_not_there_is_removed(five):
    for name, why in (("0005-e", "current"), ("0009-x", "no template version '0009-x'")):
        with pytest.raises(DataError, match=why):
            prune(five, ["0003-c", name], 400.0)
    assert five.holds("0003-c")
    prune(five, ["0003-c"], 400.0)
    with pytest.raises(DataError, match="no template version '0003-c'"):
        prune(five, ["0003-c"], 400.0)


@pytest.mark.parametrize("name", ["", ".", "..", "../versions", "0003-c/", "0005-e/", "0003-c/r"])
def test_only_names_of_versions_are_taken(five, name):
    before = sorted(path for path in five.root.rglob("*") if path.name != ".lock")
    with pytest.raises(DataError, match="there is no template version"):
        prune(five, [name], 400.0)
    assert sorted(path for path in five.root.rglob("*") if path.name != ".lock") == before


def test_a_name_said_twice_is_removed_once(five):
    prune(five, ["0003-c", "0003-c"], 400.0)
    assert not five.holds("0003-c")


@pytest.mark.parametrize("moment", ["manifest.json", "r", "inputs.txt"])
def test_a_removal_that_was_interrupted_is_done_again(five, monkeypatch, moment):
    """The process dies when it comes to remove this."""
    tree, unlink = shutil.rmtree, Path.unlink

    def die(path):
        if path.name == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", lambda path: (die(path), tree(path)))
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (die(path), unlink(path, **how)))
    with pytest.raises(KeyboardInterrupt):
        prune(five, ["0003-c"], 400.0)
    monkeypatch.undo()
    again = TemplateStore(five.root)
    names = outdated(again, 60107.0, now=0.0)
    assert "0003-c" in names
    prune(again, names, 400.0)
    assert [path.name for path in (five.root / "versions" / "0003-c").iterdir()] == ["removed.json"]
    assert outdated(again, 60107.0) == ()


def test_files_that_vanish_meanwhile_are_no_fault(five, monkeypatch):
    there, look = five.root / "versions" / "0006-f" / "half.fits", Path.stat
    there.parent.mkdir()
    there.write_bytes(b"half")

    def gone(path, **how):
        if path.name == "half.fits":
            raise FileNotFoundError(path)
        return look(path, **how)

    monkeypatch.setattr(Path, "stat", gone)
    assert outdated(five, 60000.0, now=there.parent.stat().st_mtime + 90_000.0) == ("0006-f",)
    assert size_of(five, ["0006-f"]) == 0


def test_nothing_is_removed_while_a_job_is_at_work(five):
    with only_job(five.root), pytest.raises(TransientError, match="another job"):
        prune(five, ["0003-c"], 400.0)
    assert five.holds("0003-c")
    prune(five, ["0003-c"], 400.0)


def test_warps_of_removed_versions_go_when_no_job_used_them_for_long(copy):
    warps = sorted(copy.warps.rglob("*.fits"))
    assert warps
    first = copy.versions()[0]
    copy.publish(replace(copy.manifest(), version="0002-b"), [])
    assert prune(copy, [first], 400.0) == 0
    for path in warps:
        os.utime(path, (0.0, 0.0))
    copy.publish(replace(copy.manifest("0002-b"), version="0003-c"), [])
    assert prune(copy, ["0002-b"], 400.0) == len(warps)
