"""Warp of a 4096 x 4096 exposure (image, mask and variance): CPU seconds, and those of reproject for the image alone.

Run: python tests/bench/bench_warp.py
"""

from __future__ import annotations

import time

import numpy as np
from reproject import reproject_interp

from workers.imaging.warp import node_grid, warp_planes
from workers.imaging.wcs import SkyWcs
from workers.process import keep_memory

SIZE = 4096


def seconds(what, repeats=3):
    what()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        what()
        times.append(time.process_time() - begin)
    return float(np.median(times))


def main():
    keep_memory()
    image = np.random.default_rng(1).normal(100.0, 10.0, (SIZE, SIZE)).astype(np.float32)
    mask, variance = np.zeros(image.shape, np.int32), np.full(image.shape, 100.0, np.float32)
    source = SkyWcs.tangent(150.0, 2.0, (2048.0, 2048.0), 0.6)
    for turn in (1.0, 40.0):
        target = SkyWcs.tangent(150.0, 2.0, (2054.4, 2043.7), 0.6, rotation=turn)
        ours = seconds(lambda to=target: warp_planes(image, mask, variance, node_grid(source, to, image.shape)))
        print(f"turned by {turn:2.0f} degrees: {ours:.2f} s CPU for three planes")
    target = SkyWcs.tangent(150.0, 2.0, (2054.4, 2043.7), 0.6, rotation=1.0)
    theirs = seconds(
        lambda: reproject_interp((image, source.header()), target.header(), shape_out=image.shape, order="bicubic"), 1
    )
    print(f"reproject, 1 degree, bicubic: {theirs:.2f} s for one plane")


if __name__ == "__main__":
    main()
