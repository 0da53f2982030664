from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_many
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas.errors import SchemaError, UnreachableError
from stream import codec

FAMILIES = schemas.families()
WIRE = Path(__file__).parents[3] / "shared" / "data" / "rubin-alerts" / "wire-format"


def _records(family: str, count: int = 3) -> list[dict[str, Any]]:
    return list(generate_many(schemas.latest(family).parsed, count))  # type: ignore[arg-type]


VISIT = {
    "instrument": "cam",
    "visit": 2025010100001,
    "detector": 3,
    "band": "g",
    "midpointMjdTai": 60676.125,
    "exposureTime": 30.0,
    "ra": 10.5,
    "dec": -20.25,
    "night": 20250101,
    "kind": "science",
    "sha256": "ab" * 32,
    "fileName": "raw.fits",
    "target": "",
    "tile": 17,
    "tiles": [17, 18],
    "expected": [3, 4],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_survives_the_round_trip(family: str) -> None:
    for record in _records(family):
        data = codec.encode(family, record)
        decoded = codec.decode(data)
        assert (decoded.family, decoded.schema) == (family, schemas.latest(family))
        assert decoded.record.keys() == record.keys()
        assert codec.encode(family, decoded.record) == data


def _first(schema: schemas.Schema) -> Any:
    return next(iter(generate_many(schema.parsed, 1)))  # type: ignore[arg-type]


_ADDED = {
    "1.0": {"snapDiffFlux", "snapDiffFluxErr", "dipoleProbability"},
    "1.1": {
        *("dcrShift", "dcrDipole", "templateContaminated", "templateFluxInWindow", "templateFluxInWindowErr"),
        *("psfFluxCorrected", "psfFluxCorrectedErr"),
    },
}
"""What came after a version."""
_TEMPLATE = {
    "templateId": "T1",
    "firstEpochMjdTai": 60000.5,
    "lastEpochMjdTai": 60300.5,
    "nEpochs": 12,
    "depth": 250.0,
    "coverage": 0.5,
}


@pytest.mark.parametrize(
    ("family", "place"), [("alert", "diaSource"), ("diasources", "sources"), ("scored", "sources")]
)
@pytest.mark.parametrize(
    ("version", "added"), [("1.0", _ADDED["1.0"] | _ADDED["1.1"]), ("1.1", _ADDED["1.1"])], ids=["1.0", "1.1"]
)
def test_sources_of_an_earlier_version_are_read_with_null_in_later_columns(
    family: str, place: str, version: str, added: set[str]
) -> None:
    old = schemas.get(family, version)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, old.parsed, _first(old) | {"template": _TEMPLATE})
    body.seek(0)
    record: Any = fastavro.schemaless_reader(body, old.parsed, None)
    decoded = codec.decode(b"\x00" + old.id.to_bytes(4, "big") + body.getvalue())
    assert decoded.schema == old
    sources = decoded.record[place] if family != "alert" else [decoded.record[place]]
    written = record[place] if family != "alert" else [record[place]]
    assert len(sources) == len(written) > 0
    for read, source in zip(sources, written, strict=True):
        assert {name: read[name] for name in source} == source
        assert {read[name] for name in read.keys() - source.keys()} == {None}
        assert added == read.keys() - source.keys()
    assert decoded.record["template"] == _TEMPLATE | {"version": None}
    assert schemas.latest(family).id == codec.decode(codec.encode(family, decoded.record)).schema.id
    # and one who stayed with the earlier version reads what is written today
    body = io.BytesIO(codec.encode(family, decoded.record)[5:])
    assert fastavro.schemaless_reader(body, schemas.latest(family).parsed, old.parsed) == record


def test_the_framing_is_confluents() -> None:
    data = codec.encode("visit", VISIT)
    assert data[:5] == b"\x00" + struct.pack(">i", 10101)
    body = fastavro.schemaless_reader(io.BytesIO(data[5:]), schemas.latest("visit").parsed, None)
    assert body == VISIT == codec.decode(data).record
    assert codec.encode("visit", VISIT) == data


def test_what_has_a_default_may_be_left_out_and_nothing_else() -> None:
    short = {key: value for key, value in VISIT.items() if key not in ("target", "tile", "tiles", "expected")}
    assert codec.decode(codec.encode("visit", short)).record == {**VISIT, "tile": 0, "tiles": [], "expected": []}
    without = {key: value for key, value in VISIT.items() if key != "band"}
    for wrong in (without, {**VISIT, "colour": "g"}, {**VISIT, "visit": "first"}, {}):
        with pytest.raises(SchemaError, match=r"does not fit schema visit 1\.1"):
            codec.encode("visit", wrong)
    with pytest.raises(SchemaError, match="no schema family 'visits'"):
        codec.encode("visits", VISIT)


