"""Non-linearity: measured counts become counts in proportion to the light, amplifier by amplifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from schemas.errors import ConfigurationError
from workers.imaging.exposure import FloatImage
from workers.imaging.masks import MaskPlane
from workers.isr.assembly import bands
from workers.isr.state import IsrState

__all__ = ["Curve", "apply", "curve_of", "linearise"]

_Float = NDArray[np.float64]
_Table = NDArray[np.float32]
_MATTERS = 1.0e-3
_STEP = 8.0
"""ADU between the entries of a table; straight lines between are off by 1e-4 ADU where 1000 ADU bend it by 1 %."""


@dataclass(frozen=True)
class Curve:
    """What one amplifier's counts need, in steps of 8 ADU from 0, float32; the last slope holds beyond."""

    correction: _Table
    """ADU to add."""
    rise: _Table
    """Change of the correction until the next entry, ADU."""
    slope2: _Table
    """Square of the slope of linearised against measured counts."""
    variance: _Table
    """Of the correction, ADU²."""
    top: float
    """Measured ADU of the last knot: above it nothing is known."""

    @property
    def uncertain(self) -> bool:
        """Whether the error is more than a thousandth of the variance that light of as many electrons has."""
        return bool(np.any(self.variance[1:] > _MATTERS * _STEP * np.arange(1, len(self.variance))))


def curve_of(knots: _Float, correction: _Float, error: _Float) -> Curve:
    """Return the dense table of one amplifier from its knots (measured ADU), corrections and errors (ADU), float64.

    A monotone piecewise cubic (Fritsch & Carlson 1980) through the knots, so that the linearised counts rise wherever
    they rise from knot to knot. Raises ConfigurationError where they don't, or where the knots do not begin at 0.
    """
    if not (knots[0] == 0.0 and np.all(np.diff(knots) > 0) and np.all(np.diff(knots + correction) > 0)):
        raise ConfigurationError(
            f"knots {knots.tolist()} with corrections {correction.tolist()} are no rising curve from 0: this linearity "
            "master is damaged; make a new one with `skydelta calibrate linearity`"
        )
    curve = PchipInterpolator(knots, knots + correction)
    at = np.arange(0.0, knots[-1], _STEP)
    dense = curve(at) - at
    last = float(np.diff(correction[-2:])[0] / np.diff(knots[-2:])[0])  # the curve's own slope at its end may be none
    rise = np.append(np.diff(dense), _STEP * last)
    return Curve(
        correction=dense.astype(np.float32),
        rise=rise.astype(np.float32),
        slope2=((1.0 + rise / _STEP) ** 2).astype(np.float32),
        variance=(np.interp(at, knots, error) ** 2).astype(np.float32),
        top=float(knots[-1]),
    )


def linearise(image: FloatImage, variance: FloatImage, curve: Curve, where: tuple[slice, slice]) -> None:
    """Change the section `where` of contiguous float32 planes in place: measured ADU become linear, ADU² follow.

    variance = variance × slope² + error², where there is a variance yet or the curve's error matters. Below zero the
    slope at zero holds, so that noise about zero keeps its mean.
    """
    rows, columns = where
    bounds = (rows.start, rows.stop, columns.start, columns.stop)
    if curve.uncertain or variance[where].any():
        _follow(image, variance, *bounds, curve.slope2, curve.variance)
    _linearise(image, *bounds, curve.correction, curve.rise)


def apply(state: IsrState) -> None:
    """Linearise each amplifier with its curve; counts above it become SUSPECT, and their share a metric."""
    state.need_unit("adu", "linearity")
    tables = state.need("linearity").tables
    above = 0
    for index, amplifier in enumerate(state.detector.amplifiers):
        curve = curve_of(tables["knots"][index], tables["correction"][index], tables["error"][index])
        for band in bands(amplifier):
            if state.image[band].max() > curve.top:
                beyond = state.image[band] > curve.top
                state.mask[band][beyond] |= np.int32(MaskPlane.SUSPECT)
                above += int(beyond.sum())
            linearise(state.image, state.variance, curve, band)
    state.metrics["aboveLinearityFraction"] = above / state.mask.size


@njit(cache=True, nogil=True)
def _linearise(
    image: Any, y0: int, y1: int, x0: int, x1: int, correction: Any, rise: Any
) -> None:  # pragma: no cover - compiled
    per_step, zero, last = np.float32(1.0 / _STEP), np.float32(0.0), np.float32(len(correction) - 1)
    for y in range(y0, y1):
        for x in range(x0, x1):
            value = image[y, x]
            place = value * per_step
            low = place if place > zero else zero  # also where it is NaN
            low = low if low < last else last
            cell = np.uint32(low)  # of all integers the one that compiles to vector code
            image[y, x] = value + (correction[cell] + rise[cell] * (place - np.float32(cell)))


@njit(cache=True, nogil=True)
def _follow(
    image: Any, variance: Any, y0: int, y1: int, x0: int, x1: int, slope2: Any, error: Any
) -> None:  # pragma: no cover - compiled
    per_step, zero, last = np.float32(1.0 / _STEP), np.float32(0.0), np.float32(len(slope2) - 1)
    for y in range(y0, y1):
        for x in range(x0, x1):
            place = image[y, x] * per_step
            low = place if place > zero else zero
            low = low if low < last else last
            cell = np.uint32(low)
            variance[y, x] = variance[y, x] * slope2[cell] + error[cell]
