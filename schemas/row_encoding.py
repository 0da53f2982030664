"""Table rows as Avro bodies, all rows at once: the bytes that fastavro writes for `rows_to_records`, without records.

Every field of every row is written into one wide matrix at its column's place and at its greatest width; a mask of the
same shape says which bytes count, and what it leaves is the bodies one after another (Avro 1.12, "Binary encoding":
ints are zigzag varints, floats little-endian, a union is its branch's number and then the value).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SchemaError
from schemas.registry import latest
from schemas.tables import STRING_WIDTH, columns_of, table_dtype

__all__ = ["EncodedRows", "encode_fields", "encode_long", "encode_rows", "frame"]

_CHUNK = 1024
"""Rows written at once, so that matrix and mask stay in the processor's cache."""

_VARINT = 10
"""Bytes of the longest varint of 64 bits."""

_TARGETS = {"f4": "<f4", "f8": "<f8", "?": "u1"}
"""How columns of fixed width are written."""


@dataclass(frozen=True)
class EncodedRows:
    """The Avro bodies of n rows in one buffer."""

    data: bytes
    offsets: NDArray[np.int64]
    """Where each body begins, and where the last one ends: shape (n + 1,)."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[bytes]:
        """Yield each row's body."""
        ends = self.offsets.tolist()
        return (self.data[start:end] for start, end in pairwise(ends))

    def groups(self, counts: NDArray[np.int64]) -> list[memoryview]:
        """Return the bodies of each group of successive rows, as views: `counts` rows in each."""
        ends = self.offsets[np.cumsum(counts)].tolist()
        view = memoryview(self.data)
        return [view[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class _Run:
    """Successive columns of one kind, written in one go."""

    name: str
    kind: str
    """The dtype of its columns: i8, i4, f8, f4, ? or U32."""
    count: int
    branches: tuple[int, int] | None
    """The bytes of null's branch and of the value's, where the columns are nullable."""

    @property
    def width(self) -> int:
        """Bytes that one value takes at most."""
        if self.kind in _TARGETS:
            return np.dtype(_TARGETS[self.kind]).itemsize
        return _VARINT if self.kind.startswith("i") else 2 + 4 * STRING_WIDTH

    def element(self, value: Any) -> np.dtype[Any]:
        """Return one column's part of the matrix; `value` is how its value is seen there."""
        branch = [] if self.branches is None else [("branch", "u1")]
        return np.dtype([*branch, ("value", value)])


@dataclass(frozen=True)
class _Layout:
    """How rows of one record lie in memory before and after."""

    runs: tuple[_Run, ...]
    rows: np.dtype[Any]
    """The table's dtype with each run as one field."""
    matrix: np.dtype[Any]
    mask: np.dtype[Any]
    """The matrix with ones instead of values: unsigned integers of the same widths."""
    template: NDArray[Any]
    """One row of the matrix with the value's branch in every nullable field."""


def encode_rows(rows: NDArray[Any], family: str, record: str) -> EncodedRows:
    """Return the Avro body of each row, shape (n,), of a record of a family's latest schema.

    `rows` are of ``table_dtype(family, record)``, and null is what it is for `rows_to_records`. Fields without a column
    may only stand at the record's end; the bodies stop before them. Raises SchemaError for another dtype or record, and
    for text that is no Unicode.
    """
    layout = _layout(family, record)
    if rows.dtype != table_dtype(family, record):
        raise SchemaError(
            f"rows of {len(rows.dtype.names or ())} columns can't be written as {record}: "
            f"make them with the dtype that `table_dtype({family!r}, {record!r})` gives"
        )
    chunks = [_encode_chunk(rows[start : start + _CHUNK], layout) for start in range(0, len(rows), _CHUNK)]
    lengths = np.concatenate([np.zeros(1, np.int64), *(lengths for _, lengths in chunks)])
    return EncodedRows(b"".join(data for data, _ in chunks), np.cumsum(lengths))


def encode_fields(family: str, values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the Avro bytes of single fields of a family's latest schema, by name; a body is all of them in order.

    Raises SchemaError for an unknown field, one whose type is defined in another field, or a value that does not fit.
    """
    import fastavro

    types = _field_types(family)
    encoded = {}
    for name, value in values.items():
        buffer = io.BytesIO()
        try:
            fastavro.schemaless_writer(buffer, types[name], value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise SchemaError(f"{value!r} can't be written as the field {name} of {family}: {error}") from error
        encoded[name] = buffer.getvalue()
    return encoded


def encode_long(value: int) -> bytes:
    """Return one Avro int or long: a zigzag varint; also what counts the items of an array's block."""
    rest = (value << 1) ^ (value >> 63)
    data = bytearray()
    while rest > 0x7F:
        data.append((rest & 0x7F) | 0x80)
        rest >>= 7
    data.append(rest)
    return bytes(data)


def frame(family: str) -> bytes:
    """Return what stands before the body in a message: magic byte 0 and the id of the family's latest schema."""
    return struct.pack(">bi", 0, latest(family).id)


def _encode_chunk(rows: NDArray[Any], layout: _Layout) -> tuple[bytes, NDArray[np.int64]]:
    """Return the bodies of some rows and the length of each."""
    source = np.ascontiguousarray(rows).view(layout.rows)
    blank = np.empty((len(rows), layout.matrix.itemsize), np.uint8)
    blank[:] = layout.template.view(np.uint8)
    matrix = blank.reshape(-1).view(layout.matrix)
    mask = np.ones(len(rows) * layout.mask.itemsize, np.bool_).view(layout.mask)
    lengths = np.full(len(rows), layout.matrix.itemsize)
    for run in layout.runs:
        _WRITERS[run.kind[0]](run, source[run.name], matrix[run.name], mask[run.name], lengths)
    return blank.reshape(-1)[mask.view(np.bool_)].tobytes(), lengths


def _write_plain(
    run: _Run, values: NDArray[Any], matrix: NDArray[Any], mask: NDArray[Any], lengths: NDArray[np.int64]
) -> None:
    """Write floats and flags: the only ones whose bytes are the column's own."""
    if run.kind == "f4" and run.branches is None:
        with np.errstate(invalid="ignore"):
            values = values.astype("f8")  # as Python does: it makes signalling NaN quiet
    matrix["value"] = values
    if run.branches is None or run.kind == "?":
        return
    null = np.isnan(values)
    if null.any():
        matrix["branch"][null] = run.branches[0]
        mask["value"][null] = 0
        lengths -= run.width * null.sum(axis=1)


def _write_integers(
    run: _Run, values: NDArray[Any], matrix: NDArray[Any], mask: NDArray[Any], lengths: NDArray[np.int64]
) -> None:
    """Write zigzag varints: seven bits a byte, the least first, and a bit that says whether another one follows."""
    wide = values.astype(np.int64)
    zigzag = ((wide << 1) ^ (wide >> 63)).view(np.uint64)
    size = max(1, -(-int(zigzag.max()).bit_length() // 7))
    parts = zigzag[..., None] >> (7 * np.arange(size, dtype=np.uint64))
    used = parts != 0
    used[..., 0] = True if run.branches is None else used.any(axis=-1)
    data = parts.astype(np.uint8) & 0x7F
    data[..., :-1] |= used[..., 1:].view(np.uint8) << 7
    matrix["value"][..., :size] = data
    _keep(run, used, matrix, mask, lengths)


def _write_texts(
    run: _Run, values: NDArray[Any], matrix: NDArray[Any], mask: NDArray[Any], lengths: NDArray[np.int64]
) -> None:
    """Write strings: the number of bytes and the UTF-8; each different one is encoded once."""
    known: dict[str, int] = {}
    places = [known.setdefault(text, len(known)) for text in values.ravel().tolist()]
    try:
        bodies = [encode_long(len(data)) + data for data in (text.encode() for text in known)]
    except UnicodeEncodeError as error:
        raise SchemaError(f"a text of {run.name} is no Unicode: {error}") from error
    if run.branches is not None and "" in known:
        bodies[known[""]] = b""
    index = np.array(places).reshape(values.shape)
    size = max(1, max(map(len, bodies)))
    data = np.frombuffer(b"".join(body.ljust(size) for body in bodies), np.uint8).reshape(-1, size)
    used = np.arange(size) < np.array([len(body) for body in bodies])[:, None]
    matrix["value"][..., :size] = data[index]
    _keep(run, used[index], matrix, mask, lengths)


def _keep(
    run: _Run, used: NDArray[np.bool_], matrix: NDArray[Any], mask: NDArray[Any], lengths: NDArray[np.int64]
) -> None:
    """Write which bytes of values of varying width count; those without any are null where null can be."""
    size = used.shape[-1]
    mask["value"][..., :size] = used
    mask["value"][..., size:] = 0
    lengths -= run.width * run.count - used.sum(axis=(1, 2))
    if run.branches is not None:
        matrix["branch"][~used.any(axis=-1)] = run.branches[0]


_WRITERS = {"f": _write_plain, "?": _write_plain, "i": _write_integers, "U": _write_texts}


@cache
def _layout(family: str, record: str) -> _Layout:
    """Return how rows of a record are laid out, from its schema."""
    runs = []
    columns = columns_of(family, record, complete=True)
    for (kind, branches), group in groupby(columns, key=lambda column: (column.kind, column.branches)):
        names = [column.name for column in group]
        runs.append(_Run(names[0], kind.lstrip("<|"), len(names), branches))
    rows = np.dtype([(run.name, run.kind, (run.count,)) for run in runs])
    matrix = _packed(runs, lambda run: _TARGETS.get(run.kind, ("u1", (run.width,))))
    mask = _packed(runs, lambda run: f"u{run.width}" if run.kind in _TARGETS else ("u1", (run.width,)))
    template = np.zeros(1, matrix)
    for run in runs:
        if run.branches is not None:
            template[run.name]["branch"] = run.branches[1]
    return _Layout(tuple(runs), rows, matrix, mask, template)


def _packed(runs: Sequence[_Run], value: Any) -> np.dtype[Any]:
    """Return the dtype of one row of matrix or mask."""
    return np.dtype([(run.name, run.element(value(run)), (run.count,)) for run in runs])


@cache
def _field_types(family: str) -> dict[str, Any]:
    """Return the type of each field of a family's latest schema."""
    return {item["name"]: item["type"] for item in latest(family).parsed["fields"]}
