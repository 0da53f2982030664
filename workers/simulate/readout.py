"""From electrons on the detector to the raw arrays of a file: amplifiers, bias, drift, read noise, digitisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.simulate.camera import bias_levels, make_camera, raw_shape
from workers.simulate.charge_transfer import clocked_out
from workers.simulate.detector import detector_pattern
from workers.simulate.electronics import cross_talked, crosstalk_matrix, nonlinear_response, response_shapes
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.streams import stream
from workers.survey.camera import Amplifier, parse_section

__all__ = ["read_out"]

_Float = NDArray[np.float64]


def read_out(config: SimulatedSurvey, visit: int, detector: int, electrons: _Float) -> dict[int, NDArray[np.uint16]]:
    """Return the raw uint16 arrays, by HDU index, of an assembled image in electrons (height, width).

    Each amplifier has its gain, level and read noise; the level drifts with the row, the same in data and overscan.
    """
    design = config.detectors
    block = raw_shape(design)
    columns, rows = design.amplifiers
    single = np.zeros((rows * block[0], columns * block[1]), np.uint16)
    noise = stream(config.seed, "readout.noise", visit, detector).standard_normal(single.shape, dtype=np.float32)
    drift = stream(config.seed, "readout.drift", visit, detector)
    hdus: dict[int, NDArray[np.uint16]] = {}
    amplifiers = make_camera(config).detector(detector).amplifiers
    signals = _signals(config, detector, electrons, amplifiers)
    for index, amplifier in enumerate(amplifiers):
        row, column = divmod(index, columns)
        place = np.s_[row * block[0] : (row + 1) * block[0], column * block[1] : (column + 1) * block[1]]
        gain = amplifier.gain or design.gain
        level = bias_levels(config, detector)[index] + _row_drift(drift, block[0], design.bias_drift)
        raw = level[:, None] + noise[place] * (amplifier.read_noise / gain)
        raw += signals[index]
        single[place] = np.clip(np.rint(raw), 0, 65535).astype(np.uint16)
        if design.hdu_per_amplifier:
            hdus[amplifier.hdu] = single[place].copy()
    return hdus or {0: single}


def _signals(config: SimulatedSurvey, detector: int, electrons: _Float, amplifiers: tuple[Amplifier, ...]) -> _Float:
    """Return what each amplifier measures over its level, ADU (amplifiers, rows, columns) with prescan and overscans.

    Charge is transferred, becomes counts, goes through the response, is heard by the other amplifiers; the bias
    pattern comes on top.
    """
    design = config.detectors
    pattern = detector_pattern(config, detector).bias
    shapes = response_shapes(config, detector)
    height, width = design.height // design.amplifiers[1], design.width // design.amplifiers[0]
    inside = np.s_[:height, design.prescan : design.prescan + width]
    blocks = np.zeros((len(amplifiers), *raw_shape(design)))
    for block, amplifier, shape in zip(blocks, amplifiers, shapes, strict=True):
        gain = amplifier.gain or design.gain
        charge = _in_readout_order(electrons, amplifier)
        if design.serial_cti or design.parallel_cti:
            block[:] = clocked_out(charge, design) / gain
        else:
            block[inside] = charge / gain
        if design.nonlinearity:
            block[:] = nonlinear_response(block, shape, design.full_well / gain)
    if design.crosstalk:
        blocks = cross_talked(blocks, crosstalk_matrix(config, detector))
    for block, amplifier in zip(blocks, amplifiers, strict=True):
        block[inside] += _in_readout_order(pattern, amplifier)
    return blocks


def _in_readout_order(image: _Float, amplifier: Amplifier) -> _Float:
    """Return the amplifier's part of the assembled image as it is read."""
    part = image[parse_section(amplifier.position)]
    return part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def _row_drift(rng: np.random.Generator, rows: int, amplitude: float) -> _Float:
    """A new level, slope and slow wave in each frame, ADU, shape (rows,)."""
    draws = rng.standard_normal(4)
    t = np.linspace(-0.5, 0.5, rows)
    return np.asarray(
        amplitude * (draws[0] + draws[1] * t + 0.5 * draws[2] * np.sin(2.0 * np.pi * (1.5 * t + draws[3])))
    )
