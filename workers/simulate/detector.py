"""What is fixed in a detector: bias columns, dark current, flat field, bad columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from workers.simulate.optics import boresight, focal_plane_size
from workers.simulate.settings import DetectorSettings, SimulatedSurvey
from workers.simulate.streams import stream

__all__ = ["DetectorPattern", "detector_pattern", "flat_field"]

_Float = NDArray[np.float64]


@dataclass(frozen=True)
class DetectorPattern:
    """Fixed patterns of one detector, read-only arrays of its assembled shape (height, width)."""

    bias: _Float
    """ADU on top of the amplifier's level: columns, and a ramp from the readout side."""
    dark: _Float
    """electrons per second, hot pixels and hot columns included"""
    response: _Float
    """Relative response of each pixel at any wavelength: small scatter, dead columns."""
    defects: NDArray[np.bool_]
    """Hot pixels, hot and dead columns."""


@lru_cache(maxsize=8)
def detector_pattern(config: SimulatedSurvey, detector: int) -> DetectorPattern:
    """Return the fixed patterns of one detector; a pure function of the settings."""
    design = config.detectors
    shape = (design.height, design.width)
    rng = stream(config.seed, "detector.columns", detector)
    columns = rng.choice(np.arange(8, design.width - 8), 2 * design.bad_columns, replace=False)
    dead, hot = columns[: design.bad_columns], columns[design.bad_columns :]
    begin = rng.integers(0, design.height // 2, len(columns))
    rows = np.arange(design.height)[:, None] >= begin
    bias = stream(config.seed, "detector.bias", detector).standard_normal(design.width) * design.bias_columns
    bias = bias + 4.0 * np.exp(-_from_readout(design) / 12.0)
    dark, hot_pixels = _dark(config, detector)
    dark[:, hot] += np.where(rows[:, len(dead) :], 15.0, 0.0)
    response = 1.0 + design.pixel_response * stream(config.seed, "detector.response", detector).standard_normal(shape)
    response[:, dead] *= np.where(rows[:, : len(dead)], 0.05, 1.0)
    hot_pixels[:, columns] |= rows
    pattern = DetectorPattern(np.broadcast_to(bias, shape), dark, np.clip(response, 0.0, 2.0), hot_pixels)
    for plane in (pattern.dark, pattern.response, pattern.defects):
        plane.flags.writeable = False
    return pattern


@lru_cache(maxsize=8)
def flat_field(config: SimulatedSurvey, detector: int, band: str) -> _Float:
    """Return the relative throughput of each pixel in a band, float64 (height, width), read-only.

    Vignetting with the second and fourth power of the radius, dust rings (each band's filter has its own), and the
    detector's pixel response.
    """
    design = config.detectors
    x, y = np.arange(design.width)[None, :], np.arange(design.height)[:, None]
    centre = boresight(config, detector)
    radius = np.hypot(x - centre[0], y - centre[1]) / (0.5 * np.hypot(*focal_plane_size(config)))
    flat: _Float = np.asarray(1.0 - design.vignetting * (0.4 * radius**2 + 0.6 * radius**4))
    draws = stream(config.seed, f"detector.dust.{band}", detector).random((design.dust_rings, 4))
    for place_x, place_y, size, depth in draws:
        outer = 12.0 + 14.0 * size
        distance = np.hypot(x - place_x * design.width, y - place_y * design.height)
        ring = expit((outer - distance) / 1.5) - expit((0.4 * outer - distance) / 1.5)
        flat *= 1.0 - (0.015 + 0.03 * depth) * ring
    flat *= detector_pattern(config, detector).response
    flat.flags.writeable = False
    return flat


def _from_readout(design: DetectorSettings) -> _Float:
    """Columns between a pixel and the edge where its amplifier is, shape (width,)."""
    columns = design.amplifiers[0]
    width = design.width // columns
    index = np.arange(design.width)
    flipped = (columns > 1) & (index // width >= columns // 2)
    return np.asarray(np.where(flipped, width - 1 - index % width, index % width), float)


def _dark(config: SimulatedSurvey, detector: int) -> tuple[_Float, NDArray[np.bool_]]:
    """Dark current, electrons per second, with hot pixels of 2 to 60 electrons per second; and where those are."""
    design = config.detectors
    shape = (design.height, design.width)
    dark = np.full(shape, design.dark_current)
    count = round(design.hot_fraction * dark.size)
    rng = stream(config.seed, "detector.hot", detector)
    pixels = rng.choice(dark.size, count, replace=False)
    dark.ravel()[pixels] += 2.0 * 30.0 ** rng.random(count)
    hot = np.zeros(shape, bool)
    hot.ravel()[pixels] = True
    return dark, hot
