"""Signature removal of a 4096 x 4096 raw read through 16 amplifiers, step by step, in CPU seconds of one core.

Run: python tests/bench/bench_isr.py [STEP ...]      (default: the standard steps, then cosmic rays and trails too)
"""

from __future__ import annotations

import os
import resource
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from workers.imaging.calibrations import CalibrationSet, make_calibration
from workers.imaging.exposure import ExposureInfo, RawExposure
from workers.isr import pipeline
from workers.isr.pipeline import STEPS, apply_steps, needed_kinds
from workers.survey.camera import camera_from_dict
from workers.survey.isr_config import IsrConfig

SIZE, COLUMNS, ROWS, OVERSCAN, PARALLEL = 4096, 8, 2, 64, 48
STANDARD = (
    "overscan saturation crosstalk linearity bias dark gain deferred_charge variance flat defects bleeds edges"
).split()


def camera():
    width, height = SIZE // COLUMNS, SIZE // ROWS
    amplifiers = []
    for index in range(COLUMNS * ROWS):
        row, column = divmod(index, COLUMNS)
        amplifiers.append(
            {
                "name": f"C{index:02d}",
                "hdu": index,
                "data": f"[4:{width + 3},1:{height}]",
                "overscan": f"[{width + 4}:{width + 3 + OVERSCAN},1:{height + PARALLEL}]",
                "parallel_overscan": f"[4:{width + 3},{height + 1}:{height + PARALLEL}]",
                "position": f"[{column * width + 1}:{(column + 1) * width},{row * height + 1}:{(row + 1) * height}]",
                "flip_x": bool(column % 2),
                "flip_y": bool(row),
                "gain": 1.5,
                "read_noise": 6.0,
                "saturation": 60000.0,
                "suspect": 55000.0,
            }
        )
    header = {key: {"value": 1} for key in ("exposure_time", "begin", "ra", "dec")} | {"band": {"value": "r"}}
    detector = {"id": 0, "name": "D", "width": SIZE, "height": SIZE, "amplifiers": amplifiers}
    return camera_from_dict({"name": "cam", "header": header, "detectors": [detector]})


def raw(rng):
    """A sky of 600 electrons with 2000 stars and 1500 tracks of cosmic rays."""
    light = np.full((SIZE, SIZE), 600.0, np.float32)
    y, x = np.mgrid[-20:21, -20:21]
    for px, py, flux in zip(*rng.uniform(25, SIZE - 25, (2, 2000)), 10 ** rng.uniform(3, 6, 2000), strict=True):
        star = (1 + ((x - px % 1) ** 2 + (y - py % 1) ** 2) / 4.0) ** -2.5
        light[int(py) - 20 : int(py) + 21, int(px) - 20 : int(px) + 21] += flux * star / star.sum()
    counts = rng.normal(light, np.sqrt(light + 36)) / 1.5
    for px, py, angle in zip(*rng.uniform(20, SIZE - 20, (2, 1500)), rng.uniform(0, 6.3, 1500), strict=True):
        t = np.arange(rng.integers(1, 15))
        counts[(py + t * np.sin(angle)).astype(int), (px + t * np.cos(angle)).astype(int)] += 400
    hdus, width, height = {}, SIZE // COLUMNS, SIZE // ROWS
    for index in range(COLUMNS * ROWS):
        row, column = divmod(index, COLUMNS)
        block = rng.normal(1000, 4, (height + PARALLEL, width + 3 + OVERSCAN)).astype(np.float32)
        part = counts[row * height : (row + 1) * height, column * width : (column + 1) * width]
        block[:height, 3 : width + 3] += part[:: -1 if row else 1, :: -1 if column % 2 else 1]
        hdus[index] = np.clip(np.round(block), 0, 65535).astype(np.uint16)
    info = ExposureInfo("cam", 1, 0, "r", 60000.5, 30.0, 150.0, 2.0, 20230225, "science", "00", "bench.fits")
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 2048.0}
    cards |= {"CRPIX2": 2048.0, "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}
    return RawExposure(info, hdus, cards)


def tables(kind, amplifiers, rng):
    """What the table kinds hold, of a usual size."""
    if kind == "crosstalk":
        coefficients = rng.normal(0, 1e-4, (amplifiers, amplifiers, 1)) * (1 - np.eye(amplifiers))[:, :, None]
        return {"coefficients": coefficients, "error": np.full_like(coefficients, 1e-6)}
    if kind == "linearity":
        knots = np.tile(np.r_[0.0, np.geomspace(30, 62000, 15)], (amplifiers, 1))
        correction = 0.02 * knots**2 / 62000
        return {"knots": knots, "correction": correction, "error": 1e-4 * knots, "turnoff": np.full(amplifiers, 6e4)}
    rate = np.full(amplifiers, 1e-6)
    known = {"serial": rate, "parallel": rate, "serialError": 0.01 * rate, "parallelError": 0.01 * rate}
    traps = {name: np.tile([20.0, 1e4, 2.0], (amplifiers, 1)) for name in ("serialTrap", "parallelTrap")}
    return known | traps | {"offset": np.tile([1e-5, 5.0], (amplifiers, 1))}


def masters(steps, camera, rng):
    detector = camera.detectors[0]
    shape = (SIZE, SIZE)
    images = {
        "bias": rng.normal(0, 1, shape),
        "dark": np.full(shape, 0.02),
        "flat": rng.normal(1, 0.01, shape),
        "defects": np.zeros(shape),
    }
    made = {}
    for kind in needed_kinds(IsrConfig(), steps, "r"):
        fields = {"instrument": "cam", "detector": 0, "layout": detector.layout, "band": "r" if kind == "flat" else ""}
        if kind in images:
            mask = (rng.random(shape) < 1e-4).astype(np.int32) if kind == "defects" else np.zeros(shape, np.int32)
            planes = {"image": images[kind], "variance": np.full(shape, 1e-4), "mask": mask}
            made[kind] = make_calibration(kind, **fields, **planes)
        else:
            made[kind] = make_calibration(kind, **fields, tables=tables(kind, len(detector.amplifiers), rng))
    return CalibrationSet(made)


def main():
    rng = np.random.default_rng(1)
    known = [name for name in STANDARD if name in STEPS]
    sets = [tuple(sys.argv[1:])] if sys.argv[1:] else [tuple(known), (*known, "cosmic_rays", "trails")]
    cam, frame = camera(), raw(rng)
    for steps in sets:
        chosen = masters(steps, cam, rng)
        spent = {}

        def timed(name, apply, spent=spent):
            def run(state):
                begin = time.process_time()
                apply(state)
                spent[name] = time.process_time() - begin

            return run

        original = dict(pipeline.STEPS)
        pipeline.STEPS.update({name: timed(name, apply) for name, apply in original.items()})
        apply_steps(frame, cam, chosen, IsrConfig(), steps)  # compiles
        totals = []
        for _ in range(3):
            begin = time.process_time()
            apply_steps(frame, cam, chosen, IsrConfig(), steps)
            totals.append(time.process_time() - begin)
        pipeline.STEPS.update(original)
        print(f"{min(totals):.2f} CPU s: " + ", ".join(f"{name} {1000 * t:.0f} ms" for name, t in spent.items()))
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, the frames included")


if __name__ == "__main__":
    main()
