"""Charge transfer: what is left behind on the way out, from the overscans of flats (extended pixel edge response)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.frames import Frames, Solution
from workers.calibrate.trail_fit import TrailFit, Trails, fit_trails
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr.assembly import oriented
from workers.isr.deferred_charge import prescan_of
from workers.isr.gain import amplifier_gain
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["STEPS", "edge_means", "solve"]

STEPS = ("overscan", "crosstalk", "saturation", "linearity", "bias")
"""Steps of isr.steps that give the signal next to the overscan."""

_Float = NDArray[np.float64]
_LEAST_PIXELS = 6
_BASE = 0.4
"""Of the overscan: the part farthest from the data, which makes the zero level."""
_CLIP = 4.0
_EDGE = 8
_LEAST_SIGNAL = 500.0


@dataclass(frozen=True)
class _Strip:
    """One frame's overscan of one amplifier in one direction, electrons."""

    signal: float
    mean: _Float
    """By distance from the data (pixels,), over a level of its own."""
    error: _Float


def solve(frames: Frames, steps: tuple[str, ...] = STEPS, *, remembered: _Float | None = None) -> Solution:
    """Return the tables of kind ``cti``, each by amplifier, from flats of one or, better, several levels.

    ``serial``, ``parallel`` and ``serialError``, ``parallelError`` (amplifiers,): fraction of the charge left behind
    per transfer; ``offset`` (amplifiers, 2): amplitude and decay in pixels of the output amplifier's memory;
    ``serialTrap``, ``parallelTrap`` (amplifiers, 3): capacity and signal of half filling in electrons, decay in pixels.
    `remembered` (amplifiers, lags) are the crosstalk coefficients of each amplifier with itself from lag 1 on, where
    these are corrected before. Without a parallel overscan nothing is known of that direction, and it stays 0. Raises
    ConfigurationError where the serial overscan does not follow the data, DataError where no flat is bright enough.
    """
    detector = frames.detector
    strips: list[list[tuple[_Strip | None, _Strip | None]]] = [[] for _ in detector.amplifiers]
    for index in range(len(frames)):
        raw, reduced = frames.raw(index), frames.reduced(index, steps)
        for number, amplifier in enumerate(detector.amplifiers):
            gain = amplifier_gain(amplifier, raw, frames.camera)
            memory = np.zeros(0) if remembered is None else remembered[number]
            strips[number].append(_strips(raw, reduced, amplifier, gain, memory))
    fits = [
        [_fit([pair[axis] for pair in strips[number]], amplifier, detector, axis) for axis in (0, 1)]
        for number, amplifier in enumerate(detector.amplifiers)
    ]
    return _solution(fits)


