"""Steps between neighbouring amplifiers: pedestals that the overscan leaves, measured on the sky at their borders.

On each side of a border two strips give the sky extrapolated linearly to the border, so that a gradient makes no step;
many short blocks along it give the step's robust mean and its error; a weighted least-squares solution over all borders
gives one offset per amplifier, their sum zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, MaskImage
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, parse_section

__all__ = ["AmpOffsets", "Border", "apply", "borders", "measure_offsets", "solve_offsets"]

_Float = NDArray[np.float64]
_LEAST_PIXELS = 16
_LEAST_BLOCKS = 12
_OUTLIER = 3.5
_LEVERAGE = 4.5
_BENT = 0.02


def apply(state: IsrState) -> None:
    """Subtract each amplifier's offset (electrons) where it is significant.

    The errors, some hundredths of an electron common to a whole amplifier, are reported and not put into the variance,
    which describes noise from pixel to pixel.
    """
    state.need_unit("electron", "amp_offset")
    options, amplifiers = state.config.amp_offset, state.detector.amplifiers
    found = measure_offsets(
        state.image, state.mask, amplifiers, strip=options.strip, gap=options.gap, block=options.block
    )
    for amplifier, offset, error in zip(amplifiers, found.offset, found.error, strict=True):
        state.metrics[f"ampOffset_{amplifier.name}"] = float(offset)
        if abs(offset) > options.significance * error:
            state.image[parse_section(amplifier.position)] -= np.float32(offset)
    known = found.error[np.isfinite(found.error)]
    state.metrics["ampOffsetErr"] = float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True)
class AmpOffsets:
    """Offsets of n amplifiers."""

    offset: _Float
    """In the image's unit, sum zero over amplifiers that hang together by borders."""
    error: _Float
    """One sigma; infinite for an amplifier none of whose borders could be measured."""
    steps: _Float
    """(borders, 2): step across each border, second amplifier minus first, and its error; NaN, infinite: none."""


@dataclass(frozen=True)
class Border:
    """A straight line where two amplifiers meet."""

    first: int
    """Index of the amplifier to the left, or below."""
    second: int
    upright: bool
    """The line runs along y: the amplifiers lie side by side."""
    at: int
    """First column (row) of the second amplifier."""
    begin: int
    """First row (column) of the common part; `end` is one past its last."""
    end: int
    depth: int
    """Columns (rows) of the thinner of the two amplifiers."""


def borders(amplifiers: tuple[Amplifier, ...]) -> tuple[Border, ...]:
    """Return the borders of any layout of amplifiers, by their positions in the assembled image."""
    places = [parse_section(amplifier.position) for amplifier in amplifiers]
    found = []
    for i, one in enumerate(places):
        for j, other in enumerate(places):
            for upright, across, along in ((True, 1, 0), (False, 0, 1)):
                begin, end = max(one[along].start, other[along].start), min(one[along].stop, other[along].stop)
                if one[across].stop == other[across].start and end > begin:
                    depth = min(one[across].stop - one[across].start, other[across].stop - other[across].start)
                    found.append(Border(i, j, upright, other[across].start, begin, end, depth))
    return tuple(found)


def measure_offsets(
    image: FloatImage,
    mask: MaskImage,
    amplifiers: tuple[Amplifier, ...],
    *,
    strip: int = 16,
    gap: int = 1,
    block: int = 64,
) -> AmpOffsets:
    """Return the offsets of the amplifiers of a flat-fielded image (height, width); masked pixels are left out.

    `strip`, `gap` and `block` in pixels: width of each of two strips per side, distance of the first from the border,
    length of border that makes one measurement.
    """
    lines = borders(amplifiers)
    measured = [_block_steps(image, mask, border, strip, gap, block) for border in lines]
    levels = np.concatenate([level for _, _, level in measured]) if measured else np.zeros(0)
    levels = levels[np.isfinite(levels)]
    sky = float(np.median(levels)) if len(levels) else 0.0
    # a source's profile is no straight line: what is extrapolated of it is wrong by some hundredths
    kept = [_without_outliers(step, np.hypot(error, _BENT * (level - sky)), level) for step, error, level in measured]
    scale = _noise_scale(kept)
    steps = np.array([_border_step(step, error, scale) for step, error in kept]).reshape(-1, 2)
    pairs = np.array([(border.first, border.second) for border in lines], np.int64).reshape(-1, 2)
    offset, error = solve_offsets(len(amplifiers), pairs, steps[:, 0], steps[:, 1])
    return AmpOffsets(offset, error, steps)


