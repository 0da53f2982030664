"""The blob store: round trips, damage, concurrent writers, the sweep."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError, DataError, UnreachableError
from stream.blobs import INLINE_LIMIT, BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", inline_max_bytes=100)


def file_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "blobs" / name[:2] / name[2:4] / name


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300), limit=st.integers(0, 300))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: bytes, limit: int) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"), limit)
    payload = store.payload(data)
    assert payload["sha256"] == hashlib.sha256(data).hexdigest()
    assert payload["size"] == len(data)
    assert (payload["inline"] is not None) == (len(data) <= limit)
    assert store.open_payload(payload) == data
    assert store.get(store.put(data)) == data


def test_layout_and_repeat(store: BlobStore, tmp_path: Path) -> None:
    name = store.put(b"pixels")
    assert file_of(tmp_path, name).read_bytes() == b"pixels"
    inode = file_of(tmp_path, name).stat().st_ino
    assert store.put(b"pixels") == name
    assert file_of(tmp_path, name).stat().st_ino == inode
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["lock", name]


def test_an_unfinished_file_is_mended(store: BlobStore, tmp_path: Path) -> None:
    name = store.put(b"pixels")
    file_of(tmp_path, name).write_bytes(b"pix")
    store.put(b"pixels")
    assert store.get(name) == b"pixels"


def test_damage_is_found(store: BlobStore, tmp_path: Path) -> None:
    payload = store.payload(bytes(200))
    file_of(tmp_path, payload["sha256"]).write_bytes(bytes(199) + b"\x01")
    with pytest.raises(DataError, match=r"holds 200 bytes of sha256 \w+, not the 200 bytes of .*ingest"):
        store.open_payload(payload)
    with pytest.raises(DataError, match="an inline payload holds 3 bytes"):
        store.open_payload({"sha256": payload["sha256"], "size": 3, "inline": b"abc"})
    good = store.payload(b"abc")
    with pytest.raises(DataError, match="not the 4 bytes"):
        store.open_payload(good | {"size": 4})


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_names_are_checked(store: BlobStore, name: str) -> None:
    with pytest.raises(DataError, match="is no sha256 of 64 hexadecimal digits"):
        store.get(name)


def test_missing_is_unreachable(store: BlobStore) -> None:
    with pytest.raises(UnreachableError, match=r"failed while reading 0000.*No such file.*blobs\.path"):
        store.get("0" * 64)


def test_full_disk_leaves_nothing(store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UnreachableError, match=r"failed while writing \w+: .*No space left.*has room"):
            store.put(b"pixels")
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == ["lock"]
    assert store.get(store.put(b"pixels")) == b"pixels"


@pytest.mark.parametrize("limit", [-1, INLINE_LIMIT + 1])
def test_inline_limit_is_bounded(tmp_path: Path, limit: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"inline_max_bytes = {limit} is outside 0 to 8388608"):
        BlobStore(tmp_path, limit)


def test_nothing_above_8_mib_is_inline(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, INLINE_LIMIT)
    assert store.payload(bytes(INLINE_LIMIT))["inline"] is not None
    assert store.payload(bytes(INLINE_LIMIT + 1))["inline"] is None


def test_many_writers(store: BlobStore) -> None:
    data = [bytes([n]) * 50_000 for n in range(5)]
    names: list[str] = []

    def write() -> None:
        names.extend(store.put(each) for each in data)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 20
    assert {store.get(name) for name in names} == set(data)


def test_sweep_takes_old_orphans_only(store: BlobStore, tmp_path: Path) -> None:
    live, young, orphan = store.put(b"live"), store.put(b"young"), store.put(b"orphan")
    now = time.time()
    rest = file_of(tmp_path, orphan).with_name("unfinished-1")
    rest.write_bytes(b"or")
    for path in (file_of(tmp_path, live), file_of(tmp_path, orphan), rest):
        os.utime(path, (now - 7200, now - 7200))
    assert store.sweep({live}, 3600, now) == [orphan]
    assert (store.get(live), store.get(young)) == (b"live", b"young")
    assert not rest.exists()
    with pytest.raises(UnreachableError):
        store.get(orphan)


def test_writing_again_makes_young(store: BlobStore, tmp_path: Path) -> None:
    name = store.put(b"again")
    os.utime(file_of(tmp_path, name), (0, 0))
    store.put(b"again")
    assert store.sweep(set(), 3600, time.time()) == []


def test_sweep_of_nothing(tmp_path: Path) -> None:
    assert BlobStore(tmp_path / "none").sweep(set(), 0, 0) == []
