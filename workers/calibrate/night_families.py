"""The families of numbers that are taken from one night's frames of a detector: levels, noise, blocks, profiles.

====================  ==============================================================================================
level                 clipped mean of each amplifier, and of the detector; in a flat the amplifiers' ratio to the latter
noise                 (bias) scatter of a pixel between frames, per amplifier
gradient              plane through the blocks: from the detector's centre to its edge along x and y
block                 about 8 x 8 over the detector: mean minus the amplifier's (bias, dark) or the detector's (flat)
column, row           profiles of each amplifier minus their own running median: narrow features, such as a warm column;
                      of amplifiers longer than 1023 pixels, means of neighbours
hot                   (dark) pixels that stand out of their amplifier by 6 robust sigma
lamp                  (flat) level of the detector per second: of the lamp, not of the detector
====================  ==============================================================================================

Bias in ADU, dark in ADU/s, flat relative to the detector's level; lamp in ADU/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from workers.calibrate.combine import combine, frame_noise
from workers.imaging.exposure import FloatImage
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["Family", "clipped_mean", "families_of"]

_Float = NDArray[np.float64]

_CLIP = 5.0
_ROUNDS = 4
_BLOCKS = 8
_NARROW = 31
_LINES = 512
_HOT_SIGMA = 6.0
_LEAST_VARIANCE = 1.0e-24


@dataclass(frozen=True)
class Family:
    """Numbers of one sort: `names` with values and errors, float64 (n,); an error of NaN stands for an unknown one."""

    names: tuple[str, ...]
    values: _Float
    errors: _Float

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for name in ("values", "errors"):
            array = np.array(getattr(self, name), np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)


def families_of(kind: str, stack: NDArray[np.float32], detector: Detector) -> Mapping[str, Family]:
    """Return the families of frames float32 (n, height, width) in the unit of `kind`; NaN is unusable."""
    first, second = stack[0], stack[-1]
    noise = frame_noise(first, second) if len(stack) > 1 else clipped_mean(first)[1]
    combined = combine(stack, noise=noise, threads=1)
    by_frame = np.array([[_quick_mean(_part(frame, a)) for a in detector.amplifiers] for frame in stack])
    families = {"level": _levels(kind, combined.mean, by_frame, detector)}
    if kind == "bias" and len(stack) > 1:
        families["noise"] = _noises(stack, detector)
    families["block"], places = _blocks(kind, combined.mean, combined.variance, detector)
    families["gradient"] = _gradient(families["block"], places)
    families["column"] = _profiles(combined.mean, combined.variance, detector, axis=0)
    families["row"] = _profiles(combined.mean, combined.variance, detector, axis=1)
    if kind == "dark":
        families["hot"] = _hot_pixels(combined.mean, detector)
    return families


def clipped_mean(values: NDArray[np.floating]) -> tuple[float, float, int]:
    """Return mean, standard deviation and number of the values that clipping at 5 sigma about the median leaves."""
    kept = np.asarray(values[np.isfinite(values)], float)
    if kept.size == 0:
        return np.nan, np.nan, 0
    centre = float(np.median(kept))
    scale = 1.4826 * float(np.median(np.abs(kept - centre))) or float(kept.std()) or 1e-12
    for _ in range(_ROUNDS):
        before, kept = kept.size, kept[np.abs(kept - centre) <= _CLIP * scale]
        centre = float(kept.mean())
        if kept.size == before:
            break
    return centre, float(kept.std()), kept.size


def _part(image: NDArray[Any], amplifier: Amplifier) -> NDArray[Any]:
    return image[parse_section(amplifier.position)]


def _quick_mean(part: NDArray[np.float32]) -> float:
    """Return the mean of an amplifier in one frame, clipped once about the median of a sample of its pixels."""
    sample = part[::5, ::3]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return np.nan
    centre = np.median(sample)
    reach = _CLIP * 1.4826 * np.median(np.abs(sample - centre)) + 1e-30
    kept = np.abs(part - centre) <= reach
    return float(np.sum(part, where=kept, dtype=np.float64)) / max(int(np.count_nonzero(kept)), 1)


def _scatter_of_mean(values: _Float) -> float:
    """Return the error of a mean over frames from the scatter of values (frames, n), pooled over n; NaN for one frame.

    The overscan's noise is common to an amplifier's pixels in a frame: the scatter of its levels holds it, that of its
    pixels does not.
    """
    if len(values) < 2:
        return np.nan
    variance = np.var(values, axis=0, ddof=1)
    variance = variance[np.isfinite(variance)]
    return float(np.sqrt(max(float(np.mean(variance)), _LEAST_VARIANCE) / len(values))) if variance.size else np.nan


def _levels(kind: str, mean: FloatImage, by_frame: _Float, detector: Detector) -> Family:
    names = [amplifier.name for amplifier in detector.amplifiers]
    levels = np.array([clipped_mean(_part(mean, amplifier))[0] for amplifier in detector.amplifiers])
    whole, whole_frames = _finite_mean(levels[None, :])[0], _finite_mean(by_frame)
    if kind == "flat":
        error = _scatter_of_mean(by_frame / whole_frames[:, None])
        return Family(tuple(names), levels / whole, np.full(len(levels), error))
    errors = np.append(np.full(len(levels), _scatter_of_mean(by_frame)), _scatter_of_mean(whole_frames[:, None]))
    return Family((*names, "detector"), np.append(levels, whole), errors)


def _finite_mean(values: _Float) -> _Float:
    """Return the mean of the finite values of each row (n,); NaN where there is none."""
    good = np.isfinite(values)
    count = good.sum(axis=1)
    return np.where(count > 0, np.where(good, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _noises(stack: NDArray[np.float32], detector: Detector) -> Family:
    """Return the scatter of a pixel from frame to frame per amplifier: differences of frames that follow each other."""
    pairs = [(index, index + 1) for index in range(0, len(stack) - 1, 2)]
    scatter = np.array(
        [
            [clipped_mean(_part(stack[b], a) - _part(stack[f], a))[1] / np.sqrt(2.0) for a in detector.amplifiers]
            for f, b in pairs
        ]
    )
    pixels = np.array([_part(stack[0], amplifier).size for amplifier in detector.amplifiers])
    noise = scatter.mean(axis=0)
    names = tuple(amplifier.name for amplifier in detector.amplifiers)
    return Family(names, noise, np.maximum(noise, 1e-12) / np.sqrt(2.0 * pixels * len(pairs)))


def _blocks(kind: str, mean: FloatImage, variance: FloatImage, detector: Detector) -> tuple[Family, _Float]:
    """Return the family of blocks, and their centres (n, 2), x and y from -1 to 1 over the detector."""
    names, values, errors, places = [], [], [], []
    parts = [(amplifier, _part(mean, amplifier)) for amplifier in detector.amplifiers]
    levels = np.array([clipped_mean(part)[0] for _, part in parts])
    whole = _finite_mean(levels[None, :])[0]
    for (amplifier, part), level in zip(parts, levels, strict=True):
        top, left = (axis.start for axis in parse_section(amplifier.position))
        noise = _part(variance, amplifier)
        for row, column in _grid(part.shape, detector):
            block = part[row, column]
            value, _, count = clipped_mean(block)
            good = np.isfinite(noise[row, column])
            spread = float(np.mean(noise[row, column], where=good)) if good.any() else np.nan
            centre = (left + 0.5 * (column.start + column.stop), top + 0.5 * (row.start + row.stop))
            names.append(f"{amplifier.name}/{centre[0]:.0f},{centre[1]:.0f}")
            values.append(value / whole - 1.0 if kind == "flat" else value - level)
            error = np.sqrt(max(spread, _LEAST_VARIANCE) / max(count, 1))
            errors.append(error / abs(whole) if kind == "flat" else error)
            places.append((2.0 * centre[0] / detector.width - 1.0, 2.0 * centre[1] / detector.height - 1.0))
    return Family(tuple(names), np.array(values), np.array(errors)), np.array(places)


def _grid(shape: tuple[int, ...], detector: Detector) -> list[tuple[slice, slice]]:
    """Return the blocks of an amplifier of `shape`: whole ones, about an eighth of the detector on a side."""
    edges = []
    for size, whole in zip(shape, (detector.height, detector.width), strict=True):
        edges.append(np.linspace(0, size, max(round(_BLOCKS * size / whole), 1) + 1).astype(int))
    rows, columns = ([slice(int(a), int(b)) for a, b in pairwise(edge)] for edge in edges)
    return [(row, column) for row in rows for column in columns]


def _gradient(blocks: Family, places: _Float) -> Family:
    """Return the slopes of the plane through the blocks; an offset of one amplifier is seen here too."""
    design = np.column_stack([np.ones(len(places)), places])
    good = np.isfinite(blocks.values)
    if np.count_nonzero(good) < 3 or np.linalg.matrix_rank(design[good]) < 3:
        return Family(("x", "y"), np.full(2, np.nan), np.full(2, np.nan))
    inverse = np.linalg.pinv(design[good])
    slopes = inverse @ blocks.values[good]
    errors = np.sqrt(np.square(inverse) @ np.square(blocks.errors[good]))
    return Family(("x", "y"), slopes[1:], errors[1:])


def _profiles(mean: FloatImage, variance: FloatImage, detector: Detector, axis: int) -> Family:
    """Return the columns (axis 0 is averaged) or rows of every amplifier, less the running median of 31 of them."""
    names: list[str] = []
    values, errors = [], []
    for amplifier in detector.amplifiers:
        profile, error, first = _binned(*_profile(_part(mean, amplifier), _part(variance, amplifier), axis))
        good = np.isfinite(profile)
        filled = np.where(good, profile, np.median(profile[good]) if good.any() else 0.0)
        start = parse_section(amplifier.position)[1 - axis].start
        names += [f"{amplifier.name}/{start + index}" for index in first]
        values.append(profile - median_filter(filled, size=min(_NARROW, len(filled)), mode="nearest"))
        errors.append(error)
    return Family(tuple(names), np.concatenate(values), np.concatenate(errors))


def _binned(profile: _Float, error: _Float) -> tuple[_Float, _Float, NDArray[np.intp]]:
    """Return a profile as 512 to 1023 means of neighbours where it is longer than 1023, and where each mean begins."""
    step = max(len(profile) // _LINES, 1)
    first = np.arange(0, len(profile), step)
    good = np.isfinite(profile)
    count = np.add.reduceat(good.astype(float), first)
    mean = np.add.reduceat(np.where(good, profile, 0.0), first) / np.maximum(count, 1.0)
    width = np.sqrt(np.add.reduceat(np.where(good, error, 0.0) ** 2, first)) / np.maximum(count, 1.0)
    return np.where(count > 0, mean, np.nan), np.where(count > 0, width, np.nan), first


def _profile(part: FloatImage, variance: FloatImage, axis: int) -> tuple[_Float, _Float]:
    """Return mean and error of each column (or row) of an amplifier, single pixels that stick out of it left out."""
    lines = np.asarray(part if axis == 0 else part.T, float)
    noise = np.asarray(variance if axis == 0 else variance.T, float)
    good = np.isfinite(lines)
    middle = np.median(np.where(good, lines, 0.0), axis=0)
    reach = _CLIP * 1.4826 * np.median(np.where(good, np.abs(lines - middle), 0.0), axis=0) + 1e-12
    kept = good & (np.abs(lines - middle) <= reach)
    count = kept.sum(axis=0)
    mean = np.where(kept, lines, 0.0).sum(axis=0) / np.maximum(count, 1)
    spread = np.where(kept & np.isfinite(noise), noise, 0.0).sum(axis=0)
    error = np.sqrt(np.maximum(spread, _LEAST_VARIANCE)) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan), np.where(count > 0, error, np.nan)


def _hot_pixels(mean: FloatImage, detector: Detector) -> Family:
    """Return how many pixels of each amplifier's dark rate stand out of it; the error is that of a count."""
    counts = []
    for amplifier in detector.amplifiers:
        part = _part(mean, amplifier)
        centre, sigma, _ = clipped_mean(part)
        counts.append(float(np.count_nonzero(part > centre + _HOT_SIGMA * sigma)))
    names = tuple(amplifier.name for amplifier in detector.amplifiers)
    return Family(names, np.array(counts), np.sqrt(np.maximum(counts, 1.0)))
