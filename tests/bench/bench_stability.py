"""Masters of 20 days each over a clean simulated year: how much one differs from the next, and its outlier pixels.

The detector has 512 x 512 pixels and four amplifiers, 4 ADU of read noise, 96 columns of overscan: one frame's level of
an amplifier is uncertain by 0.03 ADU (twice that of a 3k x 3k detector), and drifts by 0.02 ADU with the season.

Run: python tests/bench/bench_stability.py [masters]
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from workers.calibrate.certify import certify, stability
from workers.calibrate.combine import combine, frame_noise
from workers.imaging.calibrations import CalibrationSet, make_calibration
from workers.isr.pipeline import apply_steps
from workers.simulate.calibration_year import CalibrationYear, bias_frames, flat_frames, observed_nights, survey_of
from workers.simulate.camera import make_camera
from workers.survey.isr_config import IsrConfig

SHAPE = (512, 512)


def master(year: CalibrationYear, kind: str, first: int, folder: Path):
    camera, config, names = make_camera(survey_of(year)), IsrConfig(), []
    with (folder / "stack").open("wb") as stream:
        for day, count in observed_nights(year):
            if not first <= day < first + 20:
                continue
            for raw in bias_frames(year, day, count) if kind == "bias" else flat_frames(year, day, min(count, 7)):
                image = apply_steps(raw, camera, CalibrationSet(), config, ("overscan", "saturation")).image
                image = image / np.float32(np.median(image)) if kind == "flat" else image
                stream.write(np.ascontiguousarray(image, np.float32).data)
                names.append(raw.info.sha256)
    stack = np.memmap(folder / "stack", np.float32, mode="r", shape=(len(names), *SHAPE))
    made = combine(stack, noise=frame_noise(stack[0], stack[1]), threads=1)
    scale = np.float32(np.median(made.mean) if kind == "flat" else 1.0)
    return make_calibration(
        kind,
        instrument=camera.name,
        detector=0,
        band="r" if kind == "flat" else "",
        image=made.mean / scale,
        variance=made.variance / scale**2,
        mask=np.zeros(SHAPE, np.int32),
        inputs=names,
    )


def main(masters: str = "18") -> None:
    year = CalibrationYear(seed=7)
    detector = make_camera(survey_of(year)).detector(0)
    for kind in ("bias", "flat"):
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            made = [master(year, kind, 20 * number, Path(folder)) for number in range(int(masters))]
        result = stability(made, detector)
        verdicts = [certify(new, old, detector) for old, new in pairwise(made)]
        print(
            f"{kind}: {len(made)} masters of {np.mean([len(m.inputs) for m in made]):.0f} frames in "
            f"{time.process_time() - begin:.0f} s; they change by rms {result.rms:.2g}, worst {result.worst:.2g}, "
            f"outliers at most {100 * max(result.outliers):.3f} %; "
            f"certified {sum(v.certified for v in verdicts)} of {len(verdicts)}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
