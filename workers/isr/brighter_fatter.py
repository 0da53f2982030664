"""Brighter-fatter: charge that charge has pushed into the next pixel goes back (Coulton et al. 2018, AJ 155, 258).

The charge collected so far bends the drift lines: a pixel border moves by the gradient of phi = K * charge, and the
light on the strip it sweeps changes pixel. Over an exposure the charge grows evenly, hence the half in

    true = image - 1/2 div(true grad phi),

solved by iteration. Two refinements on the paper: the products are taken at the pixel borders, so that what one pixel
gets another gives (charge is conserved to rounding, as in Broughton et al. 2023, arXiv:2312.03115), and the charge in
phi is (2 image + true) / 3, which is the mean of the growing charge to second order.

Charge in saturated pixels repels as any other, but nothing crosses the borders of masked pixels: they keep their
value. Pixels that hold no charge worth the name (BAD, NO_DATA, not finite) repel like the mean of their neighbours.

The variance plane stays as it is. What it holds by then is the noise of bias and dark, which moving a few per cent of
charge changes by less than that; the Poisson noise that the variance step adds afterwards, from the corrected charge,
is the right one, for the correction takes the pixels' covariances out too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["apply", "potential", "restore"]

_CLOSED = MaskPlane.BAD | MaskPlane.SATURATED | MaskPlane.NO_DATA
_HOLLOW = MaskPlane.BAD | MaskPlane.NO_DATA
_POTENTIALS = 2
_STRETCH = 512


def apply(state: IsrState) -> None:
    """Restore the charge; the rounds taken and the electrons moved become metrics. Raises ConfigurationError."""
    state.need_unit("electron", "brighter_fatter")
    master, options = state.need("brighter_fatter"), state.config.brighter_fatter
    rounds, moved = restore(
        state.image,
        (state.mask & np.int32(_CLOSED)) != 0,
        (state.mask & np.int32(_HOLLOW)) != 0,
        master.tables["kernel"],
        anisotropy=float(master.tables["anisotropy"][0]),
        iterations=options.iterations,
        threshold=options.threshold,
    )
    state.metrics["brighterFatterRounds"] = float(rounds)
    state.metrics["brighterFatterMoved"] = moved


def restore(
    image: FloatImage,
    closed: NDArray[np.bool_],
    hollow: NDArray[np.bool_],
    kernel: NDArray[np.float64],
    *,
    anisotropy: float = 1.0,
    iterations: int = 10,
    threshold: float = 1000.0,
) -> tuple[int, float]:
    """Put the charge of `image` (electrons, changed in place) back; return the rounds and the electrons moved.

    `kernel`: K per electron, float64 (2 n + 1, 2 n + 1), symmetric in x and y, the pixel itself in the middle;
    `anisotropy`: shift along x over shift along y in the same gradient. Borders of `closed` pixels let nothing through;
    `hollow` ones repel like the mean of their neighbours. Ends after `iterations`, or once a round changes the sum of
    absolute pixel values by less than `threshold` electrons.
    """
    blocked = closed | ~np.isfinite(image)
    observed = _filled(image, hollow | ~np.isfinite(image))
    quadrant = np.ascontiguousarray(kernel[kernel.shape[0] // 2 :, kernel.shape[1] // 2 :], np.float32)
    level = np.float32(np.median(observed[::16, ::16]))
    charge = observed - level
    phi, current, latest = potential(charge, quadrant), observed.copy(), np.empty_like(observed)
    free = (~blocked).astype(np.float32)
    rounds, change = 0, np.inf
    while rounds < iterations and change >= threshold:
        if 0 < rounds < _POTENTIALS:
            _mean_charge(observed, current, level, charge)
            phi = potential(charge, quadrant)
        change = _round(observed, current, phi, free, np.float32(anisotropy), latest)
        current, latest = latest, current
        rounds += 1
    return rounds, float(_written(image, current, blocked))


def _filled(image: FloatImage, where: NDArray[np.bool_]) -> FloatImage:
    """Return a copy with the pixels of `where` at the mean of the good ones within two pixels, or else the median."""
    result = image.copy()
    if where.any():
        good = image[~where]
        _fill(image, where, np.float32(np.median(good)) if good.size else np.float32(0.0), result)
    return result


def potential(charge: FloatImage, quadrant: NDArray[np.float32]) -> FloatImage:
    """Return K * charge, float32 (height, width); beyond the edges the charge is mirrored.

    `quadrant`: K at offsets 0, 0 to n, n, float32; it is the same in all four quadrants.
    """
    n = quadrant.shape[0] - 1
    result = np.empty_like(charge)
    _convolve(np.pad(charge, n, mode="symmetric"), quadrant, result)
    return result


@njit(cache=True, nogil=True)
def _fill(image: Any, where: Any, otherwise: Any, result: Any) -> None:  # pragma: no cover - compiled
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            if where[y, x]:
                total, count = 0.0, 0
                for v in range(max(y - 2, 0), min(y + 3, height)):
                    for u in range(max(x - 2, 0), min(x + 3, width)):
                        if not where[v, u]:
                            total += image[v, u]
                            count += 1
                result[y, x] = total / count if count else otherwise


@njit(cache=True, nogil=True, fastmath=True)
def _convolve(padded: Any, quadrant: Any, result: Any) -> None:  # pragma: no cover - compiled
    """Sum rows that share a weight first, in stretches that fit into the processor's nearest cache."""
    n = quadrant.shape[0] - 1
    height, width = result.shape
    both = np.empty(_STRETCH + 2 * n, np.float32)
    for y in range(height):
        for start in range(0, width, _STRETCH):
            size = min(_STRETCH, width - start)
            total = result[y, start : start + size]
            total[:] = np.float32(0.0)
            for dy in range(n + 1):
                upper = padded[y + n + dy, start : start + size + 2 * n]
                lower = padded[y + n - dy, start : start + size + 2 * n]
                for x in range(size + 2 * n):
                    both[x] = upper[x] + lower[x]
                if dy == 0:
                    both *= np.float32(0.5)
                for dx in range(n + 1):
                    weight = quadrant[dy, dx] if dx > 0 else quadrant[dy, dx] * np.float32(0.5)
                    right, left = both[n + dx : n + dx + size], both[n - dx : n - dx + size]
                    for x in range(size):
                        total[x] += weight * (right[x] + left[x])


