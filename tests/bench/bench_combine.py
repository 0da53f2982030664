"""A master of 20 frames of 3000 x 3000, as a ratio to ccdproc in the same run; and a master bias from raw files.

Run: python tests/bench/bench_combine.py
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ccdproc
import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData

from workers.calibrate.combine import combine
from workers.calibrate.worker import make_masters
from workers.survey.config import load_survey

FRAMES, SIZE, NOISE = 20, 3000, 5.0

SURVEY = """name = "bench"
[templates]
begin = 1.0
end = 2.0
pixel_scale = 1.0
"""
CAMERA = """name = "bench"
[header]
band = {{ value = "r" }}
begin = {{ key = "MJD", format = "mjd" }}
exposure_time = {{ value = 0.0 }}
ra = {{ value = 0.0 }}
dec = {{ value = 0.0 }}
kind = {{ value = "bias" }}
[[detectors]]
id = 0
name = "D"
width = {size}
height = {size}
[[detectors.amplifiers]]
name = "A"
data = "[1:{size},1:{size}]"
overscan = "[{first}:{last},1:{size}]"
position = "[1:{size},1:{size}]"
gain = 1.5
read_noise = 7.5
saturation = 60000.0
"""


@contextmanager
def watched(name):
    """Print wall time, CPU time and by how much private memory grew at most."""
    peak, stop, before = [0], threading.Event(), private_memory()

    def watch():
        while not stop.wait(0.01):
            peak[0] = max(peak[0], private_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    result = {}
    yield result
    result["wall"], result["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    stop.set()
    watcher.join()
    print(f"{name}: {result['wall']:.2f} s, {result['cpu']:.2f} CPU s, {peak[0] / 2**20:.0f} MiB extra")


def private_memory():
    """Bytes that are this process's own: pages of files that are mapped belong to the system's cache."""
    return sum(
        int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )


def in_memory(rng):
    stack = rng.normal(1000.0, NOISE, (FRAMES, SIZE, SIZE)).astype(np.float32)
    stack[rng.integers(0, FRAMES, 20000), rng.integers(0, SIZE, 20000), rng.integers(0, SIZE, 20000)] += 500
    combine(stack[:, :64], noise=NOISE)
    with watched("ours, of frames in memory") as ours:
        mine = combine(stack, noise=NOISE)
    frames = [CCDData(frame, unit=units.adu) for frame in stack]
    clip = {"sigma_clip": True, "sigma_clip_low_thresh": 4, "sigma_clip_high_thresh": 4}
    clip |= {"sigma_clip_func": np.ma.median, "sigma_clip_dev_func": ccdproc.combiner.sigma_func}
    with watched("ccdproc with a memory limit of 512 MB") as theirs:
        other = ccdproc.combine(frames, method="average", mem_limit=512e6, **clip)
    print(f"{theirs['wall'] / ours['wall']:.1f} times faster")
    difference = np.abs(mine.mean - other.data)
    print(f"99.9 % of pixels within {np.percentile(difference, 99.9):.3f} of a noise of {NOISE / FRAMES**0.5:.3f}")


def from_files(rng):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "survey.toml").write_text(SURVEY)
        (root / "camera.toml").write_text(CAMERA.format(size=SIZE, first=SIZE + 1, last=SIZE + 50))
        paths = []
        for number in range(FRAMES):
            counts = np.round(rng.normal(1000.0, NOISE, (SIZE, SIZE + 50)).astype(np.float32)).astype(np.uint16)
            hdu = fits.PrimaryHDU(counts)
            hdu.header["MJD"] = 60000.0 + number / 1000
            paths.append(root / f"bias{number}.fits")
            hdu.writeto(paths[-1])
        survey = load_survey(root)
        make_masters("bias", paths[:3], survey)  # compiles
        with watched("skydelta calibrate bias, from raw files to the saved master"):
            make_masters("bias", paths, survey)


def main():
    rng = np.random.default_rng(1)
    from_files(rng)
    in_memory(rng)


if __name__ == "__main__":
    main()
