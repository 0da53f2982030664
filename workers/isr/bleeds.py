"""Bleed trails: charge of saturated stars that ran along columns, and the fainter ends of such trails.

A star saturates a disc. What is saturated along a column beyond that disc is a trail; its ends are followed outwards
as long as the columns stand out from those beside them. Where blooming begins below the saturation level, the trail
has no saturated part: it is then what stands out above and below the disc and has no like to its left and right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.masks import MaskPlane
from workers.isr.saturated_runs import saturated_runs
from workers.isr.state import IsrState
from workers.survey.camera import Detector, parse_section

__all__ = ["amplifier_lines", "apply", "mark_bleeds"]

_BLOCK = 8
"""Rows of which a trail's end is judged at a time."""
_PROBED = 3
"""Blocks beyond the disc that an unsaturated trail must fill: no star is as long and as even as that."""
_CONTRAST = 0.5
"""Least excess of a trail over what lies beside it, in units of that light: wings of a star are rounder."""
_ROUND = (1.25, 2.0)
"""Factor and pixels by which a saturated disc may be longer than wide: stars are not quite round."""
_SMALLEST = 25
"""Saturated pixels (grown ones too) of which a disc is made at least; fewer are a hot pixel or a cosmic ray."""
_SAMPLES = 60_000


def mark_bleeds(
    image: FloatImage,
    mask: MaskImage,
    variance: FloatImage,
    lines: NDArray[np.int64],
    *,
    tail_sigma: float = 3.0,
    grow: int = 1,
    full_column: float = 0.25,
) -> int:
    """Set BLEED in `mask` in place along the trails of its SATURATED pixels; return the number of pixels flagged.

    `image` and `variance` float32, `mask` int32, all (height, width), before or after the gain; a variance of zero
    stands for the noise of the image. `lines`: int64 rows at which amplifiers begin and end, ascending from 0 to
    height. A block of eight rows of a trail's end stands out by `tail_sigma`; `grow` columns are added on each side;
    a saturated trail longer than `full_column` of the rows between two lines takes all of them.
    """
    runs = saturated_runs(mask, MaskPlane.SATURATED)
    if runs.count == 0:
        return 0
    level, noise = _sky(image)
    rules = np.array([level, noise, tail_sigma, float(grow), full_column])
    arrays = (runs.starts, runs.column, runs.first, runs.last)
    return int(_mark((image, mask, variance), lines, *arrays, rules, np.int32(MaskPlane.BLEED)))


def _sky(image: FloatImage) -> tuple[float, float]:
    """Median and 1.4826 MAD of some sixty thousand pixels."""
    stride = max(round(math.sqrt(image.size / _SAMPLES)), 1)
    sample = image[::stride, ::stride]
    level = float(np.nanmedian(sample))
    return level, 1.4826 * float(np.nanmedian(np.abs(sample - np.float32(level))))


def amplifier_lines(detector: Detector) -> NDArray[np.int64]:
    """Return the rows of the assembled detector at which amplifiers begin and end, int64, from 0 to its height."""
    rows = [parse_section(amplifier.position)[0] for amplifier in detector.amplifiers]
    inside = {line for row in rows for line in (row.start, row.stop)}
    return np.array(sorted(inside | {0, detector.height}), np.int64)


def apply(state: IsrState) -> None:
    """Set BLEED; the values stay. Put it behind `saturation`; behind `variance` faint ends are judged best.

    The share of flagged pixels becomes the metric bleedFraction.
    """
    config = state.config.bleeds
    flagged = mark_bleeds(
        state.image,
        state.mask,
        state.variance,
        amplifier_lines(state.detector),
        tail_sigma=config.tail_sigma,
        grow=config.grow,
        full_column=config.full_column,
    )
    state.metrics["bleedFraction"] = flagged / state.mask.size


@njit(cache=True, nogil=True)
def _mark(
    planes: Any, lines: Any, starts: Any, column: Any, first: Any, last: Any, rules: Any, bit: Any
) -> int:  # pragma: no cover - compiled
    """Mark the trails of every star; `planes` are image, mask, variance, `rules` as in `mark_bleeds`."""
    flagged = 0
    for star in range(starts.size - 1):
        runs = slice(starts[star], starts[star + 1])
        own = (column[runs], first[runs], last[runs])
        disc = _disc(own[0], own[1], own[2])
        large = np.sum(own[2] - own[1] + 1) >= _SMALLEST
        for way in (-1, 1):
            left, right = _saturated_columns(own, disc, way)
            if left <= right:
                flagged += _mark_saturated(planes, lines, own, disc, way, left, right, rules, bit)
            elif large:
                flagged += _mark_faint(planes, disc, way, rules, bit)
    return flagged


