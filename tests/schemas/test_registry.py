from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import schemas
from schemas.errors import SchemaError
from schemas.families import FAMILY_CODES, schema_id, split_id
from schemas.references import ROOT, files_of, load_resolved

INFO = [
    *("instrument", "visit", "detector", "band", "midpointMjdTai", "exposureTime", "ra", "dec", "night", "kind"),
    *("sha256", "fileName", "target", "tile"),
]


def _fields(family: str) -> list[str]:
    return [item["name"] for item in schemas.latest(family).parsed["fields"]]


def test_ids_follow_from_family_and_version() -> None:
    assert schemas.get("alert", "1.0").id == 100
    assert schemas.latest("alert").id == 102
    assert schema_id("alert", "11.1") == 1101  # the rule of Rubin's ids
    assert schema_id("scored", "2.13") == 50213
    assert len(set(FAMILY_CODES.values())) == len(FAMILY_CODES)
    for schema in schemas.all_schemas():
        assert split_id(schema.id) == (schema.family, schema.version)
        assert schemas.by_id(schema.id) is schemas.get(schema.family, schema.version)


@pytest.mark.parametrize("version", ["1", "1.0.0", "1_0", "x.y", "1.100", "100.0", "-1.0", ""])
def test_a_bad_version_is_an_error(version: str) -> None:
    with pytest.raises(SchemaError, match="not a schema version"):
        schema_id("alert", version)


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(SchemaError, match=r"known are alert, calexp"):
        schemas.latest("alerts")
    with pytest.raises(SchemaError, match=r"no version 9\.9 .* known are 1\.0"):
        schemas.get("alert", "9.9")
    for number in (0, 199, 990100, -1, 2**31 - 1):
        with pytest.raises(SchemaError, match=rf"schema id {number} is unknown.* 100, 101, 102, 10100"):
            schemas.by_id(number)


def test_every_family_of_the_plan_is_there() -> None:
    assert schemas.families() == sorted(
        ["visit", "exposure", "calexp", "diasources", "scored", "alert", "dead_letter", "quality", "template", "tick"]
    )
    assert _fields("visit") == [*INFO, "tiles", "expected"]
    for family in ("exposure", "calexp", "diasources", "scored"):
        assert _fields(family)[: len(INFO)] == INFO
    assert _fields("scored") == [*_fields("diasources"), "modelVersion"]


def test_the_avsc_files_hold_what_their_names_say() -> None:
    for schema in schemas.all_schemas():
        for path in files_of(schema.family, schema.version):
            definition = json.loads(path.read_text())
            assert definition["name"] == path.stem
            assert definition["namespace"] == f"skydelta.{schema.family}.v{schema.version.replace('.', '_')}"
            assert definition["doc"]
            assert all(item.get("doc") for item in definition["fields"]), path


def test_a_type_is_written_out_once_and_then_named() -> None:
    alert = load_resolved("skydelta.alert.v1_0.alert")
    by_name = {item["name"]: item["type"] for item in alert["fields"]}
    assert by_name["diaSource"]["name"] == "diaSource"
    assert by_name["prvDiaSources"][1]["items"] == "skydelta.alert.v1_0.diaSource"
    scored = {item["name"]: item["type"] for item in load_resolved("skydelta.scored.v1_0.scored")["fields"]}
    assert scored["sources"]["items"]["namespace"] == "skydelta.alert.v1_0"


def test_a_reference_without_file_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "alert" / "1_0"
    folder.mkdir(parents=True)
    field = {"name": "x", "type": ["null", "skydelta.alert.v1_0.missing"]}
    schema = {"type": "record", "name": "alert", "namespace": "skydelta.alert.v1_0", "fields": [field]}
    (folder / "alert.avsc").write_text(json.dumps(schema))
    with pytest.raises(SchemaError, match=r"missing is referred to, but .*missing\.avsc does not exist"):
        load_resolved("skydelta.alert.v1_0.alert", tmp_path)
    (folder / "missing.avsc").write_text(json.dumps({**schema, "name": "other"}))
    with pytest.raises(SchemaError, match=r"defines skydelta\.alert\.v1_0\.other"):
        load_resolved("skydelta.alert.v1_0.alert", tmp_path)
    (folder / "missing.avsc").write_text("{")
    with pytest.raises(SchemaError, match="is not JSON"):
        load_resolved("skydelta.alert.v1_0.alert", tmp_path)
    field["type"] = ["null", "varchar"]
    (folder / "alert.avsc").write_text(json.dumps(schema))
    with pytest.raises(SchemaError, match="'varchar' is no name of the form"):
        load_resolved("skydelta.alert.v1_0.alert", tmp_path)


def test_importing_schemas_is_cheap() -> None:
    code = "import sys, schemas; print(sorted({'numpy', 'fastavro', 'astropy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert found.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = schemas.nothing
