"""Master fringe: what many science frames of one band share once sky and sources are out, in units of the sky."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.calibrate.combine import combine, frame_noise
from workers.calibrate.frames import Frames, Solution
from workers.imaging.background import mesh_background
from workers.imaging.detection import detect
from workers.imaging.exposure import ExposureInfo, FloatImage, MaskImage
from workers.imaging.fringe_fit import fit_fringes
from workers.imaging.masks import MaskPlane

__all__ = ["STEPS", "FringeMaster", "fringe_master", "sky_structure", "solve"]

STEPS = (
    "overscan",
    "crosstalk",
    "linearity",
    "saturation",
    "bias",
    "dark",
    "gain",
    "deferred_charge",
    "brighter_fatter",
    "flat",
    "defects",
)
"""Steps of isr.steps that a science frame goes through."""

_LEAST_FRAMES = 5
_LEAST_PLACES = 3
_DITHER = 5.0 / 3600.0
_SHALLOW, _DEEP = 5.0, 1.5
_GROW = 4
_COMPONENT_BIN = 8
_SKY_BIN, _SKY_CLIP = 16, 5.0


@dataclass(frozen=True)
class FringeMaster:
    """Patterns in units of the sky level, median 0."""

    image: FloatImage
    """(height, width): what all frames share."""
    variance: FloatImage
    mask: MaskImage
    """BAD where no frame saw bare sky; the pattern is 0 there."""
    components: NDArray[np.float64]
    """(k, height, width): principal components of how frames differ from it."""
    amplitude: NDArray[np.float64]
    """Of the shared pattern in each frame."""
    amplitudeErr: NDArray[np.float64]


def solve(
    frames: Frames,
    steps: tuple[str, ...] = STEPS,
    *,
    components: int = 1,
    smooth: float = 2.0,
    sky_degree: int = 2,
) -> Solution:
    """Return the master of the frames' band; `components` patterns in all; `smooth` as of `fringe_master`.

    Raises DataError for fewer than five frames, or fewer than three pointings 5 arcsec apart: sources that always fall
    on the same pixels can't be told from fringes.
    """
    _check_dithers(frames.infos)
    levels = []
    with tempfile.TemporaryDirectory(prefix="skydelta-") as folder:
        path = Path(folder) / "stack"
        shape = (frames.detector.height, frames.detector.width)
        stack = np.memmap(path, np.float32, mode="w+", shape=(len(frames), *shape))
        for index in range(len(frames)):
            exposure = frames.reduced(index, steps)
            try:
                stack[index], level = sky_structure(exposure.image, exposure.mask != 0, degree=sky_degree)
            except DataError as error:
                raise DataError(f"{exposure.info.fileName}: {error}") from error
            levels.append(level)
        master = fringe_master(stack, components=components, smooth=smooth)
        del stack
    usable = master.mask == 0
    metadata = {
        "frames": float(len(frames)),
        "skyMedian": float(np.median(levels)),
        "rms": float(np.std(master.image[usable])) if usable.any() else 0.0,
        "noise": float(np.sqrt(np.median(master.variance[usable]))) if usable.any() else 0.0,
        "amplitudeScatter": float(np.std(master.amplitude)),
        "amplitudeMin": float(master.amplitude.min()),
        "amplitudeMax": float(master.amplitude.max()),
    }
    tables = {"amplitude": master.amplitude, "amplitudeErr": master.amplitudeErr, "sky": np.array(levels)}
    if len(master.components):
        tables["components"] = master.components
    return Solution(tables, metadata, master.image, master.variance, master.mask)


def _check_dithers(infos: Sequence[ExposureInfo]) -> None:
    if len(infos) < _LEAST_FRAMES:
        raise DataError(f"a master fringe needs at least {_LEAST_FRAMES} science frames, {len(infos)} were given")
    places: list[tuple[float, float]] = []
    for info in infos:
        east = np.cos(np.radians(info.dec))
        if all(np.hypot((info.ra - ra) * east, info.dec - dec) > _DITHER for ra, dec in places):
            places.append((info.ra, info.dec))
    if len(places) < _LEAST_PLACES:
        raise DataError(
            f"the {len(infos)} science frames for a master fringe look at {len(places)} pointings: give dithered "
            f"frames or several fields, {_LEAST_PLACES} pointings at least, or the stars stay in the master"
        )


def sky_structure(
    image: NDArray[np.floating], blocked: NDArray[np.bool_], *, degree: int = 2
) -> tuple[FloatImage, float]:
    """Return (image - sky) / sky as float32 with NaN on sources and blocked pixels, and the sky level.

    The sky is a polynomial of `degree` in x and y: linear least squares, because a mode or a median of the skewed
    distribution of fringes is biased. Sources are taken at 5 sigma only, so that the crests of fringes are not. Raises
    DataError where no sky is left, or it is not positive.
    """
    local = mesh_background(image, blocked, mesh=min(64, *image.shape))
    unusable = blocked | _grown(detect(image - local.level, local.noise, blocked, threshold=_SHALLOW).segments > 0)
    sky = _smooth_sky(image, unusable, degree)
    if not sky.min() > 0.0:
        raise DataError(f"its sky is not positive ({sky.min():g} at the faintest), so fringes have no scale")
    structure = np.asarray(image / sky - np.float32(1.0), np.float32)
    structure[unusable] = np.nan
    return structure, float(np.median(sky))


def _smooth_sky(image: NDArray[np.floating], unusable: NDArray[np.bool_], degree: int) -> FloatImage:
    """Fit a polynomial to the means of the usable pixels in bins, outlying bins clipped; (height, width)."""
    height, width = image.shape
    size = max(min(_SKY_BIN, height // 8, width // 8), 1)
    rows, columns = np.arange(height // size), np.arange(width // size)
    cut = (slice(0, len(rows) * size), slice(0, len(columns) * size))
    blocks = (len(rows), size, len(columns), size)
    count = (~unusable[cut]).reshape(blocks).sum(axis=(1, 3)).astype(float).ravel()
    total = np.where(unusable, 0.0, image)[cut].reshape(blocks).sum(axis=(1, 3), dtype=float).ravel()
    use = count >= 0.5 * size * size
    terms = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    if np.count_nonzero(use) < 4 * len(terms):
        raise DataError("too little sky is left to measure it: is the field crowded, or most of the detector masked?")
    y, x = (2.0 * (np.indices((len(rows), len(columns)), float) + 0.5) * size - [[[height]], [[width]]]) / max(
        height, width
    )
    design = np.stack([x.ravel() ** i * y.ravel() ** j for i, j in terms], axis=1)
    mean = total / np.maximum(count, 1.0)
    for _ in range(4):
        root = np.sqrt(count[use])
        solution = np.linalg.lstsq(design[use] * root[:, None], mean[use] * root, rcond=None)[0]
        rest = mean - design @ solution
        use &= np.abs(rest) < _SKY_CLIP * 1.4826 * float(np.median(np.abs(rest[use])))
    u = (2.0 * (np.arange(width) + 0.5) - width) / max(height, width)
    v = (2.0 * (np.arange(height) + 0.5) - height) / max(height, width)
    sky = np.zeros((height, width), np.float32)
    for value, (i, j) in zip(solution, terms, strict=True):
        sky += np.float32(value) * np.multiply.outer(v**j, u**i).astype(np.float32)
    return sky


def _grown(sources: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.maximum_filter(sources, size=2 * _GROW + 1))


def fringe_master(stack: NDArray[np.float32], *, components: int = 1, smooth: float = 2.0) -> FringeMaster:
    """Combine sky structures (frames, height, width), NaN where unusable; a memory-mapped `stack` is changed.

    A first clipped mean gives the pattern; with it taken off each frame, sources as faint as 1.5 sigma show and become
    NaN in the stack; the second mean is the master, smoothed with a Gaussian of `smooth` pixels. `components` - 1 more
    patterns follow from the principal components of what is left. Raises DataError for wrong numbers.
    """
    if not 1 <= components <= len(stack) - 2:
        raise DataError(f"{components} fringe components from {len(stack)} frames: give 1 to frames - 2")
    first = _smoothed(combine(stack, noise=frame_noise(stack[0], stack[1])).mean, smooth)
    for frame in stack:
        _mask_faint_sources(frame, first)
    combined = combine(stack, noise=frame_noise(stack[0], stack[1]))
    image = _smoothed(combined.mean, smooth)
    image -= np.float32(np.median(image))
    empty = combined.count == 0
    image[empty] = 0.0
    fits = [fit_fringes(frame, ~np.isfinite(frame), [image]) for frame in stack]
    amplitude = np.array([fit.amplitude[0] for fit in fits])
    # white noise smoothed by a Gaussian; the spread of the stack's own values where the kernel is that narrow
    shrink = 1.0 / max(1.0, 4.0 * np.pi * smooth**2)
    variance = np.nan_to_num(combined.variance * np.float32(shrink), nan=0.0).astype(np.float32)
    return FringeMaster(
        image=image,
        variance=np.where(empty, np.float32(0), variance),
        mask=np.where(empty, np.int32(MaskPlane.BAD), np.int32(0)),
        components=_components(stack, image, amplitude, components - 1, smooth),
        amplitude=amplitude,
        amplitudeErr=np.array([np.sqrt(fit.covariance[0, 0]) for fit in fits]),
    )


def _mask_faint_sources(frame: NDArray[np.float32], pattern: FloatImage) -> None:
    """Set sources of one frame NaN, in place, after taking off its share of the pattern."""
    blocked = ~np.isfinite(frame)
    rest = frame - np.float32(fit_fringes(frame, blocked, [pattern]).amplitude[0]) * pattern
    local = mesh_background(rest, blocked, mesh=min(64, *frame.shape))
    found = detect(rest - local.level, local.noise, blocked, threshold=_DEEP, min_pixels=8)
    frame[_grown(found.segments > 0)] = np.nan


def _smoothed(image: NDArray[np.floating], sigma: float) -> FloatImage:
    """Gaussian-smooth over the finite pixels; holes get their neighbours' mean, 0 where there are none."""
    good = np.isfinite(image)
    filled = np.where(good, image, 0.0).astype(np.float32)
    if sigma <= 0.0:
        return filled
    share = ndimage.gaussian_filter(good.astype(np.float32), sigma, mode="nearest")
    total = ndimage.gaussian_filter(filled, sigma, mode="nearest")
    return np.asarray(np.where(share > 1e-3, total / np.maximum(share, 1e-3), 0.0), np.float32)