def solve_offsets(count: int, pairs: NDArray[np.int64], step: _Float, error: _Float) -> tuple[_Float, _Float]:
    """Return `count` offsets and their errors from steps (second minus first of `pairs`) by weighted least squares.

    The sum is zero over each group of amplifiers that borders connect. Errors grow by the root of chi² per degree of
    freedom where the steps clearly contradict each other. Steps with infinite error don't count.
    """
    use = np.isfinite(error) & np.isfinite(step)
    pairs, step, error = pairs[use], step[use], error[use]
    if len(step) == 0:
        return np.zeros(count), np.full(count, np.inf)
    design = np.zeros((len(step), count))
    rows = np.arange(len(step))
    design[rows, pairs[:, 0]], design[rows, pairs[:, 1]] = -1.0, 1.0
    # in units of the best error, so that what pinv takes for zero does not depend on the image's unit
    unit = float(error.min())
    weighted = design * (unit / error)[:, None]
    normal = weighted.T @ weighted
    covariance = np.linalg.pinv(normal, hermitian=True)
    offset = covariance @ (weighted.T @ (step * unit / error))
    free = len(step) - int(np.linalg.matrix_rank(normal, hermitian=True))
    chi2 = float(np.sum(((step - design @ offset) / error) ** 2))
    scale = _inflation(chi2, free)
    errors = unit * scale * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return offset, np.where(np.isin(np.arange(count), pairs), errors, np.inf)


