"""A trail in the full-resolution image: its path to a fraction of a pixel, and its profile across."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from workers.imaging.exposure import FloatImage, MaskImage
from workers.isr.trail_binning import BLOCKED, FlatSky
from workers.isr.trail_path import Arc

__all__ = ["Profile", "measure"]

_WINGS = 2.2
_HALF = 96  # pixels on each side of the path
_BLOCK = 32  # pixels along it
_WIDTHS = 1.5 * 1.12 ** np.arange(35)  # FWHM, pixels: 1.5 to 71


@dataclass(frozen=True)
class Profile:
    """What the pixels say of one trail."""

    arc: Arc
    """In pixels."""
    fwhm: float
    """Pixels."""
    peak: float
    """In units of the noise of one pixel."""
    noise: float
    """Of one pixel, in the image's unit, along the trail."""
    snr: float
    half_width: float
    """Pixels from the path beyond which the trail is fainter than asked."""
    blocks: NDArray[np.float64]
    """Matched amplitude of each block along the trail in units of the noise of one pixel; NaN where masked."""
    errors: NDArray[np.float64]
    """Of the blocks."""
    sides: tuple[float, float]
    """Mean level on both sides, in units of the peak."""


def measure(
    image: FloatImage,
    mask: MaskImage,
    sky: FlatSky,
    weight: FloatImage,
    arc: Arc,
    width: float,
    brightness: float,
    floor: float,
) -> Profile:
    """Return profile and path of the trail near `arc` (pixels, good to half a bin).

    `weight` (binned) is 0 inside sources. `width`: of the bar that found it, in pixels; `brightness`: of its bins, in
    units of their noise: far brighter pixels belong to something else. `floor`: brightness in units of the pixel
    noise down to which the half width reaches.
    """
    number = max(2, round(arc.length / _BLOCK))
    sums, weights = np.zeros((number, 2 * _HALF + 1)), np.zeros((number, 2 * _HALF + 1))
    limit = 5.0 + 1.5 * brightness / sky.bin * 4.0
    args = (sky.background, sky.noise, weight, sky.bin, arc.numbers(), BLOCKED, limit)
    scale = _strip(image, mask, *args, sums, weights)
    share = (np.arange(number) + 0.5) / number
    moves = np.zeros(3)
    fwhm = 0.0
    reach = max(6.0, 0.6 * width)
    room = int(min(max(48.0, 3.0 * width), _HALF))
    for smooth, far, step in ((0.7 * width, reach, reach / 6), (0.0, reach / 3, reach / 12), (0.0, 1.5, 0.25)):
        sigma = max(smooth, fwhm, 2.0) / 2.355
        soft = gaussian_filter1d(sums, sigma, axis=1, mode="constant")
        soft_weights = gaussian_filter1d(weights, sigma, axis=1, mode="constant")
        moves = _shifted(soft, soft_weights, share, moves, far, step)
        profile, error = _mean(sums, weights, share, moves)
        fwhm, peak, center, snr = _fit(profile, error, room)
        moves[:2] += center
    arc = arc.moved(*moves)
    profile, error = _mean(sums, weights, share, moves)
    fwhm, peak, _, snr = _fit(profile, error, room)
    blocks, errors = _blocks(sums, weights, share, moves, fwhm)
    half = _half_width(profile, error, fwhm, peak, floor)
    return Profile(arc, fwhm, peak, scale, snr, half, blocks, errors, _sides(profile, error, fwhm, peak))


def _shifted(
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    share: NDArray[np.float64],
    start: NDArray[np.float64],
    reach: float,
    step: float,
) -> NDArray[np.float64]:
    """Return the moves of ends and middle (pixels) that gather the most signal, near `start`."""
    best = start.copy()
    _climb(sums, weights, share, start, round(reach / step), step, best)
    return best


