"""Crosstalk: how much each amplifier hears of each other one, from frames with bright stars or spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, uniform_filter

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.crosstalk_fit import Samples, fit_victim, fit_within
from workers.calibrate.frames import Frames, Solution
from workers.imaging.background import mesh_background
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr.assembly import oriented
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["STEPS", "bright_samples", "joined", "solve"]

STEPS = ("overscan", "saturation", "bias")
"""Steps of isr.steps that the frames go through."""

_Float = NDArray[np.float64]
_Block = NDArray[np.float32]
_MESH = 64
_FAINTEST = 0.1
"""Of the threshold: how far it may be lowered for an amplifier that few bright stars fell on."""
_ENOUGH = 200
_WINGS = 0.01
"""Of the threshold: others brighter than that keep a pixel out of the background."""
_SOURCE = 4.0
"""Sigma of the smoothed counts from which a victim's own source is seen."""
_GROWTH = 8
_MOST = 200_000
_SIGNIFICANT = 3.0
_UNUSABLE = MaskPlane.BAD | MaskPlane.NO_DATA | MaskPlane.SATURATED


def solve(frames: Frames, steps: tuple[str, ...] = STEPS, *, threshold: float = 30000.0, lags: int = 1) -> Solution:
    """Return tables ``coefficients`` and ``error`` (victim, aggressor, lag), ADU per ADU, and ``pixels`` (aggressor,).

    An aggressor counts where it is `threshold` ADU above the background, or less (down to a tenth) where fewer than 200
    pixels are. Coefficients below 3 sigma are 0. With `lags` above 1 an amplifier also hears itself: the lags - 1
    pixels that it read before, as its serial overscan shows, for which some frames must be lit at the last columns.
    Charge left behind in transfers looks the same there: leave it 1 where that is corrected as deferred charge. Raises
    DataError where an amplifier has no bright pixel, ConfigurationError where amplifiers differ in shape.
    """
    amplifiers = frames.detector.amplifiers
    _check_shapes(frames.detector)
    found = [
        bright_samples(_blocks(frames.reduced(index, steps), amplifiers), threshold, index)
        for index in range(len(frames))
    ]
    samples = joined(found)
    thresholds, pixels = _thresholds(samples, threshold, [amplifier.name for amplifier in amplifiers])
    table, error = np.zeros((2, len(amplifiers), len(amplifiers), lags))
    for victim in range(len(amplifiers)):
        table[victim, :, 0], error[victim, :, 0] = fit_victim(samples, victim, thresholds)
    if lags > 1:
        for index, amplifier in enumerate(amplifiers):
            table[index, index, 1:], error[index, index, 1:] = _own(frames, amplifier, lags)
    table[np.abs(table) < _SIGNIFICANT * error] = 0.0
    metadata = {
        "largest": float(np.abs(table).max()),
        "largestError": float(error.max()),
        "significant": float(np.count_nonzero(table)),
        "leastThreshold": float(thresholds.min()),
        "pixels": float(samples.cluster.size),
    }
    return Solution(tables={"coefficients": table, "error": error, "pixels": pixels}, metadata=metadata)


