"""Clipped combination of 20 frames of 2048 x 2048, as a ratio to ccdproc's in the same run.

Run: python tests/bench/bench_combine.py
"""

from __future__ import annotations

import time

import ccdproc
import numpy as np
from astropy import units
from astropy.nddata import CCDData

from workers.calibrate.combine import combine

FRAMES, SIZE = 20, 2048


def main():
    stack = np.random.default_rng(1).normal(1000.0, 5.0, (FRAMES, SIZE, SIZE)).astype(np.float32)
    combine(stack[:, :64], noise=5.0)
    begin = time.perf_counter()
    ours = combine(stack, noise=5.0)
    middle = time.perf_counter()
    frames = [CCDData(frame, unit=units.adu) for frame in stack]
    clip = {"sigma_clip": True, "sigma_clip_low_thresh": 4, "sigma_clip_high_thresh": 4}
    theirs = ccdproc.combine(frames, method="average", mem_limit=512e6, **clip)
    end = time.perf_counter()
    one, two = middle - begin, end - middle
    print(f"ours {one:.2f} s, ccdproc {two:.2f} s: {two / one:.1f} times faster")
    print(f"largest difference {np.abs(ours.mean - theirs.data).max():.3f} of a noise of {5 / FRAMES**0.5:.3f}")


if __name__ == "__main__":
    main()
