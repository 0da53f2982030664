from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas import RowGroups, latest, table_dtype
from schemas.errors import SchemaError
from workers.alert.pipeline import AlertContext, object_rows, shared_values

BAND = table_dtype("alert", "diaObjectBand")
OBJECT = np.array(
    [(2**60 + 1, 60676.5, 1.5, np.nan, 2.5, 60600.0, 3), (7, 60676.5, 1.5, 0.5, 2.5, 60600.0, 1)],
    [
        ("diaObjectId", "i8"),
        *((name, "f8") for name in ("validityStartMjdTai", "ra", "raErr", "dec", "firstDiaSourceMjdTai")),
        ("nDiaSources", "i4"),
    ],
)


def _bands(*bands: tuple[str, float, int]) -> Any:
    rows = np.zeros(len(bands), BAND)
    for name in BAND.names or ():
        if BAND[name].kind == "f":
            rows[name] = np.nan
    for row, (band, mean, count) in zip(rows, bands, strict=True):
        row["band"], row["psfFluxMean"], row["psfFluxNdata"] = band, mean, count
    return rows


def test_rubins_view_is_filled_where_the_surveys_bands_have_its_names() -> None:
    bands = RowGroups(_bands(("VR", 1.5, 2), ("r", 2.5, 3), ("g", 7.0, 4)), np.array([2, 1]))
    first, second = object_rows(OBJECT, bands)
    assert (first["r_psfFluxMean"], first["r_psfFluxNdata"], first["g_psfFluxNdata"]) == (2.5, 3, 0)
    assert (second["r_psfFluxNdata"], second["g_psfFluxMean"], second["g_psfFluxNdata"]) == (0, 7.0, 4)
    assert np.isnan([first["g_psfFluxMean"], first["r_fpFluxMean"], second["r_psfFluxMean"]]).all()
    assert (first["diaObjectId"], second["diaObjectId"]) == (2**60 + 1, 7)
    assert np.isnan([first["raErr"], first["decErr"], first["lastDiaSourceMjdTai"]]).all()
    assert second["raErr"] == 0.5


def test_an_object_without_what_every_packet_says_is_an_error() -> None:
    names = [name for name in OBJECT.dtype.names or () if name != "nDiaSources"]
    with pytest.raises(SchemaError, match="the objects have no column nDiaSources"):
        object_rows(OBJECT[names], RowGroups(_bands(), np.zeros(2, np.int64)))


def test_no_objects_are_no_rows() -> None:
    assert len(object_rows(OBJECT[:0], RowGroups(_bands(), np.zeros(0, np.int64)))) == 0


def test_what_alerts_share_is_every_field_that_is_no_row_or_stamp() -> None:
    values = shared_values(AlertContext("cam", 20250101, "0.1.0"))
    fields = {item["name"] for item in latest("alert").parsed["fields"]}
    rows = {"diaSourceId", "diaSource", "diaObject", "prvDiaSources", "prvDiaForcedSources", "prvDiaNondetectionLimits"}
    assert values.keys() == fields - rows - {"ssSource", "mpc_orbits"} - {f for f in fields if f.startswith("cutout")}
    assert (values["target_name"], values["observation_reason"], values["stageTimes"]) == (None, None, [])
