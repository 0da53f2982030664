"""Zero point by Monte Carlo: bias, width of the pulls and CPU time, by number of stars and kind of trap.

Run: python tests/bench/bench_zero_point.py table 2000 [n,n,... [case,case,...]]   detectors per case; stars
     python tests/bench/bench_zero_point.py spatial 300   gradients found, and invented where there is none
     python tests/bench/bench_zero_point.py clouds 300    cloud flags under clear and cloudy skies
     python tests/bench/bench_zero_point.py terms 200     colour terms of simulated nights: bias and pulls

Cases: clean; 20 % outliers, all too bright; with them a known colour term over 0.5 mag of effect, with an error of its
own; the same but a fifth of the colours unknown; a fifth of the stars off by 0.5 mag that no colour term knows, alone
and with the outliers; and a scatter of 0.001, 0.01 and 0.015 throughout. n counts all stars.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from schemas.errors import DataError
from tests.characterize.zero_point_scenes import PIVOT, SHAPE, SLOPE, ZERO, draw
from workers.characterize.color_terms import STAR_DTYPE, ColorTerm, fit_color_terms
from workers.characterize.zero_point import ZeroPointFlag, fit_zero_point
from workers.characterize.zero_point_clouds import sky_clarity
from workers.survey.characterize_config import PhotometryConfig

MMAG = 2500 / np.log(10)
CASES = {
    "clean": {},
    "outliers": {"outliers": 0.2},
    "colour": {"outliers": 0.2, "slope": SLOPE},
    "unknown": {"outliers": 0.2, "slope": SLOPE},
    "red": {"red": 0.2},
    "red+out": {"red": 0.2, "outliers": 0.2},
    "s=0.001": {"scatter": 0.001},
    "s=0.01": {"scatter": 0.01, "outliers": 0.2},
    "s=0.015": {"scatter": 0.015, "outliers": 0.2},
}


def one(name, count, seed):
    rng = np.random.default_rng([seed, count, 11])
    scene = draw(rng, count, **CASES[name])
    if "slope" not in CASES[name]:
        return fit_zero_point(*scene.arguments, min_stars=3)
    color = np.where(rng.random(count) < 0.2, np.nan, scene.color) if name == "unknown" else scene.color
    term = ColorTerm("g-r", SLOPE + 0.005 * rng.normal(), 0.005, PIVOT)
    return fit_zero_point(*scene.arguments, min_stars=3, color=color, color_term=term)


def table(number, counts, cases):
    print(f"{'case':>9s} {'n':>5s} {'bias mmag':>14s} {'rms':>6s}   pull  width     >5 refused ambig  CPU")
    for count in counts:
        for name in cases:
            begin, off, pull, refused, unsure = time.process_time(), [], [], 0, 0
            for seed in range(number):
                try:
                    found = one(name, count, seed)
                except DataError:
                    refused += 1
                    continue
                off.append(ZERO / found.nJyPerElectron - 1.0)
                pull.append(off[-1] / found.relativeError)
                unsure += bool(found.flags & ZeroPointFlag.AMBIGUOUS)
            spent = (time.process_time() - begin) / number
            off, pull = MMAG * np.array(off), np.array(pull)
            mean, size = off.mean(), off.std() / np.sqrt(len(off))
            print(
                f"{name:>9s} {count:5d} {mean:+7.2f} ± {size:4.2f} {off.std():6.2f} {pull.mean():+6.2f} "
                f"{pull.std():6.3f} {np.mean(np.abs(pull) > 5):6.4f} {refused:7d} {unsure:5d} {1e3 * spent:4.0f} ms",
                flush=True,
            )


def gradient(size):
    return lambda x, y: 1 + size * (2 * x / SHAPE[1] - 1) - 0.5 * size * (2 * y / SHAPE[0] - 1)


def spatial(number):
    for size in (0.0, 0.005, 0.02):
        for count in (60, 200, 1000):
            orders, off, pull = [], [], []
            for seed in range(number):
                rng = np.random.default_rng([seed, count, 3])
                scene = draw(rng, count, outliers=0.2, field=gradient(size))
                found = fit_zero_point(*scene.arguments, min_stars=3, x=scene.x, y=scene.y, shape=SHAPE)
                orders.append(0 if found.spatial is None else found.spatial.order)
                pull.append((ZERO / found.nJyPerElectron - 1) / found.relativeError)
                x, y = rng.uniform(0, SHAPE[1], 200), rng.uniform(0, SHAPE[0], 200)
                off.append(np.std(found.nJyPerElectron / ZERO * found.field(x, y) * gradient(size)(x, y)))
            share = [np.mean(np.array(orders) == k).round(3) for k in (0, 1, 2)]
            print(
                f"gradient {size:5.3f} n {count:4d}: order 0, 1, 2 {share}; rms over the detector "
                f"{MMAG * np.sqrt(np.mean(np.square(off))):.2f} mmag; pulls {np.mean(pull):+.2f} {np.std(pull):.3f}",
                flush=True,
            )


def cloud(rng, size):
    waves = [(rng.uniform(0.5, 2, 2) * rng.choice([-1, 1], 2), rng.uniform(0, 6.3)) for _ in range(4)]
    norm = 0.7 * len(waves) ** 0.5
    return lambda x, y: np.exp(
        size / norm * sum(np.sin(np.pi * (k[0] * x / SHAPE[1] + k[1] * y / SHAPE[0]) + p) for k, p in waves)
    )


def clouds(number):
    config = PhotometryConfig()
    for size in (0.0, 0.01, 0.02, 0.05, 0.15):
        for count in (40, 100, 400):
            flags, chance = [], []
            for seed in range(number):
                rng = np.random.default_rng([seed, count, 5])
                scene = draw(rng, count, outliers=0.2, field=cloud(rng, size))
                found = fit_zero_point(*scene.arguments, min_stars=3, x=scene.x, y=scene.y, shape=SHAPE)
                clarity = sky_clarity(found, "r", 30.0, SHAPE, config)
                flags.append(clarity.cloudFlag)
                chance.append(clarity.structureChance)
            low = [float(np.mean(np.array(chance) < c).round(4)) for c in (0.1, 0.01, 0.001)]
            print(f"cloud rms {size:5.3f} n {count:4d}: flagged {np.mean(flags):.3f}; chance < 0.1, 0.01, 0.001: {low}")


def night(rng, exposures=12, count=120, trap=0.1):
    """One band: the same stars on all exposures, catalogue errors shared, outliers too bright, red stars apart."""
    color = np.where(rng.random(count) < 0.3, rng.normal(1.3, 0.15, count), rng.normal(0.6, 0.2, count))
    brightness = 10 ** rng.uniform(-3, -1.2, count)
    wrong = 0.01 * rng.normal(size=count)
    odd = 0.5 * ((color > 1.2) & (rng.random(count) < trap / 0.25))
    parts = []
    for exposure in range(exposures):
        seen = np.flatnonzero(rng.random(count) < 0.7)
        rows = np.zeros(len(seen), STAR_DTYPE)
        rows["exposure"], rows["star"], rows["band"], rows["color"] = exposure, seen, "r", color[seen]
        rows["error"] = np.hypot(brightness[seen], 0.01)
        noise = brightness[seen] * rng.normal(size=len(seen)) + 0.004 * rng.normal(size=len(seen))
        bad = rng.random(len(seen)) < 0.2
        rows["difference"] = SLOPE * (color[seen] - PIVOT) + 3 + rng.normal() + wrong[seen] + noise - odd[seen]
        rows["difference"] -= bad * rng.exponential(0.4, len(seen))
        parts.append(rows)
    return np.concatenate(parts)


def terms(number):
    for trap in (0.0, 0.1):
        off, pull, begin = [], [], time.process_time()
        for seed in range(number):
            found = fit_color_terms(night(np.random.default_rng([seed, 7]), trap=trap), {"r": "g-r"})["r"]
            off.append(found.slope - SLOPE)
            pull.append(off[-1] / found.error)
        print(
            f"trap {trap}: slope bias {np.mean(off):+.5f} ± {np.std(off) / number**0.5:.5f}, rms {np.std(off):.5f}; "
            f"pulls {np.mean(pull):+.2f} {np.std(pull):.3f}; CPU {1e3 * (time.process_time() - begin) / number:.0f} ms"
        )


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "table"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    if what == "table":
        counts = [int(n) for n in sys.argv[3].split(",")] if len(sys.argv) > 3 else [5, 10, 30, 100, 1000]
        table(number, counts, sys.argv[4].split(",") if len(sys.argv) > 4 else list(CASES))
    else:
        {"spatial": spatial, "clouds": clouds, "terms": terms}[what](number)


if __name__ == "__main__":
    main()
