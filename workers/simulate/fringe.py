"""Fringes: night-sky lines that interfere in the thin silicon of a detector."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from workers.simulate.cadence import Visit
from workers.simulate.optics import sky_electrons
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.streams import stream

__all__ = ["fringe_light", "fringe_pattern", "line_strength"]

_Float = NDArray[np.float64]
_LINES = ((1.0, 0.55), (1.013, 0.3), (0.985, 0.15))
"""Wavenumber relative to the brightest line, and share of the light, of three OH lines."""
_SPACING = 45.0
"""Pixels between crests, typically."""


def fringe_light(config: SimulatedSurvey, visit: Visit, detector: int) -> _Float:
    """Return the electrons that fringes add to the sky of a visit (negative where they take), float64 (height, width).

    Their amplitude is `config.detectors.fringe` times the sky, times how strong the lines are in this visit.
    """
    strength = config.detectors.fringe * sky_electrons(config, visit) * line_strength(config, visit)
    return np.asarray(strength * fringe_pattern(config, detector))


def line_strength(config: SimulatedSurvey, visit: Visit) -> float:
    """Return the light of the lines relative to the sky's, typically 1: airglow comes and goes by a quarter."""
    return float(np.exp(0.25 * stream(config.seed, "airglow", visit.number).standard_normal()))


@lru_cache(maxsize=4)
def fringe_pattern(config: SimulatedSurvey, detector: int) -> _Float:
    """Return the fringe pattern of a detector, mean 0 and largest value near 1, float64 (height, width), read-only.

    cos of the phase 4 pi n t / wavelength, summed over the lines; the thickness t is a wedge with bumps.
    """
    width, height = config.detectors.width, config.detectors.height
    rng = stream(config.seed, "detector.thickness", detector)
    x, y = np.arange(width)[None, :] / _SPACING, np.arange(height)[:, None] / _SPACING
    angle = 2.0 * np.pi * rng.random()
    thickness = 0.6 * (x * np.cos(angle) + y * np.sin(angle))
    for place_x, place_y, size, sign in rng.random((4, 4)):
        reach = (0.25 + 0.35 * size) * max(width, height) / _SPACING
        distance = (x - place_x * width / _SPACING) ** 2 + (y - place_y * height / _SPACING) ** 2
        thickness = thickness + np.copysign(0.7 * reach, sign - 0.5) * np.exp(-0.5 * distance / reach**2)
    pattern = np.zeros((height, width))
    for wavenumber, share in _LINES:
        pattern += share * np.cos(2.0 * np.pi * wavenumber * thickness)
    pattern -= pattern.mean()
    pattern.flags.writeable = False
    return pattern
