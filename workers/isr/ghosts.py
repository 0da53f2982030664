"""Optical ghosts and glints: predicted from bright stars and the camera's reflection table, and flagged.

LDM-151 section 4.1.2.4 asks for a catalogue of ghosts. Two reflections between plane or weakly curved surfaces turn the
converging beam of a star into an out-of-focus image of the pupil, whose centre, to first order, is linear in the
star's place in the field; camera.toml holds that map (`workers.survey.reflections`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.bright_stars import BrightStars
from workers.imaging.exposure import MaskImage
from workers.imaging.masks import MaskPlane
from workers.imaging.wcs import SkyWcs
from workers.isr.state import IsrState
from workers.survey.camera import Detector
from workers.survey.geometry import nominal_wcs
from workers.survey.reflections import Ghost, Glint, Reflection

__all__ = ["StrayLight", "apply", "flag_stray_light", "predict_stray_light", "star_offsets"]

_Float = NDArray[np.float64]
_SAMPLE = 8
_FAINTEST = 0.05
"""Of the limit: light fainter than this is not even added to what overlaps it."""
_DISTORTED = 0.05
"""Largest distortion, relative to the field radius, that is believed where a WCS is used beyond its detector."""


def apply(state: IsrState) -> None:
    """Flag pixels (GHOST) where the reflected light of bright stars exceeds `config.ghosts`' limits.

    Raises ConfigurationError without a star catalogue, a reflection table or a zero point of the band; DataError
    where the exposure has no nominal WCS.
    """
    state.need_unit("electron", "ghosts")
    info, options = state.raw.info, state.config.ghosts
    if state.stars is None or not state.camera.reflections:
        lacking = (
            "a bright-star catalogue ([reference] path)" if state.stars is None else "[[reflections]] (camera.toml)"
        )
        raise ConfigurationError(
            f"isr.steps in survey.toml names 'ghosts', which needs {lacking} and there is none; "
            "give one, or take 'ghosts' out of the steps"
        )
    if info.band not in options.zero_points:
        raise ConfigurationError(
            f"[isr.ghosts] zero_points in survey.toml lacks band {info.band!r} (exposure {info.label}): give the AB "
            "magnitude of a star that yields one electron per second; 0.1 mag is exact enough"
        )
    stars = state.stars.chosen(state.stars.magnitude <= options.magnitude_limit)
    stars = stars.chosen(stars.separation(info.ra, info.dec) <= options.radius)
    offsets = star_offsets(stars, nominal_wcs(state.raw, state.camera), state.detector)
    electrons = info.exposureTime * 10.0 ** (0.4 * (options.zero_points[info.band] - stars.magnitude))
    light = predict_stray_light(state.camera.reflections, offsets, electrons, info.band, margin=options.margin)
    limit = options.threshold * math.sqrt(float(np.median(state.variance[::_SAMPLE, ::_SAMPLE])))
    if options.sky_threshold is not None:
        limit = min(limit, options.sky_threshold * float(np.median(state.image[::_SAMPLE, ::_SAMPLE])))
    origin = (state.detector.offset_x, state.detector.offset_y)
    pixels, count = flag_stray_light(state.mask, light, origin, limit)
    state.metrics["ghostCount"] = float(count)
    state.metrics["ghostFraction"] = pixels / state.mask.size


def star_offsets(stars: BrightStars, wcs: SkyWcs, detector: Detector) -> _Float:
    """Return the stars' places from the boresight, float64 (n, 2) pixels (x, y) of the detector's frame.

    A WCS with distortion is exact on its detector and may be wild beyond: where it strays by more than 5 % from the
    tangent plane through the detector's centre, the tangent plane counts.
    """
    if len(stars) == 0:
        return np.zeros((0, 2))
    origin = np.array([detector.offset_x, detector.offset_y])
    plane = wcs.local(0.5 * (detector.width - 1), 0.5 * (detector.height - 1))
    flat = np.stack(plane.sky_to_pixel(stars.ra, stars.dec), axis=-1) - origin
    full = np.stack(wcs.sky_to_pixel(stars.ra, stars.dec), axis=-1) - origin
    stray = np.hypot(*(full - flat).T) > _DISTORTED * np.hypot(*flat.T) + math.hypot(detector.width, detector.height)
    places = np.where((stray | ~np.isfinite(full).all(axis=1))[:, None], flat, full)
    # beyond 90 degrees there is no tangent plane
    return np.asarray(np.where(np.isfinite(places), places, np.inf))


@dataclass(frozen=True)
class StrayLight:
    """Patches of even surface brightness in the focal plane: pixels, the boresight at the origin."""

    discs: _Float
    """(n, 7): x, y, radius; x, y, radius of the hole; electrons per pixel."""
    streaks: _Float
    """(m, 8): x, y of the beginning, unit vector along it, length, half widths at both ends, electrons per pixel."""


def predict_stray_light(
    reflections: tuple[Reflection, ...], stars: _Float, electrons: _Float, band: str, *, margin: float = 0.0
) -> StrayLight:
    """Return where light of `stars` lands by the reflections of `band`, and how bright it is.

    `stars` are float64 (n, 2) offsets from the boresight, `electrons` (n,) what each star yields in the exposure.
    Every edge is moved outwards by `margin` pixels, at unchanged brightness: seeing and the table's own error.
    """
    near = np.isfinite(stars).all(axis=1)
    stars, electrons = stars[near], electrons[near]
    used = [reflection for reflection in reflections if reflection.seen_in(band)]
    discs = [_discs(one, stars, electrons, margin) for one in used if isinstance(one, Ghost)]
    streaks = [_streaks(one, stars, electrons, margin) for one in used if isinstance(one, Glint)]
    return StrayLight(np.concatenate([np.zeros((0, 7)), *discs]), np.concatenate([np.zeros((0, 8)), *streaks]))


def _discs(ghost: Ghost, stars: _Float, electrons: _Float, margin: float) -> _Float:
    radius = np.hypot(stars[:, 0], stars[:, 1])
    inside = radius <= (np.inf if ghost.max_radius is None else ghost.max_radius)
    stars, electrons, radius = stars[inside], electrons[inside], radius[inside]
    outer, inner = ghost.radii(radius)
    level = ghost.fraction * electrons / (math.pi * (outer**2 - inner**2))
    hole = np.maximum(inner - margin, 0.0)
    parts = (ghost.mapped(stars), (outer + margin)[:, None], ghost.hole_centres(stars), hole[:, None], level[:, None])
    return np.concatenate(parts, axis=1)


def _streaks(glint: Glint, stars: _Float, electrons: _Float, margin: float) -> _Float:
    seen = glint.thrown_by(stars) & (np.hypot(stars[:, 0], stars[:, 1]) > 0.0)
    stars, electrons = stars[seen], electrons[seen]
    along = math.copysign(1.0, glint.length) * stars / np.hypot(stars[:, 0], stars[:, 1])[:, None]
    length, begin, end = abs(glint.length), 0.5 * glint.width, 0.5 * (glint.end_width or glint.width)
    level = glint.fraction * electrons / (length * (begin + end))
    size = np.broadcast_to([length + 2.0 * margin, begin + margin, end + margin], (len(stars), 3))
    return np.concatenate([glint.mapped(stars) - margin * along, along, size, level[:, None]], axis=1)


def flag_stray_light(mask: MaskImage, light: StrayLight, origin: tuple[float, float], limit: float) -> tuple[int, int]:
    """Set GHOST in `mask` (int32, changed in place) where the light adds up to more than `limit` electrons per pixel.

    `origin` is the boresight in the mask's frame, 0-based (x, y). Returns the pixels so flagged and the patches that
    lie on the mask and exceed the limit by themselves.
    """
    if not limit > 0.0:
        raise ConfigurationError(
            f"ghosts are flagged above a positive surface brightness, not {limit:g} electrons per pixel: "
            "put 'ghosts' after 'variance' in isr.steps of survey.toml"
        )
    discs, streaks = light.discs.copy(), light.streaks.copy()
    discs[:, [0, 3]] += origin[0]
    discs[:, [1, 4]] += origin[1]
    streaks[:, 0] += origin[0]
    streaks[:, 1] += origin[1]
    discs = discs[(discs[:, 6] > _FAINTEST * limit) & _on_frame(discs[:, :2], discs[:, 2], mask.shape)]
    reach = streaks[:, 4] + streaks[:, 5] + streaks[:, 6]
    streaks = streaks[(streaks[:, 7] > _FAINTEST * limit) & _on_frame(streaks[:, :2], reach, mask.shape)]
    hits = np.zeros(len(discs) + len(streaks), np.bool_)
    if len(hits) == 0:
        return 0, 0
    pixels = _flag_rows(mask, discs, streaks, limit, np.int32(MaskPlane.GHOST), hits)
    return int(pixels), int(np.count_nonzero(hits))


def _on_frame(centres: _Float, reach: _Float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    size = np.array([shape[1], shape[0]])
    inside = (centres > -reach[:, None]) & (centres < size + reach[:, None])
    return np.asarray(inside.all(axis=1))


@njit(cache=True, nogil=True)
def _flag_rows(mask: Any, discs: Any, streaks: Any, limit: Any, plane: Any, hits: Any) -> Any:  # pragma: no cover
    """Row by row: each patch is an interval, so its light is two entries of what a running sum adds up."""
    height, width = mask.shape
    steps = np.zeros(width + 1)
    pixels = 0
    for y in range(height):
        first, last = width, 0
        for k in range(len(discs)):
            x0, y0, radius, hole_x, hole_y, hole, level = discs[k]
            a, b = _chord(x0, y - y0, radius, width)
            if b <= a:
                continue
            first, last = min(first, a), max(last, b)
            steps[a] += level
            steps[b] -= level
            c, d = _chord(hole_x, y - hole_y, hole, width)
            c, d = max(a, c), min(b, d)
            if d > c:
                steps[c] -= level
                steps[d] += level
            else:
                c = d = a
            hits[k] |= level > limit and d - c < b - a
        for k in range(len(streaks)):
            a, b = _slice_of_streak(streaks[k], y, width)
            if b <= a:
                continue
            first, last = min(first, a), max(last, b)
            steps[a] += streaks[k, 7]
            steps[b] -= streaks[k, 7]
            hits[len(discs) + k] |= streaks[k, 7] > limit
        light = 0.0
        for x in range(first, last):
            light += steps[x]
            steps[x] = 0.0
            if light > limit:
                mask[y, x] |= plane
                pixels += 1
        if last > first:
            steps[last] = 0.0
    return pixels


@njit(cache=True, nogil=True)
def _chord(x: Any, dy: Any, radius: Any, width: Any) -> Any:  # pragma: no cover - compiled
    """Columns [a, b) of the pixel centres inside a circle on a row `dy` above its centre."""
    rest = radius * radius - dy * dy
    if not rest > 0.0:
        return 0, 0
    half = math.sqrt(rest)
    return math.ceil(max(x - half, 0.0)), math.floor(min(x + half, width - 1.0)) + 1


@njit(cache=True, nogil=True)
def _slice_of_streak(streak: Any, y: Any, width: Any) -> Any:  # pragma: no cover - compiled
    """Columns [a, b) of the pixel centres inside a turned trapezium on row `y`."""
    x0, y0, ux, uy, length, begin, end, _ = streak
    low, high = 0.0, width - 1.0
    dy, taper = y - y0, (end - begin) / length
    # 0 <= dx ux + dy uy <= length, and |dy ux - dx uy| <= begin + taper (dx ux + dy uy): each is factor dx <= most
    across = begin + taper * dy * uy
    for factor, most in (
        (-ux, dy * uy),
        (ux, length - dy * uy),
        (-uy - taper * ux, across - dy * ux),
        (uy - taper * ux, across + dy * ux),
    ):
        if abs(factor) < 1e-12:
            if most < 0.0:
                return 0, 0
        elif factor > 0.0:
            high = min(high, x0 + most / factor)
        else:
            low = max(low, x0 + most / factor)
    if high < low:
        return 0, 0
    return math.ceil(low), math.floor(high) + 1
