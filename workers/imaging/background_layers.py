"""The sky apart from everything on it: bins, objects, wings, unseen light and amplifier steps, two passes over.

A stiff surface through the faint quantiles of cells begins; each pass takes off what stands on the surface so far,
large objects by their profiles, sources by masks, their wings by a fit, and ends in a surface through the rest's means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from workers.imaging.background_bins import SIDE, Bins, block_sums, middles, spread_blocks, stretch
from workers.imaging.background_objects import BLOCK, LargeObject, faint_quartiles, find_large, fit_profile
from workers.imaging.background_sources import find_sources, skirts
from workers.imaging.background_surface import Cells, Surface, fit_surface
from workers.imaging.background_unseen import unseen_light
from workers.imaging.background_wings import STEP, wing_light, wing_sums

__all__ = ["NODE", "Box", "Layers", "separate"]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
_Float32 = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""y0, y1, x0, x1 of an amplifier, pixels, the ends exclusive."""

NODE = 16
"""Pixels between the nodes of the surface; between them it is bilinear."""
_PASSES = 2
_FAINT = 0.2, 0.8416
"""Quantile of a cell's bins, and how far below the mean a Gaussian has it (sigma)."""
_QUIET = 0.4, 0.869
"""Quantile of the variances of a cell's bins, and what it is of the true one (15 degrees of freedom)."""
_LEAN = 0.6, 0.9
_STRUCTURE = 40.0
"""Price of a degree of freedom before sources are known: a fifth of all cells must ask for it."""
_PRICE = 4.0, 12.0
"""The same later, without large objects and with: a supple surface follows what their profiles leave."""
_SKIRTS = (3, 9)
"""Bins along a side of blocks."""
_GLARE = 0.3
"""Of the sky's noise per pixel: where wings or halos are brighter than that they are masked, not only subtracted."""
_DIM = 0.03
"""In the same unit: where a halo is brighter than that, its errors could pass for unseen sources."""
_CUT = 0.911
"""Variance of a Gaussian cut at 2.5 sigma."""
_ROUGH = 1.5
"""Chi² per degree of freedom from which shorter waves are tried."""
_WILD = 3.0
"""The same before sources are known: a nebula, not a galaxy."""
_REAL = 4.0
"""Sigma of the steps, all together, from which they are taken for real."""
_DULL = 0.01
"""Least variance of a cell over the typical one: a constant patch must not outweigh the rest."""
_CROWDED = 2.0
"""Power, in a cell's weight, of the share of its bins that are free over the typical one."""
_LEAST_BINS = 8
_LEAST_SHARE = 0.02
_COVER = 3.0
"""Cells: over which the density of sources is smoothed."""


@dataclass(frozen=True)
class Layers:
    """What was told apart; cells of `cell` pixels."""

    surface: Surface
    unseen: _Float
    """(rows, columns) of cells: light of unseen sources that the surface still has in it."""
    variance: _Float
    """(rows, columns) of cells: of a pixel of sky, the image's unit squared."""
    free: _Bool
    """Bins of sky."""
    cell: int
    objects: tuple[LargeObject, ...]


@dataclass(frozen=True)
class _Field:
    """What does not change from pass to pass."""

    bins: Bins
    owner: NDArray[np.int16]
    """Amplifier of each bin; -1: on a border, or unusable."""
    areas: _Float
    full: _Float
    """(rows, columns) of cells: usable bins."""
    cell: int
    """Bins."""
    threshold: float
    grow: int


@dataclass(frozen=True)
class _Pass:
    surface: Surface
    variance: _Float
    rest: _Float32
    """Bins less everything that was told apart."""
    bare: _Bool
    """Bins without sources."""
    halo: _Float32
    wings: _Float32
    objects: tuple[LargeObject, ...]
    rough: bool = False
    """The surface could not follow the sky."""


