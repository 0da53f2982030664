"""Chromatic refraction: predicted dipoles beside simulated ones, flags, templates in airmass bins.

Run: python tests/bench/bench_dcr.py dipoles 100     amplitude, S/N and pulls of stars of 2,500 to 15,000 K in u, g, r
     python tests/bench/bench_dcr.py flags 300       recall, false flags: stars of S/N 20 to 1,000, airmass 1 to 2.2
     python tests/bench/bench_dcr.py pictures 6      the same through the whole subtraction, at three airmasses
     python tests/bench/bench_dcr.py bins 20         what a year leaves of a blue and a red star, one template or bins
     python tests/bench/bench_dcr.py time 1000       CPU of a prediction
Templates are at airmass 1.1. A third argument is the first seed. In `flags` a source counts as one of refraction where
that gives more than 0.6 of its S/N without noise, and as one of its own where it gives less than 0.3.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from scipy.spatial import cKDTree

from tests.subtract.dcr_pictures import SITE, picture
from tests.subtract.dcr_scenes import ROW, crowd, predicted, random_scene
from tests.templates.airmass_year import season
from workers.imaging.psf import shift_gradients
from workers.subtract.dcr import dcr_of
from workers.subtract.pipeline import subtract
from workers.survey.config import SubtractConfig
from workers.templates.airmass import BinRules, split_inputs

FAINT = 100.0
"""Flux of the stars whose noisy dipoles are measured: S/N 15."""


def dipoles(count, seed):
    for band in "ugr":
        for low, high in ((1.0, 1.4), (1.4, 1.8), (1.8, 2.2)):
            rng = np.random.default_rng(seed)
            found = np.array([one for _ in range(count) for one in dipole(rng, band, rng.uniform(low, high))])
            big = found[:, 0] > 0.01
            ratio, snr, pull = found[big, 1], found[big, 2], found[:, 3]
            print(
                f"{band} airmass {low}-{high}: {big.sum():3d} shifts > 0.01 arcsec, at most {found[:, 0].max():.3f}; "
                f"amplitude / predicted {np.mean(ratio):.3f} +- {np.std(ratio):.3f}; S/N / predicted "
                f"{np.mean(snr):.3f} +- {np.std(snr):.3f}; "
                f"pulls {pull.mean():+.3f}, width {pull.std():.3f} of {len(pull)}"
            )


def dipole(rng, band, airmass):
    """Yield shift (arcsec), amplitude and S/N over those predicted, and the pull of a noisy amplitude."""
    temperature = float(np.exp(rng.uniform(np.log(2500.0), np.log(15000.0))))
    scene = random_scene(rng, band, airmass, inputs=4)
    unit, _ = scene.difference(temperature)
    row = np.zeros(1, ROW)
    row["x"] = row["y"] = 2000.0
    row["snr"], row["psfFluxErr"] = 5.0, scene.error
    told = predicted(scene, row, [temperature], [FAINT], [2000.0], [2000.0])
    angle = np.radians(told["dcrAngle"][0])
    shift = scene.to_pixels(told["dcrShift"][0] * np.array([[np.sin(angle), np.cos(angle)]]))[0]
    _, by_x, by_y = shift_gradients(scene.psf.stamps(2000.0, 2000.0), 0.0, 0.0)
    shape = (by_x * shift[0] + by_y * shift[1])[0]
    power = (shape * shape).sum()
    noisy = FAINT * unit + rng.normal(0.0, scene.noise, unit.shape)
    yield (
        told["dcrShift"][0],
        (unit * shape).sum() / power,
        FAINT * np.sqrt((unit * unit).sum()) / scene.noise / told["dcrSnr"][0],
        ((noisy * shape).sum() / power - FAINT) * np.sqrt(power) / scene.noise,
    )


def flags(count, seed):
    for band in "ugr":
        rng = np.random.default_rng(seed)
        constant, changed = crowd(rng, band, count), crowd(rng, band, count, real=True)
        explained, own = constant.share > 0.6, changed.share < 0.3
        print(
            f"{band}: {len(constant.rows)} of {count} constant stars are sources, {explained.sum()} by refraction; "
            f"recall {constant.predicted['dcrDipole'][explained].mean():.4f}, without a catalogue "
            f"{constant.blind['dcrDipole'][explained].mean():.4f}; {own.sum()} sources of their own: false flags "
            f"{changed.predicted['dcrDipole'][own].sum()}, without a catalogue {changed.blind['dcrDipole'][own].sum()}"
        )


def pictures(count, seed):
    for band in "ugr":
        for airmass in (1.3, 1.6, 2.0):
            total = np.zeros(6, int)
            for number in range(count):
                made = picture(band, seed + number, airmass=airmass)
                result = subtract(made.science, made.template, SubtractConfig())
                places = np.column_stack([result.sources["x"], result.sources["y"]])
                new = cKDTree(np.column_stack([made.x, made.y])).query(places)[0] < 3.0
                flag, blind = (
                    dcr_of(result.sources, result.difference, made.inputs, SITE, {}, reference)["dcrDipole"]
                    for reference in (made.reference, None)
                )
                total += [sum(one) for one in (~new, flag & ~new, blind & ~new, new, flag & new, blind & new)]
            print(
                f"{band} airmass {airmass}: {total[0]} sources at constant stars, flagged {total[1]}, "
                f"without a catalogue {total[2]}; {total[3]} new sources, flagged {total[4]}, "
                f"without a catalogue {total[5]}"
            )


def bins(count, seed):
    for band in "ug":
        for temperature in (12000.0, 3000.0):
            rng = np.random.default_rng(seed)
            years = [season(rng, band, rng.uniform(-60.0, 5.0), temperature=temperature) for _ in range(count)]
            whole, binned, used = (np.concatenate([one[k] for one in years]) for k in range(3))
            held = [sum(len(one.rows) for one in year[3]) for year in years if year[3]]
            print(
                f"{band} {temperature:.0f} K, arcsec: one template rms {rms(whole):.4f}, "
                f"95 % {np.percentile(whole, 95):.4f}; "
                f"bins rms {rms(binned):.4f}, 95 % {np.percentile(binned, 95):.4f}; "
                f"years with bins {len(held)} of {count}, "
                f"inputs in them {np.mean(held) if held else 0:.1f} of 40; "
                f"exposures with a bin {np.mean(used < 40):.2f}, "
                f"its inputs {np.mean(used[used < 40]) if (used < 40).any() else 0:.1f}"
            )


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def timing(count, seed):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, "g", 1.8, inputs=4)
    rows = np.zeros(count, ROW)
    rows["x"], rows["y"] = rng.uniform(100.0, 3900.0, (2, count))
    rows["snr"], rows["psfFluxErr"], rows["templateFlux"], rows["templateFluxErr"] = 8.0, 1.0, 500.0, 1.0
    temperature, flux = rng.uniform(3000.0, 12000.0, count), np.full(count, 500.0)
    begin = time.process_time()
    predicted(scene, rows, temperature, flux, rows["x"] + 1.0, rows["y"])
    print(f"{count} sources and stars: {time.process_time() - begin:.4f} CPU s")
    vectors, begin = rng.uniform(-1.5, 1.5, (40, 2)), time.process_time()
    for _ in range(100):
        split_inputs(vectors, np.ones(40), np.arange(40), BinRules(4e-7))
    print(f"bins of 40 inputs: {10.0 * (time.process_time() - begin):.3f} CPU ms a cell")


if __name__ == "__main__":
    what = {"dipoles": dipoles, "flags": flags, "pictures": pictures, "bins": bins, "time": timing}[sys.argv[1]]
    start = time.process_time()
    what(int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    print(f"{time.process_time() - start:.1f} CPU s")
