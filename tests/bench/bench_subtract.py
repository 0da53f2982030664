"""Image subtraction on a simulated pair, against truth: quality, CPU seconds, memory; HOTPANTS beside it.

Run: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/bench_subtract.py MODE [SEED [SIZE]]

MODE pair     template 9 times deeper       equal    template of equal depth
     crowded  100,000 stars                 shifted  registration that waves by 0.2 pixels over the field
     worse    template seeing worse         many     600 transients, for pulls and completeness
     noise    nothing but sky: detections against the Gaussian expectation
     speed    CPU seconds by step and memory of a fresh process, first call and later ones
After SIZE options of SubtractConfig may follow as KEY=VALUE, e.g. kernel_degree=2.

All are judged by the same code: score = matched filter with the difference's own PSF and variance plane, divided by its
robust noise where said so; a false positive is a peak beyond 5 sigma further than 5 pixels from a transient, 6 from a
variable star, 18 from a saturated or bled pixel; `wing` within 45 pixels of a star of 3e5 electrons, else `clean`.
`hotpants` is run on the same pair where it is on the PATH (as FITS files, with true variances).
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
import pkgutil
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections import defaultdict
from functools import wraps
from pathlib import Path

import numpy as np

from tests.bench.subtract_scene import FULL_WELL, NJY, SKY, make_noise, make_pair
from tests.bench.subtract_truth import Result, Truth, judge, peaks_of, places, robust, told
from workers.imaging.exposure import Exposure
from workers.process import keep_memory
from workers.subtract.masking import blocked_pixels
from workers.subtract.matched_filter import score_image
from workers.subtract.pipeline import subtract
from workers.survey.config import SubtractConfig

CONFIG = {}
PAIRS = {
    "pair": {},
    "equal": {"depth": 1.0},
    "crowded": {"stars": 100_000},
    "shifted": {"registration": 0.2},
    "worse": {"template_fwhm": 5.4},
    "many": {"transients": 600},
}


def timed(function):
    begin = time.process_time()
    made = function()
    return made, time.process_time() - begin


def ours(pair):
    config = SubtractConfig(**CONFIG)
    done, seconds = timed(lambda: subtract(pair.science, pair.template, config))
    difference, rows = done.difference, done.sources
    return Result(
        "skydelta", difference.image, difference.variance, blocked_pixels(difference), difference.need_psf(), rows,
        seconds, dict(done.metrics),
    )  # fmt: skip


def hotpants(pair, name, options):
    """Run HOTPANTS on FITS files of the pair in electrons, with true noise images; None where there is no binary."""
    from astropy.io import fits

    binary = shutil.which("hotpants")
    if binary is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = {key: str(Path(folder) / f"{key}.fits") for key in ("s", "t", "sn", "tn", "sm", "tm", "d", "dn", "dm")}
        for key, exposure in (("s", pair.science), ("t", pair.template)):
            fits.writeto(path[key], exposure.image / np.float32(NJY) + np.float32(SKY))
            fits.writeto(path[key + "n"], np.sqrt(exposure.variance) / np.float32(NJY))
            fits.writeto(path[key + "m"], (exposure.mask != 0).astype(np.int16))
        files = ["-inim", path["s"], "-tmplim", path["t"], "-outim", path["d"], "-oni", path["dn"], "-omi", path["dm"],
                 "-ini", path["sn"], "-tni", path["tn"], "-imi", path["sm"], "-tmi", path["tm"]]  # fmt: skip
        limits = ["-il", "0", "-tl", "0", "-iu", str(0.98 * FULL_WELL[0]), "-tu", str(0.98 * FULL_WELL[1]),
                  "-ig", "1", "-tg", "1", "-n", "i", "-c", "t", "-v", "0"]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([binary, *files, *limits, *options], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        image, noise, mask = (np.asarray(fits.getdata(path[key])) for key in ("d", "dn", "dm"))
    excluded = (mask != 0) | (pair.science.mask != 0) | (pair.template.mask != 0) | ~(noise > 0)
    image, noise = (np.where(excluded, 0, plane).astype(np.float32) for plane in (image, noise))
    psf = pair.science.need_psf()
    return Result(name, image * NJY, np.where(excluded, 1, noise * NJY) ** 2, excluded, psf, None, seconds, {})


def pure_noise(seed, size):
    """Detections of both signs off the kernel's stars against white noise through the same matched filter."""
    for depth in (9.0, 1.0):
        pair = make_noise(seed, size, depth=depth)
        away = np.ones((size, size), bool)
        for x, y in np.round(places(pair.stars)).astype(int):
            away[max(y - 30, 0) : y + 31, max(x - 30, 0) : x + 31] = False
        away[:40] = away[-40:] = away[:, :40] = away[:, -40:] = False
        result = ours(pair)
        plain = score_image(result.image, result.variance, result.excluded, result.psf)
        rng = np.random.default_rng(seed + 1)
        expected = np.zeros((2, 3))
        rounds = 6
        for _ in range(rounds):
            white = rng.standard_normal((size, size), np.float32)
            ideal = score_image(white, np.ones_like(white), np.zeros_like(away), result.psf)
            expected += counts(peaks_of(ideal, 4.0), away) / rounds
        print(f"== pure noise, template {depth:g} times deeper: score noise {robust(plain[away]):.4f}" + told(result))
        own = robust(plain[away])
        tables = {
            "peaks of the score": counts(peaks_of(plain, 4.0), away),
            "rescaled to noise 1": counts(peaks_of(plain / own, 4.0), away),
            "white noise": expected,
        }
        print("                           + > 4   - > 4 + > 4.5 - > 4.5   + > 5   - > 5")
        for name, table in tables.items():
            print(f"{name:24s}" + "".join(f"{value:8.1f}" for value in table.T.ravel()))
        sources = result.sources
        mine = away[np.round(sources["y"]).astype(int), np.round(sources["x"]).astype(int)]
        print(f"sources: {(mine & ~sources['isNegative']).sum()} + {(mine & sources['isNegative']).sum()} -")