def separate(bins: Bins, boxes: Sequence[Box], *, mesh: int, threshold: float, grow: int) -> Layers:
    """Return the layers of an image: cells of about `mesh` pixels, `threshold` in sigma of a bin, `grow` in pixels."""
    cell = max(round(min(mesh, *bins.shape) / NODE), 2) * NODE // SIDE
    owner, areas = _owners(bins, boxes)
    field = _Field(bins, owner, areas, block_sums(owner >= 0, cell), cell, threshold, -(-grow // SIDE))
    state = _first(field)
    for turn in range(_PASSES):
        state = _pass(field, state, turn)
    return Layers(state.surface, _unseen(field, state), state.variance, state.bare, cell * SIDE, state.objects)


def _owners(bins: Bins, boxes: Sequence[Box]) -> tuple[NDArray[np.int16], _Float]:
    """Return which amplifier each bin lies in, and their areas; one that holds everything where there are no boxes."""
    owner = np.full(bins.mean.shape, -1, np.int16)
    height, width = bins.shape
    places: list[Box] = list(boxes) or [(0, height, 0, width)]
    for number, (y0, y1, x0, x1) in enumerate(places):
        top = -(-height // SIDE) if y1 >= height else y1 // SIDE
        right = -(-width // SIDE) if x1 >= width else x1 // SIDE
        owner[-(-y0 // SIDE) : top, -(-x0 // SIDE) : right] = number
    # pixels without any noise were never exposed
    owner[(bins.count == 0) | (bins.variance == 0)] = -1
    return owner, np.array([(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in places], float)


def _first(field: _Field) -> _Pass:
    """Return a stiff surface through the faint quantiles of the cells, and the large objects that stand on it.

    Where no object explains what the stiff surface does not, the sky is rough, and the surface supple.
    """
    known = field.owner >= 0
    cells, variance = _faint_cells(field, known)
    nothing = np.zeros(known.shape, np.float32)
    size, count = cells.size, np.count_nonzero(cells.weight)
    stiff = fit_surface(cells, (256.0 * size,), knot=4.0 * size, lean=_LEAN[0])
    objects: tuple[LargeObject, ...] = ()
    if stiff.chi2 > count:
        weight = np.where(known, field.bins.count / _plane(variance, field.cell, known.shape), np.float32(0.0))
        noise = float(np.sqrt(np.median(variance)))
        _, objects = _halos(field, field.bins.mean - _sky(field, stiff), weight, noise, ())
        plain = _without_objects(cells, objects, noise)
        stiff = fit_surface(plain, (256.0 * size, 8.0 * size), knot=4.0 * size, price=_STRUCTURE, lean=_LEAN[0])
        if stiff.chi2 > _WILD * np.count_nonzero(plain.weight):
            objects = ()
            stiff = fit_surface(cells, (4.0 * size,), knot=2.0 * size)
    return _Pass(stiff, variance, nothing, known, nothing, nothing, objects)


def _least(field: _Field, number: NDArray[Any]) -> float:
    """Return the bins that make a cell known, of the `number` in each."""
    return max(min(_LEAST_BINS, 0.5 * float(number.max())), _LEAST_SHARE * field.cell**2 * float(number.any()), 1.0)


def _without_objects(cells: Cells, objects: tuple[LargeObject, ...], noise: float) -> Cells:
    """Return the cells less the light of the objects, those that are bright with it left out."""
    places = middles(cells.value.shape, cells.size)
    light = _light(objects, *places)
    return replace(cells, value=cells.value - light, weight=np.where(light < noise, cells.weight, 0.0))


def _faint_cells(field: _Field, known: _Bool) -> tuple[Cells, _Float]:
    """Return the cells' levels by their faint quantiles, and the variance of their quiet bins' pixels."""
    levels, count = _ordered(field.bins.mean, known, field.cell)
    spreads, _ = _ordered(field.bins.variance, known, field.cell)
    good = count >= _least(field, count)
    quiet = _quantile(spreads, count, _QUIET[0]) / _QUIET[1]
    typical = float(np.median(quiet[good])) if good.any() else 0.0
    variance = np.where(good, np.clip(quiet, _DULL * typical, 4.0 * typical), typical)
    noise = np.sqrt(np.maximum(variance, 1e-30)) / SIDE
    value = np.where(good, _quantile(levels, count, _FAINT[0]) + _FAINT[1] * noise, 0.0)
    weight = np.where(good, count / (4.0 * noise**2), 0.0)
    sums = _cell_sums(field, field.bins.mean, field.bins.count, known)
    return _cells(field, value, weight, sums[5:] / np.maximum(sums[1], 1e-30)), variance


def _ordered(plane: _Float32, known: _Bool, cell: int) -> tuple[_Float32, NDArray[np.int64]]:
    """Return (rows, columns, bins): each cell's known bins in order, and how many there are."""
    rows, columns = (-(-side // cell) for side in plane.shape)
    spare = (0, rows * cell - plane.shape[0]), (0, columns * cell - plane.shape[1])
    padded = np.pad(np.where(known, plane, np.float32(np.inf)), spare, constant_values=np.inf)
    blocks = padded.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, cell * cell)
    ordered = np.sort(blocks, axis=2)
    return ordered, np.isfinite(ordered).sum(axis=2)


def _quantile(ordered: _Float32, count: NDArray[np.int64], share: float) -> _Float:
    place = (np.maximum(count - 1, 0) * share).astype(np.int64)
    found = np.take_along_axis(ordered, place[:, :, None], axis=2)[:, :, 0]
    return np.where(count > 0, found, 0.0).astype(float)


def _pass(field: _Field, before: _Pass, turn: int) -> _Pass:
    """Take off what stands on the surface so far, and measure the sky again."""
    bins, shape = field.bins, field.bins.mean.shape
    noise = float(np.sqrt(np.median(before.variance)))
    weight = np.where(field.owner >= 0, bins.count / _plane(before.variance, field.cell, shape), np.float32(0.0))
    rest = bins.mean - _sky(field, before.surface)
    halo, objects = before.halo, before.objects
    # on a rough sky a hill is no galaxy
    if objects or before.surface.wave > 4.0 * field.cell * SIDE:
        halo, objects = _halos(field, rest, weight, noise, objects)
    rest -= halo
    signal = (rest - before.wings) * np.sqrt(weight)
    lit = find_sources(signal, field.threshold, field.grow)
    bare = (weight > 0) & ~lit & (halo < _GLARE * noise)
    # what noise takes from above the threshold must be missing below, too
    deep = signal < -field.threshold
    blocks = wing_light(*wing_sums(rest, bins.count, weight, lit & (halo < _GLARE * noise), bare & ~deep))
    wings = spread_blocks(blocks.astype(np.float32), STEP, shape)
    rest -= wings
    bare &= wings < _GLARE * noise
    for size in _SKIRTS:
        bare &= ~skirts(rest, weight, bare & ~deep, size=size, threshold=field.threshold)
    cells, quiet = _means(field, before.surface, _cell_sums(field, rest, weight, bare & ~deep), before.variance)
    if not cells.weight.any():
        return replace(before, rough=True)  # nothing but sources
    surface = _surface(cells, _LEAN[1] if turn == 0 else 1.0, _PRICE[bool(objects)])
    return _Pass(surface, quiet, rest, bare, halo, wings, objects, _rough(cells, surface))


def _sky(field: _Field, surface: Surface) -> _Float32:
    """Return the surface and its steps in the bins."""
    sky = stretch(surface.nodes(NODE), NODE // SIDE, field.bins.mean.shape)
    if len(surface.steps):
        sky += np.append(surface.steps, 0.0).astype(np.float32)[field.owner]
    return sky


def _plane(cells: _Float, cell: int, shape: tuple[int, ...]) -> _Float32:
    return spread_blocks(np.maximum(cells, 1e-30).astype(np.float32), cell, shape)


def _halos(
    field: _Field, rest: _Float32, weight: _Float32, noise: float, before: tuple[LargeObject, ...]
) -> tuple[_Float32, tuple[LargeObject, ...]]:
    """Return the light of the large objects in each bin, and the objects; `before` are those of the last pass."""
    bins = middles(field.bins.mean.shape, SIDE)
    # without the gradients of the light known already a block's quartile is that of noise alone
    level, error = faint_quartiles(rest - _light(before, *bins).astype(np.float32) if before else rest, weight)
    blocks = middles(level.shape, SIDE * BLOCK)
    level += _light(before, *blocks)
    fitted: tuple[LargeObject, ...] = ()
    for target in find_large(level, error, noise):
        fitted = (*fitted, fit_profile(target, level - _light(fitted, *blocks), error, noise))
    if not fitted:
        return np.zeros_like(rest), ()
    return _light(fitted, *bins).astype(np.float32), fitted


def _light(objects: tuple[LargeObject, ...], y: _Float, x: _Float) -> _Float:
    """Return the sum of the objects' light on rows `y` and columns `x`."""
    return np.asarray(sum((one.light(one.radii(y, x)) for one in objects), np.zeros((len(y), len(x)))))


def _cell_sums(field: _Field, rest: _Float32, weight: _Float32, free: _Bool) -> _Float:
    """Return (5 + amplifiers, rows, columns) of cells: see `_add_up`."""
    rows, columns = (-(-side // field.cell) for side in rest.shape)
    sums = np.zeros((5 + len(field.areas), rows, columns))
    _add_up(rest, weight, free, field.owner, field.bins.count, field.bins.variance, field.cell, sums)
    return sums


def _means(field: _Field, surface: Surface, sums: _Float, variance: _Float) -> tuple[Cells, _Float]:
    """Return the cells' means, with what was taken off added again, and the variance of their pixels."""
    number, total, first, second, pixels = sums[:5]
    known = number >= _least(field, number)
    safe = np.maximum(total, 1e-30)
    mean = first / safe
    scatter = np.maximum(second / safe - mean**2, 0.0) * total / np.maximum(number - 1.0, 1.0)
    shares = sums[5:] / safe
    value = mean + surface.nodes(field.cell * SIDE)
    if len(surface.steps):
        value += np.tensordot(surface.steps, shares, axes=1)
    # what few bins a crowd leaves are its darkest: they can't be trusted as their noise says
    share = number / np.maximum(field.full, 1.0)
    usual = max(float(np.median(share[known])) if known.any() else 1.0, 1e-9)
    trust = np.minimum(share / usual, 1.0) ** _CROWDED / np.maximum(scatter, 1.0)
    cells = _cells(field, np.where(known, value, 0.0), np.where(known, total * trust, 0.0), shares)
    quiet = pixels / np.maximum(number, 1.0) + np.maximum(scatter / _CUT - 1.0, 0.0) * variance / SIDE**2
    return cells, _smooth(quiet, np.where(known, number, 0.0), variance)


def _cells(field: _Field, value: _Float, weight: _Float, shares: _Float) -> Cells:
    one = len(field.areas) == 1
    return Cells(value, weight, shares[:0] if one else shares, field.areas, field.cell * SIDE)


def _smooth(variance: _Float, number: _Float, before: _Float) -> _Float:
    """Return the variance averaged over neighbouring cells; the typical one far from all known."""
    typical = float(np.median(variance[number > 0])) if (number > 0).any() else float(np.median(before))
    slight = 1e-3 * max(float(number.max()), 1.0)
    variance = np.maximum(variance, _DULL * typical)
    total = ndimage.gaussian_filter(variance * number, 1.5) + slight * typical
    return np.asarray(total / (ndimage.gaussian_filter(number, 1.5) + slight))


def _surface(cells: Cells, lean: float, price: float) -> Surface:
    """Return the surface through the means, as supple as they ask for, with the steps if those are real.

    Steps are measured against the most supple surface: a stiff one would leave them what is smooth, too.
    """
    if not len(cells.shares):
        return _supple(cells, lean, price)
    found = _shortest(cells, lean)
    free = len(found.steps) - 1
    real = found.gain > free + _REAL * np.sqrt(2.0 * free) + _REAL**2 and not _rough(cells, found)
    steps = found.steps if real else np.zeros(len(found.steps))
    smooth = replace(cells, value=cells.value - np.tensordot(steps, cells.shares, axes=1), shares=cells.shares[:0])
    return replace(_supple(smooth, lean, price), steps=steps, errors=found.errors)


def _supple(cells: Cells, lean: float, price: float) -> Surface:
    size = cells.size
    # a wave needs room
    room = 0.5 * min(cells.value.shape)
    waves = [factor * size for factor in (64.0, 32.0, 16.0, 8.0) if factor <= room or factor == 64.0]
    found = fit_surface(cells, waves, knot=4.0 * size, price=price, lean=lean)
    return fit_surface(cells, [8.0 * size, 4.0 * size], knot=2.0 * size, lean=lean) if _rough(cells, found) else found


def _shortest(cells: Cells, lean: float) -> Surface:
    size = cells.size
    found = fit_surface(cells, [8.0 * size], knot=4.0 * size, lean=lean)
    return fit_surface(cells, [4.0 * size], knot=2.0 * size, lean=lean) if _rough(cells, found) else found


def _rough(cells: Cells, found: Surface) -> bool:
    return found.chi2 > _ROUGH * max(np.count_nonzero(cells.weight) - found.free, 1.0)


def _unseen(field: _Field, last: _Pass) -> _Float:
    """Return the light of sources below the threshold: its mean by their histogram, shared out as the seen ones are."""
    noise = np.sqrt(np.median(last.variance))
    cover = last.halo < _DIM * noise
    weight = field.bins.count / _plane(last.variance, field.cell, last.rest.shape)
    used = last.bare & cover
    # where the surface can't follow the sky its hills would pass for sources
    share = 0.0 if last.rough else unseen_light((last.rest * np.sqrt(weight))[used], field.threshold)
    if share == 0.0:
        return np.zeros_like(last.variance)
    known = block_sums(cover & (field.owner >= 0), field.cell)
    bare = block_sums(used, field.cell)
    smooth = [ndimage.gaussian_filter(plane, _COVER) for plane in (known, bare)]
    density = -np.log(np.clip(smooth[1] / np.maximum(smooth[0], 1e-9), 0.02, 1.0))
    density[smooth[0] <= 1e-9] = 0.0
    typical = float(np.sum(density * bare) / np.sum(bare))
    return np.asarray(share * noise / SIDE * density / max(typical, 1e-9))


@njit(cache=True, nogil=True)
def _add_up(
    rest: Any, weight: Any, free: Any, owner: Any, count: Any, variance: Any, cell: Any, sums: Any
) -> None:  # pragma: no cover - compiled
    """Per cell, over free bins: number, weight, weighted rest, its square, pixels' variance, weight per amplifier."""
    for y in range(rest.shape[0]):
        j = y // cell
        for x in range(rest.shape[1]):
            if free[y, x] and owner[y, x] >= 0:
                i = x // cell
                w, v = weight[y, x], rest[y, x]
                sums[0, j, i] += 1.0
                sums[1, j, i] += w
                sums[2, j, i] += w * v
                sums[3, j, i] += w * v * v
                sums[4, j, i] += variance[y, x]
                sums[5 + owner[y, x], j, i] += w