@njit(cache=True, nogil=True)
def _mean_charge(observed: Any, current: Any, level: Any, charge: Any) -> None:  # pragma: no cover - compiled
    third = np.float32(1.0 / 3.0)
    height, width = charge.shape
    for y in range(height):
        for x in range(width):
            charge[y, x] = (observed[y, x] + observed[y, x] + current[y, x]) * third - level


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _swept(light: Any, free: Any, phi: Any, weight: Any, swept: Any) -> None:  # pragma: no cover - compiled
    """Put what crosses the border between the second and the third of four rows of pixels into `swept`.

    The light there is known to fourth order in the pixel size from all four, or is the mean of the two where one beyond
    them is not `free` (1 or 0); nothing crosses where one of the two is not.
    """
    one, two, three, four = light
    free1, free2, free3, free4 = free
    phi2, phi3 = phi
    twelfth, half, zero = np.float32(1.0 / 12.0), np.float32(0.5), np.float32(0.0)
    for i in range(swept.size):
        near = two[i] + three[i]
        here = half * near + free1[i] * free4[i] * twelfth * (near - one[i] - four[i])
        swept[i] = weight * max(here, zero) * free2[i] * free3[i] * (phi3[i] - phi2[i])


@njit(cache=True, nogil=True)
def _round(
    observed: Any, current: Any, phi: Any, free: Any, anisotropy: Any, latest: Any
) -> Any:  # pragma: no cover - compiled
    """Put observed - 1/2 div(current grad phi) into `latest`; return how much it differs from `current` in all."""
    height, width = observed.shape
    half = np.float32(0.5)
    row, open_row = np.zeros(width + 2, np.float32), np.zeros(width + 2, np.float32)
    across, below, above = np.zeros(width, np.float32), np.zeros(width, np.float32), np.zeros(width, np.float32)
    shut = np.zeros(width, np.float32)
    change = 0.0
    for y in range(height):
        row[1:-1], open_row[1:-1] = current[y], free[y]
        _swept(
            (row[:-3], row[1:-2], row[2:-1], row[3:]),
            (open_row[:-3], open_row[1:-2], open_row[2:-1], open_row[3:]),
            (phi[y, :-1], phi[y, 1:]),
            half * anisotropy,
            across[:-1],
        )
        u, v, w = max(y - 1, 0), min(y + 1, height - 1), min(y + 2, height - 1)
        _swept(
            (current[u], current[y], current[v], current[w]),
            (free[u] if y > 0 else shut, free[y], free[v] if v > y else shut, free[w] if w > v else shut),
            (phi[y], phi[v]),
            half,
            above,
        )
        before = np.float32(0.0)
        for x in range(width):
            latest[y, x] = observed[y, x] + (before - across[x] + (below[x] - above[x]))
            before = across[x]
            change += abs(latest[y, x] - current[y, x])
        below, above = above, below
    return change


@njit(cache=True, nogil=True)
def _written(image: Any, current: Any, blocked: Any) -> Any:  # pragma: no cover - compiled
    """Write `current` into the open pixels of `image`; return half the sum of absolute changes."""
    height, width = image.shape
    moved = 0.0
    for y in range(height):
        for x in range(width):
            if not blocked[y, x]:
                moved += abs(current[y, x] - image[y, x])
                image[y, x] = current[y, x]
    return 0.5 * moved
