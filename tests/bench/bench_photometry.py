"""PSF photometry of isolated stars against truth, from S/N 10 to saturation; photutils and SExtractor beside it.

Run: python tests/bench/bench_photometry.py truth 10     ten detectors of 1089 stars per S/N, PSF known
     python tests/bench/bench_photometry.py fitted 10    ten detectors of stars of all S/N, PSF from the pipeline
     python tests/bench/bench_photometry.py peers 1      photutils (and SExtractor's apertures, where it is installed)
     python tests/bench/bench_photometry.py speed        CPU of centroids and fluxes of 10,000 sources on 4096 x 4096
     python tests/bench/bench_photometry.py catalogue    CPU of the full catalogue of the same detector
A third argument is the first seed. Positions are fitted. The mean flux at S/N 10 would need 10^6 stars; the flux fitted
at the true position of the same star, which is linear in the pixels and so unbiased, takes the noise out of it:
"bias" is the mean of the difference to it plus its own expectation, the truth.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from tests.characterize.conftest import info, moffat
from workers.characterize.catalogue import measure_sources
from workers.characterize.pipeline import Options, measure_frame
from workers.imaging.exposure import Exposure
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.survey.characterize_config import CharacterizeConfig

PITCH, SIDE, FWHM, BETA, SIZE = 31, 33, 3.6, 3.5, 25
SKY, READ_NOISE, WELL = 400.0, 5.0, 1e5
RATIOS = (10, 14, 20, 30, 50, 100, 300, 1000)


def known_psf(height, width):
    stamp = moffat(np.zeros(1), np.zeros(1), np.array([FWHM]), BETA, SIZE)
    return PsfModel((stamp / stamp.sum()).astype(np.float32), 0, width, height)


def flux_at(ratio):
    """Return the electrons of a star of this S/N, for the equal-weight fit."""
    stamp = known_psf(1, 1).stamps(0.0, 0.0)[0]
    pp = np.square(stamp).sum()
    a, b = (SKY + READ_NOISE**2) / pp, (stamp**3).sum() / pp**2
    return 0.5 * (b * ratio**2 + np.sqrt((b * ratio**2) ** 2 + 4 * a * ratio**2))


def scene(rng, flux, fwhm=FWHM):
    """Draw a grid of isolated stars: image less sky (the variance is made of its counts), variance, places."""
    pitch = PITCH + 30  # stamps reach well into the wings, and never touch
    at = np.arange(SIDE) * pitch + pitch // 2
    x = (at[None, :] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    y = (at[:, None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    flux = np.broadcast_to(flux, x.shape)
    light = np.empty((SIDE * pitch, SIDE * pitch))
    for i in range(SIDE):
        row = slice(i * SIDE, (i + 1) * SIDE)
        widths = np.full(SIDE, fwhm)
        stamps = moffat(x[row] - np.round(x[row]), y[row] - np.round(y[row]), widths, BETA, pitch)
        strip = (stamps * flux[row, None, None]).transpose(1, 0, 2).reshape(pitch, -1)
        light[i * pitch : (i + 1) * pitch] = strip
    counts = rng.poisson(light + SKY) + rng.normal(0.0, READ_NOISE, light.shape)
    variance = np.maximum(counts, 1.0) + READ_NOISE**2
    return (counts - SKY).astype(np.float32), variance.astype(np.float32), x, y, flux


def inside(psf):
    """Return the share of the light that the PSF's stamp holds: fluxes are those inside it."""
    return float(moffat(np.zeros(1), np.zeros(1), np.array([FWHM]), BETA, psf.size).sum())


def measured(image, variance, psf, x, y, rng):
    """Return fitted fluxes less their bias, their errors, and the fluxes at the true places."""
    usable = np.ones(image.shape, bool)
    start = x + rng.normal(0.0, 0.1, x.size), y + rng.normal(0.0, 0.1, x.size)
    places = psf_centroids(image, variance, usable, psf, *start)
    rows = psf_fluxes(image, variance, usable, psf, places["x"], places["y"])
    fixed = psf_fluxes(image, variance, usable, psf, x, y)["flux"]
    return rows["flux"] - places["fluxBias"], rows["flux"], rows["fluxErr"], fixed


