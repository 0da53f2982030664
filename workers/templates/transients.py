"""Find what shone for a while: transients in many epochs of a cell, told from stars that vary."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from workers.templates.epoch_loops import best_intervals
from workers.templates.flux_maps import REACH, FluxMaps
from workers.templates.map_patches import Patch, patch, still_patch

__all__ = ["Event", "Verdict", "find_events", "masked_by"]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
LEAST = 4.65
"""Significance, sigma, of the mean inside an interval of epochs over that of the others."""
_BESIDE = 0.88
"""Share of it that is asked for where a map does not hold the place itself, but one beside it."""
_COST = 2.0
"""Chi² that an epoch must be worth to be counted to the interval."""
_OUTSIDE = 3
"""Epochs that must be left to say what was there without it."""
_QUIET, _CLEAR = 4.0, 6.0
"""Sigma by which the chi² of the other epochs may exceed its mean; beyond it, sigma of their own scatter by which the
excess must stand out, or the source varies all the time."""
_TAIL = 0.02
"""Share of the greatest excess that the other epochs may hold of it."""
_DIP, _DIP_SHARE = 3.0, 0.35
"""A fall that rises again inside the interval: sigma, and share of the greatest excess; a transient has none."""
_OUTBURST = 3.0
"""Greatest excess over the flux of the star below, from which it is an outburst and not a variable star."""
_STAR, _NUCLEUS = 0.95, 0.8
"""Curvature of what lies below, over that of a point source, from which it is a star; and from which it is one, in
other light, where the excess sits right on it."""
_LOBE, _LONE, _LACK = 5.0, 0.9, 0.3
"""Flux of a star over an excess near it, from which the excess may be a lobe of the star; its curvature over that of a
point source; and what it lacks on the other side, over the excess."""
_STAR_SIGMA, _SHARPNESS = 8.0, 1.0
"""S/N from which a source is told from noise; noise over its height by which it may be less sharp."""
_OFFSET, _RIGHT_ON = 0.6, 0.15
"""Pixels between a source and an excess that may be its own, and surely is; more where the excess is faint."""
_SHOULDER = 3.0
"""How much more than its share of an event's light a place near it needs to be an event of its own."""
_REACHES = 6
"""Pixels round a transient that are left out at least."""


class Verdict(Enum):
    """What an excess over an interval of epochs is taken for."""

    TRANSIENT = "transient"
    VARIABLE = "variable"


@dataclass(frozen=True)
class Event:
    """An excess at one place over an interval of epochs."""

    x: int
    """Pixel of the planes."""
    y: int
    first: int
    """Epochs [first, last] by index."""
    last: int
    significance: float
    """Sigma of the mean inside over the mean outside."""
    flux: float
    """Greatest excess of an epoch, nJy."""
    verdict: Verdict


