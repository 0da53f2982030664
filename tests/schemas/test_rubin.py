"""Rubin's own package as the oracle: their reader decodes our alerts, ours decodes theirs, with equal values."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import fastavro
import pytest

import schemas

ALERT = schemas.latest("alert").parsed
NULLS = pytest.mark.parametrize(("seed", "nulls"), [(1, 0.0), (2, 0.0), (3, 0.5), (4, 1.0)])


@pytest.fixture(scope="module")
def folder() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packet = pytest.importorskip("lsst.alert.packet", reason="lsst-alert-packet is not installed")
        return Path(packet.get_schema_path(11, 1))


@pytest.fixture(scope="module")
def rubin(folder: Path) -> Any:
    from lsst.alert.packet import Schema

    return Schema.from_file(str(folder / "lsst.v11_1.alert.avsc"))


def _names(schema: Any) -> list[str]:
    return [item["name"] for item in schema["fields"]]


def _resolve(record: Any, writer: Any, reader: Any) -> Any:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, writer, record)
    buffer.seek(0)
    return fastavro.schemaless_reader(buffer, writer, reader)


def _only(record: Any, like: Any) -> Any:
    """`record` without the fields that `like` does not have, at every depth."""
    if isinstance(record, dict) and isinstance(like, dict):
        return {name: _only(record[name], like[name]) for name in like}
    if isinstance(record, list) and isinstance(like, list):
        assert len(record) == len(like)
        return [_only(a, b) for a, b in zip(record, like, strict=True)]
    return record


@NULLS
def test_rubins_reader_decodes_our_alerts(rubin: Any, random_record: Any, seed: int, nulls: float) -> None:
    ours = random_record(ALERT, seed, nulls)
    theirs = _resolve(ours, ALERT, rubin.definition)
    assert list(theirs) == _names(rubin.definition)
    assert theirs == _only(ours, theirs)
    assert rubin.validate(theirs)
    if nulls == 0.0:
        assert len(theirs["diaObject"]) == 82
        assert "bands" in ours["diaObject"]
        assert None not in theirs["diaSource"].values()


@NULLS
def test_our_reader_decodes_rubins_alerts(rubin: Any, random_record: Any, seed: int, nulls: float) -> None:
    theirs = random_record(rubin.definition, seed, nulls)
    ours = _resolve(theirs, rubin.definition, ALERT)
    assert list(ours) == _names(ALERT)
    assert _only(ours, theirs) == theirs
    assert (ours["instrument"], ours["calibrations"], ours["stageTimes"], ours["late"]) == ("", {}, [], False)
    assert ours["diaObject"] is None or ours["diaObject"]["bands"] == []


def test_our_reader_decodes_rubins_sample_alert(folder: Path) -> None:
    path = folder / "sample_data" / "fakeAlert.avro"
    with path.open("rb") as stream:
        theirs = list(fastavro.reader(stream))
    with path.open("rb") as stream:
        ours = list(fastavro.reader(stream, ALERT))
    assert len(ours) == len(theirs) > 0
    assert [_only(a, b) for a, b in zip(ours, theirs, strict=True)] == theirs


def test_the_checker_says_the_same(rubin: Any) -> None:
    assert schemas.compatibility_problems(ALERT, rubin.definition) == []
    assert schemas.compatibility_problems(rubin.definition, ALERT) == []


def test_same_order_and_the_same_types(rubin: Any) -> None:
    assert _names(ALERT)[:12] == _names(rubin.definition)
    by_name = {item["name"]: item["type"] for item in ALERT["fields"]}
    for item in rubin.definition["fields"]:
        theirs, ours = item["type"], by_name[item["name"]]
        theirs = theirs[1] if isinstance(theirs, list) else theirs
        ours = ours[1] if isinstance(ours, list) else ours
        if isinstance(theirs, dict) and "fields" in theirs:
            pairs = [(field["name"], field["type"]) for field in theirs["fields"]]
            assert [(field["name"], field["type"]) for field in ours["fields"]][: len(pairs)] == pairs


def test_no_text_of_theirs_is_in_ours(rubin: Any) -> None:
    def docs(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(docs, node))
        if not isinstance(node, dict):
            return set()
        found = {node["doc"]} if node.get("doc") else set()
        return found.union(*(docs(child) for child in [*node.get("fields", ()), node.get("type"), node.get("items")]))

    assert len(docs(rubin.definition)) > 200
    assert docs(rubin.definition) & docs(ALERT) == set()