def report(name, ratio, flux, error, fixed, truth, raw=None):
    pulls = (flux - truth) / error
    keep = np.abs(pulls - np.median(pulls)) < 8.0
    change = np.mean((flux - fixed)[keep]) / truth.mean()
    spread = np.std((flux - fixed)[keep]) / truth.mean() / np.sqrt(keep.sum())
    text = "" if raw is None else f", uncorrected {np.mean((raw - fixed)[keep]) / truth.mean() * 100:+.3f} %"
    print(
        f"{name:9s} S/N {ratio:5.0f} peak {truth.mean() * 0.06:8.0f} e: pulls {pulls[keep].mean():+.3f} +- "
        f"{1 / np.sqrt(keep.sum()):.3f}, width {pulls[keep].std():.3f}, bias {100 * change:+.4f} +- {100 * spread:.4f} "
        f"% (mean flux {np.mean(flux[keep] / truth[keep] - 1) * 100:+.3f} %){text}, lost {np.sum(~keep)}",
        flush=True,
    )


def with_true_psf(number, first):
    for ratio in (*RATIOS, "well"):
        psf = known_psf(1, 1)
        flux = 0.9 * WELL / psf.stamps(0.0, 0.0).max() if ratio == "well" else flux_at(ratio)
        parts = []
        for seed in range(first, first + number):
            rng = np.random.default_rng([seed, round(flux)])
            image, variance, x, y, truth = scene(rng, flux)
            psf = known_psf(*image.shape)
            parts.append((*measured(image, variance, psf, x, y, rng), truth * inside(psf)))
        flux_, raw, error, fixed, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
        report("ours", np.median(truth / error), flux_, error, fixed, truth, raw)


def with_fitted_psf(number, first):
    """One scale per detector, from the stars of S/N 100 and more, takes the place of the zero point."""
    steps = np.array([flux_at(ratio) for ratio in RATIOS] + [0.9 * WELL / 0.065])
    share = np.array([6, 5, 4, 4, 4, 4, 3, 2, 1]) / 33
    parts = []
    for seed in range(first, first + number):
        rng = np.random.default_rng([seed, 7])
        image, variance, x, y, truth = scene(rng, rng.choice(steps, SIDE * SIDE, p=share))
        frame = Exposure(info(), image + np.float32(SKY), np.zeros(image.shape, np.int32), variance)
        found = measure_frame(frame, Options(CharacterizeConfig()))
        psf = found.psf.model
        flux, raw, error, fixed = measured(found.sky.image, variance, psf, x, y, rng)
        bright = truth > flux_at(90)
        scale = np.sum(flux[bright]) / np.sum(truth[bright])
        parts.append((flux, raw, error, fixed, truth * scale, truth))
    flux, raw, error, fixed, scaled, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    for step in steps:
        at = truth == step
        report("fitted", np.median(scaled[at] / error[at]), flux[at], error[at], fixed[at], scaled[at], raw[at])


def peers(number, first):
    from astropy.table import Table
    from photutils.psf import ImagePSF, PSFPhotometry

    for ratio in RATIOS[::2]:
        parts, seconds = [], [0.0, 0.0]
        for seed in range(first, first + number):
            rng = np.random.default_rng([seed, ratio])
            image, variance, x, y, truth = scene(rng, flux_at(ratio))
            psf = known_psf(*image.shape)
            begin = time.process_time()
            flux, raw, error, fixed = measured(image, variance, psf, x, y, rng)
            seconds[0] += time.process_time() - begin
            begin = time.process_time()
            stamp = psf.stamps(0.0, 0.0)[0]
            fit = PSFPhotometry(ImagePSF(stamp), 13, aperture_radius=4)
            table = Table({"x": x + 0.1, "y": y - 0.1, "flux": truth})
            theirs = fit(image, error=np.sqrt(variance), init_params=table)
            seconds[1] += time.process_time() - begin
            truth = truth * inside(psf)
            row = (flux, error, fixed, truth, raw, np.array(theirs["flux_fit"]), np.array(theirs["flux_err"]))
            parts.append((*row, *(sextracted(image, variance, x, y) or (np.full(x.size, np.nan),) * 2)))
        flux, error, fixed, truth, raw, their, their_error, sex, sex_error = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        report("ours", ratio, flux, error, fixed, truth, raw)
        report("photutils", ratio, their, their_error, fixed, truth)
        seen = np.isfinite(sex)
        if seen.any():
            report("sex APER", ratio, sex[seen], sex_error[seen], fixed[seen], truth[seen])
        print(f"  CPU ours {seconds[0]:.2f} s, photutils {seconds[1]:.1f} s for {number * x.size} stars")


