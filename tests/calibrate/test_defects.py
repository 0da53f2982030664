"""The map of defects against what was broken on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigurationError
from workers.calibrate.defects import cold_pixels, fill_columns, hot_pixels, make_defects, odd_columns
from workers.imaging.calibrations import Calibration, make_calibration

SHAPE = (200, 240)


def planes(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dark = rng.normal(0.01, 0.002, SHAPE).astype(np.float32)
    flat = (1 - ((x - 120) ** 2 + (y - 100) ** 2) / 1e5) * rng.normal(1, 0.005, SHAPE)
    return dark, flat.astype(np.float32)


def master(kind: str, image: np.ndarray, **changes: object) -> Calibration:
    fields = {"instrument": "cam", "detector": 0, "variance": np.zeros(SHAPE), "mask": np.zeros(SHAPE, np.int32)}
    fields |= {"band": "r" if kind == "flat" else "", "inputs": (kind,), "validFrom": 60000.0}
    return make_calibration(kind, image=image, **(fields | changes))  # type: ignore[arg-type]


def test_every_defect_is_found_and_almost_nothing_else() -> None:
    dark, flat = planes()
    broken = np.zeros(SHAPE, bool)
    rng = np.random.default_rng(3)
    for y, x in rng.integers(5, 195, (40, 2)):
        dark[y, x] += 0.5
        broken[y, x] = True
    for y, x in rng.integers(5, 195, (40, 2)):
        flat[y, x] *= 0.6
        broken[y, x] = True
    flat[:, 210] *= 0.5
    flat[:, 215] *= 0.95  # no single pixel gives it away
    dark[60:, 220] += 0.1
    broken[:, [210, 215]] = broken[60:, 220] = True
    defects = make_defects(master("dark", dark), master("flat", flat))
    found = defects.mask != 0
    assert found[broken].all()
    assert (found & ~broken).sum() <= 65  # a column that is hot over most of its rows goes whole
    assert not (found & ~broken)[:, :205].any()
    assert (defects.kind, defects.band, defects.inputs) == ("defects", "", ("dark", "flat"))


def test_a_clean_detector_has_no_defects() -> None:
    dark, flat = planes(5)
    assert hot_pixels(dark).sum() <= 1
    assert not cold_pixels(flat).any()
    assert not odd_columns(flat, least=0.02).any()
    assert (make_defects(None, master("flat", flat)).mask != 0).sum() == 0


def test_nan_is_a_defect() -> None:
    dark, flat = planes()
    dark[4, 4] = flat[8, 8] = np.nan
    assert hot_pixels(dark)[4, 4]
    assert cold_pixels(flat)[8, 8]


def test_gaps_in_bad_columns_are_filled() -> None:
    bad = np.zeros((400, 3), bool)
    bad[100:300:4, 0] = True
    bad[[0, 399], 1] = True
    bad[0:200:4, 2] = bad[260, 2] = True
    filled = fill_columns(bad)
    assert filled[100:297, 0].all()
    assert filled[:, 0].sum() == 197
    assert filled[:, 1].sum() == 2
    assert not filled[200:260, 2].any()


def test_masters_must_be_of_one_detector() -> None:
    dark, flat = planes()
    with pytest.raises(ConfigurationError, match="not of the same detector"):
        make_defects(master("dark", dark), master("flat", flat, detector=1))
    with pytest.raises(ConfigurationError, match="need a master dark or flat"):
        make_defects(None, None)
