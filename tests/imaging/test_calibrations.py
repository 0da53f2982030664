"""Master calibrations: identity by content, the store, and which one an exposure gets."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibration_fits import calibration_from_bytes, calibration_to_bytes
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import Calibration, CalibrationSet, make_calibration
from workers.imaging.exposure import ExposureInfo

LAYOUT = "abcdef012345"


def info(**changes: object) -> ExposureInfo:
    fields = {
        "instrument": "cam",
        "visit": 1,
        "detector": 2,
        "band": "r",
        "midpointMjdTai": 60000.5,
        "exposureTime": 30.0,
        "ra": 1.0,
        "dec": 2.0,
        "night": 20230225,
        "kind": "science",
        "sha256": "00",
        "fileName": "f.fits",
    }
    return ExposureInfo(**(fields | changes))  # type: ignore[arg-type]


def master(kind: str = "bias", level: float = 1.0, **changes: object) -> Calibration:
    shape = (6, 8)
    fields = {
        "instrument": "cam",
        "detector": 2,
        "layout": LAYOUT,
        "image": np.full(shape, level, np.float32),
        "variance": np.full(shape, 0.1, np.float32),
        "mask": np.zeros(shape, np.int32),
        "validFrom": 60000.0,
        "inputs": ("bb", "aa"),
        "metadata": {"frames": 2.0, "noise": 0.1 + 0.2},
    }
    return make_calibration(kind, **(fields | changes))  # type: ignore[arg-type]


def test_id_follows_from_content() -> None:
    assert master().id == master().id
    assert master().id.startswith("bias-2-all-")
    assert master("flat", band="r").id.startswith("flat-2-r-")
    others = [master(level=2.0), master(validFrom=60001.0), master(inputs=("aa",)), master(instrument="b")]
    assert len({item.id for item in [master(), *others]}) == 5
    with pytest.raises(ConfigurationError, match="unknown calibration kind"):
        master("starlight")
    with pytest.raises(DataError, match="differ in shape"):
        master(mask=np.zeros((2, 2), np.int32))


def test_round_trip_is_exact(tmp_path) -> None:
    before = master("flat", band="r", inputs=[f"{i:064x}" for i in range(30)])
    after = calibration_from_bytes(bytes(calibration_to_bytes(before)), "x")
    for name in ("kind", "id", "instrument", "detector", "band", "validFrom", "validTo", "inputs"):
        assert getattr(after, name) == getattr(before, name)
    assert dict(after.metadata) == dict(before.metadata)
    np.testing.assert_array_equal(after.image, before.image)
    store = CalibrationStore(tmp_path / "calibrations")
    path = store.save(before)
    assert path.name == f"{before.id}.fits"
    assert store.save(before) == path
    assert store.load(before.id).id == before.id
    with pytest.raises(DataError, match="can't be read"):
        store.load("bias-9-all-000000000000")


def test_latest_valid_master_is_selected(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    old, new = master(level=1.0), master(level=2.0, validFrom=60000.4)
    future, ended = master(level=3.0, validFrom=60009.0), master(level=4.0, validFrom=60000.45, validTo=60000.46)
    for item in (new, old, future, ended):
        store.save(item)
    assert store.select(info(), ["bias"], LAYOUT).by_kind["bias"].id == new.id
    assert store.select(info(midpointMjdTai=60000.1), ["bias"], LAYOUT).ids() == {"bias": old.id}
    assert store.select(info(midpointMjdTai=60010.0), ["bias"], LAYOUT).ids() == {"bias": future.id}
    with pytest.raises(ConfigurationError, match=r"no bias .*skydelta calibrate bias"):
        store.select(info(midpointMjdTai=59999.0), ["bias"], LAYOUT)


def test_new_files_are_seen_and_bands_kept_apart(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    store.save(master("flat", band="g"))
    with pytest.raises(ConfigurationError, match="skydelta calibrate flat"):
        store.select(info(), ["flat"], LAYOUT)
    red = master("flat", band="r")
    CalibrationStore(tmp_path).save(red)
    assert store.select(info(), ["flat"], LAYOUT).ids() == {"flat": red.id}
    assert store.select(info(kind="bias"), [], LAYOUT).ids() == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"instrument": "other"}, "instrument 'cam' instead of 'other'"),
        ({"detector": 3}, "detector 2 instead of 3"),
        ({"band": "g"}, "band 'r' instead of 'g'"),
        ({"midpointMjdTai": 59000.0}, "valid 60000"),
        ({"layout": "123"}, "amplifier layout 'abcdef012345' instead of '123'"),
    ],
)
def test_a_master_that_does_not_fit_is_an_error(change: dict[str, object], match: str) -> None:
    masters = CalibrationSet({"flat": master("flat", band="r")})
    assert masters.need("flat", info(), (6, 8), LAYOUT).kind == "flat"
    layout = str(change.pop("layout", LAYOUT))
    with pytest.raises(ConfigurationError, match=match):
        masters.need("flat", info(**change), (6, 8), layout)
    with pytest.raises(ConfigurationError, match="shape"):
        masters.need("flat", info(), (6, 9), LAYOUT)
    with pytest.raises(ConfigurationError, match="needs a bias"):
        masters.need("bias", info(), (6, 8), LAYOUT)


def test_foreign_file_in_the_store_is_named(tmp_path) -> None:
    (tmp_path / "bias-2-all-xxx.fits").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="bias-2-all-xxx"):
        CalibrationStore(tmp_path).select(info(), ["bias"], LAYOUT)


def test_tables_come_back_as_they_were_and_are_part_of_the_identity() -> None:
    tables = {"gain": np.array([1.5, 1.6]), "aMatrix": np.arange(12.0).reshape(2, 3, 2), "zero": np.array(3.0)}
    fields = {"instrument": "cam", "detector": 2, "layout": LAYOUT, "inputs": ("aa",)}
    before = make_calibration("ptc", tables=tables, **fields)  # type: ignore[arg-type]
    after = calibration_from_bytes(bytes(calibration_to_bytes(before)), "x")
    assert after.id == before.id
    assert list(after.tables) == sorted(tables)
    for name, table in tables.items():
        np.testing.assert_array_equal(after.tables[name], table)
    assert not after.tables["gain"].flags.writeable
    other = make_calibration("ptc", tables={**tables, "gain": np.array([1.5, 1.7])}, **fields)  # type: ignore[arg-type]
    assert other.id != before.id
    with pytest.raises(DataError, match="lacks its picture"):
        make_calibration("bias", tables=tables, instrument="cam", detector=2)
    with pytest.raises(DataError, match="has a picture"):
        master("ptc")


def test_flats_of_a_lamp_serve_only_who_asks_for_it(tmp_path) -> None:
    plain, led = master("flat", band="r"), master("flat", band="r", lamp="LED5", level=2.0)
    for one in (plain, led):
        CalibrationStore(tmp_path).save(one)
    assert CalibrationStore(tmp_path).select(info(), ["flat"], LAYOUT).ids() == {"flat": plain.id}
    assert CalibrationStore(tmp_path, {"r": "LED5"}).select(info(), ["flat"], LAYOUT).ids() == {"flat": led.id}
    with pytest.raises(ConfigurationError, match="lamp 'LED5' instead of 'LED6'"):
        CalibrationStore(tmp_path, {"r": "LED6"}).select(info(), ["flat"], LAYOUT)


def test_every_candidate_is_told_with_its_reasons(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    old, new, later = master(), master(validFrom=60000.4), master(validFrom=60009.0)
    for one in (old, new, later):
        store.save(one)
    told = store.candidates(info(), "bias", LAYOUT)
    assert [(one.entry.id, one.chosen) for one in told] == [(old.id, False), (new.id, True), (later.id, False)]
    assert [bool(one.misfits) for one in told] == [False, False, True]
    assert "valid 60009" in told[2].misfits[0]


def test_what_is_in_quarantine_serves_nobody(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    path = store.aside.save(master())
    assert path.parent.name == "quarantine"
    assert store.entries() == []
    with pytest.raises(ConfigurationError, match="there is none at all"):
        store.select(info(), ["bias"], LAYOUT)
    assert store.accept(master().id).parent == store.root
    assert store.select(info(), ["bias"], LAYOUT).ids() == {"bias": master().id}
    assert store.aside.entries() == []