def find_events(maps: FluxMaps) -> list[Event]:
    """Return what stands out over an interval of epochs, the most significant first.

    One-sided: only an excess counts. An event is VARIABLE, and stays in the template, where the epochs outside the
    interval do not agree with each other, where it falls and rises again inside, where it lies on a star that it does
    not outshine by `_OUTBURST`, or beside one `_LOBE` times brighter; all else is a TRANSIENT.
    """
    least = LEAST * _BESIDE if maps.step > 1 else LEAST
    found = best_intervals(maps.flux, maps.weight, least, _COST, _OUTSIDE)
    reach = max(int(np.ceil((maps.response > 0.5).sum(axis=0).max() / 2.0)) // maps.step, 1)
    peaks = (found.change > 0) & (found.change >= ndimage.maximum_filter(found.change, size=2 * reach + 1))
    edge = REACH // maps.step
    peaks[:edge], peaks[-edge:], peaks[:, :edge], peaks[:, -edge:] = False, False, False, False
    ys, xs = np.nonzero(peaks)
    order = np.argsort(-found.change[ys, xs], kind="stable")
    events: list[Event] = []
    for y, x in zip((maps.step * ys[order]).tolist(), (maps.step * xs[order]).tolist(), strict=True):
        if found.change[y // maps.step, x // maps.step] <= _light_of(events, x, y, maps.response):
            continue
        place = _place(maps, x, y)
        event = None if place is None else _event(maps, place)
        if event is not None and event.flux > _light_of(events, event.x, event.y, maps.response):
            events.append(event)
    return events


@dataclass(frozen=True)
class _Place:
    """An interval that stands out at a pixel of the planes, as in `Intervals`, and the epochs round that."""

    x: int
    y: int
    change: float
    significance: float
    first: int
    last: int
    near: Patch
    """(N, 5, 5)."""


def _place(maps: FluxMaps, x: int, y: int) -> _Place | None:
    """Return the place of the greatest change nearer to a pixel than the maps' next, None where nothing stands out."""
    reach = maps.step - 1
    size = 2 * reach + 1
    near = patch(maps, x, y, reach + 2)
    inner = (slice(None), slice(2, 2 + size), slice(2, 2 + size))
    flux, weight = (np.ascontiguousarray(plane[inner]) for plane in near)
    found = best_intervals(flux, weight, LEAST, _COST, _OUTSIDE)
    row, column = (int(at) for at in np.unravel_index(int(np.argmax(found.change)), (size, size)))
    if found.change[row, column] <= 0:
        return None
    at, stamp = (row, column), (slice(None), slice(row, row + 5), slice(column, column + 5))
    return _Place(
        x=x + column - reach,
        y=y + row - reach,
        change=float(found.change[at]),
        significance=float(found.significance[at]),
        first=int(found.first[at]),
        last=int(found.last[at]),
        near=Patch(near.flux[stamp], near.weight[stamp]),
    )


def _light_of(events: list[Event], x: int, y: int, response: _Float) -> float:
    """Return the excess, nJy, up to which a place may still belong to brighter events near it."""
    middle = response.shape[0] // 2
    total = 0.0
    for event in events:
        far = float(np.hypot(event.x - x, event.y - y))
        total += (
            _SHOULDER * event.flux * float(np.interp(far, np.arange(middle + 1), response[middle, middle:], right=0))
        )
    return total


def _event(maps: FluxMaps, place: _Place) -> Event:
    x, y, first, last, significance = place.x, place.y, place.first, place.last, place.significance
    if first < 0:
        return Event(x, y, 0, len(maps.flux) - 1, 0.0, place.change, Verdict.VARIABLE)
    flux, weight = (plane[:, 2, 2].astype(float) for plane in place.near)
    inside = np.zeros(len(flux), bool)
    inside[first : last + 1] = True
    quiet = np.average(flux[~inside], weights=weight[~inside])
    excess = np.where(weight > 0, flux - quiet, 0.0)
    top = float(excess[inside].max())
    scatter = float(maps.scatter[y // maps.step, x // maps.step])
    below = _Below.under(maps.response, place, inside, scatter)
    raw = scatter if below.peak else 1.0  # a source of its own explains what scatters there
    unrest = _unrest(excess[~inside], weight[~inside] * raw, top)
    varies = unrest > 1.0 and significance * np.sqrt(raw) < _CLEAR * np.sqrt(unrest)
    varies = varies or _dips(excess[inside], weight[inside] * raw / unrest) or (below.star and top < _OUTBURST * quiet)
    varies = varies or _is_lobe(maps, x, y, inside, top)
    if varies:
        return Event(x, y, first, last, significance, top, Verdict.VARIABLE)
    first, last = _whole(excess * np.sqrt(weight), weight > 0, first, last)
    return Event(x, y, first, last, significance, top, Verdict.TRANSIENT)


def _whole(sigma: _Float, known: _Bool, first: int, last: int) -> tuple[int, int]:
    """Return the interval with the epochs of its rise and fall above one sigma, and one more at either end.

    The brighter end goes first, and `_OUTSIDE` known epochs are left.
    """
    worth = np.concatenate([[-np.inf], np.where(known, sigma, np.inf), [-np.inf]])  # one sentinel at either end

    def grown(least: float) -> bool:
        nonlocal first, last
        before, after = worth[first], worth[last + 2]
        left = np.count_nonzero(known) - np.count_nonzero(known[first : last + 1])
        if max(before, after) <= least or left <= _OUTSIDE:
            return False
        if before > after:
            first -= 1
        else:
            last += 1
        return True

    while grown(1.0):
        pass
    ends = first, last
    while grown(-1e30) and ends[0] - first < 2 and last - ends[1] < 2:
        pass
    return max(first, ends[0] - 1), min(last, ends[1] + 1)


def _unrest(excess: _Float, weight: _Float, top: float) -> float:
    """Return the reduced chi² of the epochs outside an interval, given the tail of the inside; 1 if it may be."""
    freedom = np.count_nonzero(weight) - 1
    chi2 = float(np.sum(excess**2 * weight / (1.0 + weight * (_TAIL * top) ** 2)))
    return chi2 / freedom if chi2 > freedom + _QUIET * np.sqrt(2.0 * freedom) else 1.0


def _dips(excess: _Float, weight: _Float) -> bool:
    """Tell whether a series falls from its rise, or rises in its fall, by more than noise and a second bump."""
    excess, weight = excess[weight > 0], weight[weight > 0]
    top = int(np.argmax(excess))
    for side, noise in ((excess[: top + 1], weight[: top + 1]), (excess[top:][::-1], weight[top:][::-1])):
        highest = np.maximum.accumulate(side)
        fall = highest - side
        if np.any((fall > _DIP * np.sqrt(2.0 / noise)) & (fall > _DIP_SHARE * excess[top])):
            return True
    return False


def _is_lobe(maps: FluxMaps, x: int, y: int, inside: _Bool, top: float) -> bool:
    """Tell whether a much brighter star is so near that, moved by refraction or of itself, it gives the excess.

    It then lacks on its other side, in the same epochs, what it has too much of here.
    """
    reach = int((maps.response[len(maps.response) // 2] > 0.5).sum())
    still = still_patch(maps, x, y, reach + 2)
    row, column = (int(at) for at in np.unravel_index(int(np.argmax(still[2:-2, 2:-2])), (2 * reach + 1,) * 2))
    stamp = still[row : row + 5, column : column + 5]
    mirror = x + 2 * (column - reach), y + 2 * (row - reach)
    if top * _LOBE > stamp[2, 2] or not _within(mirror, maps):
        return False
    source = _vertex(stamp)
    point = None if source is None else _point(maps.response, source)
    if source is None or point is None or source[3] < _LONE * point[3]:
        return False
    here, there = (_change(patch(maps, *at, 0), inside) for at in ((x, y), mirror))
    return bool(there < -_LACK * here)


def _within(place: tuple[int, int], maps: FluxMaps) -> bool:
    height, width = (maps.step * side for side in maps.still.shape)
    return bool(0 <= place[0] < width and 0 <= place[1] < height)


def _change(there: Patch, inside: _Bool) -> float:
    """Return the mean inside the interval less that outside, nJy."""
    flux, weight = (plane[:, 0, 0].astype(float) for plane in there)
    return float(_mean(flux[inside], weight[inside]) - _mean(flux[~inside], weight[~inside]))


def _point(response: _Float, source: tuple[float, ...]) -> tuple[float, float, float, float] | None:
    """Return what `_vertex` gives of a point source where a source is."""
    middle = response.shape[0] // 2
    axes = [middle - 2.0 + np.arange(5) - shift for shift in (source[1], source[0])]
    return _vertex(ndimage.map_coordinates(response, np.meshgrid(*axes, indexing="ij"), order=3))


@dataclass(frozen=True)
class _Below:
    """What is there without an excess, at its place."""

    peak: bool
    """A source has its centre where the excess has its own."""
    star: bool
    """And it is a point source."""

    @classmethod
    def under(cls, response: _Float, place: _Place, inside: _Bool, scatter: float) -> _Below:
        """Compare the mean of the epochs outside the interval with that of those inside, and with a point source."""
        flux, weight = (plane.astype(float) for plane in place.near)
        below = _mean(flux[~inside], weight[~inside])
        source, own = _vertex(below), _vertex(_mean(flux[inside], weight[inside]) - below)
        noise = 1.0 / np.sqrt(max(weight[~inside][:, 2, 2].sum() * scatter, 1e-300))
        if source is None or own is None or source[2] < _STAR_SIGMA * noise:
            return cls(False, False)
        point = _point(response, source)
        if point is None:
            return cls(False, False)
        offset, error = np.hypot(source[0] - own[0], source[1] - own[1]), 1.0 / (place.significance * np.sqrt(point[3]))
        sharp = source[3] / point[3] + _SHARPNESS * noise / source[2]
        peak = bool(offset < np.hypot(_OFFSET, 3.0 * error))
        right_on = offset < np.hypot(_RIGHT_ON, error)
        return cls(peak, bool(peak and sharp > (_NUCLEUS if right_on else _STAR)))


def _mean(flux: _Float, weight: _Float) -> _Float:
    total = weight.sum(axis=0)
    return np.asarray((flux * weight).sum(axis=0) / np.where(total > 0, total, 1.0))


def _vertex(stamp: _Float) -> tuple[float, float, float, float] | None:
    """Return (x, y, height, curvature over height) of the parabola through the 3x3 pixels round the highest of 3x3.

    `stamp` is (5, 5); x and y from its centre. None where there is no peak.
    """
    y, x = np.unravel_index(int(np.argmax(stamp[1:4, 1:4])), (3, 3))
    near = stamp[y : y + 3, x : x + 3]
    dx, dy = (near[1, 2] - near[1, 0]) / 2.0, (near[2, 1] - near[0, 1]) / 2.0
    xx, yy = near[1, 2] + near[1, 0] - 2.0 * near[1, 1], near[2, 1] + near[0, 1] - 2.0 * near[1, 1]
    if xx >= 0 or yy >= 0 or near[1, 1] <= 0:
        return None
    shift = np.clip([-dx / xx, -dy / yy], -0.7, 0.7)
    return float(x - 1 + shift[0]), float(y - 1 + shift[1]), float(near[1, 1]), float(-(xx + yy) / near[1, 1])


def masked_by(events: list[Event], variance: NDArray[np.float32], psfs: _Float, usable: _Bool, spared: int) -> _Bool:
    """Return the pixels that the TRANSIENT ones of `events` make unfit, bool (N, height, width).

    The radius is that where the light of an event's brightest epoch falls below a fifth of a pixel's noise, 6 pixels
    at least. At no pixel are fewer than `spared` usable epochs left: what would is left out, the faintest first.
    """
    mask = np.zeros(variance.shape, bool)
    profile = _profile(psfs.mean(axis=0))
    for event in events:
        if event.verdict is Verdict.TRANSIENT:
            noise = float(np.sqrt(np.median(variance[:, event.y, event.x])))
            bright = np.nonzero(profile * event.flux > 0.2 * noise)[0]
            radius = max(_REACHES, int(bright[-1]) if len(bright) else 0)
            rows, columns = (slice(max(at - radius, 0), at + radius + 1) for at in (event.y, event.x))
            there = mask[:, rows, columns]
            yy, xx = np.ogrid[rows.start : rows.start + there.shape[1], columns.start : columns.start + there.shape[2]]
            grown = there.copy()
            grown[event.first : event.last + 1] |= (xx - event.x) ** 2 + (yy - event.y) ** 2 <= radius**2
            enough = (usable[:, rows, columns] & ~grown).sum(axis=0) >= spared
            there[...] = np.where(enough, grown, there)
    return mask


def _profile(psf: _Float) -> _Float:
    """Return the mean of a PSF (n, n) over rings of one pixel."""
    size = psf.shape[0]
    yy, xx = np.mgrid[:size, :size] - size // 2
    ring = np.round(np.hypot(xx, yy)).astype(int)
    return np.asarray(np.bincount(ring.ravel(), psf.ravel()) / np.bincount(ring.ravel()))
