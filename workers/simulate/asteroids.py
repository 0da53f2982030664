"""Asteroids: each night has its own, moving on straight lines at a few tenths of an arcsecond per minute."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from workers.simulate.settings import SimulatedSurvey
from workers.simulate.sky import band_fluxes, magnitudes, scattered
from workers.simulate.streams import stream

__all__ = ["ASTEROID_ID", "asteroid_positions", "make_asteroids"]

_Float = NDArray[np.float64]
_Rows = NDArray[np.void]
ASTEROID_ID = 40_000_000


def make_asteroids(config: SimulatedSurvey, night_begin: float) -> _Rows:
    """Return the asteroids of the night whose first science visit begins at `night_begin` (MJD TAI).

    Columns: id, ra, dec (degrees, at `night_begin`), rateEast, rateNorth (arcsec per minute), flux (n, bands) nJy.
    The opposition motion of the main belt: 0.3 to 0.9 arcsec per minute, mostly to the west.
    """
    night = math.floor(night_begin)
    count, ra, dec = scattered(config, config.sky.asteroids, f"asteroids.{night}")
    fields = [("id", "i8"), ("ra", "f8"), ("dec", "f8"), ("rateEast", "f8"), ("rateNorth", "f8")]
    rows = np.zeros(count, np.dtype([*fields, ("flux", "f8", (len(config.bands),))]))
    rows["id"] = ASTEROID_ID * 100_000 + night * 1000 + np.arange(count)
    rows["ra"], rows["dec"] = ra, dec
    draws = stream(config.seed, f"asteroids.{night}.motion").random((count, 2))
    rate, angle = 0.3 + 0.6 * draws[:, 0], np.pi + 1.2 * (draws[:, 1] - 0.5)
    rows["rateEast"], rows["rateNorth"] = rate * np.cos(angle), rate * np.sin(angle)
    faint = magnitudes(config, count, f"asteroids.{night}", config.sky.asteroid_magnitudes, 0.15)
    rows["flux"] = band_fluxes(config, faint, np.full(count, 0.6))
    return rows


def asteroid_positions(asteroids: _Rows, night_begin: float, mjd: float) -> tuple[_Float, _Float]:
    """Return (ra, dec), degrees ICRS, at `mjd` of the rows that `make_asteroids` gave for `night_begin`."""
    degrees = (mjd - night_begin) * 1440.0 / 3600.0
    dec = asteroids["dec"] + asteroids["rateNorth"] * degrees
    ra = asteroids["ra"] + asteroids["rateEast"] * degrees / np.cos(np.radians(asteroids["dec"]))
    return ra, dec