def _mean(
    sums: NDArray[np.float64], weights: NDArray[np.float64], share: NDArray[np.float64], moves: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the profile across the moved path, in pixels from -_HALF to _HALF, and its errors (0: no data)."""
    total, good = np.zeros(sums.shape[1]), np.zeros(sums.shape[1])
    _stack(sums, weights, share, moves, total, good)
    seen = good > 1.0
    profile = np.divide(total, good, out=np.zeros_like(total), where=seen)
    error = np.divide(1.0, np.sqrt(np.maximum(good, 1e-9)), out=np.zeros_like(total), where=seen)
    return profile, error


def _fit(profile: NDArray[np.float64], error: NDArray[np.float64], reach: int) -> tuple[float, float, float, float]:
    """Return FWHM, peak, centre, signal to noise of the best Gaussian on a slope, within `reach` pixels."""
    inverse = np.divide(1.0, error**2, out=np.zeros_like(error), where=error > 0)
    best = np.zeros(4)
    _gaussians(profile, inverse, _WIDTHS, reach, best)
    return float(best[0]), float(best[1]), float(best[2]), float(best[3])


def _blocks(
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    share: NDArray[np.float64],
    moves: NDArray[np.float64],
    fwhm: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matched amplitude and error of each block, over the level of both sides."""
    off = moves[0] * (1 - share) + moves[1] * share + 4 * moves[2] * share * (1 - share)
    u = np.arange(-_HALF, _HALF + 1.0)[None, :] - off[:, None]
    shape = np.exp(-4 * np.log(2) * (u / fwhm) ** 2)
    beside = (np.abs(u) > 1.5 * fwhm + 3) & (np.abs(u) < 4 * fwhm + 24)
    level = (sums * beside).sum(1) / np.maximum((weights * beside).sum(1), 1.0)
    good = (weights * shape**2).sum(1)
    amplitude = (shape * (sums - level[:, None] * weights)).sum(1)
    known = (weights * shape).sum(1) > np.maximum(0.2 * _BLOCK * shape.sum(1), 1.0)
    blank = np.full(len(share), np.nan)
    return (
        np.divide(amplitude, good, out=blank.copy(), where=known),
        np.divide(1.0, np.sqrt(np.maximum(good, 1e-9)), out=blank, where=known),
    )


def _sides(profile: NDArray[np.float64], error: NDArray[np.float64], fwhm: float, peak: float) -> tuple[float, float]:
    u = np.arange(-_HALF, _HALF + 1.0)
    sides = []
    for sign in (-1, 1):
        near = (sign * u > 1.2 * fwhm + 2) & (sign * u < 2.5 * fwhm + 12) & (error > 0)
        level = float(np.mean(profile[near])) if near.any() else 0.0
        sides.append(level / max(peak, 1e-9))
    return sides[0], sides[1]


def _half_width(
    profile: NDArray[np.float64], error: NDArray[np.float64], fwhm: float, peak: float, floor: float
) -> float:
    """Return the radius beyond which neither the Gaussian nor the data exceed `floor`; at least one FWHM.

    The data count up to `_WINGS` times where the Gaussian ends, farther than any star's wings reach: beyond, it is the
    haloes of stars on the path.
    """
    if not (error > 0).any():
        return fwhm + 1.0
    model = 0.5 * fwhm * np.sqrt(max(np.log2(max(peak / floor, 1.0)), 0.0))
    u = np.abs(np.arange(-_HALF, _HALF + 1.0))
    far = (u > 0.7 * _HALF) & (error > 0)
    level = float(np.median(profile[far])) if far.any() else 0.0
    soft = gaussian_filter1d(profile - level, max(1.0, 0.3 * fwhm / 2.355))
    noise = float(np.median(error[error > 0])) / np.sqrt(3.5 * max(1.0, 0.3 * fwhm / 2.355))
    lit = soft > max(floor, 4.0 * noise)
    radius = 0.0
    for sign in (-1, 1):
        reach = 0
        while reach < _HALF and lit[_HALF + sign * reach]:
            reach += 1
        radius = max(radius, float(reach))
    return float(max(fwhm, model, min(radius, _WINGS * max(fwhm, model)))) + 1.0


@njit(cache=True, nogil=True)
def _strip(
    image: Any,
    mask: Any,
    background: Any,
    noise: Any,
    weight: Any,
    side: int,
    arc: Any,
    blocked: int,
    limit: float,
    sums: Any,
    weights: Any,
) -> Any:  # pragma: no cover - compiled
    """Sum the good pixels near the arc by block and distance, flattened and scaled; returns the mean pixel noise."""
    height, width = image.shape
    rows, columns = background.shape
    dx, dy = arc[2] - arc[0], arc[3] - arc[1]
    long = max(np.sqrt(dx * dx + dy * dy), 1e-9)
    nx, ny = -dy / long, dx / long
    number, half = sums.shape[0], sums.shape[1] // 2
    steps = int(long) + 1
    total, count = 0.0, 0
    for step in range(steps):
        share = (step + 0.5) / steps
        off = 4.0 * arc[4] * share * (1.0 - share)
        block = int(share * number)
        for place in range(-half, half + 1):
            x = int(np.floor(arc[0] + share * dx + (off + place) * nx + 0.5))
            y = int(np.floor(arc[1] + share * dy + (off + place) * ny + 0.5))
            if x < 0 or y < 0 or x >= width or y >= height or (mask[y, x] & blocked) != 0:
                continue
            row, column = min(y // side, rows - 1), min(x // side, columns - 1)
            if weight[row, column] <= 0 or not np.isfinite(image[y, x]):
                continue
            value = (image[y, x] - background[row, column]) / noise[row, column]
            sums[block, place + half] += min(max(value, -limit), limit)
            weights[block, place + half] += 1.0
            total += noise[row, column]
            count += 1
    return float(total / max(count, 1))


@njit(cache=True, nogil=True)
def _climb(
    sums: Any, weights: Any, share: Any, start: Any, ends: int, step: float, best: Any
) -> None:  # pragma: no cover - compiled
    """Put the moves of ends and middle with the largest z into `best`."""
    half = sums.shape[1] // 2
    top = -1e30
    for a in range(-ends, ends + 1):
        for b in range(-ends, ends + 1):
            for c in range(-ends, ends + 1):
                signal, weight = 0.0, 0.0
                m0, m1, m2 = start[0] + a * step, start[1] + b * step, start[2] + c * step
                for block in range(len(share)):
                    s = share[block]
                    place = half + m0 * (1 - s) + m1 * s + 4 * m2 * s * (1 - s)
                    low = int(np.floor(place))
                    if low < 0 or low + 1 >= sums.shape[1]:
                        continue
                    part = place - low
                    signal += (1 - part) * sums[block, low] + part * sums[block, low + 1]
                    weight += (1 - part) * weights[block, low] + part * weights[block, low + 1]
                z = signal / np.sqrt(max(weight, 1.0)) - 1e-6 * (abs(a) + abs(b) + abs(c))
                if z > top:
                    top = z
                    best[0], best[1], best[2] = m0, m1, m2


@njit(cache=True, nogil=True)
def _stack(sums: Any, weights: Any, share: Any, moves: Any, total: Any, good: Any) -> None:  # pragma: no cover
    """Add up the blocks after the moves, to the nearest pixel."""
    size = sums.shape[1]
    for block in range(len(share)):
        s = share[block]
        shift = int(np.floor(moves[0] * (1 - s) + moves[1] * s + 4 * moves[2] * s * (1 - s) + 0.5))
        for place in range(size):
            source = place + shift
            if 0 <= source < size:
                total[place] += sums[block, source]
                good[place] += weights[block, source]


@njit(cache=True, nogil=True)
def _gaussians(profile: Any, inverse: Any, widths: Any, reach: int, best: Any) -> None:  # pragma: no cover - compiled
    """Put FWHM, peak, centre and z of the best of a grid of Gaussians into `best`."""
    half = len(profile) // 2
    best[0] = widths[0]
    for fwhm in widths:
        for index in range(-2, 3):
            center = index * max(0.2, 0.05 * fwhm)
            n = np.zeros(6)
            r = np.zeros(3)
            for place in range(half - reach, half + reach + 1):
                u = place - half
                weight = inverse[place]
                shape = np.exp(-2.772588722 * ((u - center) / fwhm) ** 2)
                tilt = u / half
                n[0] += weight * shape * shape
                n[1] += weight * shape
                n[2] += weight * shape * tilt
                n[3] += weight
                n[4] += weight * tilt
                n[5] += weight * tilt * tilt
                r[0] += weight * shape * profile[place]
                r[1] += weight * profile[place]
                r[2] += weight * tilt * profile[place]
            # background and tilt eliminated
            det = n[3] * n[5] - n[4] * n[4]
            if det <= 0:
                continue
            p, q = (n[1] * n[5] - n[2] * n[4]) / det, (n[2] * n[3] - n[1] * n[4]) / det
            left = n[0] - p * n[1] - q * n[2]
            if left <= 1e-9 * n[0] or left <= 0:
                continue
            peak = (r[0] - p * r[1] - q * r[2]) / left
            z = peak * np.sqrt(left)
            if z > best[3]:
                best[0], best[1], best[2], best[3] = fwhm, peak, center, z
