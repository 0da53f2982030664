"""From a tile-compressed raw frame to measured difference sources: the workers' own stages, against truth.

Run: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/bench_raw_to_sources.py MODE [SEED [SIZE [KEY=VALUE ...]]]

MODE quality  one exposure, judged as the pairs of bench_subtract.py are, but with everything measured, nothing given
     speed    CPU seconds by stage and memory of a fresh process, first call and later ones

KEY  registration=0.2  the template's WCS waves by so many pixels over the field, period 1500 pixels
     depth=9           of the template
     true=psf+wcs      these are given as they are, in science image and template; `variance`: of the science image
     way=direct        the template warped once from its own pixels, instead of through cells (twice, as in a survey)

Masters, reference catalogue, raw frame and template are made once (minutes at 4096 pixels) and kept under the temporary
directory; making them is not timed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np

from tests.bench.bench_subtract import forget_peak, resident, timed
from tests.bench.raw_scene import Wish, make_scene
from tests.bench.subtract_scene import NJY
from tests.bench.subtract_truth import Result, Truth, judge, nearest
from workers.imaging.fits import read_exposure
from workers.imaging.warp import warp_exposure
from workers.isr.pipeline import STEPS
from workers.isr.worker import IsrStage
from workers.process import keep_memory
from workers.subtract.masking import blocked_pixels
from workers.subtract.pipeline import subtract
from workers.subtract.worker import SubtractStage
from workers.survey.config import load_survey

WATCHED = {
    "workers.isr.worker": ("read_exposure", "masters_for", "remove_signature", "field_stars", "characterize"),
    "workers.characterize.pipeline": (
        "_subtract_sky", "_measure_psf", "_measure_sources", "_measure_wing", "solve_astrometry", "_zero_point",
        "_calibrated",
    ),
    "workers.templates.match": ("_mosaic", "node_grid", "warp_planes", "_psf"),
    "workers.subtract.pipeline": (
        "difference_image", "model_errors", "score_image", "quiet_sky", "_find", "_measured", "control_sources",
        "_stamps", "measure_extendedness", "find_runs",
    ),
}  # fmt: skip
"""Functions whose time is told, by the module that calls them."""


def watched(spent):
    """Make the functions of WATCHED, the steps of signature removal and the reading of cells tell their time."""

    def watch(name, step):
        def told(*args, **kwargs):
            begin = time.process_time()
            try:
                return step(*args, **kwargs)
            finally:
                spent[name].append(time.process_time() - begin)

        return wraps(step)(told)

    for place, names in WATCHED.items():
        module = importlib.import_module(place)
        for name in names:
            setattr(module, name, watch(f"{place.split('.')[1]}: {name}", getattr(module, name)))
    STEPS.update({name: watch(f"isr step: {name}", step) for name, step in STEPS.items()})
    store = importlib.import_module("workers.templates.store").TemplateStore
    store.read = watch("templates: cells read", store.read)


class Stages:
    """The workers' stages bound to one survey folder."""

    def __init__(self, root, raw, template, way="cells", changed=lambda exposure: exposure):
        self.survey = load_survey(Path(root))
        self.isr, self.subtraction = IsrStage.open(self.survey), SubtractStage.open(self.survey)
        self.data, self.name = Path(raw).read_bytes(), Path(raw).name
        self.own = read_exposure(Path(template)) if way == "direct" else None
        self.changed = changed

    def template(self, science):
        """Return the template on the science image's pixels."""
        if self.own is None:
            return self.subtraction.template(science).exposure
        return warp_exposure(self.own, science.need_wcs(), science.shape)

    def run(self, watch=timed):
        """Return the science exposure, the template on its pixels, what came of them, and what `watch` says by stage.

        `watch` calls a function and returns its value and a figure: the CPU seconds by default.
        """
        science, first = watch(lambda: self.changed(self.isr.calibrate(self.data, self.name)))
        template, second = watch(lambda: self.template(science))
        found, third = watch(lambda: subtract(science, template, self.survey.config.subtract))
        spent = {"raw to calibrated exposure": first, "template gathered and warped": second, "subtraction": third}
        return science, template, found, spent


def highest(function):
    """Call the function; return its value and the most memory that the process held meanwhile, MiB."""
    forget_peak()
    return function(), resident("VmHWM")


def speed(scene, options):
    """Time fresh processes: one told by stage, one by step."""
    for parts in ("stages", "steps"):
        given = [str(scene.survey.root), str(scene.raw), str(scene.template), options.get("way", "cells"), parts]
        subprocess.run([sys.executable, __file__, "_calls", *given], check=True)


def calls(root, raw, template, way, parts):
    """Run the stages in this new process, the first call and three more."""
    stages = Stages(root, raw, template, way)
    if parts == "steps":
        return steps(stages)
    forget_peak()
    empty = resident("VmRSS")
    rows = [stages.run()[-1]]
    most = resident("VmHWM")
    forget_peak()
    held = resident("VmRSS")
    rows += [stages.run()[-1] for _ in range(3)]
    for name in rows[0]:
        later = [row[name] for row in rows[1:]]
        print(f"{name:32s} {np.median(later):6.2f} s CPU (first call {rows[0][name]:.2f})")
    totals = [sum(row.values()) for row in rows]
    usual = np.median(totals[1:])
    print(f"{'everything':32s} {usual:6.2f} s CPU (first call {totals[0]:.2f}, {totals[0] / usual:.2f} times)")
    print(
        f"memory: {empty:.0f} MiB before the first call and {most:.0f} MiB at most in it; {held - empty:.0f} MiB stay, "
        f"masters and cells; later calls need {resident('VmHWM') - held:.0f} MiB beyond that"
    )
    for name, peak in stages.run(highest)[-1].items():
        print(f"  {name:32s} {peak - held:6.0f} MiB at most, with the exposures of the stages before it")


