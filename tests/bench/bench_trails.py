"""Trails: share found, false ones per thousand detectors, and time, on simulated 4096 x 4096 detectors.

Run: python tests/bench/bench_trails.py found 100    trails of each kind, one per detector image
     python tests/bench/bench_trails.py false 1000   detectors without a trail, full size
     python tests/bench/bench_trails.py quick 1000   the same with half the pixels along a side and bins of 2: the
                                                     binned stage is of the same size at a quarter of the cost
     python tests/bench/bench_trails.py peer         acstools' findsat_mrt on 1024 x 1024, where it is installed
A third argument is the first seed. A trail counts as found when more than half of its lit path is inside the mask; a
detector counts as false when it has any trail.
"""

from __future__ import annotations

import sys
import time
import zlib
from itertools import pairwise

import numpy as np

from tests.isr.trail_scenes import Detector, TrueTrail, add_trail, chord, detector, random_line
from workers.isr.trail_path import Arc
from workers.isr.trails import find_trails, trail_mask
from workers.survey.isr_config import TrailsConfig

SIZE, SHORTEST = 4096, 726  # chords shorter than that hold 1 % of the points of all chords
KINDS = ("thin", "straight", "curved", "partial", "broken", "bright", "axis")


def random_trail(kind, rng, size=SIZE):
    while True:
        ends = random_line(rng, size)
        length = float(np.hypot(ends[2] - ends[0], ends[3] - ends[1]))
        if length > SHORTEST * size / SIZE:
            break
    fwhm = float(rng.choice([3, 4, 6, 10, 18, 30]))
    shape = "ring" if fwhm >= 18 else str(rng.choice(["gauss", "moffat"]))
    peak, sagitta, dashes = 0.5, 0.0, ((0.0, 1.0),)
    if kind in ("thin", "axis"):
        fwhm, shape = 3.0, "gauss"
    if kind == "axis":
        angle = np.radians(rng.choice([0, 90]) + rng.choice([-1, 1]) * rng.uniform(0.1, 2))
        ends = chord(*rng.uniform(0.1 * size, 0.9 * size, 2), angle, size)
    if kind == "curved":
        sagitta = float(rng.choice([-1, 1]) * rng.uniform(5, 60) * (length / size) ** 2)
    if kind == "partial":
        share = min(max(rng.uniform(0.3, 0.7), 1000 / length), 1.0)
        begin = rng.uniform(0, 1 - share)
        dashes = ((begin, begin + share),)
    if kind == "broken":
        edges, duty = np.linspace(0, 1, rng.integers(4, 13)), rng.uniform(0.4, 0.8)
        dashes = tuple((a, a + duty * (b - a)) for a, b in pairwise(edges))
    if kind == "bright":
        peak = 10 ** rng.uniform(-0.2, 3)
    return TrueTrail(*map(float, ends), sagitta=sagitta, fwhm=fwhm, peak=peak, kind=shape, dashes=dashes)


def covered(trail, found, size=SIZE):
    """Share of the true lit path inside the mask."""
    share = np.linspace(0, 1, 2001)
    x, y = Arc(trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta).points(share)
    lit = np.any([(share >= a) & (share <= b) for a, b in trail.dashes], axis=0)
    lit &= (x >= 0) & (y >= 0) & (x <= size - 1) & (y <= size - 1)
    mask = trail_mask(found, (size, size))
    return float(mask[y[lit].astype(int), x[lit].astype(int)].mean())


def timed(scene, options):
    begin = time.process_time()
    found = find_trails(scene.image, scene.variance, scene.mask, options, scene.boxes)
    return found, time.process_time() - begin


def completeness(number, first):
    options = TrailsConfig()
    timed(detector(0, 1024), options)
    for kind in KINDS:
        shares, seconds, extra = [], [], 0
        for index in range(number):
            if index % 5 == 0:
                base = detector(first + 1000 + index // 5)
            rng = np.random.default_rng([first, zlib.crc32(kind.encode()), index])
            scene = Detector(base.image.copy(), base.variance, base.mask, base.boxes)
            trail = random_trail(kind, rng)
            add_trail(scene, trail, rng)
            found, used = timed(scene, options)
            shares.append(covered(trail, found))
            seconds.append(used)
            extra += max(len(found) - 1, 0)
            if shares[-1] < 0.8:
                print("  ", index, f"{shares[-1]:.2f}", trail, flush=True)
        shares = np.array(shares)
        print(
            f"{kind:9s} {number} trails: found {np.mean(shares > 0.5):.3f}, most of it {np.mean(shares > 0.8):.3f}, "
            f"mean cover {shares.mean():.3f}, further trails {extra}, CPU {np.median(seconds):.2f} s median "
            f"{max(seconds):.2f} s most",
            flush=True,
        )


def false_ones(number, first, size):
    options = TrailsConfig()
    if size < SIZE:
        options = TrailsConfig(binning=2, shortest=200.0, sagitta=50.0)
    timed(detector(0, 1024), options)
    wrong, seconds = 0, []
    for seed in range(first, first + number):
        rng = np.random.default_rng(seed)
        crowd = 10 ** rng.uniform(-0.5, 0.7) * (SIZE / size) ** 2 * (1.0 if size == SIZE else 0.5)
        scene = detector(seed, size, density=crowd, gradient=0.1 * rng.random(), steps=0.2 * rng.random() ** 2)
        found, used = timed(scene, options)
        seconds.append(used)
        wrong += bool(found)
        for trail in found:
            print("  ", seed, trail, flush=True)
        if (seed - first) % 50 == 49:
            print("  ", seed - first + 1, "detectors,", wrong, "with a trail", flush=True)
    print(f"{number} detectors of {size}²: {wrong} with a trail; CPU {np.median(seconds):.2f} s, {max(seconds):.2f}")


def peer():
    from acstools.findsat_mrt import TrailFinder

    scene = detector(1, 1024, defects=False)
    rng = np.random.default_rng(1)
    add_trail(scene, TrueTrail(*map(float, random_line(rng, 1024)), fwhm=4.0, peak=2.0), rng)
    timed(scene, TrailsConfig())
    found, ours = timed(scene, TrailsConfig())
    begin = time.process_time()
    finder = TrailFinder(scene.image - np.median(scene.image), processes=1, plot=False)
    finder.run_mrt()
    finder.find_mrt_sources()
    theirs = time.process_time() - begin
    print(
        f"1024²: ours {ours:.2f} s, {len(found)} trails; findsat_mrt {theirs:.0f} s: {theirs / ours:.0f} times faster"
    )


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "found"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    if what == "found":
        completeness(number, first)
    elif what == "peer":
        peer()
    else:
        false_ones(number, first, SIZE if what == "false" else SIZE // 2)


if __name__ == "__main__":
    main()
