"""The template job: CPU of a first build and of a night, kill -9 and resume, and the noise of what it makes.

Run: ``OMP_NUM_THREADS=1 python -m tests.bench.bench_templates night [--fields 13] | kill [--kills 20] | quality``.

night: fields of 2100 x 2100 px with 12 visits (FWHM 3.0 to 5.5 px, sky noise within a factor of two, half of them
turned by 180 degrees), one field after the other in a folder of its own, so that 13 make 1,000 cells of 256 x 256 px;
first with nothing there, then with one input of every cell calibrated anew. Bar: 60 s of CPU per 1,000 cells for the
night. kill: the job is killed with SIGKILL at random moments and run again until it ends; all files must be the same.
quality: pulls and depth of a template of an empty sky and of a star field, beside reproject (bicubic, the same weights)
and SWarp where it is installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.template_quality import quality
from tests.bench.template_scene import SCALE, expose, moved, star_field, visits, write_field
from workers.imaging.fits import write_exposure
from workers.process import keep_memory
from workers.survey.config import TemplatesConfig
from workers.templates import build, job, warps
from workers.templates.pipeline import TemplateJob, run_job
from workers.templates.store import TemplateStore

CONFIG = TemplatesConfig(begin=60000.0, end=60365.0, pixel_scale=SCALE)
STAGES: dict[str, tuple[Any, str]] = {
    "read blocks": (warps.WarpStore, "block"),
    "warp and write blocks": (warps.WarpStore, "make"),
    "reject artifacts": (build, "find_outliers"),
    "flux maps": (build, "flux_maps"),
    "find transients": (build, "find_events"),
    "mask transients": (build, "masked_by"),
    "combine": (build, "combine"),
    "numbers, rounding": (build, "_finished"),
    "all of a cell": (job, "cell_of_warps"),
    "write cells": (TemplateStore, "write"),
}


def timed(spent: Counter[str], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return `work` so that its CPU time is added up."""

    @functools.wraps(work)
    def measured(*arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return work(*arguments, **named)
        finally:
            spent[name] += time.process_time() - start

    return measured


def run_timed(calexps: Path, root: Path) -> tuple[TemplateJob, Counter[str]]:
    """Return what a job did and its CPU seconds by stage."""
    spent: Counter[str] = Counter()
    kept = {name: getattr(*place) for name, place in STAGES.items()}
    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, timed(spent, name, kept[name]))
    start = time.process_time()
    try:
        done = run_job(calexps, TemplateStore(root), CONFIG)
    finally:
        for name, (owner, attribute) in STAGES.items():
            setattr(owner, attribute, kept[name])
    spent["the whole job"] = time.process_time() - start
    return done, spent


def night(fields: int, side: int) -> None:
    """Print the CPU seconds per 1,000 cells of first builds and of nights in which one input of each cell changed."""
    epochs, stars = visits(12), star_field(side, 60.0, 3e4, 1)
    first = [expose(visit, stars, side, (150.0, 2.0)) for visit in epochs]
    again = expose(epochs[4], stars, side, (150.0, 2.0), seed=1)
    totals = {"first build": Counter[str](), "night": Counter[str]()}
    cells: Counter[str] = Counter()
    for field in range(-1, fields):  # the first one compiles
        centre = (150.0 + 1.3 * field, 2.0)
        with tempfile.TemporaryDirectory() as folder:
            calexps = Path(folder) / "calexps"
            write_field(calexps, [moved(one, visit, centre) for one, visit in zip(first, epochs, strict=True)])
            for name, counts in totals.items():
                if name == "night":
                    write_exposure(calexps / f"{again.info.visit}.fits", moved(again, epochs[4], centre))
                done, spent = run_timed(calexps, Path(folder) / "templates")
                if field >= 0:
                    counts.update(spent)
                    cells[name] += done.built
                    assert done.warped == (1 if name == "night" else len(epochs))
    for name, counts in totals.items():
        print(f"{name}: {cells[name]} cells of {fields} fields; CPU s per 1,000 cells")
        for stage in [*STAGES, "the whole job"]:
            print(f"  {stage:24}{1000.0 * counts[stage] / cells[name]:8.1f}")


JOB = """
import sys
from pathlib import Path
from tests.bench.bench_templates import CONFIG
from workers.templates.pipeline import run_job
from workers.templates.store import TemplateStore
run_job(Path(sys.argv[1]), TemplateStore(Path(sys.argv[2])), CONFIG, workers=2)
"""


def kill(kills: int, side: int) -> None:
    """Kill the job at random moments until it has ended `kills` times too early; compare the files."""
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        calexps, whole, torn = (Path(folder) / name for name in ("calexps", "whole", "torn"))
        stars = star_field(side, 60.0, 3e4, 1)
        write_field(calexps, [expose(visit, stars, side, (150.0, 2.0)) for visit in visits(12)])
        command = [sys.executable, "-c", JOB, str(calexps)]
        start = time.monotonic()
        subprocess.run([*command, str(whole)], check=True)
        seconds, killed, runs = time.monotonic() - start, 0, 0
        expected = files_of(whole)
        while killed < kills:
            with subprocess.Popen([*command, str(torn)], start_new_session=True) as process:
                try:
                    process.wait(float(rng.uniform(0.1, 1.0)) * seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    killed += 1
                    continue
            runs += 1
            assert process.returncode == 0
            assert files_of(torn) == expected
            shutil.rmtree(torn)
        subprocess.run([*command, str(torn)], check=True)
        assert files_of(torn) == expected
        print(f"killed {killed} times, ended {runs + 1} times: {len(expected)} files the same to the byte each time")


def files_of(root: Path) -> dict[str, bytes]:
    """Return the bytes of all files but the hidden halves that a killed process leaves."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["night", "kill", "quality"])
    parser.add_argument("--fields", type=int, default=13)
    parser.add_argument("--side", type=int, default=2100)
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    keep_memory()
    if chosen.what == "night":
        night(chosen.fields, chosen.side)
    elif chosen.what == "kill":
        kill(chosen.kills, min(chosen.side, 700))
    else:
        quality()


if __name__ == "__main__":
    main()
