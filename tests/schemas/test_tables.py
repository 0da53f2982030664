from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import schemas
from schemas import records_to_rows, rows_to_records, table_dtype
from schemas.errors import SchemaError

SOURCE = table_dtype("alert", "diaSource")


def test_columns_are_the_scalar_fields_in_order() -> None:
    assert len(SOURCE.names) == 112
    assert SOURCE.names[102:105] == ("snapDiffFlux", "snapDiffFluxErr", "dipoleProbability")
    assert SOURCE.names[105:] == (
        *("dcrShift", "dcrDipole", "templateContaminated", "templateFluxInWindow", "templateFluxInWindowErr"),
        *("psfFluxCorrected", "psfFluxCorrectedErr"),
    )
    assert table_dtype("alert", "diaSource", "1.1").names == SOURCE.names[:105]
    assert table_dtype("alert", "diaSource", "1.0").names == SOURCE.names[:102]
    assert SOURCE.names[:4] == ("diaSourceId", "visit", "detector", "diaObjectId")
    kinds = {name: SOURCE[name].str for name in ("diaSourceId", "detector", "ra", "psfFlux", "isDipole", "band")}
    assert kinds == {
        "diaSourceId": "<i8",
        "detector": "<i4",
        "ra": "<f8",
        "psfFlux": "<f4",
        "isDipole": "|b1",
        "band": "<U32",
    }
    counts = {"diaForcedSource": 14, "ssSource": 39, "mpc_orbits": 53, "diaObject": 82, "diaObjectBand": 13}
    assert {record: len(table_dtype("alert", record).names) for record in counts} == counts  # `bands` is no column
    assert table_dtype("template", "templateInput").names == ("visit", "detector", "midpointMjdTai", "weight", "sha256")


def test_an_unknown_record_is_an_error() -> None:
    with pytest.raises(SchemaError, match=r"alert 1\.2 has no record 'source'; it has alert, diaForcedSource"):
        table_dtype("alert", "source")


def test_nulls_follow_the_schema() -> None:
    rows = np.zeros(2, SOURCE)
    rows["psfFlux"] = [np.nan, 1.5]
    rows["ssObjectId"] = [0, 7]
    rows["band"] = ["", "g"]
    rows["ra"] = [np.nan, 1.0]
    rows["isDipole"] = [False, True]
    before = rows.copy()
    first, second = rows_to_records(rows)
    assert rows.tobytes() == before.tobytes()
    assert (first["psfFlux"], first["ssObjectId"], first["band"]) == (None, None, None)
    assert (second["psfFlux"], second["ssObjectId"], second["band"]) == (1.5, 7, "g")
    assert np.isnan(first["ra"])  # not nullable
    assert first["psfNdata"] == 0  # not nullable
    assert (first["isDipole"], second["isDipole"]) == (False, True)  # a flag that is not set is known not to be set
    assert all(type(value) in (int, float, bool, str, type(None)) for value in second.values())
    assert list(first) == list(SOURCE.names)


def test_null_flags_are_read_as_not_set() -> None:
    record = rows_to_records(np.zeros(1, SOURCE))[0] | {"isDipole": None, "psfFlux": None}
    row = records_to_rows([record], SOURCE)[0]
    assert row["isDipole"] == np.False_
    assert np.isnan(row["psfFlux"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_rows_survive_the_round_trip(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(["diaForcedSource", "templateProvenance", "stageTime", "diaNondetectionLimit"]))
    dtype = table_dtype("alert", record)
    elements = {
        name: st.text(st.characters(min_codepoint=1, max_codepoint=0x7FF), max_size=32)
        if dtype[name].kind == "U"
        else hnp.from_dtype(dtype[name])
        for name in dtype.names
    }
    size = data.draw(st.integers(0, 4))
    rows = np.zeros(size, dtype)
    for name in dtype.names:
        rows[name] = [data.draw(elements[name]) for _ in range(size)]
    back = records_to_rows(rows_to_records(rows), dtype)
    for name in dtype.names:
        np.testing.assert_array_equal(back[name], rows[name])


@pytest.mark.parametrize("record", ["diaSource", "diaForcedSource", "ssSource", "mpc_orbits", "diaObjectBand"])
def test_records_survive_the_round_trip(record: str, random_record: Any) -> None:
    definitions: dict[str, Any] = {}

    def collect(node: Any) -> None:
        for part in node if isinstance(node, list) else [node]:
            if isinstance(part, dict):
                definitions[part.get("name", "").rpartition(".")[2]] = part
                for inner in [*(item["type"] for item in part.get("fields", ())), part.get("items")]:
                    collect(inner)

    collect(schemas.latest("alert").parsed)
    dtype = table_dtype("alert", record)
    records = [random_record(definitions[record], seed, nulls) for seed, nulls in ((1, 0.0), (2, 0.3))]
    records = [{k: False if v is None and dtype[k].kind == "b" else v for k, v in item.items()} for item in records]
    back = rows_to_records(records_to_rows(records, dtype))
    for old, new in zip(records, back, strict=True):
        times = {key for key, value in old.items() if hasattr(value, "timestamp")}
        assert {k: v for k, v in new.items() if k not in times} == {k: v for k, v in old.items() if k not in times}
        for key in times:
            assert new[key] == pytest.approx(old[key].timestamp() * 1e6, abs=1)


def test_what_does_not_fit_is_an_error() -> None:
    record = rows_to_records(np.zeros(1, SOURCE))[0]
    for field, value, text in (
        ("band", "x" * 33, "longer than the table's 32 characters"),
        ("detector", 2**40, "detector holds a value that does not fit"),
        ("psfFlux", "bright", "psfFlux holds a value that does not fit"),
    ):
        with pytest.raises(SchemaError, match=text):
            records_to_rows([{**record, field: value}], SOURCE)
    del record["snr"]
    with pytest.raises(SchemaError, match="no field 'snr'"):
        records_to_rows([record], SOURCE)
    with pytest.raises(SchemaError, match="no record has exactly the columns ra, dec"):
        rows_to_records(np.zeros(1, [("ra", "f8"), ("dec", "f8")]))


def test_no_rows_are_no_records() -> None:
    assert rows_to_records(np.zeros(0, SOURCE)) == []
    assert len(records_to_rows([], SOURCE)) == 0