def counts(rows, away):
    """Return the numbers of peaks by (sign, threshold 4, 4.5, 5)."""
    inside = away[rows[:, 1].astype(int), rows[:, 0].astype(int)]
    table = [[(inside & (sign * rows[:, 2] > limit)).sum() for limit in (4.0, 4.5, 5.0)] for sign in (1, -1)]
    return np.array(table, float)


def watched(spent):
    """Make every function of workers.subtract tell how long it takes, by name, under whatever name it exists."""
    import workers.subtract

    for found in pkgutil.iter_modules(workers.subtract.__path__):
        if found.name == "worker":
            continue
        module = importlib.import_module(f"workers.subtract.{found.name}")
        for name, step in list(vars(module).items()):
            if not isinstance(step, types.FunctionType) or not step.__module__.startswith("workers.subtract"):
                continue

            def watch(*args, _step=step, **kwargs):
                begin = time.process_time()
                try:
                    return _step(*args, **kwargs)
                finally:
                    spent[f"{_step.__module__.split('.')[-1]}.{_step.__name__}"].append(time.process_time() - begin)

            setattr(module, name, wraps(step)(watch))


def resident(key):
    """Return a figure of this process's memory, MiB; NaN where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def forget_peak():
    """Let the peak of resident memory begin anew."""
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def speed(seed, size):
    """Time a fresh process on the pair: the scene is made here, the calls run there."""
    pair = make_pair(seed, size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.pickle"
        planes = [
            (dict(e.__dict__, provenance={}, metrics={}, image=np.array(e.image), mask=np.array(e.mask),
                  variance=np.array(e.variance)))
            for e in (pair.science, pair.template)
        ]  # fmt: skip
        path.write_bytes(pickle.dumps(planes, protocol=5))
        options = [f"{key}={value}" for key, value in CONFIG.items()]
        del pair, planes
        for parts in ("", "parts"):
            subprocess.run([sys.executable, __file__, "_calls", str(path), parts or "total", *options], check=True)


def calls(path, parts):
    """Subtract the pair in this new process; with `parts` tell the steps."""
    config = SubtractConfig(**CONFIG)
    science, template = (Exposure(**fields) for fields in pickle.loads(Path(path).read_bytes()))  # noqa: S301 - the parent's
    forget_peak()
    before = resident("VmRSS")
    spent = defaultdict(list)
    if parts == "parts":
        watched(spent)
    totals = []
    for turn in range(5):
        done, seconds = timed(lambda: subtract(science, template, config))
        totals.append(seconds)
        if turn == 0:
            first = {name: sum(values) for name, values in spent.items()}
            spent.clear()
        del done
    if parts != "parts":
        usual = np.median(totals[1:])
        print(f"everything      {usual:.2f} s CPU (median of 4; {min(totals[1:]):.2f} to {max(totals[1:]):.2f})")
        print(f"first call      {totals[0]:.2f} s CPU, {totals[0] / usual:.2f} times the others")
        print(f"peak memory     {resident('VmHWM') - before:.0f} MiB beyond the inputs ({before:.0f} MiB)")
        return
    print("by function, with what it calls, mean of calls 2 to 5 (first)")
    for name, values in sorted(spent.items(), key=lambda item: -sum(item[1])):
        if sum(values) > 0.02:
            print(f"  {name:45s} {sum(values) / 4:6.3f} s ({first.get(name, 0):.3f}), {len(values) / 4:g} calls")


def main(mode="pair", seed="1", size="4096", *options):
    keep_memory()
    for option in options:
        key, value = option.split("=")
        CONFIG[key] = float(value) if "." in value else int(value) if value.lstrip("-").isdigit() else value
    if mode == "_calls":
        return calls(seed, size)
    number, side = int(seed), int(size)
    if mode == "noise":
        return pure_noise(number, side)
    if mode == "speed":
        return speed(number, side)
    share = (side / 4096) ** 2
    wanted = {"stars": 10_000, "galaxies": 2000, "transients": 200} | PAIRS[mode]
    wanted |= {key: round(wanted[key] * share) for key in ("stars", "galaxies", "transients")}
    truth = Truth(make_pair(number, side, **wanted))
    judge(truth, ours(truth.pair))
    tuned = ["-bgo", "2", "-rss", "9", "-ng", "3", "6", "0.7", "4", "1.5", "2", "3.0"]
    for name, extra in (("HOTPANTS, defaults", []), ("HOTPANTS, tuned", tuned)):
        result = hotpants(truth.pair, name, extra)
        if result is None:
            print("HOTPANTS: no `hotpants` on the PATH")
            break
        judge(truth, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
