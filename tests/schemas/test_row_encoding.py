"""Rows as Avro bodies, byte for byte what fastavro writes."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import schemas
from schemas import encode_fields, encode_long, encode_rows, frame, rows_to_records, table_dtype
from schemas.errors import SchemaError
from stream import codec

RECORDS = (
    "diaSource",
    "diaForcedSource",
    "ssSource",
    "mpc_orbits",
    "diaObjectBand",
    "diaNondetectionLimit",
    "templateProvenance",
    "stageTime",
)


def _definition(node: Any, name: str) -> Any:
    """Find the definition of a record in a schema."""
    if isinstance(node, list):
        return next(filter(None, (_definition(branch, name) for branch in node)), None)
    if not isinstance(node, dict):
        return None
    if node.get("name", "").rpartition(".")[2] == name:
        return node
    return _definition([*(item["type"] for item in node.get("fields", ())), node.get("items")], name)


def _by_fastavro(rows: Any, record: str) -> list[bytes]:
    schema = _definition(schemas.latest("alert").parsed, record)
    bodies = []
    for item in rows_to_records(rows):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, schema, item)
        bodies.append(buffer.getvalue())
    return bodies


def _floats(bits: int) -> st.SearchStrategy[int]:
    """Bit patterns: every float there is, the odd ones often."""
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 5e-324, 1e-40, 3.4e38]
    kind, word = (np.float32, np.uint32) if bits == 32 else (np.float64, np.uint64)
    with np.errstate(over="ignore"):
        patterns = [int(np.array(value).astype(kind).view(word)) for value in special]
    signalling = 0x7F800001 if bits == 32 else 0x7FF0000000000001
    return st.sampled_from([*patterns, signalling]) | st.integers(0, 2**bits - 1)


def _integers(bits: int) -> st.SearchStrategy[int]:
    """Whole numbers of every length, and both sides of each step of the varint."""
    steps = [sign * 2**power + rest for power in range(0, bits - 1) for sign in (1, -1) for rest in (-1, 0, 1)]
    ends = [2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
    return st.sampled_from([0, *steps, *ends]) | st.integers(*sorted(ends))


_TEXTS = st.sampled_from(["", "r", "x" * 31, "x" * 32, "é" * 32, "\U0010ffff" * 32, "a\0b", "y" * 30 + "é"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=32
)
_ELEMENTS = {
    "<f4": (_floats(32), np.uint32),
    "<f8": (_floats(64), np.uint64),
    "<i4": (_integers(32), np.int32),
    "<i8": (_integers(64), np.int64),
    "|b1": (st.booleans(), np.bool_),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, Any]:
    """Rows of a record: a few values of each column, spread over the rows by a seed."""
    record = draw(st.sampled_from(RECORDS))
    rows = np.zeros(draw(st.integers(0, 12)), table_dtype("alert", record))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pools: dict[str, Any] = {
        kind: np.array(draw(st.lists(values, min_size=1, max_size=12)), word).view(kind)
        for kind, (values, word) in _ELEMENTS.items()
    }
    pools["<U32"] = np.array(draw(st.lists(_TEXTS, min_size=1, max_size=6)), "U32")
    for name in rows.dtype.names or ():
        pool = pools[rows.dtype[name].str]
        rows[name] = pool[random.integers(0, len(pool), len(rows))]
    return record, rows


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tables())
def test_bodies_are_those_of_fastavro(table: tuple[str, Any]) -> None:
    record, rows = table
    before = rows.tobytes()
    assert list(encode_rows(rows, "alert", record)) == _by_fastavro(rows, record)
    assert rows.tobytes() == before


@pytest.mark.parametrize("record", RECORDS)
def test_rows_of_noise(record: str) -> None:
    """More rows than are written at once, of random bytes, seen through a stride."""
    random = np.random.default_rng(7)
    dtype = table_dtype("alert", record)
    rows = np.frombuffer(random.bytes(2 * 1100 * dtype.itemsize), dtype).copy()
    for name in dtype.names or ():
        kind = dtype[name].kind
        if kind == "b":
            rows[name] = random.integers(0, 2, len(rows))
        elif kind == "U":
            rows[name] = random.choice(["", "g", "VR", "ü" * 20], len(rows))
        elif kind == "i":
            rows[name] >>= random.integers(0, 8 * dtype[name].itemsize, len(rows)).astype(dtype[name])
    with np.errstate(invalid="ignore"):
        encoded, expected = encode_rows(rows[::2], "alert", record), _by_fastavro(rows[::2], record)
    assert len(encoded) == 1100
    assert b"".join(encoded) == encoded.data == b"".join(expected)
    assert list(encoded) == expected


def test_groups_are_views_of_successive_rows() -> None:
    rows = np.zeros(6, table_dtype("alert", "stageTime"))
    rows["stage"] = list("abcdef")
    encoded = encode_rows(rows, "alert", "stageTime")
    bodies = list(encoded)
    groups = encoded.groups(np.array([0, 2, 0, 3, 1]))
    assert [bytes(group) for group in groups] == [
        b"",
        b"".join(bodies[:2]),
        b"",
        b"".join(bodies[2:5]),
        bodies[5],
    ]
    assert encoded.groups(np.zeros(0, np.int64)) == []


def test_a_body_stops_before_fields_without_a_column() -> None:
    rows = np.ones(1, table_dtype("alert", "diaObject"))
    schema = _definition(schemas.latest("alert").parsed, "diaObject")
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema, rows_to_records(rows)[0] | {"bands": []})
    assert encode_rows(rows, "alert", "diaObject").data + b"\0" == buffer.getvalue()


def test_what_can_not_be_written_is_an_error() -> None:
    rows = np.zeros(1, table_dtype("alert", "stageTime"))
    with pytest.raises(SchemaError, match=r"3 columns can't be written as diaSource"):
        encode_rows(rows, "alert", "diaSource")
    with pytest.raises(SchemaError, match="has no record 'nothing'"):
        encode_rows(rows, "alert", "nothing")
    with pytest.raises(SchemaError, match=r"alert of alert 1\.2 has arrays, maps or records between its columns"):
        encode_rows(np.zeros(1, table_dtype("alert", "alert")), "alert", "alert")
    rows["stage"] = "\ud800"
    with pytest.raises(SchemaError, match="a text of stage is no Unicode"):
        encode_rows(rows, "alert", "stageTime")


@given(_integers(64))
@example(63)
@example(64)
def test_a_long_is_a_zigzag_varint(value: int) -> None:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, "long", value)
    assert encode_long(value) == buffer.getvalue()


def test_fields_one_by_one_make_a_body(random_record: Any) -> None:
    for seed, nulls in ((1, 0.0), (2, 0.5)):
        record = random_record(schemas.latest("visit").parsed, seed, nulls)
        fields = encode_fields("visit", record)
        body = b"".join(fields[item["name"]] for item in schemas.latest("visit").parsed["fields"])
        assert frame("visit") + body == codec.encode("visit", record)


def test_a_field_that_does_not_fit_is_an_error() -> None:
    for name, value in (("night", "today"), ("nothing", 1), ("prvDiaSources", [{}]), ("instrument", None)):
        with pytest.raises(SchemaError, match=f"can't be written as the field {name} of alert"):
            encode_fields("alert", {name: value})