def steps(stages):
    """Print the time of each step, of the first call and of later ones."""
    spent = defaultdict(list)
    watched(spent)
    stages.run()
    first = {name: sum(values) for name, values in spent.items()}
    spent.clear()
    for _ in range(3):
        stages.run()
    print("by step, with what it calls, mean of calls 2 to 4 (first)")
    for name, values in sorted(spent.items(), key=lambda item: -sum(item[1])):
        if sum(values) > 0.03:
            print(f"  {name:45s} {sum(values) / 3:6.3f} s ({first.get(name, 0):.3f}), {len(values) / 3:g} calls")


def told_wcs(scene, science, stages):
    """Print how far off the measured WCSs are, and the PSFs."""
    size = len(science.image)
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(20, size - 21, 15)] * 2))
    sky = scene.wcs.pixel_to_sky(x, y)
    own = read_exposure(scene.template)
    ours = np.array(science.need_wcs().sky_to_pixel(*sky)) - [x, y]
    theirs = np.array(own.need_wcs().sky_to_pixel(*sky)) - np.array(scene.template_wcs.sky_to_pixel(*sky))
    off = {"science": ours, "template": theirs, "between them": theirs - ours}
    for name, both in off.items():
        length = np.hypot(*both)
        print(f"WCS, {name:13s} off by {np.sqrt(np.mean(length**2)):.4f} pixels (rms), {length.max():.4f} (most)")
    warped = stages.template(science)
    places = {"science": (science, scene.pair.optics), "template": (own, scene.pair.template_optics)}
    for name, (exposure, optics) in places.items():
        told_psf(name, exposure.need_psf(), [optics.stamp(a, b, 41) for a, b in zip(x, y, strict=True)], x, y)
    model = warped.need_psf()
    print(f"PSF of the warped template: FWHM {model.fwhm(size / 2, size / 2):.3f} pixels, {model.size} pixels wide")


def told_psf(name, model, true, x, y):
    """Print how a measured PSF differs from the true one."""
    stamps = model.stamps(x, y)
    cut = (41 - model.size) // 2
    truth = np.array([stamp[cut : 41 - cut, cut : 41 - cut] for stamp in true]) if cut >= 0 else np.array(true)
    inside = truth.sum(axis=(1, 2))
    truth = truth / inside[:, None, None]
    scale = (stamps * truth).sum(axis=(1, 2)) / np.square(truth).sum(axis=(1, 2))
    error = np.sqrt(np.square(stamps - truth).sum(axis=(1, 2)) / np.square(truth).sum(axis=(1, 2)))
    print(
        f"PSF, {name:9s} {model.size} pixels, with {inside.mean():.2%} of the light; amplitude {scale.mean() - 1:+.2%} "
        f"(scatter {scale.std():.2%}); error {np.median(error):.2%} of its norm (most {error.max():.2%})"
    )


def changer(scene, wanted):
    """Return what replaces the measured by the true in the science exposure."""

    def changed(exposure):
        if "psf" in wanted:
            exposure = exposure.replaced(psf=scene.pair.optics.model())
        if "wcs" in wanted:
            exposure = exposure.replaced(wcs=scene.wcs)
        if "variance" in wanted:
            factor = np.float32((exposure.photo.nJyPerElectron / NJY) ** 2)
            exposure = exposure.replaced(variance=scene.pair.science.variance * factor)
        return exposure

    return changed


def quality(scene, options):
    """Judge one exposure as the pairs of the subtraction bench are."""
    wanted = options.get("true", "")
    stages = Stages(scene.survey.root, scene.raw, scene.template, options.get("way", "cells"), changer(scene, wanted))
    science, template, found, spent = stages.run()
    shown = ("seeingFwhm", "nPsfStars", "nMatched", "astrometricRms", "zeroPoint", "psfDegree")
    print(" ".join(f"{name}={science.metrics[name]:.5g}" for name in shown if name in science.metrics))
    told_wcs(scene, science, stages)
    difference = found.difference
    seconds = sum(spent.values())
    result = Result(
        f"raw to sources {options or ''}", difference.image, difference.variance, blocked_pixels(difference),
        difference.need_psf(), found.sources, seconds, dict(found.metrics),
    )  # fmt: skip
    truth = Truth(scene.pair)
    print(f"excluded {result.excluded.mean():.2%}, of the template's own {blocked_pixels(template).mean():.2%}")
    judge(truth, result)
    rows = found.sources
    blamed(scene, truth, rows)


def blamed(scene, truth, rows):
    """Print how many sources that nothing in the sky explains stand at cosmic rays or defects."""
    hits = np.zeros(len(scene.hits), [("x", float), ("y", float)])
    hits["x"], hits["y"] = scene.hits.T
    strange = nearest(scene.pair.transients, rows["x"], rows["y"])[0] > 5
    strange &= nearest(truth.variable, rows["x"], rows["y"])[0] > 6
    near = nearest(hits, rows["x"], rows["y"])[0] < 4
    print(
        f"sources neither transient nor variable, masked ones among them: {strange.sum()}, "
        f"{(strange & near).sum()} at cosmic rays or defects"
    )


def main(mode="quality", seed="1", size="4096", *given):
    keep_memory()
    if mode == "_calls":
        return calls(seed, size, *given)
    options = dict(option.split("=") for option in given)
    wish = Wish(int(seed), int(size))
    wish = replace(
        wish,
        depth=float(options.get("depth", 9)),
        registration=float(options.get("registration", 0)),
        true=options.get("true", "").replace("variance", "").strip("+"),
    )
    return {"quality": quality, "speed": speed}[mode](make_scene(wish), options)


if __name__ == "__main__":
    main(*sys.argv[1:])
