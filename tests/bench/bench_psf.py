"""The PSF of simulated 4096 x 4096 detectors against the true one, and the CPU time of detection, selection and fit.

Run: python tests/bench/bench_psf.py grid            nine detectors: FWHM 2.2 to 6 pixels, Moffat beta 2.5 to 4,
                                                     two of them with coma
     python tests/bench/bench_psf.py grid 2          the same with two fields each
     python tests/bench/bench_psf.py traps           fields on which star selection could fail
     python tests/bench/bench_psf.py profile         cProfile of one detector
A detector holds stars of realistic fluxes to three magnitudes above saturation, galaxies, blends and unmasked cosmic
rays; width (10 %) and ellipticity vary over it. dT/T is the relative error of the adaptive-moment size of the model's
stamps on a 9 x 9 grid of the detector; de the error of the ellipticity; flux the scatter over the grid, and over the
pixel's phases, of the flux that the model gives a noiseless star; chi2 that of the reserved stars as the fit reports
it, and of probes: isolated stars drawn anew with the true PSF, per degree of freedom within 1.5 FWHM, mean over those
of S/N 50 to 150, to 300, and above.
Where `source-extractor` (or `sex`) and `psfex` are on the PATH they run beside on the same pixels.
"""

from __future__ import annotations

import cProfile
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from tests.characterize.psf_scenes import FULL, READ_NOISE, SKY, Shape, draw_scene
from workers.characterize.psf_fit import fit_psf
from workers.characterize.psf_stars import cut_stars, least_chi2, located, residuals
from workers.characterize.star_selection import select_stars
from workers.imaging.detection import detect
from workers.imaging.psf import PsfModel
from workers.imaging.psf_shapes import adaptive_moments

SIZE, STAMP = 4096, 25
GRID = (
    (Shape(2.2, 4.0), 1500),
    (Shape(2.6, 2.5), 2000),
    (Shape(3.2, 3.0), 1000),
    (Shape(3.6, 3.5), 2000),
    (Shape(4.2, 2.5), 3000),
    (Shape(5.0, 3.0), 1500),
    (Shape(6.0, 4.0), 2000),
    (Shape(2.4, 3.0, coma=0.3), 2000),
    (Shape(3.8, 3.0, coma=0.3), 2000),
)
TRAPS = {
    "few stars": {"stars": 60, "galaxies": 200},
    "hardly any": {"stars": 25, "galaxies": 100},
    "galaxies": {"stars": 400, "galaxies": 9000, "faintest": 4e3},
    "crowded": {"stars": 60000, "galaxies": 500, "faintest": 1e3},
    "blends": {"stars": 2000, "blends": 0.5},
    "width 15%": {"stars": 1500, "galaxies": 3000, "shape": Shape(3.6, 3.0, variation=0.15)},
    "width 30%": {"stars": 1500, "galaxies": 3000, "shape": Shape(3.6, 3.0, variation=0.30)},
    "saturated": {"stars": 1500, "slope": 0.15},
}


def measured(scene):
    """Run detection, selection and fit; return the fit, the number of stars and CPU seconds."""
    clock = [time.process_time()]
    found = detect(scene.image, scene.noise, np.zeros(scene.image.shape, bool), threshold=5.0)
    clock.append(time.process_time())
    stars = select_stars(scene.image, scene.noise, scene.usable, found.rows, min_snr=50.0, stamp_size=STAMP)
    clock.append(time.process_time())
    at = found.rows[stars.rows]
    planes = scene.image, scene.variance, scene.usable
    fit = fit_psf(*planes, at["x"], at["y"], fwhm=stars.fwhm, size=STAMP, max_degree=3, oversampling=None)
    clock.append(time.process_time())
    return fit, found.rows, stars, np.diff(clock)


def grid(side=9):
    place = np.linspace(0.02 * SIZE, 0.98 * SIZE, side)
    return (axis.ravel() for axis in np.meshgrid(place, place))


