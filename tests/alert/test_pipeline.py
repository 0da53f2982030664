from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest

import schemas
from schemas import rows_to_records, table_dtype
from stream import codec
from workers.alert.pipeline import AlertContext, AlertParts, grouped_records, object_record, pack_alert

SOURCE = table_dtype("alert", "diaSource")
STAGE = {"stage": "isr", "beginMjdTai": 60676.2, "seconds": 1.5}
TEMPLATE = {
    "templateId": "t-1",
    "firstEpochMjdTai": 60300.0,
    "lastEpochMjdTai": 60400.0,
    "nEpochs": 12,
    "depth": 250.0,
    "coverage": 0.75,
}
LIMIT = {"visit": 6, "detector": 3, "midpointMjdTai": 60670.5, "band": "VR", "psfLimit": 512.0}
OBJECT = np.array(
    [(2**60 + 1, 60676.5, 1.5, 2.5, 60600.0, 3)],
    [
        ("diaObjectId", "i8"),
        *((name, "f8") for name in ("validityStartMjdTai", "ra", "dec", "firstDiaSourceMjdTai")),
        ("nDiaSources", "i4"),
    ],
)
CONTEXT = AlertContext(
    instrument="cam",
    night=20250101,
    codeVersion="0.1.0",
    target="field 4",
    modelVersion="m1",
    template=TEMPLATE,
    calibrations={"bias": "b-1"},
    stageTimes=[STAGE],
)


def _sources(n: int) -> Any:
    rows = np.zeros(n, SOURCE)
    for name in SOURCE.names:
        if SOURCE[name].kind == "f":
            rows[name] = np.arange(n) + 0.5
    rows["diaSourceId"] = np.arange(n) + 100
    rows["band"] = "VR"
    return rows


def _object(**columns: float) -> Any:
    row = np.zeros(1, [(name, "f8" if "Mjd" in name else "f4") for name in columns] + [("diaObjectId", "i8")])
    for name, value in columns.items():
        row[name] = value
    row["diaObjectId"] = 2**60 + 1
    return row


def _alert(**parts: Any) -> dict[str, Any]:
    return pack_alert(rows_to_records(_sources(1))[0], AlertParts(**parts), CONTEXT)


def test_a_full_alert_survives_the_wire() -> None:
    previous, forced = (
        rows_to_records(_sources(3)),
        rows_to_records(np.zeros(2, table_dtype("alert", "diaForcedSource"))),
    )
    alert = _alert(
        previous=previous,
        forced=forced,
        limits=[LIMIT],
        diaObject=object_record(OBJECT, [{"band": "VR", "psfFluxMean": 7.0}]),
        ssSource=rows_to_records(np.ones(1, table_dtype("alert", "ssSource")))[0],
        orbit=rows_to_records(np.ones(1, table_dtype("alert", "mpc_orbits")))[0] | {"created_at": None},
        cutouts=(b"d", b"s", b"t"),
    )
    back = codec.decode(codec.encode("alert", alert)).record
    for name in ("prvDiaSources", "prvDiaForcedSources", "prvDiaNondetectionLimits", "diaObject", "template"):
        assert back[name] == alert[name], name
    assert [back[f"cutout{name}"] for name in ("Difference", "Science", "Template")] == [b"d", b"s", b"t"]
    assert (back["target_name"], back["observation_reason"], back["night"]) == ("field 4", None, 20250101)
    assert (back["calibrations"], back["codeVersion"], back["modelVersion"]) == ({"bias": "b-1"}, "0.1.0", "m1")
    assert (back["stageTimes"], back["late"], back["diaSourceId"]) == ([STAGE], False, 100)
    assert back["diaSource"]["diaObjectId"] is None


def test_every_field_is_said() -> None:
    assert _alert().keys() == {item["name"] for item in schemas.latest("alert").parsed["fields"]}


def test_what_is_not_there_is_null() -> None:
    alert = _alert()
    empty = ("prvDiaSources", "prvDiaForcedSources", "prvDiaNondetectionLimits", "diaObject", "ssSource", "mpc_orbits")
    assert [alert[name] for name in (*empty, "cutoutScience")] == [None] * 7
    data = codec.encode("alert", alert)
    assert fastavro.schemaless_reader(io.BytesIO(data[5:]), schemas.latest("alert").parsed, None)["diaObject"] is None


def test_the_same_source_gives_the_same_bytes() -> None:
    assert codec.encode("alert", _alert(limits=[LIMIT])) == codec.encode("alert", _alert(limits=[dict(LIMIT)]))


def test_bands_are_the_surveys_own_and_rubins_view_is_filled_where_names_agree() -> None:
    bands = [
        {"band": "r", "psfFluxMean": np.float32(2.5), "psfFluxNdata": np.int32(3), "fpFluxMean": np.nan},
        {"band": "VR", "psfFluxMean": 1.5, "psfFluxNdata": 2},
    ]
    record = object_record(_object(ra=10.0, raErr=np.nan, nDiaSources=5), bands)
    assert [band["band"] for band in record["bands"]] == ["VR", "r"]
    assert record["bands"][0]["psfFluxMean"] == record["bands"][0]["psfFluxMean"] == 1.5
    assert (record["r_psfFluxMean"], record["r_psfFluxNdata"], record["r_fpFluxMean"]) == (2.5, 3, None)
    assert (record["g_psfFluxMean"], record["g_psfFluxNdata"]) == (None, 0)
    assert (record["diaObjectId"], record["raErr"], record["decErr"]) == (2**60 + 1, None, None)
    names = [item["name"] for item in _definition("diaObject")["fields"]]
    assert sorted(record) == sorted(names)
    assert sorted(record["bands"][0]) == sorted(item["name"] for item in _definition("diaObjectBand")["fields"])


def _definition(name: str) -> Any:
    types = {item["name"]: item["type"] for item in schemas.latest("alert").parsed["fields"]}
    dia_object = types["diaObject"][1]
    return dia_object if name == "diaObject" else dia_object["fields"][-1]["type"]["items"]


@pytest.mark.parametrize("lengths", [[], [0], [2, 0, 3], [1, 1]])
def test_groups_are_converted_in_one_go(lengths: list[int]) -> None:
    groups = [_sources(length) for length in lengths]
    assert grouped_records(groups) == [rows_to_records(group) for group in groups]
