"""A simulated year, frame by frame: are the interventions dated, is a clean year left in one piece, are masters stable?

Run: python tests/bench/bench_periods.py [clean|eventful] [days]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from workers.calibrate.nightly import NightStatistics, night_statistics
from workers.calibrate.periods import propose_periods
from workers.imaging.calibrations import CalibrationSet
from workers.isr.pipeline import apply_steps
from workers.simulate.calibration_year import (
    CalibrationYear,
    Event,
    bias_frames,
    flat_frames,
    night_number,
    observed_nights,
    survey_of,
)
from workers.simulate.camera import make_camera
from workers.survey.isr_config import IsrConfig

EVENTS = (
    Event(60, "level", 0.05),
    Event(110, "amplifier", -0.05, amplifier=2),
    Event(150, "column", 1.0, column=200),
    Event(200, "pattern", 0.05),
    Event(240, "level", 0.5, lasts=1),
    Event(280, "level", -0.03),
    Event(90, "gradient", 0.003, lasts=1, kind="flat"),
    Event(220, "amplifier", 0.001, amplifier=1, kind="flat"),
    Event(300, "gradient", -0.002, lasts=1, kind="flat"),
)


def reduced(raws, camera):
    config = IsrConfig()
    return np.stack(
        [apply_steps(raw, camera, CalibrationSet(), config, ("overscan", "saturation")).image for raw in raws]
    )


def measure(year: CalibrationYear, kind: str) -> list[NightStatistics]:
    camera = make_camera(survey_of(year))
    made = []
    for day, count in observed_nights(year):
        raws = bias_frames(year, day, count) if kind == "bias" else flat_frames(year, day, min(count, 7))
        made.append(night_statistics(reduced(raws, camera), [raw.info for raw in raws], camera.detector(0)))
    return made


def main(which: str = "eventful", days: str = "365") -> None:
    year = CalibrationYear(seed=3, days=int(days), events=EVENTS if which == "eventful" else ())
    for kind in ("bias", "flat"):
        begin = time.process_time()
        nights = measure(year, kind)
        middle = time.process_time()
        plan = propose_periods(nights)
        end = time.process_time()
        print(f"{kind}: {len(nights)} nights measured in {middle - begin:.0f} s, periods in {end - middle:.1f} s")
        for event in year.events:
            if event.kind == kind:
                print(f"  truth {night_number(year, event.day)}: {event}")
        for period in plan.periods:
            print(f"  from {period.nights[0] if period.nights else '-'}: {len(period.nights)} nights, {period.reason}")
        for jump in plan.jumps:
            print(f"  jump {jump.night}: {[(c.series, round(c.size, 5)) for c in jump.causes[:2]]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
