"""Alerts as one Avro object container file for somebody else; any number of them, one in memory at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import schemas
from schemas.errors import UnreachableError
from workers.archive.container import block, header, split, sync_marker

__all__ = ["export"]


def export(path: Path, values: Iterable[bytes], night: int = 0) -> int:
    """Write alert messages of the latest schema to one file, in their order, and return how many; `night` 0: several.

    An existing file is replaced at once, when all is written; equal alerts give equal files. Raises UnreachableError
    where the file can't be written, SchemaError for a message that is no alert.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                count = _write(file, values, night)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise UnreachableError(f"{path} can't be written: {error}; give a folder that can, with room") from error
    return count


def _write(file: BinaryIO, values: Iterable[bytes], night: int) -> int:
    schema = schemas.latest("alert")
    sync = sync_marker(schema, night)
    file.write(header(schema, night))
    count = 0
    for value in values:
        _, body = split(value)
        file.write(block(body, sync))
        count += 1
    return count
