"""Compiled loops over the pixels of an epoch that is compared with a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["grown", "significances", "smoothed", "summed"]


@njit(cache=True, nogil=True, fastmath={"nsz", "contract", "reassoc"})
def smoothed(image: Any, taps: Any) -> Any:  # pragma: no cover - compiled
    """Return an image convolved with symmetric `taps` along both axes; beyond its edges it goes on as at them."""
    height, width = image.shape
    reach = len(taps) // 2
    padded = np.zeros((height, width + 2 * reach), np.float32)
    column = np.zeros(width, np.float32)
    for y in range(height):
        column[:] = taps[reach] * image[y]
        for step in range(1, reach + 1):
            up, down = image[max(y - step, 0)], image[min(y + step, height - 1)]
            for x in range(width):
                column[x] += taps[reach + step] * (up[x] + down[x])
        padded[y, reach : reach + width] = column
        padded[y, :reach] = column[0]
        padded[y, reach + width :] = column[width - 1]
    out = np.zeros((height, width), np.float32)
    for y in range(height):
        for step in range(2 * reach + 1):
            tap = taps[step]
            for x in range(width):
                out[y, x] += tap * padded[y, x + step]
    return out


@njit(cache=True, nogil=True, fastmath={"nsz", "contract"})
def significances(
    image: Any, reference: Any, variance: Any, other: Any, allowed: Any, here: Any, higher: bool, correlation: Any
) -> Any:  # pragma: no cover - compiled
    """Return the greater of the squared significances of a pixel and of the 3x3 round it, float32 (height, width).

    Of image - reference, by what it exceeds `allowed`, where `here`; with `higher` only what is above. `variance` and
    `other` are those of the two, `correlation` the variance of a 3x3 sum over the sum of variances.
    """
    height, width = image.shape
    excess, noise = np.zeros((3, width + 2), np.float32), np.zeros((3, width + 2), np.float32)  # of three rows
    total, power = np.zeros(width + 2, np.float32), np.zeros(width + 2, np.float32)
    out = np.zeros((height, width), np.float32)
    zero, least = np.float32(0.0), np.float32(1e-30)
    for y in range(height + 1):
        row, spread = excess[y % 3], noise[y % 3]
        if y < height:
            for x in range(width):
                off = image[y, x] - reference[y, x]
                above = max(abs(off) - allowed[y, x], zero)
                above = above if here[y, x] else zero
                row[x + 1] = above if off > zero else (zero if higher else -above)
                spread[x + 1] = variance[y, x] + other[y, x]
        else:
            row[:], spread[:] = zero, zero
        if y == 0:
            continue
        middle, deviation = excess[(y - 1) % 3], noise[(y - 1) % 3]
        for x in range(width + 2):
            total[x] = excess[0, x] + excess[1, x] + excess[2, x]
            power[x] = noise[0, x] + noise[1, x] + noise[2, x]
        for x in range(width):
            box = total[x] + total[x + 1] + total[x + 2]
            around = correlation * max(power[x] + power[x + 1] + power[x + 2], least)
            out[y - 1, x] = max(middle[x + 1] ** 2 / max(deviation[x + 1], least), box**2 / around)
    return out


@njit(cache=True, nogil=True)
def grown(values: Any, here: Any, seed: float, least: float, halo: int) -> Any:  # pragma: no cover - compiled
    """Return the pixels up to `halo` (x and y) from what touches a seed: bool (height, width), only where `here`.

    A seed is a pixel above `seed` where `here`; what is above `least` and touches one, also at a corner, goes with it.
    """
    height, width = values.shape
    out, seen = np.zeros(values.shape, np.bool_), np.zeros(values.shape, np.bool_)
    stack = np.zeros((height * width, 2), np.int32)
    for y in range(height):
        for x in range(width):
            if not values[y, x] > seed or seen[y, x] or not here[y, x]:
                continue
            seen[y, x], stack[0, 0], stack[0, 1], depth = True, y, x, 1
            while depth:
                depth -= 1
                v, u = stack[depth]
                out[max(v - halo, 0) : v + halo + 1, max(u - halo, 0) : u + halo + 1] = True
                for j in range(max(v - 1, 0), min(v + 2, height)):
                    for i in range(max(u - 1, 0), min(u + 2, width)):
                        if values[j, i] > least and not seen[j, i]:
                            seen[j, i], stack[depth, 0], stack[depth, 1] = True, j, i
                            depth += 1
    return out & here


@njit(cache=True, nogil=True)
def summed(planes: Any, known: Any) -> Any:  # pragma: no cover - compiled
    """Return the sum of the known ones of N planes at each pixel, of all where none is, and how many are known.

    float32 and int16 (height, width).
    """
    number, height, width = planes.shape
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.int16)
    for y in range(height):
        for k in range(number):
            for x in range(width):
                total[y, x] += planes[k, y, x] if known[k, y, x] else np.float32(0.0)
            for x in range(width):
                count[y, x] += np.int16(known[k, y, x])
        for x in range(width):
            if count[y, x] == 0:
                total[y, x] = planes[:, y, x].sum()
    return total, count
