"""Fringes, amplifier offsets and ghosts on a 4k x 4k detector: CPU seconds, and fringe amplitudes against a peer.

Run: python -m tests.bench.bench_sky_steps (from the root of the repository; OMP_NUM_THREADS=1). The peer is the fit
that other pipelines use, in numpy: 30,000 random positions, means of boxes of 3 minus those of 30 pixels half-size,
least squares with 3 sigma clipping.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.fringe_fit import fit_fringes
from workers.isr.amp_offset import measure_offsets
from workers.isr.fringe import subtract_fringes
from workers.isr.ghosts import flag_stray_light, predict_stray_light
from workers.simulate.fringe import fringe_pattern
from workers.simulate.settings import TINY, DetectorSettings
from workers.survey.camera import Amplifier
from workers.survey.reflections import Ghost

SIZE, SKY, NOISE, AMPLITUDE = 4096, 1000.0, 32.0, 20.0


def random_boxes(image: NDArray[Any], pattern: NDArray[Any], seed: int = 1) -> float:
    """Return the amplitude by the peer's method."""
    rng = np.random.default_rng(seed)
    y, x = rng.integers(30, SIZE - 31, (2, 30_000))

    def contrast(plane: NDArray[Any]) -> NDArray[np.float64]:
        sums = np.zeros((SIZE + 1, SIZE + 1))
        np.cumsum(np.cumsum(plane, axis=0, dtype=float), axis=1, out=sums[1:, 1:])

        def mean(half: int) -> NDArray[np.float64]:
            y0, y1, x0, x1 = y - half, y + half + 1, x - half, x + half + 1
            return (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / (2 * half + 1) ** 2

        return mean(3) - mean(30)

    data, model = contrast(image), contrast(pattern)
    use = np.ones(len(data), bool)
    amplitude = 0.0
    for _ in range(20):
        amplitude = float(np.sum(data[use] * model[use]) / np.sum(model[use] ** 2))
        rest = data - amplitude * model
        use = np.abs(rest) < 3.0 * 1.4826 * np.median(np.abs(rest[use]))
    return amplitude


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of the second run, and what it gave."""
    work()
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def scene(seed: int, pattern: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sky with a gradient, fringes and 6000 stars."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(NOISE) + np.float32(SKY)
    image += np.float32(AMPLITUDE) * pattern + np.linspace(0, 40, SIZE, dtype=np.float32)
    y, x = np.mgrid[:31, :31] - 15
    star = ((1.0 + (x**2 + y**2) / 9.0) ** -2.5).astype(np.float32)
    for u, v in rng.integers(0, SIZE - 31, (6000, 2)):
        image[v : v + 31, u : u + 31] += np.float32(10.0 ** rng.uniform(1.5, 5.0)) * star
    return image


def amplifiers() -> tuple[Amplifier, ...]:
    """Return two rows of eight."""
    width, height = SIZE // 8, SIZE // 2
    places = [
        f"[{c * width + 1}:{(c + 1) * width},{r * height + 1}:{(r + 1) * height}]" for r in range(2) for c in range(8)
    ]
    data = f"[1:{width},1:{height}]"
    return tuple(
        Amplifier(name=f"A{n}", data=data, position=place, read_noise=5.0, saturation=6e4)
        for n, place in enumerate(places)
    )


def main() -> None:
    """Print the numbers."""
    survey = replace(TINY, detectors=DetectorSettings(width=SIZE, height=SIZE, count=1))
    pattern = fringe_pattern(survey, 0).astype(np.float32)
    mask, noise = np.zeros((SIZE, SIZE), np.int32), np.zeros((SIZE, SIZE), np.float32)
    ours, theirs, errors, pulls = [], [], [], []
    for seed in range(6):
        image = scene(seed, pattern)
        fit = fit_fringes(image, mask, [pattern])
        ours.append(fit.amplitude[0] - AMPLITUDE)
        errors.append(np.sqrt(fit.covariance[0, 0]))
        theirs.append(random_boxes(image, pattern) - AMPLITUDE)
        found = measure_offsets(image - np.float32(AMPLITUDE) * pattern, mask, amplifiers())
        pulls.append(found.offset / found.error)
    rms = [float(np.sqrt(np.mean(np.square(one)))) for one in (ours, theirs)]
    own = float(np.mean(errors))
    print(f"fringe amplitude {AMPLITUDE:g}: rms error {rms[0]:.3f} (own estimate {own:.3f}), peer {rms[1]:.3f}")
    variance = np.full((SIZE, SIZE), NOISE**2, np.float32)
    print(f"  fit {seconds(lambda: fit_fringes(image, mask, [pattern]))[0]:.3f} s", end="")
    print(f", subtraction {seconds(lambda: subtract_fringes(image, variance, [pattern], fit, noise))[0]:.3f} s", end="")
    print(f", peer's fit {seconds(lambda: random_boxes(image, pattern))[0]:.3f} s")
    used, _ = seconds(lambda: measure_offsets(image, mask, amplifiers()))
    width = float(np.sqrt(np.mean(np.square(pulls))))
    print(f"amplifier offsets: {used:.3f} s, errors {found.error.mean():.2f} e, pulls' width {width:.2f}")
    rng = np.random.default_rng(1)
    ghost = Ghost(kind="ghost", name="g", magnification=-1.1, outer=400.0, inner=150.0, fraction=1e-2)
    stars, electrons = rng.uniform(-4000, 4000, (200, 2)), 10.0 ** rng.uniform(6, 9.5, 200)

    def flag() -> tuple[int, int]:
        light = predict_stray_light((ghost,), stars, electrons, "r", margin=4.0)
        return flag_stray_light(mask, light, (2048.0, 2048.0), 0.5 * NOISE)

    used, (pixels, count) = seconds(flag)
    print(f"ghosts of 200 stars: {used:.3f} s, {count} bright enough, {pixels / SIZE**2:.1%} of the pixels")


if __name__ == "__main__":
    main()
