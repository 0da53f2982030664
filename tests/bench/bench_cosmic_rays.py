"""Cosmic rays of a 4096 x 4096 exposure: completeness, wrong pixels, stars and CPU seconds, beside astroscrappy's.

Run: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/bench_cosmic_rays.py [SIZE] [FWHM ...] (default 4096 2.5 3.5 5)

One definition for both: a pixel is affected where its charge exceeds 3, 4 or 5 sigma of the noise it has without the
particles (sky, stars and galaxies included) and it is not saturated; a track is found with any of its affected
pixels; a masked pixel is wrong where its charge is below 1 sigma; a star is eaten where its central pixel is masked
and no particle left charge there or in the eight pixels round it. All stars count first, also those
below the noise, and then those that can be seen.
"""

from __future__ import annotations

import sys
import time

import astroscrappy
import numpy as np

from tests.isr.cosmic_scenes import KINDS, READ_NOISE, eaten_stars, found_share, found_tracks, make_scene, wrong_share
from workers.isr.cosmic_rays import find_cosmic_rays
from workers.isr.seeing import estimate_fwhm


def report(name, scene, fwhm, hits, seconds):
    pixels = " / ".join(f"{100 * found_share(scene, hits, sigma):.1f}" for sigma in (3, 4, 5))
    seen = scene.stars[scene.stars[:, 2] > 5 * np.median(scene.noise) * 1.13 * fwhm**2]
    kinds = ", ".join(f"{kind} {100 * found_share(scene, hits, 4, kind):.1f}" for kind in KINDS)
    print(
        f"  {name:14s} {seconds:6.2f} s CPU; pixels found above 3/4/5 sigma {pixels} % ({kinds} at 4); straight tracks "
        f"{100 * found_tracks(scene, hits):.1f} %; wrong {100 * wrong_share(scene, hits):.1f} % "
        f"({100 * wrong_share(scene, hits, 1e-9):.1f} % without charge) of {int(hits.sum())}; "
        f"stars eaten {eaten_stars(hits, scene.stars, 0, scene.charge)}, "
        f"{eaten_stars(hits, seen, 0, scene.charge)} of the {len(seen)} with a peak above 5 sigma",
        flush=True,
    )


def main():
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    widths = [float(text) for text in sys.argv[2:]] or [2.5, 3.5, 5.0]
    small = make_scene(1, 400)
    find_cosmic_rays(small.image, small.variance, small.blocked)  # compiles
    for fwhm in widths:
        scene = make_scene(int(10 * fwhm), size, fwhm=fwhm)
        planes = scene.image, scene.variance, scene.blocked
        begin = time.process_time()
        seen = estimate_fwhm(*planes)
        middle = time.process_time()
        ours = find_cosmic_rays(*planes, fwhm=seen)
        seconds = time.process_time() - begin
        affected = np.count_nonzero((scene.charge > 4 * scene.noise) & ~scene.blocked)
        print(f"FWHM {fwhm} (measured {seen}, {middle - begin:.2f} s), {affected} affected pixels:")
        report("ours", scene, fwhm, ours, seconds)
        begin = time.process_time()
        theirs, _ = astroscrappy.detect_cosmics(
            scene.image, inmask=scene.blocked, gain=1.0, readnoise=READ_NOISE, satlevel=1e9, sepmed=True
        )
        report("astroscrappy", scene, fwhm, theirs, time.process_time() - begin)


if __name__ == "__main__":
    main()