def _block_steps(
    image: FloatImage, mask: MaskImage, border: Border, strip: int, gap: int, block: int
) -> tuple[_Float, _Float, _Float]:
    """Return step, its formal error and the sky level of each block along a border; NaN where too few pixels count."""
    strip = min(strip, (border.depth - gap) // 2)
    if strip < 2:
        empty = np.zeros(0)
        return empty, empty, empty
    length = border.end - border.begin
    count = max(length // block, min(_LEAST_BLOCKS, length // strip), 1)
    edges = np.linspace(border.begin, border.end, count + 1).astype(np.int64)
    starts = border.at + np.array([-gap - 2 * strip, -gap - strip, gap, gap + strip])
    planes = (image, mask) if border.upright else (image.T, mask.T)
    levels, errors = np.full((count, 4), np.nan), np.full((count, 4), np.nan)
    _strip_levels(*planes, edges, starts, strip, levels, errors, 0.0)
    if np.isfinite(errors).any():
        # sources widen the scatter of a strip: that of a typical strip tells better what to leave out
        noise = float(np.nanmedian(errors))
        levels[:], errors[:] = np.nan, np.nan
        _strip_levels(*planes, edges, starts, strip, levels, errors, noise)
    lean = (gap + 0.5 * strip) / strip
    weights = np.array([lean, -1.0 - lean, 1.0 + lean, -lean])
    return levels @ weights, np.sqrt(errors**2 @ weights**2), levels.mean(axis=1)


def _without_outliers(step: _Float, error: _Float, level: _Float) -> tuple[_Float, _Float]:
    """Drop blocks that a bright source covers: their level stands out from a line, or their step from the others."""
    use = np.isfinite(step) & (error > 0)
    step, error, level = step[use], error[use], level[use]
    place = np.arange(len(level), dtype=float)
    good = np.ones(len(level), bool)
    for _ in range(5):
        if np.count_nonzero(good) < 4:
            break
        line = np.polynomial.Polynomial.fit(place[good], level[good], 1)(place)
        rest = np.abs(level - line)
        # a block's mean level is known _LEVERAGE times better than the step extrapolated from it
        wander = max(1.4826 * float(np.median(rest[good])), float(np.median(error)) / _LEVERAGE)
        bright = np.convolve(rest > _OUTLIER * wander, [1, 1, 1], "same") > 0
        middle = float(np.median(step[good]))
        spread = np.maximum(1.4826 * np.median(np.abs(step[good] - middle)), error)
        before, good = good, (np.abs(step - middle) < _OUTLIER * spread) & ~bright
        if (before == good).all():
            break
    return step[good], error[good]


def _noise_scale(kept: list[tuple[_Float, _Float]]) -> float:
    """Return by how much the blocks scatter more than their formal errors, over all borders; at least 1."""
    chi2, free = 0.0, 0
    for step, error in kept:
        if len(step) > 1:
            chi2 += float(np.sum(((step - np.average(step, weights=error**-2)) / error) ** 2))
            free += len(step) - 1
    return max(1.0, math.sqrt(chi2 / free)) if free else 1.0


def _border_step(step: _Float, error: _Float, scale: float) -> tuple[float, float]:
    """Return the weighted mean step of one border and its error; a border rougher than the others gets a larger one."""
    if len(step) == 0:
        return float("nan"), float("inf")
    weight = (scale * error) ** -2
    mean = float(np.sum(weight * step) / weight.sum())
    chi2 = float(np.sum(weight * (step - mean) ** 2))
    return mean, float(weight.sum() ** -0.5) * _inflation(chi2, len(step) - 1)


def _inflation(chi2: float, free: int) -> float:
    """Return by what errors grow: 1 unless chi² is more than 3 sigma above its degrees of freedom."""
    return math.sqrt(chi2 / free) if free > 0 and chi2 > free + 3.0 * math.sqrt(2.0 * free) else 1.0


@njit(cache=True, nogil=True)
def _strip_levels(
    image: Any, mask: Any, edges: Any, starts: Any, strip: Any, levels: Any, errors: Any, noise: Any
) -> None:  # pragma: no cover - compiled
    """Mean of the unmasked pixels within 3 `noise` of their middle, and its error, for each block and strip.

    With `noise` 0 only the scatter of one pixel, as an error, from one row in four.
    """
    values = np.empty((edges[1:] - edges[:-1]).max() * strip, np.float32)
    for b in range(len(edges) - 1):
        for s in range(len(starts)):
            n = 0
            stride = 1 if noise > 0.0 else 4
            for y in range(edges[b], edges[b + 1], stride):
                for x in range(starts[s], starts[s] + strip):
                    if mask[y, x] == 0:
                        values[n] = image[y, x]
                        n += 1
            if n * stride < max(_LEAST_PIXELS, (edges[b + 1] - edges[b]) * strip // 2):
                continue
            middle = np.median(values[:n])
            if noise > 0.0:
                middle, _, _ = _clipped(values, n, middle, 3.0 * noise)
                levels[b, s], scatter, kept = _clipped(values, n, middle, 3.0 * noise)
                errors[b, s] = scatter / math.sqrt(kept) if kept > 0 else np.nan
            else:
                errors[b, s] = 1.4826 * np.median(np.abs(values[:n] - middle))


@njit(cache=True, nogil=True)
def _clipped(values: Any, n: Any, middle: Any, reach: Any) -> Any:  # pragma: no cover - compiled
    """Mean, scatter and count of the values within `reach` of `middle`."""
    total, square, kept = 0.0, 0.0, 0
    for i in range(n):
        rest = values[i] - middle
        if abs(rest) <= reach:
            total += rest
            square += rest * rest
            kept += 1
    if kept == 0:
        return np.nan, np.nan, 0
    mean = total / kept
    return middle + mean, math.sqrt(max(square / kept - mean * mean, 0.0)), kept
