"""Years of nightly levels at the statistics level: how many clean ones are left whole, how well steps are dated.

Each year has its own seasonal drift (0.02 ADU), wander of ten days, 6 % missing nights, 5 to 20 frames a night and
1 % of nights that are off by Student's t with 1.5 degrees of freedom. `error` is that of one frame's level in ADU;
a detector of 3k x 3k with 4 ADU of read noise and 30 columns of overscan has 0.014.

Run: python tests/bench/bench_change_points.py [years]
"""

from __future__ import annotations

import sys
import time

import numpy as np

from workers.calibrate.change_points import find_changes
from workers.simulate.calibration_year import CalibrationYear, Event, nightly_levels

AMPLIFIERS = 4


def levels(year: CalibrationYear, error: float):
    times, values, errors, off = nightly_levels(year, AMPLIFIERS, error)
    values = np.vstack([values, values.mean(axis=0)])
    errors = np.vstack([errors, errors[:1] / np.sqrt(AMPLIFIERS)])
    return times, values, errors, off


def clean(years: int, error: float, **changed: float) -> None:
    false, wrong, jumps, found, begin = 0, 0, 0, 0, time.process_time()
    for seed in range(years):
        times, values, errors, off = levels(CalibrationYear(seed=100_000 + seed, **changed), error)
        result = find_changes(times, values, errors)
        nights = {jump.night for jump in result.jumps}
        false += len(result.changes) > 0
        found += len(nights & set(np.flatnonzero(off)))
        jumps += int(off.sum())
        wrong += len(nights - set(np.flatnonzero(off)))
    each = (time.process_time() - begin) / years
    print(
        f"{years} clean years, error {error}, {changed}: {false} with false changes; bad nights found {found} of "
        f"{jumps}, good ones called bad {wrong}; {1000 * each:.0f} ms each"
    )


def steps(years: int, error: float, size: float, effect: str) -> None:
    found = dated = more = 0
    for seed in range(years):
        day = int(np.random.default_rng(seed).integers(10, 355))
        year = CalibrationYear(seed=200_000 + seed, events=(Event(day, effect, size, amplifier=1),))
        times, values, errors, _ = levels(year, error)
        first = np.searchsorted(times, day)
        off = [abs(change.first - first) for change in find_changes(times, values, errors).changes]
        found += len(off) > 0
        dated += min(off, default=99) <= 1
        more += len(off) > 1
    print(f"{effect} {size} ADU, error {error}: {found} of {years} found, {dated} within a night, {more} with others")


def main(years: str = "300") -> None:
    count = int(years)
    for changed in ({}, {"season": 0.05}, {"wander": 0.002}, {"missing": 0.3}, {"season": 0.0, "wander": 0.0}):
        clean(count, 0.014, **changed)
    clean(count, 0.03)
    for error in (0.014, 0.02, 0.03):
        for size in (0.03, 0.05):
            for effect in ("level", "amplifier"):
                steps(max(count // 3, 1), error, size, effect)


if __name__ == "__main__":
    main(*sys.argv[1:])
