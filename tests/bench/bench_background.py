"""Background: what is left between the measured level and the true sky, and time, on simulated 4096 x 4096 fields.

Run: python tests/bench/bench_background.py              every field at a sky of 500 electrons
     python tests/bench/bench_background.py galaxy       fields whose name begins so
     python tests/bench/bench_background.py all 5000     another sky; a third argument is the seed, a fourth the size
Numbers are in units of the noise of a sky pixel: mean and rms of what is left, averaged in blocks of 64 pixels, the
worst block, and, where a galaxy stands, the mean in 1 to 3 of its radii and the worst ring there. Sources' own light is
no sky. Beside it sep's plain mesh (64 pixels, filter 3), the mesh with what sep detects masked, and SExtractor, where
`sex` or `source-extractor` is on the path. CPU seconds are of one thread.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sep
from scipy import ndimage

from tests.imaging.background_scenes import Scene, make
from workers.imaging.background import source_free_background

FIELDS = {
    "empty": ("empty", {}),
    "plain": ("plain", {}),
    "galaxy n=4, 0.1 sigma at 300 px": ("galaxy", {"n": 4.0, "edge": 0.1}),
    "galaxy n=4, 0.5 sigma": ("galaxy", {"n": 4.0, "edge": 0.5}),
    "galaxy n=4, 2 sigma": ("galaxy", {"n": 4.0, "edge": 2.0}),
    "galaxy n=1, 0.1 sigma": ("galaxy", {"n": 1.0, "edge": 0.1}),
    "galaxy n=1, 0.5 sigma": ("galaxy", {"n": 1.0, "edge": 0.5}),
    "galaxy n=1, 5 sigma": ("galaxy", {"n": 1.0, "edge": 5.0}),
    "mixed disc and bulge": ("mixed", {}),
    "crowd of 100,000 from S/N 3": ("crowd", {"faint": 3.0}),
    "crowd of 100,000 from S/N 1": ("crowd", {"faint": 1.0}),
    "crowd of 100,000, slope 0.7": ("crowd", {"faint": 2.0, "slope": 0.7}),
    "crowd of 300,000 from S/N 0.3": ("crowd", {"faint": 0.3, "number": 300_000}),
    "cluster of 25,000 in 300 px": ("cluster", {}),
    "steps of 16 amplifiers": ("steps", {}),
    "nebula of 300 px, rms 0.5 sigma": ("nebula", {"scale": 300.0, "rough": 0.5}),
    "nebula of 500 px, rms 0.5 sigma": ("nebula", {"scale": 500.0, "rough": 0.5}),
}


def blocks(plane, size=64):
    height, width = (side // size for side in plane.shape)
    return plane[: height * size, : width * size].reshape(height, size, width, size).mean(axis=(1, 3))


def truth(scene: Scene):
    """The sky and the amplifiers' steps."""
    sky = scene.sky.copy()
    for (y0, y1, x0, x1), step in zip(scene.boxes, scene.steps, strict=True):
        sky[y0:y1, x0:x1] += np.float32(step)
    return sky


