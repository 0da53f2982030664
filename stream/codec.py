"""Avro with Confluent framing for the bus, and Avro object container files for archives."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fastavro

import schemas
from schemas import Schema
from schemas.errors import SchemaError, UnreachableError

__all__ = ["Decoded", "decode", "encode", "read_container", "write_container"]

_FRAME = struct.Struct(">bi")
"""Magic byte 0 and the schema id, big-endian int32: the framing that Confluent's and Rubin's consumers expect."""

_BROKEN = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
    AttributeError,
    struct.error,
    fastavro.read.SchemaResolutionError,
)
"""What fastavro raises for bytes or records that don't fit the schema (it has no error type of its own)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One message read back."""

    family: str
    schema: Schema
    """The schema that the message was written with."""
    record: dict[str, Any]
    """Plain Python values, in the shape of the family's latest schema."""


def encode(family: str, record: dict[str, Any]) -> bytes:
    """Return one framed message, written with the family's latest schema.

    Fields with a default may be left out; unknown ones may not be there. Numbers are Python's, not numpy's.
    Raises SchemaError where the record does not fit.
    """
    schema = schemas.latest(family)
    return _FRAME.pack(0, schema.id) + _body(schema, record)


def decode(data: bytes) -> Decoded:
    """Read one framed message, of any version of any family; it is brought to the family's latest version.

    Raises SchemaError for bytes too short, another framing, an unknown schema id, a broken body, or bytes left over.
    """
    if len(data) < _FRAME.size:
        raise SchemaError(f"{len(data)} bytes are too few for a framed message, which starts with {_FRAME.size}")
    magic, number = _FRAME.unpack_from(data)
    if magic != 0:
        raise SchemaError(
            f"the message starts with byte 0x{magic & 0xFF:02x}, not with the magic byte 0x00: no Confluent framing"
        )
    schema = schemas.by_id(number)
    reader = schemas.latest(schema.family)
    stream = io.BytesIO(data)
    stream.seek(_FRAME.size)
    try:
        record = fastavro.schemaless_reader(stream, schema.parsed, None if reader.id == schema.id else reader.parsed)
    except _BROKEN as error:
        raise SchemaError(
            f"the body of {len(data) - _FRAME.size} bytes is not a record of schema {schema.name}: {_reason(error)}"
        ) from error
    if stream.tell() != len(data):
        raise SchemaError(f"{len(data) - stream.tell()} bytes are left over after the record of schema {schema.name}")
    return Decoded(schema.family, schema, record)  # type: ignore[arg-type]


def write_container(
    path: Path, family: str, records: Sequence[dict[str, Any]], codec: Literal["deflate", "null"] = "deflate"
) -> None:
    """Write records as an Avro object container file, which carries its schema; an existing file is replaced at once.

    The sync marker is a hash of the content, so that equal records give equal files. Raises SchemaError where a
    record does not fit the family's latest schema, UnreachableError where the file can't be written.
    """
    schema = schemas.latest(family)
    digest = hashlib.sha256(schema.fingerprint.encode())
    for record in records:
        digest.update(_body(schema, record))
    buffer = io.BytesIO()
    fastavro.writer(buffer, schema.parsed, records, codec=codec, sync_marker=digest.digest()[:16])
    _write_atomically(path, buffer.getvalue())


def read_container(path: Path, family: str | None = None) -> list[dict[str, Any]]:
    """Return the records of an Avro object container file, brought to the latest schema of `family` if one is given.

    Raises SchemaError where the file can't be read or is broken.
    """
    reader = None if family is None else schemas.latest(family).parsed
    try:
        with path.open("rb") as stream:
            return list(fastavro.reader(stream, reader))  # type: ignore[arg-type]
    except _BROKEN as error:
        raise SchemaError(f"{path} can't be read as an Avro object container file: {_reason(error)}") from error


def _body(schema: Schema, record: dict[str, Any]) -> bytes:
    """Return the record's bytes without framing."""
    buffer = io.BytesIO()
    try:
        fastavro.schemaless_writer(
            buffer, schema.parsed, record, strict_allow_default=True, disable_tuple_notation=True
        )
    except _BROKEN as error:
        raise SchemaError(f"the record does not fit schema {schema.name}: {_reason(error)}") from error
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """Return type and text of a foreign error, short enough for a log line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UnreachableError(f"{path.parent} can't be written: {error}; give a folder that can") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UnreachableError(f"{path} can't be written: {error}; free some space there") from error
