"""Container files: what any Avro reader finds in them, and what is found in damaged ones."""

from __future__ import annotations

import io

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas.errors import SchemaError
from stream import codec
from tests.archive.packets import NIGHT, value
from workers.archive import container

SCHEMA = schemas.latest("alert")
SYNC = container.sync_marker(SCHEMA, NIGHT)
HEAD = container.header(SCHEMA, NIGHT)


def body(number: int) -> bytes:
    return container.split(value(number))[1]


def test_any_reader_opens_it() -> None:
    data = HEAD + container.block(body(7), SYNC) + container.block(body(-8), SYNC)
    reader = fastavro.reader(io.BytesIO(data))
    assert list(reader) == [codec.decode(value(number)).record for number in (7, -8)]
    assert reader.codec == "deflate"
    assert reader.metadata["skydelta.night"] == str(NIGHT)
    assert reader.writer_schema["name"] == "skydelta.alert.v1_2.alert"


def test_the_head_is_read_back() -> None:
    head = container.read_header(HEAD + b"more")
    assert (head.schema, head.night, head.sync, head.length) == (SCHEMA, NIGHT, SYNC, len(HEAD))
    for cut in (*range(0, len(HEAD), 97), len(HEAD) - 1):
        with pytest.raises(SchemaError):
            container.read_header(HEAD[:cut])
    with pytest.raises(SchemaError):
        container.read_header(b"SQLite format 3\0" * 100)


def test_the_id_is_the_first_field_of_every_version() -> None:
    for version in schemas.versions("alert"):
        first = schemas.get("alert", version).parsed["fields"][0]
        assert (first["name"], first["type"]) == ("diaSourceId", "long")


@given(st.integers(-(2**63), 2**63 - 1))
def test_first_long(number: int) -> None:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, "long", number)
    assert container.first_long(buffer.getvalue()) == number


def test_no_long() -> None:
    for wrong in (b"", b"\x80", b"\xff" * 11):
        with pytest.raises(SchemaError, match="does not start with a diaSourceId"):
            container.first_long(wrong)


@given(st.binary(min_size=1, max_size=5000))
def test_a_block_gives_its_body_back(data: bytes) -> None:
    packed = container.block(data, SYNC)
    assert container.body_of(packed) == data
    assert list(container.blocks(HEAD + packed, len(HEAD), SYNC)) == [(len(HEAD), len(packed), data)]


@given(st.data())
def test_damage_costs_the_block_it_is_in(data: st.DataObject) -> None:
    bodies = [b"%d " % n * 40 for n in range(5)]
    packed = [container.block(one, SYNC) for one in bodies]
    hurt = data.draw(st.integers(0, 4))
    place = data.draw(st.integers(0, len(packed[hurt]) - 17))
    broken = bytearray(packed[hurt])
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    packed[hurt] = bytes(broken)
    found = [one for _, _, one in container.blocks(b"".join(packed), 0, SYNC)]
    left = bodies[:hurt] + bodies[hurt + 1 :]
    assert [one for one in found if one in left] == left  # a hurt body is told from a whole one by its sha256


def test_a_torn_tail_is_no_block() -> None:
    packed = container.block(body(1), SYNC)
    for cut in range(len(packed)):
        assert [place for place, _, _ in container.blocks(packed + packed[:cut], 0, SYNC)] == [0]


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0\0", b"\1\0\0\0\0\0\0"])
def test_what_is_not_framed_is_refused(data: bytes) -> None:
    with pytest.raises(SchemaError, match="without Confluent framing"):
        container.split(data)


def test_another_family_is_refused() -> None:
    tick = b"\0" + schemas.latest("quality").id.to_bytes(4, "big") + b"\2\2"
    with pytest.raises(SchemaError, match="family 'quality'"):
        container.split(tick)
