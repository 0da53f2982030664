"""Periods: they begin where something changed or was done, leave bad nights out, and survive JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.interventions import Intervention, load_interventions
from workers.calibrate.night_families import Family
from workers.calibrate.nightly import NightStatistics, night_statistics
from workers.calibrate.periods import PeriodSettings, plan_from_json, plan_to_json, propose_periods
from workers.imaging.calibrations import FOREVER, CalibrationSet
from workers.isr.pipeline import apply_steps
from workers.simulate.calibration_year import CalibrationYear, Event, bias_frames, night_number, survey_of
from workers.simulate.camera import make_camera
from workers.simulate.settings import DetectorSettings
from workers.survey.isr_config import IsrConfig

START = 61000.0


def nights(count: int = 80, seed: int = 1, amplifiers: int = 4, columns: int = 0) -> list[NightStatistics]:
    """Clean nights with unit errors; the frames are taken from 0.1 to 0.2 of the day."""
    rng = np.random.default_rng(seed)
    made = []
    for day in range(count):
        names = tuple(f"A{index}" for index in range(amplifiers))
        families = {"level": Family(names, rng.standard_normal(amplifiers), np.ones(amplifiers))}
        if columns:
            wide = tuple(f"A0/{index}" for index in range(columns))
            families["column"] = Family(wide, rng.standard_normal(columns), np.ones(columns))
        begin = START + day + 0.1
        inputs = (f"{day:03d}a", f"{day:03d}b")
        made.append(NightStatistics("bias", "cam", 3, "", "", 20260000 + day, begin, begin + 0.1, inputs, families))
    return made


def shifted(all_nights, first, size, *, last=None, family="level", rows=slice(None)):
    changed = []
    for index, night in enumerate(all_nights):
        values = night.families[family].values.copy()
        if first <= index and (last is None or index < last):
            values[rows] += size
        one = replace(night.families[family], values=values)
        changed.append(replace(night, families={**night.families, family: one}))
    return changed


def test_a_period_begins_where_a_level_changed() -> None:
    plan = propose_periods(shifted(nights(), 40, 12.0, rows=slice(1, 2)))
    one, two = plan.periods
    assert (one.begin, one.reason) == (START + 0.1 - 0.5, "first night")
    assert one.end == two.begin == pytest.approx(START + 39.65)  # midway between the nights' frames
    assert two.end == FOREVER
    assert two.reason.startswith("change: level/A1 +1")
    assert [cause.series for cause in two.causes] == ["level/A1"]
    assert two.uncertainty == (START + 39.2, START + 40.1)
    assert (len(one.nights), len(two.nights)) == (40, 40)
    assert two.inputs[:2] == ("040a", "040b")
    assert plan.jumps == ()
    assert plan.at(START + 10) is one
    assert plan.at(START + 1e4) is two
    with pytest.raises(DataError, match="before the first bias"):
        plan.at(START - 5)


def test_bad_nights_are_left_out_of_masters() -> None:
    plan = propose_periods(shifted(nights(), 40, 15.0, last=41))
    [period] = plan.periods
    assert [jump.night for jump in plan.jumps] == [20260040]
    assert plan.jumps[0].mjd == pytest.approx(START + 40.15)
    assert period.left_out == (20260040,)
    assert 20260040 not in period.nights
    assert "040a" not in period.inputs
    assert len(period.nights) == 79


def test_families_that_change_together_are_one_change() -> None:
    both = shifted(shifted(nights(columns=200), 40, 12.0), 40, 15.0, family="column", rows=slice(17, 18))
    plan = propose_periods(both)
    assert len(plan.periods) == 2
    assert "column/A0/17" in {cause.series for cause in plan.periods[1].causes}
    assert "level/A0" in {cause.series for cause in plan.periods[1].causes}


def test_one_column_splits_but_its_bad_night_spoils_no_night() -> None:
    change = shifted(nights(columns=200), 30, 15.0, family="column", rows=slice(17, 18))
    assert [period.causes[0].series for period in propose_periods(change).periods[1:]] == ["column/A0/17"]
    once = shifted(nights(columns=200), 30, 25.0, last=31, family="column", rows=slice(17, 18))
    assert propose_periods(once).jumps == ()
    many = shifted(nights(columns=200), 30, 25.0, last=31, family="column", rows=slice(17, 27))
    assert [jump.night for jump in propose_periods(many).jumps] == [20260030]


def test_interventions_always_split_and_explain() -> None:
    warm = Intervention(mjd=START + 40.0, reason="dewar warmed up")
    others = [
        Intervention(mjd=START + 20.0, reason="not this detector", detectors=(4,)),
        Intervention(mjd=START + 25.0, reason="not this kind", kinds=("flat",)),
        Intervention(mjd=START - 9.0, reason="before everything"),
    ]
    quiet = propose_periods(nights(), [warm, *others])
    assert [period.reason for period in quiet.periods] == ["first night", "intervention: dewar warmed up"]
    assert quiet.periods[1].begin == START + 40.0
    loud = propose_periods(shifted(nights(), 40, 12.0), [warm])
    assert [period.begin for period in loud.periods] == [START - 0.4, START + 40.0]
    assert loud.periods[1].reason == "intervention: dewar warmed up"
    assert {cause.series for cause in loud.periods[1].causes} >= {"level/A0", "level/A1"}
    apart = propose_periods(shifted(nights(), 60, 12.0), [warm])
    assert len(apart.periods) == 3


def test_a_longest_length_when_asked() -> None:
    plan = propose_periods(shifted(nights(), 50, 12.0), settings=PeriodSettings(longest_days=20.0))
    lengths = [len(period.nights) for period in plan.periods]
    assert sum(lengths) == 80
    assert max(lengths) <= 20
    assert [period.reason.split(":")[0] for period in plan.periods] == [
        "first night",
        "longest period",
        "longest period",
        "change",
        "longest period",
    ]
    ends = [period.end for period in plan.periods[:-1]]
    assert ends == [period.begin for period in plan.periods[1:]]
    with pytest.raises(DataError, match="above 0 days"):
        propose_periods(nights(), settings=PeriodSettings(longest_days=0.0))


def test_order_does_not_matter_and_json_keeps_everything() -> None:
    changed = shifted(shifted(nights(), 40, 12.0), 20, 15.0, last=21)
    plan = propose_periods(changed, settings=PeriodSettings(longest_days=30.0))
    assert plan_to_json(propose_periods(changed[::-1], settings=PeriodSettings(longest_days=30.0))) == plan_to_json(
        plan
    )
    assert plan_from_json(plan_to_json(plan), "x") == plan
    for broken in ("", "{}", plan_to_json(plan).replace('"begin"', '"start"')):
        with pytest.raises(DataError, match="x: no plan of periods"):
            plan_from_json(broken, "x")


def test_nights_of_one_frame_count_less() -> None:
    few = [
        replace(night, inputs=night.inputs[:1], families={"level": replace(f, errors=np.full(4, np.nan))})
        if index % 3 == 0
        else night
        for index, night in enumerate(shifted(nights(), 40, 12.0))
        for f in [night.families["level"]]
    ]
    assert len(propose_periods(few).periods) == 2


def test_what_is_refused() -> None:
    some = nights(10)
    with pytest.raises(DataError, match="at least one night"):
        propose_periods([])
    with pytest.raises(DataError, match="come twice"):
        propose_periods([*some, some[3]])
    with pytest.raises(DataError, match="one kind, detector, band and lamp"):
        propose_periods([*some, replace(some[3], kind="flat")])
    with pytest.raises(DataError, match="layout of the amplifiers changed"):
        propose_periods([*some, replace(nights(11, amplifiers=2)[10])])


def test_interventions_file(tmp_path: Path) -> None:
    path = tmp_path / "interventions.toml"
    assert load_interventions(path) == ()
    path.write_text(
        '[[intervention]]\nmjd = 61040.5\nreason = "b"\ndetectors = [1, 2]\nkinds = ["flat"]\n'
        '[[intervention]]\nmjd = 61010\nreason = "a"\n'
    )
    first, second = load_interventions(path)
    assert (first.mjd, first.reason) == (61010.0, "a")
    assert second.concerns("flat", 2)
    assert not second.concerns("flat", 3)
    assert not second.concerns("bias", 2)
    assert first.concerns("dark", 77)
    for text, message in (
        ('[[intervention]]\nmjd = 1.0\nreason = "a"\ndetector = 3', "did you mean 'detectors'"),
        ('[[intervention]]\nmjd = 1.0\nreason = ""', "at least 1 character"),
        ("[[intervention]]\nreason = 'a'", "mjd: Field required"),
        ('[[intervention]]\nmjd = 1.0\nreason = "a"\n' * 2, "given twice"),
        ('[[interventions]]\nmjd = 1.0\nreason = "a"', "did you mean 'intervention'"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            load_interventions(path)


def test_frames_of_a_month_end_to_end() -> None:
    """Pixels through overscan, statistics and finder: a level, a warm column and a bad day in 40 days."""
    events = (
        Event(14, "amplifier", 0.4, amplifier=2),
        Event(25, "column", 6.0, column=40),
        Event(33, "level", 1.5, lasts=1),
    )
    design = DetectorSettings(width=128, height=128, count=1, overscan=64, bad_columns=0)
    year = CalibrationYear(seed=5, days=40, events=events, detector=design)
    camera = make_camera(survey_of(year))
    measured = []
    for day in range(40):
        raws = bias_frames(year, day, 6)
        steps = ("overscan", "saturation")
        stack = np.stack([apply_steps(raw, camera, CalibrationSet(), IsrConfig(), steps).image for raw in raws])
        measured.append(night_statistics(stack, [raw.info for raw in raws], camera.detector(0)))
    plan = propose_periods(measured)
    assert [period.nights[0] for period in plan.periods[1:]] == [night_number(year, 14), night_number(year, 25)]
    assert plan.periods[1].causes[0].series == "level/A2"
    assert plan.periods[1].causes[0].size == pytest.approx(0.4, abs=4 * plan.periods[1].causes[0].error)
    assert plan.periods[2].causes[0].series == "column/A0/40"
    assert [jump.night for jump in plan.jumps] == [night_number(year, 33)]
