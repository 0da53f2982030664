"""Matched stars of simulated detectors: S/N 15 to thousands, outliers to one side, colours, clouds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ZERO = 25.0
SHAPE = (1000, 800)
SLOPE, PIVOT = 0.2, 0.6
"""Of the camera's true colour term."""


@dataclass(frozen=True)
class Scene:
    """n stars; `arguments` are fit_zero_point's first four."""

    arguments: tuple
    color: np.ndarray
    x: np.ndarray
    y: np.ndarray


def draw(rng, count, *, outliers=0.0, red=0.0, scatter=None, sky=60.0, slope=0.0, field=None, reference=0.005):
    """Draw a detector: exactly `outliers` of the stars are blends, variables and wrong matches, all too bright;
    a share `red` has 0.5 mag that no colour term knows. `scatter` relative (None: each detector its own, log-normal
    about 0.005); `slope` the camera's colour term; `field(x, y)` the transparency."""
    index, low, high = 0.75, 1e3, 1.2e7
    true = (low**-index + rng.random(count) * (high**-index - low**-index)) ** (-1 / index)
    x, y = rng.uniform(0, SHAPE[1] - 1, count), rng.uniform(0, SHAPE[0] - 1, count)
    color = np.where(rng.random(count) < 0.3, rng.normal(1.4, 0.15, count), rng.normal(0.6, 0.2, count))
    order = rng.permutation(count)
    bad = order[: round(outliers * count)]
    odd = order[len(bad) : len(bad) + round(red * count)]
    times = 10 ** (-0.4 * slope * (color - PIVOT))
    kind = rng.choice(3, len(bad), p=[0.6, 0.2, 0.2])
    blend, variable = 1 + rng.exponential(0.4, len(bad)), 10 ** (0.4 * rng.uniform(0.05, 0.6, len(bad)))
    times[bad] *= np.select([kind == 0, kind == 1], [blend, variable], 10 ** rng.uniform(0.05, 1.2, len(bad)))
    times[odd] *= 10**0.2
    color[odd] = rng.normal(1.5, 0.2, len(odd))
    scatter = 0.005 * np.exp(0.6 * rng.normal()) if scatter is None else scatter
    clear = 1.0 if field is None else field(x, y)
    seen = true * times * clear * (1 + scatter * rng.normal(size=count))
    electrons = seen + np.sqrt(sky**2 + 1.33 * seen) * rng.normal(size=count)
    error = np.sqrt(sky**2 + 1.33 * np.maximum(electrons, 0.0))
    off = ZERO * np.hypot(reference * true, 20.0)
    return Scene((electrons, error, ZERO * true + off * rng.normal(size=count), off), color, x, y)
