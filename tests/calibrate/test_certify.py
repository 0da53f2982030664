"""Certification: what is the same passes, what differs without a known change is put aside, with the reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import ConfigurationError
from workers.calibrate.certify import Limit, certify, stability
from workers.imaging.calibrations import Calibration, make_calibration
from workers.simulate.camera import make_camera
from workers.simulate.settings import DetectorSettings, SimulatedSurvey

DETECTOR = make_camera(SimulatedSurvey(detectors=DetectorSettings(width=200, height=200, count=1))).detector(0)
SHAPE = (200, 200)
A2 = np.s_[100:, :100]
"""Where the third amplifier is."""


def bias(seed: int, change=None, *, noise: float = 0.2, mask=None, **given) -> Calibration:
    pattern = np.random.default_rng(0).normal(0, 3, SHAPE)
    image = pattern + np.random.default_rng(100 + seed).normal(0, noise, SHAPE)
    if change is not None:
        image = image + change
    fields = {"instrument": "x", "detector": 0, "inputs": [str(seed)], "layout": "l", **given}
    variance = np.full(SHAPE, noise**2)
    blank = np.zeros(SHAPE, np.int32)
    return make_calibration("bias", image=image, variance=variance, mask=blank if mask is None else mask, **fields)


def amplifier(place, size: float) -> np.ndarray:
    change = np.zeros(SHAPE)
    change[place] = size
    return change


def test_the_same_detector_is_certified_and_the_table_is_right() -> None:
    pulls = []
    for seed in range(40):
        verdict = certify(bias(2 * seed), bias(2 * seed + 1), DETECTOR)
        pulls += [row.difference / row.error for row in verdict.rows]
        assert verdict.outliers < 1e-3
        assert all(row.scatter == pytest.approx(0.2 * np.sqrt(2), rel=0.03) for row in verdict.rows)
    assert verdict.certified
    assert verdict.reasons == ()
    assert [row.amplifier for row in verdict.rows] == ["A0", "A1", "A2", "A3"]
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.25)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.18)


@pytest.mark.parametrize(("size", "certified"), [(0.004, True), (0.03, False), (-0.03, False)])
def test_an_amplifier_that_moved(size: float, certified: bool) -> None:
    verdict = certify(bias(1, amplifier(A2, size)), bias(2), DETECTOR)
    assert verdict.certified is certified
    assert verdict.rows[2].difference == pytest.approx(size, abs=5 * verdict.rows[2].error)
    if not certified:
        [reason] = verdict.reasons
        assert reason.startswith("amplifier A2 differs by")
        assert "allowed are 0.01" in reason


def test_a_known_change_lies_between() -> None:
    verdict = certify(bias(1, amplifier(A2, 0.05)), bias(2), DETECTOR, between="intervention: new cable")
    assert verdict.certified
    assert verdict.reasons[0].startswith("intervention: new cable: amplifier A2")


@pytest.mark.parametrize(("fraction", "certified"), [(0.003, True), (0.01, False)])
def test_outlier_pixels(fraction: float, certified: bool) -> None:
    rng = np.random.default_rng(5)
    odd = np.where(rng.random(SHAPE) < fraction, 10.0, 0.0)
    verdict = certify(bias(1, odd), bias(2), DETECTOR)
    assert verdict.certified is certified
    assert verdict.outliers == pytest.approx(float((odd > 0).mean()), abs=2e-4)
    assert certified or "% of the pixels are off" in verdict.reasons[0]


def test_pixels_flagged_in_one_master_only_are_outliers() -> None:
    mask = np.zeros(SHAPE, np.int32)
    mask[:, 30:32] = 1
    assert certify(bias(1, mask=mask), bias(2), DETECTOR).outliers == pytest.approx(0.01, abs=1e-3)
    assert certify(bias(1, mask=mask), bias(2, mask=mask), DETECTOR).outliers < 1e-3
    full = np.ones(SHAPE, np.int32)
    verdict = certify(bias(1, mask=full), bias(2, mask=full), DETECTOR)
    assert not verdict.certified
    assert np.isnan(verdict.rows[0].difference)


def test_the_first_master_is_certified() -> None:
    verdict = certify(bias(1), None, DETECTOR)
    assert (verdict.certified, verdict.previous, verdict.rows) == (True, "", ())


def test_a_flat_is_compared_as_a_ratio() -> None:
    def flat(seed: int, factor: float) -> Calibration:
        image = np.random.default_rng(seed).normal(0.8, 0.01, SHAPE)
        image[A2] *= factor
        planes = {"variance": np.full(SHAPE, 1e-4), "mask": np.zeros(SHAPE, np.int32)}
        return make_calibration("flat", instrument="x", detector=0, band="r", image=image, **planes)

    limit = Limit(0.002)
    assert certify(flat(1, 1.0), flat(2, 1.0), DETECTOR, limit=limit).certified
    verdict = certify(flat(1, 1.01), flat(2, 1.0), DETECTOR, limit=limit)
    assert not verdict.certified
    assert verdict.rows[2].difference == pytest.approx(0.01, abs=1e-3)


def test_defects_are_judged_by_their_pixels() -> None:
    def defects(columns: int) -> Calibration:
        mask = np.zeros(SHAPE, np.int32)
        mask[:, :columns] = 1
        zero = np.zeros(SHAPE)
        return make_calibration("defects", instrument="x", detector=0, image=zero, variance=zero, mask=mask)

    assert certify(defects(1), defects(2), DETECTOR).certified
    assert not certify(defects(1), defects(5), DETECTOR).certified


def tables(kind: str, **made) -> Calibration:
    return make_calibration(kind, instrument="x", detector=0, tables={name: np.array(t) for name, t in made.items()})


def test_tables_are_judged_by_name() -> None:
    gain = np.array([1.5, 1.52, 1.48, 1.5])
    rest = {"readNoise": 4 * [6.0], "turnoff": 4 * [5e4]}
    old = tables("ptc", gain=gain, level=np.ones((4, 7)), **rest)
    assert certify(tables("ptc", gain=gain * 1.002, level=np.full((4, 7), 9.0), **rest), old, DETECTOR).certified
    verdict = certify(tables("ptc", gain=gain * [1, 1, 1.03, 1], level=np.ones((4, 7)), **rest), old, DETECTOR)
    assert verdict.reasons == ("gain of amplifier A2 differs by 2.9 %, allowed are 1 %",)
    assert verdict.rows[2].difference == pytest.approx(0.03 / 1.03)
    strict = certify(tables("ptc", gain=gain * 1.002), tables("ptc", gain=gain), DETECTOR, table_limits={"gain": 1e-3})
    assert len(strict.reasons) == 4
    assert certify(tables("ptc", gain=gain), old, DETECTOR).reasons[0].startswith("only one of the two has the table")


def test_linearity_is_compared_at_the_same_levels() -> None:
    def linearity(knots: int, curve: float) -> Calibration:
        at = np.tile(np.linspace(0, 6e4, knots), (4, 1))
        return tables("linearity", knots=at, correction=curve * at**2 / 6e4, error=0 * at)

    assert certify(linearity(40, 0.01), linearity(60, 0.01), DETECTOR).certified
    verdict = certify(linearity(40, 0.014), linearity(60, 0.01), DETECTOR)
    assert not verdict.certified
    assert verdict.rows[0].difference == pytest.approx(0.004, rel=0.05)


def test_errors_of_a_table_are_forgiven() -> None:
    def cti(serial: float, error: float) -> Calibration:
        return tables("cti", serial=4 * [serial], serialError=4 * [error], parallel=4 * [0.0])

    assert certify(cti(2e-6, 2e-7), cti(2.5e-6, 2e-7), DETECTOR).certified
    assert not certify(cti(2e-6, 2e-8), cti(2.5e-6, 2e-8), DETECTOR).certified


def test_crosstalk_is_judged_by_its_coefficients() -> None:
    matrix = np.arange(16.0).reshape(4, 4)
    assert certify(
        tables("crosstalk", coefficients=matrix), tables("crosstalk", coefficients=matrix), DETECTOR
    ).certified
    changed = matrix + np.eye(4) * [0, 0, 0, 9]
    assert not certify(
        tables("crosstalk", coefficients=changed), tables("crosstalk", coefficients=matrix), DETECTOR
    ).certified
    holes = np.where(matrix == 3, np.nan, matrix)
    assert (
        "other gaps"
        in certify(tables("crosstalk", coefficients=holes), tables("crosstalk", coefficients=matrix), DETECTOR).reasons[
            0
        ]
    )
    wide = tables("crosstalk", coefficients=np.ones((4, 5)))
    assert "another shape" in certify(wide, tables("crosstalk", coefficients=matrix), DETECTOR).reasons[0]


@pytest.mark.parametrize("field", ["instrument", "detector", "band", "lamp", "layout"])
def test_what_can_not_be_compared(field: str) -> None:
    other = replace(bias(1), **{field: 5 if field == "detector" else "other"})
    with pytest.raises(ConfigurationError, match=f"can't be certified against .* {field}"):
        certify(other, bias(2), DETECTOR)


def test_stability_of_a_series() -> None:
    masters = [bias(seed, amplifier(A2, 0.02 * (seed == 3))) for seed in range(6)]
    result = stability(masters, DETECTOR)
    table = np.array(result.differences)
    assert table.shape == (5, 4)
    assert result.worst == pytest.approx(0.02, abs=0.01)
    assert np.unravel_index(np.argmax(np.abs(table)), table.shape) in ((2, 2), (3, 2))
    assert result.rms == pytest.approx(np.sqrt(np.mean(table**2)))
    assert len(result.outliers) == 5
    assert stability(masters[:1], DETECTOR).rms == 0.0
