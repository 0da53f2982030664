"""The container files on the disk: read a part, add to the end durably, cut back, map the whole."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import UnreachableError

__all__ = ["cut_back", "extend", "mapped", "read_part", "set_aside"]


def extend(path: Path, length: int, parts: Sequence[bytes]) -> int:
    """Cut the file to `length` bytes, add `parts`, and return the new length once all is on the disk.

    Whatever lies beyond `length` was left by a writer that died. Raises UnreachableError where the file is shorter;
    OSError where it can't be written: then it may have a tail beyond `length`.
    """
    created = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size < length:
            raise UnreachableError(
                f"{path} has {size} bytes, and the archive's index knows {length}: it was shortened or replaced. Put "
                "the file back from a copy, or let `skydelta alerts reindex` count what is left"
            )
        os.ftruncate(handle, length)
        end = _write(handle, b"".join(parts), length)
        os.fsync(handle)
    finally:
        os.close(handle)
    if created:
        for folder in (path.parent, path.parent.parent):
            _sync_folder(folder)
    return end


def cut_back(path: Path, length: int) -> None:
    """Give back the room of what was written beyond `length`, as far as the disk lets us."""
    with suppress(OSError):
        if length == 0:
            path.unlink()
        elif path.stat().st_size > length:
            os.truncate(path, length)


def read_part(path: Path, start: int, length: int) -> bytes:
    """Return `length` bytes from `start`; fewer where the file is shorter. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, length, start)
    finally:
        os.close(handle)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Lend the bytes of a file without reading them all at once. Raises OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def set_aside(path: Path) -> Path:
    """Rename a file that can't be read, so that nothing of it is lost; return its new path. Raises OSError."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.rename(target)
    return target


def _write(handle: int, data: bytes, start: int) -> int:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, start)
        left, start = left[written:], start + written
    return start


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