def _components(
    stack: NDArray[np.float32], image: FloatImage, amplitude: NDArray[np.float64], count: int, smooth: float
) -> NDArray[np.float64]:
    """Principal components of the frames' differences from their common pattern, each of rms 1 times the pattern's.

    The frames' coefficients come from bins of 8 pixels (singular values; masked bins count as 0 difference), the
    pictures from a regression of all frames on them, pixel by pixel.
    """
    height, width = image.shape
    if count == 0:
        return np.zeros((0, height, width))
    size = _COMPONENT_BIN
    rows = []
    for frame, share in zip(stack, amplitude, strict=True):
        rest = np.nan_to_num(frame - np.float32(share) * image, nan=0.0)
        cut = rest[: height // size * size, : width // size * size]
        rows.append(cut.reshape(height // size, size, width // size, size).mean(axis=(1, 3)).ravel())
    coefficients = np.linalg.svd(np.array(rows, float), full_matrices=False)[0][:, :count]
    pictures = np.zeros((count, height, width))
    for number, column in enumerate(coefficients.T):
        total, weight = np.zeros((height, width)), np.zeros((height, width))
        for frame, share, value in zip(stack, amplitude, column, strict=True):
            rest = frame - np.float32(share) * image
            good = np.isfinite(rest)
            total += np.where(good, value * rest, 0.0)
            weight += value**2 * good
        picture = _smoothed(np.where(weight > 0.0, total / np.maximum(weight, 1e-12), np.nan), smooth)
        pictures[number] = picture * (float(np.std(image)) / max(float(np.std(picture)), 1e-12))
    return pictures
