"""Linearity, crosstalk and deferred charge: time on 4096 x 4096 pixels, and what all three leave, measured masters.

Run: python tests/bench/bench_corrections.py
"""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter

from tests.calibrate.simulated_frames import Bench
from workers.calibrate import charge_transfer, crosstalk, linearity
from workers.isr import bias, deferred_charge, gain
from workers.isr import crosstalk as crosstalk_step
from workers.isr import linearity as linearity_step
from workers.isr.overscan import apply as overscan_step
from workers.isr.state import IsrState
from workers.simulate.camera import make_camera
from workers.simulate.detector import flat_field
from workers.simulate.electronics import crosstalk_matrix
from workers.simulate.settings import TINY, DetectorSettings
from workers.survey.isr_config import IsrConfig

EFFECTS = {"nonlinearity": 0.03, "crosstalk": 5e-4, "serial_cti": 1e-5, "parallel_cti": 1e-5}


def seconds(what, repeats=3):
    what()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        what()
        times.append(time.process_time() - begin)
    return min(times)


def large_state():
    design = DetectorSettings(width=4096, height=4096, count=1, amplifiers=(8, 2), crosstalk=5e-4)
    camera = make_camera(replace(TINY, detectors=design))
    image = np.random.default_rng(1).normal(1000, 20, (4096, 4096)).astype(np.float32)
    image[1000:1060, 1000:1060] = 50000
    state = IsrState(
        None, camera, camera.detector(0), None, IsrConfig(), image, np.zeros(image.shape, np.int32), image * 0
    )  # type: ignore[arg-type]
    knots = 57000.0 * (np.arange(16) / 15.0) ** 2
    table = crosstalk_matrix(replace(TINY, detectors=design), 0)
    tables = {
        "linearity": {
            "knots": np.tile(knots, (16, 1)),
            "correction": np.tile(4e-7 * knots**2, (16, 1)),
            "error": np.tile(1e-4 * knots, (16, 1)),
        },
        "crosstalk": {"coefficients": table[:, :, :1], "error": np.full((16, 16, 1), 1e-6)},
        "cti": {name: np.full(16, 1e-6) for name in ("serial", "parallel")}
        | {name: np.full(16, 1e-8) for name in ("serialError", "parallelError")}
        | {"offset": np.tile([0.0, 1.0], (16, 1))}
        | {name: np.tile([0.0, 1.0, 1.0], (16, 1)) for name in ("serialTrap", "parallelTrap")},
    }
    state.need = lambda kind: SimpleNamespace(tables=tables[kind])
    return state, tables


def plain_linearity(state, tables):
    for index, amplifier in enumerate(state.detector.amplifiers):
        part = state.part(amplifier, state.image)
        part + np.interp(part, tables["linearity"]["knots"][index], tables["linearity"]["correction"][index])


def plain_crosstalk(state, tables):
    parts = [state.part(amplifier, state.image) for amplifier in state.detector.amplifiers]
    table = tables["crosstalk"]["coefficients"][:, :, 0].astype(np.float32)
    for victim, part in enumerate(parts):
        sum(table[victim, other] * parts[other] for other in range(16)) + part


def speed():
    state, tables = large_state()
    ours = seconds(lambda: linearity_step.apply(state))
    theirs = seconds(lambda: plain_linearity(state, tables), 1)
    print(f"linearity        {ours * 1e3:4.0f} ms, np.interp {theirs / ours:.0f} x")
    ours = seconds(lambda: crosstalk_step.apply(state))
    theirs = seconds(lambda: plain_crosstalk(state, tables), 1)
    print(f"crosstalk        {ours * 1e3:4.0f} ms, sums in numpy {theirs / ours:.0f} x")
    state.unit = "electron"
    print(f"deferred charge  {seconds(lambda: deferred_charge.apply(state)) * 1e3:4.0f} ms, losses of both directions")
    tables["cti"] |= {"offset": np.tile([2e-4, 6.0], (16, 1))}
    tables["cti"] |= {name: np.tile([40.0, 3000.0, 2.5], (16, 1)) for name in ("serialTrap", "parallelTrap")}
    print(f"                 {seconds(lambda: deferred_charge.apply(state)) * 1e3:4.0f} ms, with offset and traps")


def spots(rng, size):
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for row, column in rng.integers(12, size - 12, (8, 2)):
        image[(y - row) ** 2 + (x - column) ** 2 < 64] = rng.uniform(60000, 84000)
    return gaussian_filter(image, 1.0) + 60.0


def measured(bench, rng):
    """Masters from raw frames, each with those before it."""
    size, flat = bench.config.detectors.width, flat_field(bench.config, 0, "r")
    raws = [bench.raw(rng.poisson(spots(rng, size)).astype(float), n, 60.0, "science") for n in range(24)]
    talk = crosstalk.solve(bench.frames("crosstalk", raws, bench.bias()), ("overscan", "saturation", "bias"))
    masters = [bench.bias(), bench.calibration("crosstalk", tables=talk.tables)]
    levels = rng.permutation(np.concatenate([np.geomspace(60, 4500, 40), np.linspace(4500, 84000, 70)]))
    raws = [
        bench.raw(rng.poisson(level * (1 + 0.003 * rng.standard_normal()) * flat).astype(float), 200 + n, level / 1000)
        for n, level in enumerate(levels)
    ]
    steps = ("overscan", "saturation", "crosstalk", "bias")
    line = linearity.solve(bench.frames("linearity", raws, *masters), steps)
    masters.append(bench.calibration("linearity", tables=line.tables))
    steps = ("overscan", "saturation", "crosstalk", "linearity", "bias")
    charge = charge_transfer.solve(bench.frames("cti", raws[-40:], *masters), steps)
    masters.append(bench.calibration("cti", tables=charge.tables))
    return masters


def together():
    bench = Bench(**EFFECTS, parallel_overscan=16, bias_drift=0.0)  # the overscan has tests of its own
    rng = np.random.default_rng(1)
    masters = measured(bench, rng)
    scene = np.full((320, 320), 500.0)
    scene[60:100, 60:100] = 60000.0
    for name, steps in (
        ("before", (overscan_step, bias.apply, gain.apply)),
        (
            "after",
            (overscan_step, crosstalk_step.apply, linearity_step.apply, bias.apply, gain.apply, deferred_charge.apply),
        ),
    ):
        frames = [bench.state(bench.raw(scene, 900 + n), *masters, steps=steps).image - scene for n in range(16)]
        left = np.mean(frames, axis=0)
        sky = np.median(left[110:150, 110:150])
        left /= 60000
        mirrored = left[62:98, 222:258].mean() - np.median(left[110:150, 222:258])
        print(
            f"{name:7s} square {left[64:96, 64:96].mean():+.2e}, sky {sky / 500:+.2e}; of the square: "
            f"beside {left[62:98, 100].mean() - sky / 60000:+.2e}, above {left[100, 62:98].mean() - sky / 60000:+.2e}, "
            f"mirrored in x {mirrored:+.2e}"
        )


if __name__ == "__main__":
    speed()
    together()
