"""What the readout electronics do to the signal: response that falls off, amplifiers that hear each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.simulate.settings import SimulatedSurvey
from workers.simulate.streams import stream

__all__ = ["cross_talked", "crosstalk_matrix", "nonlinear_response", "response_shapes"]

_Float = NDArray[np.float64]
_LOW_LEVEL = 0.05


def response_shapes(config: SimulatedSurvey, detector: int) -> _Float:
    """Return the loss of response of each amplifier, float64 (amplifiers, 3), for `nonlinear_response`.

    The three are relative losses at full well that grow with the signal, with its cube, and quickly at low level (as
    where the electronics settle slowly); their sum scatters by 20 % about ``nonlinearity``.
    """
    columns, rows = config.detectors.amplifiers
    draws = stream(config.seed, "amplifier.response", detector).standard_normal((columns * rows, 3))
    scatter = np.clip(1.0 + 0.2 * draws, 0.4, 1.6)
    return np.asarray(config.detectors.nonlinearity * np.array([0.6, 0.25, 0.15]) * scatter)


def nonlinear_response(signal: _Float, shape: _Float, full: float) -> _Float:
    """Return the measured ADU of a true signal (ADU, any shape); `full` is the signal at full well.

    measured = signal (1 - a u - b u³ - c (1 - exp(-u / 0.05))) with u = signal / full and shape = (a, b, c).
    """
    u = np.maximum(signal, 0.0) / full
    loss = shape[0] * u + shape[1] * u**3 + shape[2] * (1.0 - np.exp(-u / _LOW_LEVEL))
    return np.asarray(signal * (1.0 - loss))


def crosstalk_matrix(config: SimulatedSurvey, detector: int) -> _Float:
    """Return the coefficients, float64 (victim, aggressor, lag 0 and 1), ADU per ADU.

    Between amplifiers only lag 0, a quarter of them negative; within one only lag 1: what it remembers of the pixel
    that it read before.
    """
    columns, rows = config.detectors.amplifiers
    count = columns * rows
    draws = stream(config.seed, "amplifier.crosstalk", detector).random((count, count, 2))
    size = config.detectors.crosstalk * (0.3 + 1.4 * draws[..., 0])
    between = np.where(draws[..., 1] < 0.25, -size, size)
    own = np.eye(count, dtype=bool)
    return np.stack([np.where(own, 0.0, between), np.where(own, 0.5 * size, 0.0)], axis=-1)


def cross_talked(blocks: _Float, matrix: _Float) -> _Float:
    """Return blocks (amplifiers, rows, columns) in readout order, ADU over the offset, with each other's signal.

    Pixel x of a victim hears pixel x - lag of each aggressor in the same row.
    """
    result = blocks.copy()
    for lag in range(matrix.shape[2]):
        heard = np.tensordot(matrix[:, :, lag], blocks[:, :, : blocks.shape[2] - lag], axes=1)
        result[:, :, lag:] += heard
    return result
