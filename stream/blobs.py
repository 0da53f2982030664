"""Claim check: pixels too large to travel in a message lie in a store and are named by their sha256."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import ConfigurationError, DataError, UnreachableError

__all__ = ["INLINE_LIMIT", "BlobStore"]

INLINE_LIMIT = 8 << 20
"""Bytes: nothing larger ever travels inside a message, whatever the configuration says."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """A folder of immutable files, ``ab/cd/abcd…``; any number of processes may write and read it at once.

    Writing the same bytes again is a no-op, so that a repeated stage leaves no trace. Raises ConfigurationError
    where `inline_max_bytes` is outside 0 to 8 MiB.
    """

    def __init__(self, path: str | os.PathLike[str], inline_max_bytes: int = 524_288) -> None:
        if not 0 <= inline_max_bytes <= INLINE_LIMIT:
            raise ConfigurationError(
                f"blobs.inline_max_bytes = {inline_max_bytes} is outside 0 to {INLINE_LIMIT}; correct survey.toml"
            )
        self._root = Path(path)
        self._inline = inline_max_bytes

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its sha256 (64 hexadecimal digits); raises UnreachableError."""
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        with self._reached("writing", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock(fcntl.LOCK_SH):
                if path.exists() and path.stat().st_size == len(data):
                    os.utime(path)  # young again: a sweep must leave it to the message that is about to name it
                else:
                    self._write(path, data)
        return name

    def get(self, sha256: str) -> bytes:
        """Return the bytes of this name.

        Raises DataError where they are not what the name says, UnreachableError where they are missing.
        """
        with self._reached("reading", sha256):
            data = self._path(sha256).read_bytes()
        return _verified(data, sha256, len(data), str(self._path(sha256)))

    def payload(self, data: bytes) -> dict[str, Any]:
        """Return the message field that carries `data`, {sha256, size, inline}: inline, or stored and named."""
        if len(data) <= self._inline:
            return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "inline": data}
        return {"sha256": self.put(data), "size": len(data), "inline": None}

    def open_payload(self, payload: Mapping[str, Any]) -> bytes:
        """Return the bytes that a message field of `payload` carries; raises DataError and UnreachableError."""
        inline = payload["inline"]
        data = self.get(payload["sha256"]) if inline is None else bytes(inline)
        return _verified(data, payload["sha256"], payload["size"], "an inline payload")

    def sweep(self, live: Collection[str], older_than_seconds: float, now: float) -> list[str]:
        """Delete blobs that are not `live` and unfinished files, and return the names of the blobs deleted.

        Only what was last written more than `older_than_seconds` before `now` (s since 1970) goes: younger ones may
        be named by a message that is not committed yet.
        """
        removed = []
        with self._reached("sweeping", "orphans"):
            for folder in sorted({path.parent for path in self._root.glob("??/??/*")}):
                with self._lock(fcntl.LOCK_EX):
                    for path in sorted(folder.iterdir()):
                        if path.name not in live and path.stat().st_mtime < now - older_than_seconds:
                            path.unlink()
                            removed.append(path.name)
        return [name for name in removed if _SHA256.fullmatch(name)]

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise DataError(f"{sha256!r} is no sha256 of 64 hexadecimal digits; the message that names it is wrong")
        return self._root / sha256[:2] / sha256[2:4] / sha256

    def _write(self, path: Path, data: bytes) -> None:
        handle, temporary = tempfile.mkstemp(prefix="unfinished-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent, self._root):
            _sync(folder)

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Keep writers (shared) and the sweep (exclusive) apart, so that no blob goes just after it was found."""
        handle = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _reached(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreachableError(
                f"the blob store {self._root} failed while {doing} {name}: {error}; see that its disk is there, has "
                "room and may be written, and that blobs.path is the store which the sender wrote to"
            ) from error


def _verified(data: bytes, sha256: str, size: int, where: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256 or len(data) != size:
        raise DataError(
            f"{where} holds {len(data)} bytes of sha256 {found}, not the {size} bytes of {sha256} that were written; "
            "the disk damaged them: restore the file, or ingest the exposure again"
        )
    return data


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
