"""The checker against hand-made pairs, and against fastavro, which really encodes and decodes."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest

import schemas
from schemas import compatibility_problems


def _record(*fields: dict[str, Any], name: str = "r", namespace: str = "n.v1") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": namespace, "fields": list(fields)}


def _one(avro_type: Any, **more: Any) -> dict[str, Any]:
    return _record({"name": "a", "type": avro_type, **more})


ENUM = {"type": "enum", "name": "e", "symbols": ["x", "y"]}
ENUM_MORE = {"type": "enum", "name": "e", "symbols": ["x", "y", "z"]}
ENUM_DEFAULT = {**ENUM, "default": "x"}
FIXED_4, FIXED_8 = ({"type": "fixed", "name": "f", "size": size} for size in (4, 8))
INNER = {"type": "record", "name": "inner", "fields": [{"name": "b", "type": "int"}]}
INNER_MORE = {**INNER, "fields": [*INNER["fields"], {"name": "c", "type": "int"}]}
INNER_DEFAULT = {**INNER, "fields": [*INNER["fields"], {"name": "c", "type": "int", "default": 1}]}

# (writer, reader, a datum of the writer, the problem or "")
PAIRS = [
    (_one("int"), _one("int"), {"a": 1}, ""),
    (_one("int"), _one("long"), {"a": 1}, ""),
    (_one("int"), _one("double"), {"a": 1}, ""),
    (_one("float"), _one("double"), {"a": 1.5}, ""),
    (_one("string"), _one("bytes"), {"a": "x"}, ""),
    (_one("long"), _one("int"), {"a": 1}, "/a: long can't be read as int"),
    (_one("double"), _one("float"), {"a": 1.5}, "/a: double can't be read as float"),
    (_one("string"), _one("int"), {"a": "x"}, "/a: string can't be read as int"),
    (_one("boolean"), _one("int"), {"a": True}, "/a: boolean can't be read as int"),
    (_one("int"), _one(["null", "int"]), {"a": 1}, ""),
    (_one("int"), _one(["null", "string"]), {"a": 1}, "/a: no branch of the reader's union takes the written int"),
    (_one(["null", "int"]), _one("int"), {"a": None}, "/a: null can't be read as int"),
    (_one(["null", "int", "string"]), _one(["null", "int"]), {"a": "x"}, "no branch .* written string"),
    (_one(["null", "int"]), _one(["string", "null", "long"]), {"a": 1}, ""),
    (_one({"type": "array", "items": "int"}), _one({"type": "array", "items": "string"}), {"a": [1]}, r"/a/\*: int"),
    (_one({"type": "map", "values": "int"}), _one({"type": "map", "values": "long"}), {"a": {"k": 1}}, ""),
    (_one({"type": "map", "values": "long"}), _one({"type": "map", "values": "int"}), {"a": {"k": 1}}, r"/a/\*: long"),
    (
        _one({"type": "array", "items": "int"}),
        _one({"type": "map", "values": "int"}),
        {"a": [1]},
        "array can't be read",
    ),
    (_one(ENUM), _one(ENUM_MORE), {"a": "y"}, ""),
    (_one(ENUM_MORE), _one(ENUM), {"a": "z"}, "/a: the reader's enum lacks z"),
    (_one(ENUM_MORE), _one(ENUM_DEFAULT), {"a": "z"}, ""),
    (_one(FIXED_4), _one(FIXED_8), {"a": b"1234"}, "/a: fixed of 4 bytes can't be read as 8"),
    (_one(INNER), _one(INNER_MORE), {"a": {"b": 1}}, "/a/c: not written, and the reader has no default"),
    (_one(INNER), _one(INNER_DEFAULT), {"a": {"b": 1}}, ""),
    (_one(INNER_MORE), _one(INNER), {"a": {"b": 1, "c": 2}}, ""),
    (_one(["null", INNER]), _one(["null", INNER_MORE]), {"a": {"b": 1}}, "/a/c: not written"),
    (_one("int"), _record(namespace="n.v1"), {"a": 1}, ""),
    (_record(), _one("int"), {}, "/a: not written, and the reader has no default"),
    (_record(), _one("int", default=3), {}, ""),
    (_record(name="other"), _record(), {}, "the record other can't be read as r"),
    (_record(namespace="n.v2"), _record(), {}, ""),
    (_one("int"), _record({"name": "new", "type": "int", "aliases": ["a"]}), {"a": 1}, ""),
]


@pytest.mark.parametrize(("writer", "reader", "datum", "problem"), PAIRS)
def test_the_checker_finds_what_it_should(writer: Any, reader: Any, datum: Any, problem: str) -> None:
    found = compatibility_problems(writer, reader)
    if not problem:
        assert found == []
    else:
        assert len(found) == 1
        with pytest.raises(AssertionError, match=problem):
            raise AssertionError(found[0])


# fastavro is laxer than the specification here: Python has one int and one float, and it takes any name of the root
LAX = ("long can't be read as int", "double can't be read as float", "the record other", r"/a/\*: long")
STRICT = [pair for pair in PAIRS if not any(text in pair[3] for text in LAX)]


@pytest.mark.parametrize(("writer", "reader", "datum", "problem"), STRICT)
def test_fastavro_agrees(writer: Any, reader: Any, datum: Any, problem: str) -> None:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, writer, datum)
    buffer.seek(0)
    if not problem:
        fastavro.schemaless_reader(buffer, writer, reader)
    else:
        with pytest.raises((fastavro.read.SchemaResolutionError, ValueError, EOFError)):
            fastavro.schemaless_reader(buffer, writer, reader)


def test_recursive_types_end() -> None:
    tree = _record({"name": "child", "type": ["null", "n.v1.r"]}, {"name": "value", "type": "int"})
    wider = _record({"name": "child", "type": ["null", "n.v1.r"]}, {"name": "value", "type": "string"})
    assert compatibility_problems(tree, tree) == []
    assert any("int can't be read as string" in problem for problem in compatibility_problems(tree, wider))


@pytest.mark.parametrize("schema", schemas.all_schemas(), ids=lambda schema: schema.name)
def test_versions_really_encode_and_decode(schema: schemas.Schema, random_record: Any) -> None:
    for version in schemas.versions(schema.family):
        reader = schemas.get(schema.family, version)
        for seed, nulls in ((1, 0.0), (2, 1.0), (3, 0.5)):
            record = random_record(schema.parsed, seed, nulls)
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, schema.parsed, record)
            buffer.seek(0)
            assert fastavro.schemaless_reader(buffer, schema.parsed, reader.parsed).keys() == {
                item["name"] for item in reader.parsed["fields"]
            }


def test_a_change_of_a_real_schema_is_noticed() -> None:
    alert = schemas.latest("alert").parsed
    fields = [item for item in alert["fields"] if item["name"] != "diaSourceId"]
    without = {**alert, "fields": fields}
    assert compatibility_problems(without, alert) == ["/diaSourceId: not written, and the reader has no default for it"]
    assert compatibility_problems(alert, without) == []