def rings(rest):
    """Means of rings of 64 pixels in 1 to 3 radii of 300 pixels round the galaxy."""
    y, x = np.indices(rest.shape, sparse=True)
    radius = np.hypot(x - 0.47 * rest.shape[1], y - 0.52 * rest.shape[0])
    ring = ((radius - 300.0) // 64.0).astype(int)
    inside = (radius >= 300.0) & (radius < 900.0)
    total = np.bincount(ring[inside], rest[inside].astype(float))
    return total / np.bincount(ring[inside]), float(rest[inside].mean())


def line(name, scene, level, seconds, galaxy):
    rest = (level - truth(scene)) / np.float32(scene.sigma)
    cells = blocks(rest)
    worst = cells.flat[np.abs(cells).argmax()]
    text = f"  {name:14s} mean {cells.mean():+.4f}  rms {np.sqrt(np.mean(cells**2)):.4f}  worst {worst:+.4f}"
    if galaxy:
        means, near = rings(rest)
        text += f"  near {near:+.4f}  worst ring {means[np.abs(means).argmax()]:+.4f}"
    print(f"{text}  {seconds:.2f} s", flush=True)


def timed(work):
    begin = time.process_time()
    found = work()
    return found, time.process_time() - begin


def sep_mesh(scene, mask=None):
    return sep.Background(scene.image, mask=mask, bw=64, bh=64, fw=3, fh=3)


def sep_masked(scene):
    """What sep's own tools give in two passes: detect, grow the footprints by four pixels, measure again."""
    first = sep_mesh(scene)
    sep.set_extract_pixstack(5_000_000)
    signal = scene.image - first.back()
    _, segments = sep.extract(signal, 2.5, err=first.rms(), segmentation_map=True)
    return sep_mesh(scene, ndimage.maximum_filter(segments > 0, size=9)).back()


def sextractor(scene):
    """SExtractor's background check image, or None where it is not installed."""
    program = shutil.which("sex") or shutil.which("source-extractor")
    if program is None:
        return None
    from astropy.io import fits

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fits.writeto(folder / "image.fits", scene.image)
        (folder / "columns").write_text("NUMBER\n")
        (folder / "filter").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
        options = {
            "PARAMETERS_NAME": "columns",
            "FILTER_NAME": "filter",
            "CHECKIMAGE_TYPE": "BACKGROUND",
            "CHECKIMAGE_NAME": "back.fits",
            "BACK_SIZE": "64",
            "BACK_FILTERSIZE": "3",
            "CATALOG_NAME": "catalogue",
            "VERBOSE_TYPE": "QUIET",
        }
        command = [program, "image.fits", *(word for key, value in options.items() for word in (f"-{key}", value))]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return fits.getdata(folder / "back.fits").astype(np.float32)


def field(name, kind, options, level, seed, size):
    scene = make(kind, size=size, level=level, seed=seed, **options)
    light = float(scene.light.mean()) / scene.sigma
    print(f"{name}: sky {level:g}, noise {scene.sigma:.1f} electrons; mean light of sources {light:.3f}")
    galaxy = kind in ("galaxy", "mixed")
    found, seconds = timed(lambda: source_free_background(scene.image, scene.blocked, mesh=64, boxes=scene.boxes))
    line("skydelta", scene, found.level, seconds, galaxy)
    sigma = np.sqrt(scene.sky + 25.0)
    ratio = blocks(found.noise / sigma)
    print(
        f"  {'':14s} noise / true {ratio.mean():.4f} +- {ratio.std():.4f}, "
        f"unseen light {found.unseen / scene.sigma:.4f}, masked {found.sourceFraction:.2f}, "
        f"shortest wave {found.wave:g} px"
    )
    if scene.boxes:
        pull = (np.array(found.steps) - scene.steps) / np.array(found.stepErrors)
        wrong = (np.array(found.steps) - scene.steps) / scene.sigma
        print(
            f"  {'':14s} steps wrong by rms {wrong.std():.4f}, at most {np.abs(wrong).max():.4f}; "
            f"pulls {pull.std():.2f}"
        )
    mesh, seconds = timed(lambda: sep_mesh(scene).back())
    line("sep mesh", scene, mesh, seconds, galaxy)
    mesh, seconds = timed(lambda: sep_masked(scene))
    line("sep, masked", scene, mesh, seconds, galaxy)
    oracle = sextractor(scene)
    if oracle is not None:
        line("SExtractor", scene, oracle, float("nan"), galaxy)


def main(words):
    which = words[0] if words and words[0] != "all" else ""
    level, seed, size = (
        float(words[1]) if len(words) > 1 else 500.0,
        int(words[2]) if len(words) > 2 else 0,
        int(words[3]) if len(words) > 3 else 4096,
    )
    warm = make("plain", size=512, seed=seed)
    source_free_background(warm.image, warm.blocked, mesh=64)
    for name, (kind, options) in FIELDS.items():
        if name.startswith(which):
            field(name, kind, options, level, seed, size)


if __name__ == "__main__":
    main(sys.argv[1:])
