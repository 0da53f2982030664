"""Ghosts and glints by tracing rays: two reflections of a converging beam, with no map and no annulus assumed.

Lengths are pixels; z is the height above the detector (z = 0), the boresight at x = y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EdgeOptics", "GhostOptics", "light_on_pixels", "trace_ghost", "trace_glint"]

_Float = NDArray[np.float64]
_GOLDEN = 2.399963229728653


@dataclass(frozen=True)
class GhostOptics:
    """A beam that the detector throws back, and the surface above it that sends it down again."""

    pupil_distance: float = 40000.0
    pupil_radius: float = 5000.0
    obstruction_distance: float = 30000.0
    """Height of what blocks the middle of the beam."""
    obstruction_radius: float = 1400.0
    surface_height: float = 260.0
    """Of the reflecting surface's vertex; on the optical axis."""
    surface_curvature: float = 0.0
    """1 / radius, positive where the surface is hollow towards the detector."""
    tilt: tuple[float, float] = (0.0, 0.0)
    """Of the surface's normal, radians."""


@dataclass(frozen=True)
class EdgeOptics:
    """A frame round the detectors: a vertical edge at one field radius, its face towards the boresight."""

    pupil_distance: float = 40000.0
    pupil_radius: float = 5000.0
    radius: float = 700.0
    height: float = 300.0
    bevel: float = 0.35
    """Facets of the edge lean by up to this towards the sky, radians."""


def trace_ghost(optics: GhostOptics, star: tuple[float, float], rays: int = 400_000) -> tuple[_Float, float]:
    """Return where rays of a star at `star` (pixels from the boresight) land, float64 (n, 2), and each ray's share.

    The share is the fraction of the light that enters the pupil, as if both reflections were perfect. Exact law of
    reflection on a sphere; rays spread evenly over the pupil (sunflower).
    """
    start, direction = _beam(optics.pupil_distance, optics.pupil_radius, star, rays)
    at = start + direction * ((optics.obstruction_distance - start[:, 2:]) / direction[:, 2:])
    clear = np.hypot(at[:, 0], at[:, 1]) > optics.obstruction_radius
    direction = direction[clear] * np.array([1.0, 1.0, -1.0])
    ray = np.zeros_like(direction)
    ray[:, :2] = star
    hit, normal = _surface_hit(optics, ray, direction)
    normal = normal + np.array([*optics.tilt, 0.0])
    normal /= np.linalg.norm(normal, axis=1)[:, None]
    down = direction - 2.0 * np.sum(direction * normal, axis=1)[:, None] * normal
    landing = hit + down * (-hit[:, 2:] / down[:, 2:])
    return landing[:, :2], 1.0 / rays


def trace_glint(optics: EdgeOptics, star: tuple[float, float], rays: int = 400_000) -> tuple[_Float, float]:
    """Return where rays land that meet the edge on their way to a focus beyond it; as `trace_ghost`."""
    start, direction = _beam(optics.pupil_distance, optics.pupil_radius, star, rays)
    outward = np.array([*star, 0.0]) / np.hypot(*star)
    # the edge's inner face: rays on their way to a focus beyond it meet it above the detector, or pass over it
    path = (optics.radius - start @ outward) / (direction @ outward)
    hit = start + direction * path[:, None]
    struck = (path > 0) & (hit[:, 2] > 0.0) & (hit[:, 2] < optics.height)
    hit, direction = hit[struck], direction[struck]
    lean = optics.bevel * ((np.arange(len(hit)) * 0.6180339887498949) % 1.0)[:, None]
    normal = -np.cos(lean) * outward + np.sin(lean) * np.array([0.0, 0.0, 1.0])
    down = direction - 2.0 * np.sum(direction * normal, axis=1)[:, None] * normal
    lands = down[:, 2] < 0.0
    landing = hit[lands] + down[lands] * (-hit[lands, 2:] / down[lands, 2:])
    return landing[:, :2], 1.0 / rays


def light_on_pixels(
    landing: _Float, electrons_per_ray: float, shape: tuple[int, int], origin: tuple[float, float]
) -> _Float:
    """Return electrons per pixel, float64 of `shape` (height, width); `origin` is the boresight's 0-based (x, y)."""
    height, width = shape
    x, y = np.rint(landing[:, 0] + origin[0]), np.rint(landing[:, 1] + origin[1])
    on = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y[on].astype(np.int64) * width + x[on].astype(np.int64)
    return np.asarray(np.bincount(index, minlength=height * width).reshape(shape) * electrons_per_ray)


def _beam(distance: float, radius: float, star: tuple[float, float], rays: int) -> tuple[_Float, _Float]:
    """Rays from the pupil that meet in the star's image."""
    count = np.arange(rays)
    reach = radius * np.sqrt((count + 0.5) / rays)
    start = np.stack(
        [reach * np.cos(count * _GOLDEN), reach * np.sin(count * _GOLDEN), np.full(rays, distance)], axis=1
    )
    direction = np.array([*star, 0.0]) - start
    return start, direction / np.linalg.norm(direction, axis=1)[:, None]


def _surface_hit(optics: GhostOptics, ray: _Float, direction: _Float) -> tuple[_Float, _Float]:
    """Return where rays meet the surface and its normals there."""
    vertex, curvature = np.array([0.0, 0.0, optics.surface_height]), optics.surface_curvature
    if curvature == 0.0:
        hit = ray + direction * ((optics.surface_height - ray[:, 2:]) / direction[:, 2:])
        return hit, np.broadcast_to([0.0, 0.0, 1.0], hit.shape)
    centre = vertex - np.array([0.0, 0.0, 1.0 / curvature])
    offset = ray - centre
    along = np.sum(offset * direction, axis=1)
    root = np.sqrt(along**2 - np.sum(offset**2, axis=1) + curvature**-2)
    hit = ray + direction * (-along + np.sign(curvature) * root)[:, None]
    return hit, (hit - centre) * curvature
