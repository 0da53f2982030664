"""Warp of a 2048 x 2048 exposure (image, mask and variance), as a ratio to reproject's bicubic of the image alone.

Run: python tests/bench/bench_warp.py
"""

from __future__ import annotations

import time

import numpy as np
from reproject import reproject_interp

from workers.imaging.warp import node_grid, warp_planes
from workers.imaging.wcs import SkyWcs

SIZE = 2048


def seconds(what, repeats=3):
    what()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        what()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def main():
    image = np.random.default_rng(1).normal(100.0, 10.0, (SIZE, SIZE)).astype(np.float32)
    mask, variance = np.zeros(image.shape, np.int32), np.full(image.shape, 100.0, np.float32)
    source = SkyWcs.tangent(150.0, 2.0, (1024.0, 1024.0), 0.6)
    target = SkyWcs.tangent(150.0, 2.0, (1030.4, 1019.7), 0.6, rotation=1.0)
    ours = seconds(lambda: warp_planes(image, mask, variance, node_grid(source, target, image.shape)))
    theirs = seconds(
        lambda: reproject_interp((image, source.header()), target.header(), shape_out=image.shape, order="bicubic"), 1
    )
    print(f"ours {ours:.2f} s for three planes, reproject {theirs:.2f} s for one: {theirs / ours:.1f} times faster")


if __name__ == "__main__":
    main()
