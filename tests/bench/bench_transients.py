"""What the rejection of transients leaves in a template, and what it does to variable stars.

    PYTHONPATH=. python tests/bench/bench_transients.py [cells] [shift] [error]

Each simulated cell of 12 epochs has 25 stars, 25 galaxies, six variable stars and six supernovae in galaxies, in two to
eight of the epochs; `shift` is the registration error of an epoch (rms pixels in x and y), `error` that of the FWHM and
ellipticity of its PSF model. Printed: the flux of the supernovae in the template over their peak, with the rejection
and without, and by how much the flux of variable stars differs from their weighted mean; CPU time by step.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict

import numpy as np

from tests.templates.epochs import BORDER, Epochs
from workers.templates.flux_maps import flux_maps
from workers.templates.reject import find_outliers, reference_image
from workers.templates.transients import Verdict, find_events, masked_by

_INNER = slice(BORDER, -BORDER)
_LEVELS = (10, 30, 100, 300, 10, 30)


def cell(seed, shift, error):
    """Return a populated cell, its six variable stars and its six supernovae as (S/N, epochs, peak)."""
    epochs = Epochs(seed, shift=shift, error=error)
    epochs.populate()
    for k in range(6):
        epochs.add_variable(30.0 + 45 * k + epochs.rng.uniform(-0.5, 0.5), 140.0 + epochs.rng.uniform(-0.5, 0.5))
    kinds = []
    for k, level in enumerate(_LEVELS):
        place = epochs.add_host(60.0 + 84 * (k % 3), 80.0 + 120 * (k // 3))
        curve = epochs.draw_supernova()
        kinds.append((level, np.count_nonzero(curve), epochs.add_transient(*place, curve, level)))
    return epochs, epochs.stars[-6:], kinds


def rejected(epochs, seconds):
    """Return the masked pixels and the number of transients found where none is."""
    image, variance = epochs.frames()
    usable, flat = np.ones(image.shape, bool), np.ones(epochs.count)
    started = time.process_time()
    reference = reference_image(image, variance, usable)
    find_outliers(image, variance, usable, epochs.psfs, 3.3, reference)
    after = time.process_time()
    maps = flux_maps(image, variance, usable, epochs.psfs, flat, reference.image)
    mapped = time.process_time()
    events = find_events(maps)
    masked = masked_by(events, variance, epochs.psfs, usable, 3)
    ended = time.process_time()
    for name, value in (("outliers", after - started), ("maps", mapped - after), ("events", ended - mapped)):
        seconds[name].append(value)
    far = [
        event
        for event in events
        if event.verdict is Verdict.TRANSIENT
        and all(np.hypot(event.x - x, event.y - y) > 8 for x, y, _ in epochs.transients)
    ]
    return masked, len(far)


def main():
    """Run and print."""
    given = [float(text) for text in sys.argv[1:]]
    cells, shift, error = given + [30.0, 0.0, 0.0][len(given) :]
    rows, off, false, area, seconds = [], [], 0, [], defaultdict(list)
    for seed in range(int(cells)):
        epochs, variables, kinds = cell(1000 + seed, shift, error)
        masked, wrong = rejected(epochs, seconds)
        nothing = np.zeros_like(masked)
        false += wrong
        area.append(masked[:, _INNER, _INNER].mean())
        for point, (level, count, peak) in zip(epochs.transients, kinds, strict=True):
            rows.append((level, count, *(epochs.template_flux(point, mask) / peak for mask in (masked, nothing))))
        fluxes = [[epochs.template_flux(star, mask) for mask in (masked, nothing)] for star in variables]
        off += [one / other - 1.0 for one, other in fluxes]
    table = np.array(rows)
    print(f"{int(cells)} cells, registration {shift} px, PSF error {error}; left of the peak, and without rejection")
    for level in sorted(set(_LEVELS)):
        mine = table[table[:, 0] == level]
        by_count = {int(n): round(float(mine[mine[:, 1] == n, 2].mean()), 4) for n in np.unique(mine[:, 1])}
        mean, median, plain = mine[:, 2].mean(), np.median(mine[:, 2]), mine[:, 3].mean()
        print(f"S/N {level:4d}  mean {mean:.4f}  median {median:.4f}  without {plain:.3f}  n {len(mine)}  {by_count}")
    off = np.array(off)
    print(f"variable stars: mean {off.mean():+.5f}, {np.mean(np.abs(off) > 0.005):.3f} of {len(off)} beyond 0.5 %")
    print(f"false transients a cell {false / cells:.1f}; share of pixels left out {np.mean(area):.4f}")
    print("CPU ms a cell:", {name: round(1e3 * float(np.median(values)), 1) for name, values in seconds.items()})


if __name__ == "__main__":
    main()
