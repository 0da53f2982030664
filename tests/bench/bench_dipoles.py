"""Dipoles: share flagged by misregistration and S/N, point sources flagged wrongly, and CPU time, on simulated sources.

Run: python tests/bench/bench_dipoles.py moved 200    stars out of place, so many for each S/N and shift
     python tests/bench/bench_dipoles.py still 1000   point sources: alone, variable, on galaxies, near stars
     python tests/bench/bench_dipoles.py time 256     CPU time of a fit
     python tests/bench/bench_dipoles.py fluxes 400   pulls of the dipoles' fluxes and errors of length and angle
A third argument is the seed, a fourth `equal` (template of one exposure) or `moved` (a template whose fluxes are 5 %
too high and which is 0.2 pixels out of place as a whole, both taken out by the kernel); without, 9 exposures.
A star's S/N is that in the science image. "found" counts stars with at least one source beyond 5 sigma, "flagged" is
the share of those sources that are called dipoles. Of point sources "fitted" is when all are fitted, "in use" when
candidates alone are.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from tests.subtract.dipole_scenes import (
    CELL,
    Setting,
    electrons_of,
    field,
    galaxies,
    joined,
    matched,
    probabilities,
    sources,
    stars,
    transients,
)
from workers.subtract.dipoles import measure_dipoles

SHIFTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
SIGNALS = (50, 100, 150, 200, 500, 1400)
SETTINGS = {"equal": Setting(depth=1.0, through=0.3), "moved": Setting(offset=0.2, scale=1.05), "": Setting()}


def drawn(low, high, count, rng):
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def out_of_place(number, rng, setting):
    print("S/N   " + "".join(f"{shift:>15g} px" for shift in SHIFTS))
    for snr in SIGNALS:
        line = []
        for shift in SHIFTS:
            light = stars(np.full(number, float(snr)), np.full(number, shift), rng, scatter=0.01)
            rows, cell, found = probabilities(field(light, number, rng, setting))
            share = f"{np.mean(found > 0.5):.3f}" if len(rows) else "-"
            line.append(f"{share:>7s} of {len(np.unique(cell)) / number:7.1%}")
        print(f"{snr:<6d}" + " ".join(line), flush=True)


def well_placed(number, rng, setting):
    def shift():
        return rng.uniform(0.02, 0.05, number)

    def change(low, high):
        return drawn(low, high, number, rng) * rng.choice([-1, 1], number)

    kinds = {"alone, S/N 10-300": (transients(drawn(10, 300, number, rng), rng), None)}
    for low, high in ((200, 500), (500, 1400)):
        for least, most in ((0.05, 0.1), (0.1, 0.95)):
            light = stars(drawn(low, high, number, rng), shift(), rng, change(least, most))
            kinds[f"variable, S/N {low}-{high}, {least:.0%}-{most:.0%}"] = (light, None)
    for low, high in ((30, 100), (100, 300), (300, 1000)):
        new = transients(drawn(10, 60, number, rng), rng, 4.0)
        host = galaxies(drawn(low, high, number, rng), rng.uniform(1, 4, number), shift(), rng)
        kinds[f"on a galaxy of S/N {low}-{high}"] = (new, host)
    for low, high in ((30, 100), (100, 300)):
        new = transients(drawn(10, 60, number, rng), rng, 6.6)
        kinds[f"near a star of S/N {low}-{high}"] = (new, stars(drawn(low, high, number, rng), shift(), rng))
    for name, (light, other) in kinds.items():
        scene = field(light if other is None else joined(other, light), number, rng, setting)
        share, count = [], 0
        for every in (True, False):
            rows, _, found = probabilities(scene, every)
            near = matched(rows, light, scene.cells, 1.5)
            count = len(near)
            share.append(np.mean(found[near] > 0.5))
        print(f"{name:36s} {count:5d} sources: flagged {share[0]:6.2%} fitted, {share[1]:6.2%} in use", flush=True)


def used(number, rng, setting):
    for name, light in {
        "dipoles": stars(drawn(100, 1000, number, rng), drawn(0.2, 2, number, rng), rng),
        "variable stars": stars(drawn(200, 1000, number, rng), np.full(number, 0.03), rng, 0.1),
    }.items():
        scene = field(light, number, rng, setting)
        rows, candidates = sources(scene)
        if name != "dipoles":
            candidates = np.zeros(len(rows), candidates.dtype)
            candidates["row"], candidates["x"], candidates["y"] = np.arange(len(rows)), rows["x"], rows["y"]
        planes = scene.difference, scene.science, scene.template, scene.difference.variance > 0.0
        measure_dipoles(rows, candidates[:8], *planes)
        seconds = []
        for _ in range(3):
            begin = time.process_time()
            measure_dipoles(rows, candidates, *planes)
            seconds.append(time.process_time() - begin)
        print(f"{name}: {len(candidates)} fits, {1e3 * np.median(seconds) / len(candidates):.2f} ms CPU each")


def fluxes(number, rng, setting):
    for snr in (100.0, 300.0, 1000.0):
        light = stars(np.full(number, snr), drawn(0.3, 6.0, number, rng), rng)
        scene = field(light, number, rng, setting)
        rows, cell, found = probabilities(scene)
        rows, cell = rows[found > 0.5], cell[found > 0.5]
        change = rows["dipoleFluxDiff"] / rows["dipoleFluxDiffErr"]
        mean = (rows["dipoleMeanFlux"] - electrons_of(np.array([snr]))[0]) / rows["dipoleMeanFluxErr"]
        off = rows["dipoleLength"] - 0.25 * np.hypot(light.dx, light.dy)[cell]
        middle = CELL * scene.cells / 2
        step = scene.difference.need_wcs().jacobian(middle, middle) @ np.stack([-light.dx[cell], -light.dy[cell]])
        turn = (rows["dipoleAngle"] - np.degrees(np.arctan2(*step)) + 180) % 360 - 180
        chi2 = rows["dipoleChi2"].sum() / rows["dipoleNdata"].sum()
        print(
            f"S/N {snr:4.0f}: pulls of flux difference {change.mean():+.2f} +- {change.std():.2f}, of mean flux "
            f"{mean.mean():+.2f} +- {mean.std():.2f}; length off by {1e3 * off.mean():+.1f} +- {1e3 * off.std():.1f} "
            f"mas, angle {turn.mean():+.1f} +- {turn.std():.1f} deg; chi2 {chi2:.2f} per pixel"
        )


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "moved"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    rng = np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    setting = SETTINGS[sys.argv[4] if len(sys.argv) > 4 else ""]
    {"moved": out_of_place, "still": well_placed, "time": used, "fluxes": fluxes}[what](number, rng, setting)


if __name__ == "__main__":
    main()