def sextracted(image, variance, x, y):
    """Return SExtractor's flux in a circle of 25 pixels diameter and its error at each star (NaN: not found)."""
    program = shutil.which("source-extractor") or shutil.which("sex")
    if program is None:
        return None
    from astropy.io import fits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fits.writeto(folder / "image.fits", image)
        fits.writeto(folder / "variance.fits", variance)
        (folder / "columns").write_text("X_IMAGE\nY_IMAGE\nFLUX_APER\nFLUXERR_APER\n")
        options = {
            "CATALOG_NAME": "found", "PARAMETERS_NAME": "columns", "PHOT_APERTURES": "25", "FILTER": "N",
            "WEIGHT_TYPE": "MAP_VAR", "WEIGHT_IMAGE": "variance.fits", "BACK_TYPE": "MANUAL", "BACK_VALUE": "0.0",
            "DETECT_THRESH": "1.0", "MASK_TYPE": "NONE", "VERBOSE_TYPE": "QUIET",
        }  # fmt: skip
        command = [program, "image.fits", "-c", "/dev/null"]
        for key, value in options.items():
            command += [f"-{key}", value]
        subprocess.run(command, cwd=folder, check=True)
        found = np.loadtxt(folder / "found", ndmin=2)
    apart, nearest = cKDTree(found[:, :2] - 1.0).query(np.column_stack([x, y]))
    seen = apart < 1.5
    return np.where(seen, found[nearest, 2], np.nan), np.where(seen, found[nearest, 3], np.nan)


def crowded(seed=1, size=4096, number=10_000):
    """Draw a detector of stars at random places: image, variance, PSF (degree 2), places."""
    rng = np.random.default_rng(seed)
    profile = known_psf(1, 1).coefficients[0]
    terms = np.zeros((6, SIZE, SIZE), np.float32)
    terms[0], terms[1] = profile, 0.01 * (np.roll(profile, 1, 0) + np.roll(profile, -1, 0) - 2 * profile)
    psf = PsfModel(terms, 2, size, size)
    light = np.zeros((size, size))
    x, y = rng.uniform(0, size - 1, (2, number))
    order = np.argsort(y)
    x, y = x[order], y[order]
    flux = flux_at(7) * (1.0 - rng.random(number)) ** -1.2
    flux = np.minimum(flux, WELL / 0.07)
    half = SIZE // 2
    stamps = psf.stamps_at(x, y) * flux[:, None, None]
    for stamp, i, j in zip(stamps, np.round(y).astype(int), np.round(x).astype(int), strict=True):
        rows, columns = np.clip([i - half, i + half + 1], 0, size), np.clip([j - half, j + half + 1], 0, size)
        part = stamp[rows[0] - i + half : rows[1] - i + half, columns[0] - j + half : columns[1] - j + half]
        light[rows[0] : rows[1], columns[0] : columns[1]] += part
    variance = light + SKY + READ_NOISE**2
    image = (light + rng.normal(0, 1, light.shape) * np.sqrt(variance)).astype(np.float32)
    return image, variance.astype(np.float32), psf, x, y


def speed():
    image, variance, psf, x, y = crowded()
    usable = np.ones(image.shape, bool)
    rng = np.random.default_rng(0)
    start = x + rng.normal(0, 0.15, x.size), y + rng.normal(0, 0.15, x.size)
    for turn in range(4):
        begin = time.process_time()
        places = psf_centroids(image, variance, usable, psf, *start)
        middle = time.process_time()
        psf_fluxes(image, variance, usable, psf, places["x"], places["y"])
        end = time.process_time()
        if turn:
            print(f"{x.size} sources: centroids {middle - begin:.3f} s, fluxes {end - middle:.3f} s CPU")


def catalogue():
    image, variance, psf, x, y = crowded()
    size = image.shape[0]
    exposure = Exposure(
        info(),
        image,
        np.zeros(image.shape, np.int32),
        variance,
        unit="nJy",
        psf=psf,
        wcs=SkyWcs.tangent(150.0, 2.0, (size / 2, size / 2), 0.2, 20.0, 1),
    )
    for turn in range(3):
        begin = time.process_time()
        rows = measure_sources(exposure)
        if turn:
            print(f"{x.size} stars, {len(rows)} rows: {time.process_time() - begin:.2f} s CPU", flush=True)
    apart, _ = cKDTree(np.column_stack([rows["x"], rows["y"]])).query(np.column_stack([x, y]))
    far, _ = cKDTree(np.column_stack([x, y])).query(np.column_stack([rows["x"], rows["y"]]))
    print(f"found {np.mean(apart < 1.5):.3f} of the stars (S/N 7 and more); {np.sum(far > 3)} rows are none")


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "truth"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    jobs = {"truth": with_true_psf, "fitted": with_fitted_psf, "peers": peers}
    if what in jobs:
        jobs[what](number, first)
    else:
        {"speed": speed, "catalogue": catalogue}[what]()


if __name__ == "__main__":
    main()
