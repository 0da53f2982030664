"""Brighter-fatter: stored charge repels what drifts in, so that the borders of full pixels move inwards.

A physical model, not the inverse of the correction: the field of each stored charge and of its image in the gates is
integrated along the drift path and over each pixel border; the light that falls on the strips between the resting and
the moved borders changes pixel, while the exposure goes on (Antilogus et al. 2014, JINST 9, C03048; Astier et al.
2019, A&A 629, A36). Charge is conserved border by border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

__all__ = ["BorderShifts", "accumulate", "area_coefficients", "border_light", "border_shifts"]

_Float = NDArray[np.float64]
_STEPS = 12
_BORDER_POINTS = 16


@dataclass(frozen=True)
class BorderShifts:
    """How far one electron moves the borders about it, in pixels; float64 (2 radius + 1, 2 radius + 1), read-only.

    Element [radius + dy, radius + dx] is what an electron in pixel (x + dx, y + dy) does to a border of pixel (x, y).
    """

    right: _Float
    """Of the border to (x + 1, y), positive towards +x."""
    top: _Float
    """Of the border to (x, y + 1), positive towards +y."""


@lru_cache(maxsize=8)
def border_shifts(
    a00: float,
    *,
    anisotropy: float = 0.8,
    radius: int = 12,
    charge_height: float = 0.15,
    border_height: float = 0.2,
    thickness: float = 10.0,
) -> BorderShifts:
    """Return the shifts for which a pixel's area changes by `a00` (per electron, negative) with its own charge.

    Lengths in pixels above the gates: where the charge lies, where the fate of a drifting electron is decided, and the
    window it comes from. `anisotropy` scales shifts along x (channel stops hold those borders) against those along y.
    """
    index = np.arange(-radius, radius + 1)
    points, weights = np.polynomial.legendre.leggauss(_BORDER_POINTS)
    along, weights = 0.5 * points, 0.5 * weights
    far, near = 0.5 - index[None, :, None], along[None, None, :] - index[:, None, None]
    pull = _pull(np.hypot(far, near), charge_height, border_height, thickness)
    shift = -(pull * far) @ weights
    right, top = anisotropy * shift, shift.T
    scale = a00 / area_coefficients(BorderShifts(right, top))[radius, radius]
    shifts = BorderShifts(scale * right, scale * top)
    for plane in (shifts.right, shifts.top):
        plane.flags.writeable = False
    return shifts


def _pull(distance: _Float, charge: float, border: float, window: float) -> _Float:
    """Transverse field over distance, integrated over the drift path, of a charge and its image (any unit)."""

    def path(low: float) -> _Float:
        ends = [(window + low) / np.hypot(distance, window + low), (border + low) / np.hypot(distance, border + low)]
        return np.asarray(ends[0] - ends[1])

    return np.asarray((path(-charge) - path(charge)) / distance**2)


def area_coefficients(shifts: BorderShifts) -> _Float:
    """Return the relative change of a pixel's area per electron at each offset, same shape and indices as the shifts.

    These are the a_ij of Astier et al. (2019), eq. 11: right border minus left plus top minus bottom. Borders beyond
    the arrays count as unmoved.
    """
    left = np.pad(shifts.right, ((0, 0), (0, 1)))[:, 1:]
    bottom = np.pad(shifts.top, ((0, 1), (0, 0)))[1:, :]
    return np.asarray(shifts.right - left + shifts.top - bottom)


def border_light(light: _Float) -> tuple[_Float, _Float]:
    """Return the light per pixel area at each right border (height, width - 1) and top border (height - 1, width).

    Fourth-order value at a face of a field known by its cell averages (finite volumes: 7/12 and -1/12).
    """
    return _at_faces(light), _at_faces(light.T).T


def _at_faces(light: _Float) -> _Float:
    wide = np.pad(light, ((0, 0), (1, 1)), mode="symmetric")
    near, far = wide[:, 1:-2] + wide[:, 2:-1], wide[:, :-3] + wide[:, 3:]
    return np.asarray(np.maximum((7.0 * near - far) / 12.0, 0.0))


def accumulate(
    light: _Float,
    shifts: BorderShifts,
    full_well: float,
    *,
    rng: np.random.Generator | None = None,
    borders: tuple[_Float, _Float] | None = None,
    steps: int = _STEPS,
) -> _Float:
    """Return the electrons (height, width) collected from `light`, their expected number on unmoved pixels.

    In each of `steps` parts of the exposure the borders stand where the charge collected so far (no more than
    `full_well` in a pixel) puts them, extrapolated to the middle of the part, and the charge that comes is a Poisson
    draw; without `rng`, its mean. The covariances of flats fall short of continuous motion by 1 / steps².
    `borders`: the light at right and top borders, where it is known better than `border_light` tells.
    """
    right, top = border_light(light) if borders is None else borders
    displace = _Displacement(shifts, (light.shape[0], light.shape[1]))
    charge = np.zeros_like(light)
    latest = light / steps
    for _ in range(steps):
        moved_right, moved_top = displace(np.minimum(charge + 0.5 * latest, full_well))
        mean = light.copy()
        _move(mean, moved_right[:, :-1] * right, moved_top[:-1] * top)
        np.maximum(mean, 0.0, out=mean)
        latest = mean / steps if rng is None else rng.poisson(mean / steps).astype(float)
        charge += latest
    return charge


def _move(mean: _Float, across: _Float, along: _Float) -> None:
    """Give each pixel of `mean` (changed in place) what its right and top borders sweep in, and take it elsewhere."""
    mean[:, :-1] += across
    mean[:, 1:] -= across
    mean[:-1] += along
    mean[1:] -= along


class _Displacement:
    """From charge to the shift of every right and top border, in pixels; beyond the edges the charge is mirrored."""

    def __init__(self, shifts: BorderShifts, shape: tuple[int, int]) -> None:
        self._radius = shifts.right.shape[0] // 2
        self._window = np.s_[self._radius : self._radius + shape[0], self._radius : self._radius + shape[1]]
        self._shape = tuple(next_fast_len(n + 2 * self._radius, real=True) for n in shape)
        self._kernels = [self._transform(plane) for plane in (shifts.right, shifts.top)]

    def _transform(self, plane: _Float) -> NDArray[np.complex64]:
        kernel = np.zeros(self._shape, np.float32)
        kernel[: plane.shape[0], : plane.shape[1]] = plane
        kernel = np.roll(kernel, (-self._radius, -self._radius), axis=(0, 1))
        return np.asarray(np.conj(rfft2(kernel)), np.complex64)

    def __call__(self, charge: _Float) -> tuple[_Float, _Float]:
        padded = np.pad(charge - charge.mean(), self._radius, mode="symmetric").astype(np.float32)
        transform = rfft2(padded, self._shape)
        right, top = (irfft2(transform * kernel, self._shape)[self._window] for kernel in self._kernels)
        return right, top