def compared(scene, model):
    """Relative size error, ellipticity errors and relative flux error over the grid."""
    x, y = grid()
    size = model.size
    true, ours = adaptive_moments(scene.stamps(x, y, size)), adaptive_moments(model.stamps(x, y))
    rng = np.random.default_rng(1)
    px, py = x + rng.uniform(-0.5, 0.5, len(x)), y + rng.uniform(-0.5, 0.5, len(x))
    drawn, stamps = scene.stamps(px, py, size, phase=True), model.stamps_at(px, py)
    flux = (drawn * stamps).sum(axis=(1, 2)) / np.square(stamps).sum(axis=(1, 2))
    return ours.size / true.size - 1.0, np.hypot(ours.e1 - true.e1, ours.e2 - true.e2), flux / flux.mean() - 1.0


def probe_chi2(scene, model, number=400):
    """Chi2 per degree of freedom of fresh stars within 1.5 FWHM, mean over S/N bins."""
    rng = np.random.default_rng(2)
    half, side = STAMP // 2 + 2, STAMP + 4
    values, snr = [], []
    for x, y in rng.uniform(half + 1, SIZE - half - 2, (number, 2)):
        expected = scene.stamps(x, y, side, phase=True)[0] * 10 ** rng.uniform(4.0, 5.7) + SKY
        data = rng.poisson(expected) + rng.normal(0, READ_NOISE, expected.shape) - SKY
        local, usable = constant_at(model, x, y), np.ones((side, side), bool)
        at = [np.array([place - np.round(place) + side // 2]) for place in (x, y)]
        star = located(cut_stars(data, expected + READ_NOISE**2, usable, *at, STAMP), local, 6)
        left = residuals(star, local, 0.0, clip=False)
        values.append(least_chi2(star, local, left, scene.shape.fwhm)[0])
        snr.append(left.snr[0])
    values, snr = np.array(values), np.array(snr)
    return [values[(snr > a) & (snr <= b)].mean() for a, b in ((50, 150), (150, 300), (300, 1000))]


def constant_at(model, x, y):
    """The model at one place, everywhere."""
    return PsfModel(model.fine_stamps(x, y).astype(np.float32), 0, 100, 100, model.oversampling)


def line(name, scene, fit, seconds, extra=""):
    size, ellipticity, flux = compared(scene, fit.model)
    probes = " ".join(f"{value:.3f}" for value in probe_chi2(scene, fit.model))
    clock = " ".join(f"{part:.2f}" for part in seconds)
    print(
        f"{name:22s} deg {fit.model.degree} os {fit.model.oversampling} "
        f"stars {np.count_nonzero(fit.used):4d}/{len(fit.used):4d} dT/T {1e3 * size.mean():+6.2f}e-3 "
        f"+- {1e3 * size.std():5.2f} de {1e3 * ellipticity.mean():5.2f}e-3 flux {1e3 * flux.std():5.2f}e-3 "
        f"chi2 {fit.quality.chi2:.3f} ({fit.quality.nReserved}) probes {probes} "
        f"CPU {clock} = {seconds.sum():.2f} s{extra}",
        flush=True,
    )
    return size.mean()


def run_grid(number, first):
    for shape, stars in GRID:
        biases = []
        for seed in range(first, first + number):
            scene = draw_scene(seed, SIZE, shape=shape, stars=stars)
            fit, _, _, seconds = measured(scene)
            biases.append(1e3 * line(f"FWHM {shape.fwhm} beta {shape.beta}", scene, fit, seconds))
            peer(scene)
        if number > 1:
            print(
                f"   mean dT/T {np.mean(biases):+.2f}e-3 +- {np.std(biases, ddof=1) / np.sqrt(number):.2f}", flush=True
            )


def purity(scene, rows, stars):
    """Share of the chosen that are no lone stars: galaxies nearer than any star, blends, cosmic rays."""
    at = rows[stars.rows]
    lone = np.array([np.hypot(scene.x - a["x"], scene.y - a["y"]).min() < 1.0 for a in at])
    near = [np.hypot(*(scene.blends - (a["x"], a["y"])).T).min(initial=99.0) < 6.0 for a in at]
    return f" no star {np.mean(~lone):.3f} blends {np.mean(near):.3f}"


def run_traps(first):
    for name, settings in TRAPS.items():
        scene = draw_scene(first, SIZE, **settings)
        try:
            fit, rows, stars, seconds = measured(scene)
        except Exception as error:
            print(f"{name:22s} {error}")
            continue
        line(name, scene, fit, seconds, purity(scene, rows, stars))


def peer(scene):
    """SExtractor and PSFEx on the same pixels, where they are installed."""
    sextractor = shutil.which("source-extractor") or shutil.which("sex")
    psfex = shutil.which("psfex")
    if not (sextractor and psfex):
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds = run_peer(Path(folder), scene, sextractor, psfex)
        with fits.open(Path(folder) / "cat.psf") as hdus:
            model, stars, chi2 = psfex_model(hdus[1]), hdus[1].header["ACCEPTED"], hdus[1].header["CHI2"]
    size, ellipticity, flux = compared(scene, model)
    print(
        f"   PSFEx deg {model.degree} stars {stars} dT/T {1e3 * size.mean():+6.2f}e-3 +- {1e3 * size.std():5.2f} "
        f"de {1e3 * ellipticity.mean():5.2f}e-3 flux {1e3 * flux.std():5.2f}e-3 chi2 {chi2:.3f} "
        f"SExtractor {seconds[0]:.2f} s + PSFEx {seconds[1]:.2f} s",
        flush=True,
    )


def run_peer(folder, scene, sextractor, psfex):
    """Return the CPU seconds of both programs."""
    columns = ("X_IMAGE", "Y_IMAGE", "FLUX_APER(1)", "FLUXERR_APER(1)", "FLUX_RADIUS", "SNR_WIN", "ELONGATION")
    (folder / "cat.param").write_text("\n".join([*columns, "FLAGS", f"VIGNET({STAMP},{STAMP})"]))
    (folder / "default.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    image = np.where(scene.usable, scene.image, FULL).astype(np.float32)
    fits.PrimaryHDU(image).writeto(folder / "image.fits")
    common = ["-CATALOG_TYPE", "FITS_LDAC", "-CATALOG_NAME", "cat.fits", "-PARAMETERS_NAME", "cat.param"]
    options = ["-FILTER_NAME", "default.conv", "-DETECT_THRESH", "5", "-BACK_TYPE", "MANUAL", "-BACK_VALUE", "0"]
    options += ["-GAIN", "1", "-SATUR_LEVEL", str(0.95 * FULL), "-PHOT_APERTURES", str(3 * scene.shape.fwhm)]
    first = timed([sextractor, "image.fits", "-c", "/dev/null", *common, *options], folder)
    fit = ["-PSF_SAMPLING", "1", "-PSF_SIZE", f"{STAMP},{STAMP}", "-PSFVAR_DEGREES", "2", "-NTHREADS", "1"]
    quiet = ["-CHECKPLOT_DEV", "NULL", "-CHECKIMAGE_TYPE", "NONE", "-SAMPLE_MINSN", "50"]
    return first, timed([psfex, "cat.fits", "-c", "/dev/null", *fit, *quiet], folder)


def timed(command, folder):
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def psfex_model(hdu):
    """PSFEx's polynomial as ours: its monomials in (x - zero) / scale, re-fitted on a grid of positions."""
    header, degree = hdu.header, hdu.header["POLDEG1"]
    masks = np.asarray(hdu.data["PSF_MASK"][0], float)
    x, y = grid(7)
    u = (x + 1 - header["POLZERO1"]) / header["POLSCAL1"]
    v = (y + 1 - header["POLZERO2"]) / header["POLSCAL2"]
    terms = np.stack([u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)], axis=1)
    return PsfModel.fit(np.tensordot(terms, masks, axes=1), x, y, degree=degree, width=SIZE, height=SIZE)


def profile():
    scene = draw_scene(1, SIZE, shape=Shape(3.6, 3.5), stars=2000)
    measured(scene)
    profiler = cProfile.Profile()
    profiler.enable()
    measured(scene)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "grid"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if what == "profile":
        profile()
    elif what == "traps":
        run_traps(number)
    else:
        run_grid(number, int(sys.argv[3]) if len(sys.argv) > 3 else 1)


if __name__ == "__main__":
    main()
