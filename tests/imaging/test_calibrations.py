"""Master calibrations: identity by content, the store, and which one an exposure gets."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibrations import (
    Calibration,
    CalibrationSet,
    CalibrationStore,
    calibration_from_bytes,
    calibration_to_bytes,
    make_calibration,
)
from workers.imaging.exposure import ExposureInfo


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
        master("fringe")
    with pytest.raises(DataError, match="differ in shape"):
        master(mask=np.zeros((2, 2), np.int32))


def test_round_trip_is_exact(tmp_path) -> None:
    before = master("flat", band="r", inputs=[f"{i:064x}" for i in range(30)])
    after = calibration_from_bytes(calibration_to_bytes(before), "x")
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
    assert store.select(info(), ["bias"]).by_kind["bias"].id == new.id
    assert store.select(info(midpointMjdTai=60000.1), ["bias"]).ids() == {"bias": old.id}
    assert store.select(info(midpointMjdTai=60010.0), ["bias"]).ids() == {"bias": future.id}
    with pytest.raises(ConfigurationError, match=r"no bias .*skydelta calibrate bias"):
        store.select(info(midpointMjdTai=59999.0), ["bias"])


def test_new_files_are_seen_and_bands_kept_apart(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    store.save(master("flat", band="g"))
    with pytest.raises(ConfigurationError, match="skydelta calibrate flat"):
        store.select(info(), ["flat"])
    red = master("flat", band="r")
    CalibrationStore(tmp_path).save(red)
    assert store.select(info(), ["flat"]).ids() == {"flat": red.id}
    assert store.select(info(kind="bias"), []).ids() == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"instrument": "other"}, "instrument 'cam' instead of 'other'"),
        ({"detector": 3}, "detector 2 instead of 3"),
        ({"band": "g"}, "band 'r' instead of 'g'"),
        ({"midpointMjdTai": 59000.0}, "valid 60000"),
    ],
)
def test_a_master_that_does_not_fit_is_an_error(change: dict[str, object], match: str) -> None:
    masters = CalibrationSet({"flat": master("flat", band="r")})
    assert masters.need("flat", info(), (6, 8)).kind == "flat"
    with pytest.raises(ConfigurationError, match=match):
        masters.need("flat", info(**change), (6, 8))
    with pytest.raises(ConfigurationError, match="shape"):
        masters.need("flat", info(), (6, 9))
    with pytest.raises(ConfigurationError, match="needs a bias"):
        masters.need("bias", info(), (6, 8))


def test_foreign_file_in_the_store_is_named(tmp_path) -> None:
    (tmp_path / "bias-2-all-xxx.fits").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="bias-2-all-xxx"):
        CalibrationStore(tmp_path).select(info(), ["bias"])