def bright_samples(blocks: tuple[_Block, NDArray[np.bool_]], threshold: float, frame: int = 0) -> Samples:
    """Return the samples of one frame.

    `blocks` are counts (float32 ADU) and what is unusable (bool), both (amplifiers, rows, columns) in readout order;
    `frame` is its number.
    """
    counts, unusable = blocks[0], blocks[1].copy()
    signal, noise = np.empty_like(counts), np.empty(len(counts), np.float32)
    levels = np.median(counts, axis=(1, 2))
    glow = counts - levels[:, None, None].astype(np.float32) > _WINGS * threshold
    shone: NDArray[np.bool_] = np.asarray(glow.any(axis=0))
    for index, own in enumerate(counts):
        mesh = min(_MESH, *own.shape)
        sky = mesh_background(own, unusable[index] | shone, mesh=mesh)
        signal[index] = own - sky.level
        usable = ~unusable[index] & ~shone
        quiet = signal[index][usable]
        noise[index] = 1.4826 * np.median(np.abs(quiet - np.median(quiet)))
        unusable[index] |= _own_sources(signal[index], float(noise[index]), shone)
        signal[index] -= _local_mean(signal[index], usable & ~unusable[index], float(noise[index]))
    rows, columns = np.nonzero((signal > np.float32(_FAINTEST * threshold)).any(axis=0))
    stride = -(-len(rows) // _MOST) or 1
    rows, columns = rows[::stride], columns[::stride]
    taken = signal[:, rows, columns]
    own_source = taken > np.float32(_FAINTEST * threshold)
    tiles = counts.shape[2] // _MESH + 1
    patch = (rows // _MESH) * tiles + columns // _MESH
    return Samples(
        signal=taken,
        usable=~unusable[:, rows, columns] & ~own_source,
        noise=np.broadcast_to(noise[:, None], own_source.shape),
        cluster=patch + frame * tiles * (counts.shape[1] // _MESH + 1),
    )


def _local_mean(signal: _Block, usable: NDArray[np.bool_], noise: float) -> _Block:
    """Mean of the usable pixels within 3 sigma, in a box of 65 pixels: half as noisy as the mesh's mode."""
    quiet = usable & (np.abs(signal) < np.float32(3.0 * noise))
    share = uniform_filter(quiet.astype(np.float32), _MESH + 1)
    total = uniform_filter(np.where(quiet, signal, np.float32(0)), _MESH + 1)
    return np.where(share > 0.02, total / np.maximum(share, np.float32(0.02)), np.float32(0))


def _own_sources(signal: _Block, noise: float, shone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a victim has light of its own, and 8 pixels around: found on the mean of 5 x 5, where no other shines."""
    smooth = uniform_filter(np.where(shone, np.float32(0), signal), 5)
    found = (smooth > np.float32(_SOURCE * noise / 5.0)) & ~shone
    return np.asarray(maximum_filter(found, 2 * _GROWTH + 1))


def joined(samples: list[Samples]) -> Samples:
    """Return the samples of all frames as one."""
    return Samples(
        signal=np.concatenate([one.signal for one in samples], axis=1),
        usable=np.concatenate([one.usable for one in samples], axis=1),
        noise=np.concatenate([one.noise for one in samples], axis=1),
        cluster=np.concatenate([one.cluster for one in samples]),
    )


def _blocks(frame: Exposure, amplifiers: tuple[Amplifier, ...]) -> tuple[_Block, NDArray[np.bool_]]:
    """Counts and unusable pixels of all amplifiers in readout order; a saturated pixel is no victim."""
    places = [parse_section(amplifier.position) for amplifier in amplifiers]
    counts = [oriented(frame.image[place], a) for place, a in zip(places, amplifiers, strict=True)]
    flags = [oriented(frame.mask[place], a) for place, a in zip(places, amplifiers, strict=True)]
    return np.stack(counts), (np.stack(flags) & np.int32(_UNUSABLE)) != 0


def _check_shapes(detector: Detector) -> None:
    shapes = set()
    for amplifier in detector.amplifiers:
        rows, columns = parse_section(amplifier.data)
        shapes.add((rows.stop - rows.start, columns.stop - columns.start))
    if len(shapes) > 1 or len(detector.amplifiers) < 2:
        raise ConfigurationError(
            f"detector {detector.id} has amplifiers of shapes {sorted(shapes)}: crosstalk is between amplifiers that "
            "are read pixel by pixel together; take 'crosstalk' out of isr.steps in survey.toml"
        )


def _thresholds(samples: Samples, threshold: float, names: list[str]) -> tuple[_Float, _Float]:
    """Threshold of each aggressor, ADU, and the pixels that it has above."""
    limits, counts = np.full(len(names), threshold), np.zeros(len(names))
    for index in range(len(names)):
        bright = np.sort(samples.signal[index])[::-1]
        if len(bright) >= _ENOUGH:
            limits[index] = min(threshold, max(float(bright[_ENOUGH - 1]), _FAINTEST * threshold))
        else:
            limits[index] = _FAINTEST * threshold
        counts[index] = np.count_nonzero(bright > limits[index])
    dark = [name for name, count in zip(names, counts, strict=True) if count < 20]
    if dark:
        raise DataError(
            f"amplifiers {', '.join(dark)}: fewer than 20 pixels are {_FAINTEST * threshold:.0f} ADU above the "
            "background, so nobody knows what others hear of them; give more frames with bright stars"
        )
    return limits, counts


def _own(frames: Frames, amplifier: Amplifier, lags: int) -> tuple[_Float, _Float]:
    """What an amplifier remembers of its own signal (lags - 1,), and errors, from its serial overscan."""
    parts = [_overscan_rows(frames.raw(index), amplifier, lags) for index in range(len(frames))]
    design = np.concatenate([design for design, _ in parts])
    target = np.concatenate([target for _, target in parts])
    return fit_within(design, target)


def _overscan_rows(raw: RawExposure, amplifier: Amplifier, lags: int) -> tuple[_Float, _Float]:
    """The signal each lag brings (rows, lags - 1) to the first overscan pixels, and their counts, both ADU."""
    if amplifier.overscan is None:
        raise ConfigurationError(f"amplifier {amplifier.name} has no overscan that could remember its signal")
    rows, columns = parse_section(amplifier.data)
    over = parse_section(amplifier.overscan)[1]
    if over.start != columns.stop or over.stop - over.start < 2 * lags + 2:
        raise ConfigurationError(
            f"the overscan of amplifier {amplifier.name}, {amplifier.overscan}, does not follow its data "
            f"{amplifier.data} with {2 * lags + 2} columns or more: what it remembers can't be seen; set lags to 1"
        )
    pixels = raw.hdus[amplifier.hdu][rows]
    level = pixels[:, over.start + lags : over.stop].mean(axis=1, dtype=float)
    design, target = [], []
    for step in range(lags - 1):
        brought = np.zeros((len(level), lags - 1))
        for lag in range(step + 1, lags):
            brought[:, lag - 1] = pixels[:, over.start + step - lag] - level
        design.append(brought)
        target.append(pixels[:, over.start + step] - level)
    return np.concatenate(design), np.concatenate(target)