@njit(cache=True, nogil=True)
def _disc(column: Any, first: Any, last: Any) -> Any:  # pragma: no cover - compiled
    """Return (x, y, radius) of the disc a star saturates: as wide as its widest row, with room for roundness."""
    top, bottom, widest = first[0], last[0], 0
    for run in range(column.size):
        top, bottom = min(top, first[run]), max(bottom, last[run])
    width = np.zeros(bottom - top + 2, np.int64)
    for run in range(column.size):
        width[first[run] - top] += 1
        width[last[run] - top + 1] -= 1
    for row in range(width.size):
        width[row] += width[row - 1] if row else 0
        widest = max(widest, width[row])
    low, high = bottom, top
    for row in range(width.size):
        if width[row] >= 0.9 * widest:
            low, high = min(low, top + row), max(high, top + row)
    y = 0.5 * (low + high)
    total, crossing = 0.0, 0
    for run in range(column.size):
        if first[run] <= y <= last[run]:
            total, crossing = total + column[run], crossing + 1
    x = total / crossing if crossing else 0.5 * (column[0] + column[-1])
    return x, y, _ROUND[0] * 0.5 * widest + _ROUND[1]


@njit(cache=True, nogil=True)
def _beyond(column: int, first: int, last: int, disc: Any, way: int) -> Any:  # pragma: no cover - compiled
    """Return (top, bottom) of what of one run lies beyond the disc on one side; top > bottom where nothing does."""
    x, y, radius = disc
    if abs(column - x) >= radius and last - first < 2.0 * radius:
        return 1, 0
    reach = np.sqrt(max(radius**2 - (column - x) ** 2, 0.0))
    if way < 0:
        return first, min(last, int(np.floor(y - reach)))
    return max(first, int(np.ceil(y + reach))), last


@njit(cache=True, nogil=True)
def _saturated_columns(runs: Any, disc: Any, way: int) -> Any:  # pragma: no cover - compiled
    """Return the first and last column of the saturated trail on one side; first > last where there is none."""
    left, right = np.int64(1 << 30), np.int64(-1)
    for run in range(runs[0].size):
        top, bottom = _beyond(runs[0][run], runs[1][run], runs[2][run], disc, way)
        if top <= bottom:
            left, right = min(left, runs[0][run]), max(right, runs[0][run])
    return left, right


@njit(cache=True, nogil=True)
def _mark_saturated(
    planes: Any, lines: Any, runs: Any, disc: Any, way: int, left: int, right: int, rules: Any, bit: Any
) -> int:  # pragma: no cover - compiled
    """Mark a saturated trail on one side with the faint ends of its columns; whole columns where it is long."""
    flagged, grow = 0, int(rules[3])
    for run in range(runs[0].size):
        column, first, last = runs[0][run], runs[1][run], runs[2][run]
        top, bottom = _beyond(column, first, last, disc, way)
        if top > bottom:
            continue
        end = _follow(planes, column, left, right, top - 1 if way < 0 else bottom + 1, way, rules)
        top, bottom = (end, bottom) if way < 0 else (top, end)
        for part in range(lines.size - 1):
            low, high = max(first, lines[part]), min(last, lines[part + 1] - 1)
            if high - low + 1 > rules[4] * (lines[part + 1] - lines[part]):
                top, bottom = min(top, lines[part]), max(bottom, lines[part + 1] - 1)
        flagged += _set(planes[1], top, bottom, column - grow, column + grow, bit)
    return flagged


@njit(cache=True, nogil=True)
def _mark_faint(planes: Any, disc: Any, way: int, rules: Any, bit: Any) -> int:  # pragma: no cover - compiled
    """Mark a trail without a saturated part on one side of the disc."""
    flagged, grow = 0, int(rules[3])
    left, right = _faint_columns(planes, disc, way, rules)
    begin = int(np.rint(disc[1])) + way * int(np.ceil(disc[2]))
    for column in range(left, right + 1):
        end = _follow(planes, column, left, right, begin, way, rules)
        if end != begin - way:
            flagged += _set(planes[1], min(begin, end), max(begin, end), column - grow, column + grow, bit)
    return flagged


