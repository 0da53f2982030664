"""What looks like a trail and is none: columns, amplifier edges, diffraction spikes, galaxies, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import nnls

from workers.imaging.exposure import FloatImage, MaskImage
from workers.isr.trail_binning import BLOCKED, Box, FlatSky
from workers.isr.trail_path import Arc, Bars, stretched
from workers.isr.trail_profile import Profile

__all__ = ["ends_inside", "fades", "is_column", "is_even", "is_near_axis", "is_sharp", "is_spike", "runs_along_axis"]

_BLOCK = 8.0  # bins
_SPIKE = 12.0  # radii of a star up to which its spikes matter
_SPREADS = np.array([4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])  # pixels
_COLUMNS = 4  # side by side
_OTHER = 6.0  # sigma of a column, and of what is there beside one
_STARS = 4  # on one path that are looked at
_REACH, _ASIDE = 8, 40  # pixels about a line that may be its own, and up to which its surroundings are looked at


def is_column(image: FloatImage, mask: MaskImage, sky: FlatSky, weight: FloatImage, line: Arc) -> bool:
    """Whether the straight line (bins) is a bad column or row, or a bleed, rather than a trail near the axis.

    Summed along the axis, a column stays one to three pixels wide; a trail is wider by its tilt and by the seeing.
    Real trails tilted by less than about a pixel from end to end, one in a thousand, are refused as well.
    """
    dx, dy = abs(line.x1 - line.x0), abs(line.y1 - line.y0)
    if min(dx, dy) > 0.05 * max(dx, dy):
        return False
    whole = line.scaled(sky.bin)
    ends = np.array(
        [min(whole.x0, whole.x1), max(whole.x0, whole.x1), min(whole.y0, whole.y1), max(whole.y0, whole.y1)]
    )
    steep = dy >= dx
    low, high, first, last = ends if steep else ends[[2, 3, 0, 1]]
    size, long = (image.shape[1], image.shape[0]) if steep else image.shape
    columns = max(int(low) - _ASIDE, 0), min(int(high) + _ASIDE + 1, size)
    rows = max(int(first), 0), min(int(last) + 1, long)
    sums, weights = np.zeros(columns[1] - columns[0]), np.zeros(columns[1] - columns[0])
    _columns(image, mask, sky.background, sky.noise, weight, sky.bin, BLOCKED, steep, *columns, *rows, sums, weights)
    place = np.arange(*columns)
    near = (place > low - _REACH) & (place < high + _REACH)
    aside = ~near & (weights > 0)
    level = float(np.median(sums[aside] / weights[aside])) if aside.any() else 0.0
    profile, good = (sums - level * weights)[near], weights[near]
    if not _take_columns(profile, good):
        return False
    # without those columns, is there a tilted line still?
    spread = _SPREADS[_SPREADS > 0.3 * (high - low)] if high - low > 12.0 else _SPREADS[:0]
    return all(_best_window(profile, good, width)[0] < _OTHER for width in spread)


def _take_columns(profile: NDArray[np.float64], weights: NDArray[np.float64]) -> int:
    """Set columns to 0 that outdo any wider line or stand alone; return how many: two may pass for a tilted line."""
    for number in range(_COLUMNS):
        z, end, width = max(_best_window(profile, weights, width) for width in (1, 2, 3))
        wide = max(_best_window(profile, weights, width)[0] for width in _SPREADS[_SPREADS > 3])
        if z < _OTHER or (z < 0.9 * wide and not _stands_alone(profile, weights, end - width, end)):
            return number
        profile[max(min(end - width - 1, end - 3), 0) : end + 2] = 0.0
    return _COLUMNS


def _stands_alone(profile: NDArray[np.float64], weights: NDArray[np.float64], first: int, end: int) -> bool:
    """Whether the light falls off within one pixel on both sides, as no image of the sky does."""
    level = profile / np.maximum(weights, 1.0)
    beside = [level[place] for place in (first - 1, end) if 0 <= place < len(level)]
    window = level[max(first, 0) : end]  # empty where it is one of the padding beyond the end
    return len(window) > 0 and bool(max(beside, default=0.0) < 0.2 * window.mean())


def _best_window(profile: NDArray[np.float64], weights: NDArray[np.float64], width: int) -> tuple[float, int, int]:
    """Return the largest z of `width` neighbours, the place after the last of them, and `width`."""
    ones = np.ones(width)
    z = np.convolve(profile, ones) / np.sqrt(np.maximum(np.convolve(weights, ones), 1.0))
    return float(z.max()), int(z.argmax()) + 1, width


def runs_along_axis(arc: Arc, fwhm: float, faint: bool, boxes: Sequence[Box], shape: tuple[int, ...]) -> bool:
    """Whether the arc (pixels) follows a row or column as bad columns, bleeds and amplifier edges do.

    Straight, and tilted by less than a pixel or so from end to end, or by less than its width beside the border of an
    amplifier: one real trail in a thousand lies so.
    """
    dx, dy = abs(arc.x1 - arc.x0), abs(arc.y1 - arc.y0)
    tilt = min(dx, dy) + abs(arc.sagitta)
    if tilt < max(1.5, 0.4 * min(fwhm, 10.0)):
        return True
    reach = 3.0 * fwhm + 8.0 if faint else min(3.0 * fwhm + 8.0, 50.0)
    if tilt > (3.5 * fwhm if faint else min(3.5 * fwhm, 40.0)):
        return False
    ends = (arc.x0, arc.x1) if dy >= dx else (arc.y0, arc.y1)
    borders = [edge for box in boxes for edge in (box[2:] if dy >= dx else box[:2])]
    size = shape[1] if dy >= dx else shape[0]
    return any(max(abs(end - edge) for end in ends) < reach for edge in borders if 0 < edge < size)


def is_near_axis(arc: Arc) -> bool:
    """Whether it is tilted by less than 3.5 degrees from rows or columns."""
    dx, dy = abs(arc.x1 - arc.x0), abs(arc.y1 - arc.y0)
    return bool(min(dx, dy) < 0.06 * max(dx, dy))


def ends_inside(arc: Arc, shape: tuple[int, ...], margin: float) -> int:
    """Return how many of the two ends are farther than `margin` pixels from the border."""
    height, width = shape
    near = [min(x, y, width - 1 - x, height - 1 - y) < margin for x, y in ((arc.x0, arc.y0), (arc.x1, arc.y1))]
    return 2 - sum(near)


def is_sharp(profile: Profile) -> bool:
    """Whether it is narrower than any image of the sky, or the edge of a step: one side as bright as its peak."""
    return profile.fwhm < 1.7 or max(profile.sides) - min(profile.sides) > 0.5


def is_even(profile: Profile, threshold: float, share: float) -> bool:
    """Whether the light is spread along the path and not the work of a few places on it.

    The brightest fifth of its blocks is left out; what remains must still be significant and at least `share` as bright
    as the whole.
    """
    known = np.isfinite(profile.blocks)
    blocks, inverse = profile.blocks[known], profile.errors[known] ** -2.0
    if len(blocks) < 5:
        return False
    mean = float((blocks * inverse).sum() / inverse.sum())
    order = np.argsort(blocks)
    kept = order[: len(order) - max(1, len(order) // 5)]
    rest = float((blocks[kept] * inverse[kept]).sum() / inverse[kept].sum())
    z = rest * np.sqrt(float(inverse[kept].sum()))
    return mean > 0 and rest > share * mean and z > 0.5 * threshold


def fades(profile: Profile, ratio: float) -> bool:
    """Whether one third is less than `ratio` as bright as another, as in galaxies and spikes."""
    known = np.isfinite(profile.blocks)
    levels, errors = [], []
    for third in np.array_split(np.arange(len(known)), 3):
        part = third[known[third]]
        if len(part):
            inverse = profile.errors[part] ** -2.0
            levels.append(float((profile.blocks[part] * inverse).sum() / inverse.sum()))
            errors.append(float(inverse.sum() ** -0.5))
    low, high = int(np.argmin(levels)), int(np.argmax(levels))
    error = float(np.hypot(ratio * errors[high], errors[low]))
    return len(levels) < 3 or ratio * levels[high] - levels[low] > 2.0 * error


def is_spike(
    sky: FlatSky,
    weight: FloatImage,
    cores: NDArray[np.float64],
    arc: Arc,
    width: float,
    brightness: float,
    long: bool,
) -> bool:
    """Whether the light along the arc (bins) falls off with the distance from very bright stars on it.

    A spike's brightness goes as 1/r² (with 1/r allowed for), a trail's is constant. Both are fitted along the arc,
    drawn out by half its length where nothing should be, no part negative: it is a spike when the haloes alone fit
    better than the constant alone and, together with them, the constant is insignificant or a small part; the latter
    suffices where the arc is not `long`. Only stars ten times as bright as the arc's own
    bins (`brightness`, sigma of a bin) count, the largest first.
    """
    longer = stretched(arc, -0.25, 1.25)
    cores = cores[cores[:, 3] > 10.0 * brightness]
    near = _on_path(longer, cores[np.argsort(-cores[:, 2])], max(3.0, width))[:_STARS]
    if not len(near):
        return False
    signal = (sky.value * weight).astype(np.float32)
    sums, weights = Bars.of(signal, weight, width, longer).along(longer, _BLOCK)
    share = (np.arange(len(sums)) + 0.5) / len(sums)
    inside = (share > 1 / 6) & (share < 5 / 6)
    good = weights > 0.25 * _BLOCK * width
    if (good & inside).sum() < 6:
        return True
    level = sums[good] / weights[good]
    columns = [inside[good].astype(float)]
    for place in near:
        r = np.maximum(np.abs(share[good] - place) * longer.length, 2.0)
        columns += [1.0 / r, 1.0 / r**2]
    # the scatter of the brightness itself counts, not only the noise of the sky
    error = np.sqrt(1.0 / weights[good] + (0.1 * level) ** 2)
    design = (np.stack(columns) / error).T
    scale = np.sqrt((design**2).sum(0))
    design, target = design / scale, level / error
    both, rest = nnls(design, target)
    _, rest_constant = nnls(design[:, :1], target)
    _, rest_halo = nnls(design[:, 1:], target)
    typical = float(np.median(level[inside[good]]))
    significance = np.sqrt(max(rest_halo**2 - rest**2, 0.0))  # of the constant
    weak = significance < 6.0 or both[0] / scale[0] < 0.3 * typical
    return bool(weak and (rest_halo < rest_constant or not long))


def _on_path(arc: Arc, cores: NDArray[np.float64], reach: float) -> list[float]:
    """Return where along the arc (share of its chord) stars lie within `reach` or about their radius of it.

    Beyond its ends too, as far as the spikes of a star of that size go.
    """
    if not len(cores):
        return []
    dx, dy = arc.x1 - arc.x0, arc.y1 - arc.y0
    long = max(arc.length, 1e-9)
    along = ((cores[:, 0] - arc.x0) * dx + (cores[:, 1] - arc.y0) * dy) / long**2
    across = (-(cores[:, 0] - arc.x0) * dy + (cores[:, 1] - arc.y0) * dx) / long
    off = np.abs(across - 4 * arc.sagitta * along * (1 - along))
    far = np.maximum(-along, along - 1.0) * long
    near = (off < np.maximum(reach, 1.5 * cores[:, 2] + 2.0)) & (far < np.maximum(_SPIKE * cores[:, 2], 0.1 * long))
    return [float(place) for place in along[near]]


@njit(cache=True, nogil=True)
def _columns(
    image: Any,
    mask: Any,
    background: Any,
    noise: Any,
    weight: Any,
    side: int,
    blocked: int,
    steep: bool,
    low: int,
    high: int,
    first: int,
    last: int,
    sums: Any,
    weights: Any,
) -> None:  # pragma: no cover - compiled
    """Sum the good pixels, flattened and scaled, along the axis: columns where steep, else rows."""
    rows, columns = background.shape
    for along in range(first, last):
        for across in range(low, high):
            y, x = (along, across) if steep else (across, along)
            row, column = min(y // side, rows - 1), min(x // side, columns - 1)
            if (mask[y, x] & blocked) != 0 or weight[row, column] <= 0 or not np.isfinite(image[y, x]):
                continue
            value = (image[y, x] - background[row, column]) / noise[row, column]
            sums[across - low] += min(max(value, -20.0), 20.0)  # a star must not outweigh the column
            weights[across - low] += 1.0
