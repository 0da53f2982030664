"""Fringes: the master pattern of the band, scaled to what the sky of this exposure shows, is taken off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.calibrations import Calibration
from workers.imaging.exposure import FloatImage
from workers.imaging.fringe_fit import FringeFit, fit_fringes
from workers.isr.state import IsrState

__all__ = ["apply", "patterns_of", "subtract_fringes"]

_SAMPLE = 8


def apply(state: IsrState) -> None:
    """Fit the master's pattern and subtract it, in the bands of `config.fringe.bands`; elsewhere do nothing.

    Metrics: fringeAmplitude (electrons per unit of the master, which is in units of the sky), its error, and
    fringeResidual, the scatter that is left in bins of bare sky over what the variance plane says (1: only noise).
    Raises DataError where no bare sky is left to fit on.
    """
    options = state.config.fringe
    if state.raw.info.band not in options.bands:
        return
    state.need_unit("electron", "fringe")
    master = state.need("fringe")
    state.flag_as(master)
    patterns = patterns_of(master)
    fit = fit_fringes(state.image, state.mask, patterns, bin=options.bin, reach=options.reach, clip=options.clip)
    noise = math.sqrt(float(np.median(state.variance[::_SAMPLE, ::_SAMPLE]))) / options.bin
    subtract_fringes(state.image, state.variance, patterns, fit, master.variance)
    state.metrics["fringeAmplitude"] = float(fit.amplitude[0])
    state.metrics["fringeAmplitudeErr"] = math.sqrt(fit.covariance[0, 0])
    state.metrics["fringeResidual"] = fit.scatter / noise if noise > 0.0 else float("nan")


def patterns_of(master: Calibration) -> list[FloatImage]:
    """Return the master's patterns, float32 (height, width): its picture, and the further components it may have."""
    more = master.tables.get("components", np.zeros((0, 1, 1)))
    return [master.image, *(np.asarray(component, np.float32) for component in more)]


def subtract_fringes(
    image: FloatImage,
    variance: FloatImage,
    patterns: Sequence[FloatImage],
    fit: FringeFit,
    pattern_variance: FloatImage,
) -> None:
    """Subtract the fitted patterns from `image`, in place, and add what is not known of them to `variance`.

    var += a1² var_pattern + sum_ij p_i p_j cov_ij, with the variance of the first pattern only.
    """
    for number, pattern in enumerate(patterns):
        amplitude = np.float32(fit.amplitude[number])
        if number == 0:
            _subtract(image, variance, pattern, pattern_variance, amplitude, np.float32(fit.covariance[0, 0]))
            continue
        image -= amplitude * pattern
        for other in range(number):
            variance += np.float32(2.0 * fit.covariance[number, other]) * patterns[other] * pattern
        variance += np.float32(fit.covariance[number, number]) * pattern**2


@njit(cache=True, nogil=True)
def _subtract(
    image: Any, variance: Any, pattern: NDArray[Any], noise: Any, amplitude: Any, error: Any
) -> None:  # pragma: no cover - compiled
    square = amplitude * amplitude
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            value = pattern[y, x]
            image[y, x] -= amplitude * value
            variance[y, x] += square * noise[y, x] + error * value * value
