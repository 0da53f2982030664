"""Light curves: periodic variable stars and transients that rise and decay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONSTANT", "ECLIPSING", "RR_LYRAE", "SINUSOID", "transient_shape", "variable_factor"]

_Float = NDArray[np.float64]
CONSTANT, SINUSOID, RR_LYRAE, ECLIPSING = 0, 1, 2, 3


def variable_factor(kind: NDArray[np.integer], phase: _Float, amplitude: _Float) -> _Float:
    """Return flux divided by the mean flux, float64, at `phase` (cycles, any real), all of one shape.

    SINUSOID: relative amplitude. RR_LYRAE: a saw-tooth in magnitudes that rises over 0.15 of the period, full
    amplitude in mag. ECLIPSING: depth of the primary eclipse; the secondary one is half as deep. CONSTANT: 1.
    """
    phase = phase % 1.0
    saw = np.where(phase < 0.15, phase / 0.15, 1.0 - (phase - 0.15) / 0.85)
    from_primary = np.minimum(phase, 1.0 - phase)
    eclipses = np.exp(-0.5 * (from_primary / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.5) / 0.06) ** 2)
    choices = [
        1.0 + amplitude * np.sin(2.0 * np.pi * phase),
        10.0 ** (0.4 * amplitude * (saw - 0.5)),
        1.0 - amplitude * eclipses,
    ]
    return np.asarray(np.select([kind == SINUSOID, kind == RR_LYRAE, kind == ECLIPSING], choices, 1.0))


def transient_shape(days: _Float, rise: _Float, fall: _Float) -> _Float:
    """Return the flux of a transient, peak 1, `days` after its reference time, float64.

    f = exp(-t / fall) / (1 + exp(-t / rise)), of Bazin et al. (2011, A&A 534, A43, eq. 1), over its maximum;
    `rise` and `fall` in days, fall > rise.
    """
    ratio = fall / rise - 1.0
    peak_time = rise * np.log(ratio)
    return np.asarray(_bazin(days, rise, fall) / _bazin(peak_time, rise, fall))


def _bazin(days: _Float, rise: _Float, fall: _Float) -> _Float:
    """Evaluate without overflow: both exponentials in one."""
    return np.asarray(np.exp(-days / fall - np.logaddexp(0.0, -days / rise)))
