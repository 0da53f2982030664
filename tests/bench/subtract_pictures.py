"""The worst false positives of simulated pairs as a picture: science, template and difference of each, side by side.

Run: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/subtract_pictures.py FILE.png [SEEDS [SIZE]]

SEEDS as 1,2,3. Rows in the order of the table that is printed; the difference is shown from -5 to 5 sigma.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from tests.bench.bench_subtract import ours
from tests.bench.subtract_scene import make_pair
from tests.bench.subtract_truth import Truth, nearest, neighbourhood, unexplained

HALF, ZOOM, MOST, COLUMNS = 25, 3, 12, 2


def grey(stamp, low, high):
    """Return a stamp as bytes, y up, framed."""
    scaled = np.clip((stamp - low) / (high - low), 0.0, 1.0)
    pixels = np.kron((255 * scaled[::-1]).astype(np.uint8), np.ones((ZOOM, ZOOM), np.uint8))
    return np.pad(pixels, 2, constant_values=255)


def triplet(pair, result, x, y):
    """Return the three stamps round a place, side by side."""
    at = slice(y - HALF, y + HALF + 1), slice(x - HALF, x + HALF + 1)
    sigma = np.sqrt(np.median(result.variance[at]))
    sky = (np.arcsinh(exposure.image[at] / sigma) for exposure in (pair.science, pair.template))
    change = np.where(result.excluded[at], 0.0, result.image[at]) / sigma
    return np.concatenate([*(grey(stamp, -1.5, 6.0) for stamp in sky), grey(change, -5.0, 5.0)], axis=1)


def main(path, seeds="1", size="4096"):
    found = []
    for seed in seeds.split(","):
        side = int(size)
        share = (side / 4096) ** 2
        counts = {"stars": 10_000, "galaxies": 2000, "transients": 200}
        pair = make_pair(int(seed), side, **{key: round(share * value) for key, value in counts.items()})
        truth, result = Truth(pair), ours(pair)
        sign = np.where(result.sources["isNegative"], -1.0, 1.0)
        rows = np.column_stack([result.sources["x"], result.sources["y"], sign * result.sources["snr"]])
        rows = rows[unexplained(truth, result, rows)]
        stars = pair.stars[pair.stars["template"] > 1e3]
        for row in rows:
            x, y = np.round(row[:2]).astype(int)
            wing = bool(nearest(truth.bright, row[:1], row[1:2])[0][0] < 45)
            if min(x, y) > HALF and max(x, y) < side - HALF - 1:
                found.append((abs(row[2]), neighbourhood(truth, stars, row, wing), triplet(pair, result, x, y)))
    found.sort(key=lambda item: -item[0])
    for number, (_, words, _) in enumerate(found[:MOST]):
        print(f"{number + 1:2d} {words}")
    pictures = [picture for _, _, picture in found[:MOST]]
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % COLUMNS)
    lines = [np.concatenate(pictures[i : i + COLUMNS], axis=1) for i in range(0, len(pictures), COLUMNS)]
    Image.fromarray(np.concatenate(lines)).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