@njit(cache=True, nogil=True)
def _faint_columns(planes: Any, disc: Any, way: int, rules: Any) -> Any:  # pragma: no cover - compiled
    """Return the first and last column of an unsaturated trail beyond the disc; first > last where there is none.

    Each block of a column is compared with what lies at the same distance to the left and right of the star: a star,
    its wings and its spikes are alike in both directions, a trail is not.
    """
    x, y, reach = int(np.rint(disc[0])), int(np.rint(disc[1])), int(np.ceil(disc[2]))
    left, right = np.int64(1), np.int64(0)
    last = y + way * (reach + _PROBED * _BLOCK - 1)
    if last < 0 or last >= planes[0].shape[0]:
        return left, right
    half = max(reach // 2, 2)
    for offset in range(-half, half + 1):
        least, most = np.inf, 0.0
        for block in range(_PROBED):
            near, far = reach + block * _BLOCK, reach + block * _BLOCK + _BLOCK - 1
            top, bottom = min(y + way * near, y + way * far), max(y + way * near, y + way * far)
            value = _middle(planes[0], top, bottom, x + offset, x + offset, rules)
            one = _middle(planes[0], y + offset, y + offset, x - far, x - near, rules)
            two = _middle(planes[0], y + offset, y + offset, x + near, x + far, rules)
            beside = max(one, two)
            sigma = _noise(planes[2], top, bottom, x + offset, rules)
            stands_out = value - beside > max(5.0 * sigma, _CONTRAST * (beside - rules[0]))
            least, most = min(least, value - beside if stands_out else 0.0), max(most, value - beside)
        if least > 0.2 * most:
            left = np.int64(x + offset) if left > right else left
            right = np.int64(x + offset)
    return left, right


@njit(cache=True, nogil=True)
def _follow(
    planes: Any, column: int, left: int, right: int, begin: int, way: int, rules: Any
) -> int:  # pragma: no cover - compiled
    """Return the last row of a column's faint end that begins at row `begin`; `begin` - `way` where there is none.

    It is judged beside the columns `left` to `right` of the whole trail. Trails fade outwards: what is brighter than
    the block before is a star in the way.
    """
    image = planes[0]
    end, before = begin - way, np.inf
    while 0 <= end + way < image.shape[0]:
        top, bottom = min(end + way, end + way * _BLOCK), max(end + way, end + way * _BLOCK)
        value = _middle(image, top, bottom, column, column, rules)
        one = _middle(image, top, bottom, left - 5, left - 3, rules)
        two = _middle(image, top, bottom, right + 3, right + 5, rules)
        excess, wing = value - 0.5 * (one + two), 0.5 * (one + two) - rules[0]
        sigma = _noise(planes[2], top, bottom, column, rules)
        if excess < max(rules[2] * sigma, _CONTRAST * wing) or excess > 1.5 * before + 3.0 * sigma:
            break
        end, before = min(max(end + way * _BLOCK, 0), image.shape[0] - 1), excess
    return end


@njit(cache=True, nogil=True)
def _middle(image: Any, top: int, bottom: int, left: int, right: int, rules: Any) -> Any:  # pragma: no cover
    """Median of a small box (both ends included), and the level of the image where the box lies outside."""
    sorted_values, count = np.empty((bottom - top + 1) * (right - left + 1), np.float64), 0
    for row in range(max(top, 0), min(bottom + 1, image.shape[0])):
        for column in range(max(left, 0), min(right + 1, image.shape[1])):
            place = count
            while place > 0 and sorted_values[place - 1] > image[row, column]:
                sorted_values[place] = sorted_values[place - 1]
                place -= 1
            sorted_values[place] = image[row, column]
            count += 1
    if count == 0:
        return rules[0]
    return 0.5 * (sorted_values[(count - 1) // 2] + sorted_values[count // 2])


@njit(cache=True, nogil=True)
def _noise(variance: Any, top: int, bottom: int, column: int, rules: Any) -> Any:  # pragma: no cover - compiled
    """One sigma of the median of a piece of column, from its variance, or the noise of the image where that is zero."""
    box = variance[max(top, 0) : max(bottom + 1, 0), max(column, 0)]
    if box.size == 0:
        return np.inf
    mean = box.mean()
    return 1.25 * np.sqrt((mean if mean > 0.0 else rules[1] ** 2) / box.size)


@njit(cache=True, nogil=True)
def _set(mask: Any, top: int, bottom: int, left: int, right: int, bit: Any) -> int:  # pragma: no cover - compiled
    """Set `bit` in a box (both ends included, cut at the image's edges); return how many pixels got it anew."""
    count = 0
    for row in range(max(top, 0), min(bottom, mask.shape[0] - 1) + 1):
        for column in range(max(left, 0), min(right, mask.shape[1] - 1) + 1):
            if mask[row, column] & bit == 0:
                mask[row, column] |= bit
                count += 1
    return count
