"""Photon transfer and brighter-fatter, end to end: 20 pairs of flats with 1 % of lamp drift, then stars.

The kernel comes from the simulated flats alone. Prints gain and read noise against truth with their pulls, the textbook
recipe on the same frames, the growth of stars to 80 % of full well before and after the correction, and its time.

Run: python tests/bench/bench_ptc.py [SIZE] (default 2048, some five minutes; 1024 takes one)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.calibrate.lamp_flats import A00, ISR_STEPS, Lamp
from tests.isr.test_brighter_fatter import FULL_WELL, SKY, moffat, moments
from workers.calibrate import brighter_fatter, photon_transfer
from workers.imaging.calibrations import make_calibration
from workers.isr.brighter_fatter import restore
from workers.simulate.brighter_fatter import accumulate, border_shifts
from workers.survey.camera import parse_section

LEVELS = np.geomspace(300.0, 60000.0, 20)
STEPS = 8


def textbook(lamp, raws) -> str:
    """Error of (sum of means) / variance of the plain difference, mean over amplifiers, at four levels."""
    words = []
    for pair in (6, 11, 15, 19):
        errors = []
        for amplifier in lamp.camera.detector(0).amplifiers:
            section, beside = parse_section(amplifier.data), parse_section(amplifier.overscan)
            one, two = (raw.hdus[amplifier.hdu][section].astype(float) for raw in raws[2 * pair : 2 * pair + 2])
            offset = sum(float(raw.hdus[amplifier.hdu][beside].mean()) for raw in raws[2 * pair : 2 * pair + 2])
            errors.append((one.mean() + two.mean() - offset) / np.var(one - two) / amplifier.gain - 1.0)
        words.append(f"{100 * np.mean(errors):+.1f} % at {LEVELS[pair]:.0f} e-")
    return ", ".join(words)


def pulls(lamp, tables, name, truth) -> str:
    """Relative error and pull of a table against the amplifiers' truth."""
    relative = tables[name] / lamp.truth(truth) - 1.0
    pull = (tables[name] - lamp.truth(truth)) / tables[name + "Err"]
    return (
        f"{name}: mean {100 * relative.mean():+.3f} %, rms {100 * np.sqrt((relative**2).mean()):.3f} %, largest "
        f"{100 * np.abs(relative).max():.3f} %; pulls {pull.mean():+.2f} +- {pull.std():.2f}"
    )


def growth(fwhm: float, kernel, peak: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Growth of the second moments of a star before and after, mean over nine places in the pixel; flux error."""
    rows = []
    for x in (21.7, 22.0, 22.3):
        for y in (21.7, 22.0, 22.3):
            pixels, right, top = moffat(fwhm, (x, y))
            flux = peak / pixels.max()
            borders = (flux * right + SKY, flux * top + SKY)
            charge = accumulate(flux * pixels + SKY, border_shifts(A00), FULL_WELL, borders=borders, steps=32)
            image, nothing = charge.astype(np.float32), np.zeros(charge.shape, bool)
            restore(image, nothing, nothing, kernel["kernel"], anisotropy=float(kernel["anisotropy"][0]))
            truth = moments(flux * pixels, (x, y), fwhm)
            before, after = (moments(p - SKY, (x, y), fwhm) / truth - 1.0 for p in (charge, image.astype(float)))
            rows.append((before, after, (image.sum(dtype=float) - charge.sum()) / flux))
    return tuple(np.mean([row[n] for row in rows], axis=0) for n in range(3))


def report_transfer(size: int):
    """Measure gain, noise and covariances of 4 x 4 and 8 x 8 amplifiers."""
    for number, amplifiers in enumerate(((4, 4), (8, 8))):
        lamp = Lamp(size, amplifiers, steps=STEPS)
        raws = lamp.pairs(LEVELS, seed=11 + number)
        begin = time.process_time()
        solution = photon_transfer.solve(lamp.frames(raws), ISR_STEPS)
        used = time.process_time() - begin
        print(f"{amplifiers[0] ** 2} amplifiers of {size // amplifiers[0]} px, 20 pairs: solved in {used:.1f} CPU s")
        print(f"  textbook gain: {textbook(lamp, raws)}")
        for name, truth in (("gain", "gain"), ("readNoise", "read_noise"), ("readNoiseFit", "read_noise")):
            print("  " + pulls(lamp, solution.tables, name, truth))
        print(f"  {dict(solution.metadata)}")
    return solution


def report_stars(solution) -> None:
    """Correct stars with the kernel of the flats."""
    master = make_calibration("ptc", instrument="lamp", detector=0, tables=solution.tables)
    kernel = brighter_fatter.solve(master)
    print(f"kernel: {dict(kernel.metadata)}")
    for fwhm in (3.0, 3.5, 4.0):
        faint, bright = (growth(fwhm, kernel.tables, peak) for peak in (500.0, 0.8 * FULL_WELL))
        before, after = (100 * (bright[n] - faint[n]) for n in (0, 1))
        print(
            f"FWHM {fwhm}: second moments x, y from faint to 80 % full well {before[0]:+.2f}, {before[1]:+.2f} % "
            f"before, {after[0]:+.3f}, {after[1]:+.3f} % after (size: half of it); flux {bright[2]:+.1e}"
        )
    rng = np.random.default_rng(5)
    image = rng.poisson(1000.0, (4096, 4096)).astype(np.float32)
    star = (60000.0 * moffat(3.0, (22.0, 22.0))[0] / moffat(3.0, (22.0, 22.0))[0].max()).astype(np.float32)
    for y, x in rng.integers(0, 4096 - 45, (2000, 2)):
        image[y : y + 45, x : x + 45] += star
    nothing = np.zeros(image.shape, bool)
    begin = time.process_time()
    rounds, moved = restore(
        image, nothing, nothing, kernel.tables["kernel"], anisotropy=float(kernel.tables["anisotropy"][0])
    )
    print(f"4096 x 4096 corrected in {time.process_time() - begin:.2f} CPU s, {rounds} rounds, {moved:.3g} electrons")


if __name__ == "__main__":
    report_stars(report_transfer(int(sys.argv[1]) if len(sys.argv) > 1 else 2048))