def test_broken_messages_say_what_is_wrong() -> None:
    data = codec.encode("visit", VISIT)
    for broken, text in (
        (b"", "0 bytes are too few"),
        (data[:4], "4 bytes are too few"),
        (b"\x01" + data[1:], "starts with byte 0x01"),
        (b"\xff" + data[1:], "starts with byte 0xff"),
        (b"SIMPLE  =                    T", "starts with byte 0x53"),
        (b"\x00" + struct.pack(">i", 99999) + data[5:], "schema id 99999 is unknown"),
        (b"\x00" + struct.pack(">i", -1) + data[5:], "schema id -1 is unknown"),
        (data[:-1], r"is not a record of schema visit 1\.1"),
        (data[:5], r"the body of 0 bytes is not a record of schema visit 1\.1: EOFError"),
        (data + b"\x00", "1 bytes are left over"),
        (b"\x00" + struct.pack(">i", 100) + data[5:], r"schema alert 1\.0"),
    ):
        with pytest.raises(SchemaError, match=text):
            codec.decode(broken)


@pytest.mark.parametrize("length", [2**31, 2**40, 2**62, -1, -2, -(2**40)])
def test_a_length_that_lies_is_an_error(length: int) -> None:
    zigzag = (length << 1) ^ (length >> 63)
    varint = bytearray()
    while zigzag > 0x7F:
        varint.append((zigzag & 0x7F) | 0x80)
        zigzag >>= 7
    varint.append(zigzag)
    frame = b"\x00" + struct.pack(">i", 10101)
    with pytest.raises(SchemaError):
        codec.decode(frame + bytes(varint) + b"cam")


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_give_nothing_but_schema_errors(data: bytes) -> None:
    with pytest.raises(SchemaError):
        codec.decode(b"\x01" + data)
    for family in ("visit", "alert", "scored", "dead_letter"):
        try:
            decoded = codec.decode(b"\x00" + struct.pack(">i", schemas.latest(family).id) + data)
        except SchemaError:
            continue
        assert decoded.family == family


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_give_nothing_but_schema_errors(data: st.DataObject) -> None:
    whole = bytearray(codec.encode("scored", _SCORED))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        codec.decode(bytes(whole))
    except SchemaError:
        return


_SCORED = {
    **{name: value for name, value in VISIT.items() if name not in ("tiles", "expected")},
    "outcome": "ok",
    "psfLimit": 123.5,
    "provenance": {"bias": "bias-1"},
    "metrics": {"seeing": 0.8},
    "cornersRa": [1.0, 2.0, 3.0, 4.0],
    "stamps": {"sha256": "ff", "size": 12, "inline": b"twelve bytes"},
    "sources": [],
}


@pytest.mark.parametrize("compression", ["null", "deflate"])
def test_containers_survive_the_round_trip(tmp_path: Path, compression: Any) -> None:
    records = [VISIT, {**VISIT, "detector": 4}]
    path = tmp_path / "deep" / "night.avro"
    codec.write_container(path, "visit", records, compression)
    assert codec.read_container(path) == records == codec.read_container(path, "visit")
    with path.open("rb") as stream:  # as anyone would read it
        plain = fastavro.reader(stream)
        assert (list(plain), plain.codec) == (records, compression)


def test_equal_records_give_equal_containers(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, records in zip(paths, ([VISIT] * 3, [dict(VISIT)] * 3, [VISIT] * 4), strict=True):
        codec.write_container(path, "visit", records)
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b
    assert a[-16:] != c[-16:]  # the sync marker


def test_a_container_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "night.avro"
    codec.write_container(path, "visit", [VISIT])
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="does not fit"):
        codec.write_container(path, "visit", [VISIT, {}])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnreachableError, match=r"can't be written: .*No space left"):
        codec.write_container(path, "visit", [VISIT, VISIT])
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["night.avro"]


def test_a_folder_that_can_not_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="give a folder"):
        codec.write_container(tmp_path / "file" / "night.avro", "visit", [VISIT])


def test_broken_containers_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "night.avro"
    with pytest.raises(SchemaError, match="can't be read"):
        codec.read_container(path)
    codec.write_container(path, "visit", [VISIT] * 5)
    whole = path.read_bytes()
    for broken in (b"", b"no avro", whole[:-20], whole[: len(whole) // 2], whole[:-30] + b"\xff" * 30):
        path.write_bytes(broken)
        with pytest.raises(SchemaError, match="can't be read"):
            codec.read_container(path)
    codec.write_container(path, "visit", [VISIT])
    with pytest.raises(SchemaError, match="SchemaResolutionError"):
        codec.read_container(path, "dead_letter")


def test_stream_codec_imports_no_astronomy() -> None:
    code = "import sys, stream.codec; print(sorted({'numpy', 'astropy', 'sep', 'scipy', 'workers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.realdata
@pytest.mark.skipif(not WIRE.exists(), reason="../shared/data is not there")
def test_a_real_rubin_message_has_the_framing_that_we_expect() -> None:
    data = next(WIRE.glob("*.avro")).read_bytes()
    assert struct.unpack(">bi", data[:5]) == (0, 701)
    with pytest.raises(SchemaError, match="schema id 701 is unknown"):
        codec.decode(data)
