"""Seconds that the simulator takes: one 2048 x 2048 detector, and the survey of the demo.

Run by hand: ``python tests/bench/bench_simulate.py``. It reports and asserts nothing.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from workers.simulate import DEMO, write_survey
from workers.simulate.cadence import plan_visits
from workers.simulate.exposure import make_frame, to_fits
from workers.simulate.settings import SimulatedSurvey


def _seconds(config: SimulatedSurvey) -> tuple[float, str]:
    """Time of one live frame, detector patterns and compilation apart, and what was on it."""
    live = [visit for visit in plan_visits(config) if visit.role == "live"]
    make_frame(config, live[0], 0)
    begin = time.perf_counter()
    frame = make_frame(config, live[1], 0)
    to_fits(frame)
    seconds = time.perf_counter() - begin
    scene = frame.scene
    text = f"{len(scene.stars.x)} stars, {len(scene.galaxies.x)} galaxies" if scene else ""
    return seconds, text


def main() -> None:
    """Print one line per measurement."""
    big = replace(DEMO, detectors=replace(DEMO.detectors, width=2048, height=2048, count=1))
    for name, config in (("2048 x 2048", big), ("768 x 768", DEMO)):
        seconds, text = _seconds(config)
        print(f"one {name} detector: {seconds:.2f} s ({text})")
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            write_survey(Path(folder), DEMO, workers=workers)
            print(f"demo survey, {workers} workers: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
