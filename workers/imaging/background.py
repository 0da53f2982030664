"""The sky level and its noise: a smooth surface free of sources' light, or a mesh (a typed wrapper of sep's)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.background_bins import Bins, bin_image, stretch
from workers.imaging.background_layers import NODE, Box, Layers, separate
from workers.imaging.detection import sep_image
from workers.imaging.exposure import FloatImage

__all__ = ["Background", "mesh_background", "source_free_background"]

MIN_USABLE = 0.02
"""Fraction of usable pixels below which no background can be told."""


@dataclass(frozen=True)
class Background:
    """Sky level and one-sigma noise per pixel, float32 in the unit of the image, and their typical values."""

    level: FloatImage
    noise: FloatImage
    median: float
    medianNoise: float
    steps: tuple[float, ...] = ()
    """What each amplifier lies above the common surface, area-weighted sum zero, contained in the level; 0 for all
    where they are not significant; empty: none were sought."""
    stepErrors: tuple[float, ...] = ()
    """One sigma of each step as measured."""
    unseen: float = 0.0
    """Mean light of sources too faint to be seen, taken off the level."""
    wave: float = float("nan")
    """Shortest wave that the level follows, pixels."""
    sourceFraction: float = float("nan")
    """Share of the usable bins that hold sources' light."""


def mesh_background(image: NDArray[Any], blocked: NDArray[np.bool_], *, mesh: int) -> Background:
    """Return the background of `image` (height, width) from cells of `mesh` pixels, blocked pixels left out.

    Per cell the clipped mode (2.5 median - 1.5 mean, or the median where crowded), a 3x3 median filter over cells, a
    bicubic spline between them (Bertin & Arnouts 1996, section 7.1). Raises DataError where fewer than 2 % of the
    pixels are usable, or the image is constant.
    """
    clean, masked = sep_image(image, blocked)
    _need_pixels(1.0 - np.count_nonzero(masked) / masked.size)
    fit = sep.Background(clean, mask=masked, bw=mesh, bh=mesh, fw=3, fh=3)
    level, noise = fit.back(dtype=np.float32), fit.rms(dtype=np.float32)
    median, middle = float(np.median(level)), float(np.median(noise))
    _need_noise(middle)
    # a mesh without noise (a constant patch) would make every pixel in it a detection
    return Background(level, np.maximum(noise, np.float32(0.1 * middle)), median, middle)


def source_free_background(
    image: NDArray[Any],
    blocked: NDArray[np.bool_],
    *,
    mesh: int,
    threshold: float = 2.5,
    grow: int = 4,
    boxes: Sequence[Box] = (),
) -> Background:
    """Return the background of `image` (height, width) without the light of sources, seen and unseen.

    `mesh` in pixels: cells whose means carry the surface; it follows waves of 8 meshes (of 4 where the sky is rough).
    `threshold` in sigma of the mean of 4 x 4 pixels: sources are masked from there; `grow` the pixels round each. With
    `boxes`, the amplifiers' (y0, y1, x0, x1), a constant for each is fitted together with the surface and, where they
    are significant, contained in the level: subtract it and the steps are gone. The noise is that of the sky alone.
    Raises DataError where fewer than 2 % of the pixels are usable, or the image is constant.
    """
    bins = bin_image(image, blocked)
    _need_pixels(float(bins.count.sum(dtype=float)) / (bins.shape[0] * bins.shape[1]))
    some = slice(None, None, max(min(bins.mean.shape) // 128, 1))
    _need_noise(float(np.median(bins.variance[some, some][bins.count[some, some] > 0])))
    return _assembled(bins, separate(bins, boxes, mesh=mesh, threshold=threshold, grow=grow), boxes)


def _assembled(bins: Bins, layers: Layers, boxes: Sequence[Box]) -> Background:
    """Return the maps at full size."""
    nodes = layers.surface.nodes(NODE)
    if layers.unseen.any():
        nodes -= stretch(layers.unseen, layers.cell // NODE, (nodes.shape[0], nodes.shape[1]))
    level = stretch(nodes, NODE, bins.shape)
    # of a single amplifier there is no step
    steps, errors = (
        found if len(found) else np.zeros(len(boxes)) for found in (layers.surface.steps, layers.surface.errors)
    )
    for (y0, y1, x0, x1), step in zip(boxes, steps, strict=True):
        level[y0:y1, x0:x1] += np.float32(step)
    sigma = np.sqrt(np.maximum(layers.variance, 0.0))
    middle = float(np.median(sigma))
    _need_noise(middle)
    # a cell without noise (a constant patch) would make every pixel in it a detection
    noise = stretch(np.maximum(sigma, 0.1 * middle), layers.cell, bins.shape)
    np.maximum(noise, np.float32(0.1 * middle), out=noise)
    usable = int(np.count_nonzero(bins.count))
    return Background(
        level,
        noise,
        float(np.median(nodes)),
        middle,
        steps=tuple(map(float, steps)),
        stepErrors=tuple(map(float, errors)),
        unseen=float(layers.unseen.mean()),
        wave=layers.surface.wave,
        sourceFraction=1.0 - float(np.count_nonzero(layers.free)) / max(usable, 1),
    )


def _need_pixels(usable: float) -> None:
    if usable < MIN_USABLE:
        raise DataError(
            f"only {usable:.1%} of the pixels are usable, so there is no background to measure: "
            "check saturation and defects in camera.toml against the raw frame"
        )


def _need_noise(noise: float) -> None:
    if not (np.isfinite(noise) and noise > 0.0):
        raise DataError("the image is empty: its pixels are constant, so the background has no noise")
