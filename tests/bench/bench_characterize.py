"""Characterization of a 4096 x 4096 detector with 10,000 stars: CPU seconds by step, memory, and what it finds.

Run: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/bench_characterize.py [SIZE [STARS [ROUNDS]]]

Medians over the rounds. The very first call, which compiles or loads compiled loops, is not counted; the first of the
rounds, whose memory is new, is given apart. Memory is what the process holds at most beyond
what it held before, planes of the exposure not counted.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from functools import wraps

import numpy as np

from tests.characterize.conftest import make_field
from workers.characterize import pipeline
from workers.process import keep_memory
from workers.survey.characterize_config import CharacterizeConfig

STEPS = (
    "source_free_background", "detect", "select_stars", "fit_psf", "psf_centroids", "psf_fluxes", "solve_astrometry",
    "fit_zero_point",
)  # fmt: skip


def watched(spent):
    """Make the pipeline's steps tell how long they take."""
    for name in STEPS:
        if not hasattr(pipeline, name):
            continue
        step = getattr(pipeline, name)

        def timed(*args, _step=step, _name=name, **kwargs):
            begin = time.process_time()
            try:
                return _step(*args, **kwargs)
            finally:
                spent[_name].append(time.process_time() - begin)

        setattr(pipeline, name, wraps(step)(timed))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(size=4096, stars=10_000, rounds=7):
    keep_memory()
    size, stars = int(size), int(stars)
    config = pipeline.Options(CharacterizeConfig())
    small = make_field(1)
    pipeline.characterize(small.exposure, small.reference, config)
    field = make_field(2, stars=stars, shape=(size, size), fwhm=4.0, brightest=1e6, faintest=300.0)
    spent = defaultdict(list)
    watched(spent)
    before, total = peak(), []
    for _ in range(int(rounds)):
        begin = time.process_time()
        done = pipeline.characterize(field.exposure, field.reference, config)
        total.append(time.process_time() - begin)
    for name, seconds in spent.items():
        print(f"{name:24s} {np.median(seconds):6.2f} s")
    print(
        f"{'everything':24s} {np.median(total):6.2f} s CPU ({min(total):.2f} to {max(total):.2f}; first {total[0]:.2f})"
    )
    print(f"{size}², {stars} stars; {peak() - before:.0f} MiB at most beyond")
    x, y = np.meshgrid(np.linspace(0, size - 1, 9), np.linspace(0, size - 1, 9))
    ra, dec = field.wcs.pixel_to_sky(x, y)
    off = np.hypot(*(np.array(done.need_wcs().sky_to_pixel(ra, dec)) - [x, y]))
    print(f"WCS off by {np.median(off):.4f} pixels (median), {off.max():.4f} (most)")
    zero = done.photo.nJyPerElectron / field.zero_point
    print(f"zero point {1085.7 * np.log(zero):+.2f} mmag; " + " ".join(f"{k}={v:.4g}" for k, v in done.metrics.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