def edge_means(strip: _Float) -> tuple[_Float, _Float]:
    """Return the clipped mean of each column and its error, float64 (columns,), of a strip (rows, columns)."""
    centre = np.median(strip, axis=0)
    deviation = np.abs(strip - centre)
    limit = _CLIP * np.maximum(1.4826 * np.median(deviation, axis=0), 0.5)
    kept = deviation <= limit
    count = np.maximum(kept.sum(axis=0), 1)
    mean = np.where(kept, strip, 0.0).sum(axis=0) / count
    square = np.where(kept, (strip - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(np.maximum(square / count, 1.0 / 12.0) / count)


def _strips(
    raw: RawExposure, reduced: Exposure, amplifier: Amplifier, gain: float, memory: _Float
) -> tuple[_Strip | None, _Strip | None]:
    """Parallel and serial strip of one amplifier; None where it is saturated, too faint or has no overscan."""
    place = parse_section(amplifier.position)
    part = oriented(reduced.image[place], amplifier).astype(float) * gain
    bad = (oriented(reduced.mask[place], amplifier) & int(MaskPlane.SATURATED)) != 0
    pixels = raw.hdus[amplifier.hdu]
    serial = _serial_overscan(amplifier)
    rows, columns = parse_section(amplifier.data)
    beside = pixels[rows, serial].astype(float) * gain
    beside -= beside[:, _base(beside.shape[1])].mean(axis=1, keepdims=True)
    strips: list[_Strip | None] = [None, None]
    signal = _edge_signal(part[:, -_EDGE:], bad[:, -_EDGE:])
    if signal is not None:
        mean, error = edge_means(beside)
        for lag in range(1, len(memory) + 1):
            mean[lag - 1] -= memory[lag - 1 :].sum() * signal
        strips[1] = _Strip(signal, mean, error)
    if amplifier.parallel_overscan is not None:
        below = parse_section(amplifier.parallel_overscan)[0]
        signal = _edge_signal(part[-_EDGE:].T, bad[-_EDGE:].T)
        if signal is not None and below.start == rows.stop and below.stop - below.start >= _LEAST_PIXELS:
            level = _row_levels(pixels, below, serial)
            mean, error = edge_means((pixels[below, columns] - level[:, None]).T * gain)
            corner = float(np.median(np.std(beside, axis=0))) / np.sqrt(0.5 * beside.shape[1])
            strips[0] = _Strip(signal, mean, np.hypot(error, corner))
    return strips[0], strips[1]


def _serial_overscan(amplifier: Amplifier) -> slice:
    """Columns of the serial overscan; raises ConfigurationError where they don't follow the data's."""
    data = parse_section(amplifier.data)[1]
    over = parse_section(amplifier.overscan)[1] if amplifier.overscan is not None else slice(0, 0)
    if over.start != data.stop or over.stop - over.start < _LEAST_PIXELS:
        raise ConfigurationError(
            f"amplifier {amplifier.name}: its overscan {amplifier.overscan} does not follow its data {amplifier.data} "
            f"with {_LEAST_PIXELS} columns or more, so charge left behind can't be seen; give the whole overscan in "
            "camera.toml, and leave columns out with isr.overscan.skip"
        )
    return over


def _base(count: int) -> NDArray[np.intp]:
    """Which of `count` overscan pixels make the zero level: the farthest."""
    return np.arange(count - max(int(_BASE * count), 3), count)


def _row_levels(pixels: NDArray[np.generic], rows: slice, columns: slice) -> _Float:
    """Level of each row of the parallel overscan from the corner beside it, ADU; 0 where the array has none."""
    half = (columns.start + columns.stop) // 2
    corner = np.asarray(pixels[rows, half : columns.stop], float)
    return corner.mean(axis=1) if corner.shape[1] else np.zeros(rows.stop - rows.start)


def _edge_signal(edge: _Float, bad: NDArray[np.bool_]) -> float | None:
    """Electrons in the last pixels before the overscan (lines, 8): the median of the columns' clipped means."""
    if np.mean(bad) > 0.01:
        return None
    signal = float(np.median(edge_means(edge)[0]))
    return signal if signal > _LEAST_SIGNAL else None


def _fit(strips: list[_Strip | None], amplifier: Amplifier, detector: Detector, axis: int) -> TrailFit | None:
    """Fit one amplifier along one axis (0: parallel, 1: serial)."""
    good = [strip for strip in strips if strip is not None]
    if not good:
        if axis == 0 and amplifier.parallel_overscan is None:
            return None
        raise DataError(
            f"amplifier {amplifier.name}: no flat has more than {_LEAST_SIGNAL:.0f} electrons and less than saturation "
            "at its far edge; give flats of several levels below saturation"
        )
    base = _base(len(good[0].mean))
    kept = np.arange(base[0])
    data = parse_section(amplifier.data)[axis]
    zero = np.array([strip.mean[base].mean() for strip in good])
    trails = Trails(
        signal=np.array([strip.signal for strip in good]),
        deferred=np.stack([strip.mean[kept] for strip in good]) - zero[:, None],
        error=np.stack([np.hypot(strip.error[kept], strip.error[base].mean() / len(base) ** 0.5) for strip in good]),
        lags=kept + 1,
        base=base + 1,
        transfers=prescan_of(amplifier, detector)[axis] + data.stop - data.start,
    )
    return fit_trails(trails, offset=axis == 1)


def _solution(fits: list[list[TrailFit | None]]) -> Solution:
    tables: dict[str, _Float] = {}
    metadata = {}
    for axis, name in enumerate(("parallel", "serial")):
        found = [pair[axis] or TrailFit(0.0, 0.0, (0.0, 1.0), (0.0, 1.0, 1.0), 0.0) for pair in fits]
        tables[name] = np.array([fit.fraction for fit in found])
        tables[f"{name}Error"] = np.array([fit.error for fit in found])
        tables[f"{name}Trap"] = np.array([fit.trap for fit in found])
        metadata[f"{name}Measured"] = float(any(pair[axis] is not None for pair in fits))
        metadata[f"{name}Largest"] = float(tables[name].max())
        metadata[f"{name}Chi2"] = float(np.median([fit.chi2 for fit in found]))
        if name == "serial":
            tables["offset"] = np.array([fit.offset for fit in found])
    return Solution(tables=tables, metadata=metadata)
