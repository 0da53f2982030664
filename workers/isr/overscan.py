"""Overscan: the electronic offset of each amplifier, measured beside (and above) its light-sensitive pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LSQUnivariateSpline
from scipy.ndimage import median_filter, uniform_filter1d

from schemas.errors import ConfigurationError
from workers.imaging.exposure import RawExposure
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, parse_section
from workers.survey.isr_config import OverscanConfig

__all__ = ["AmplifierOffset", "amplifier_offset", "apply", "overscan_levels"]

_PIXELS_PER_LEVEL = 100
_MAD_TO_SIGMA = 1.4826
_LAST = 50
_Levels = NDArray[np.float64]


def overscan_levels(
    overscan: NDArray[Any], method: str = "smooth", *, clip: float = 4.0, knots: int = 12
) -> tuple[_Levels, float]:
    """Return the offset of each row, float64 (rows,), and the noise, both in ADU, of an overscan (rows, columns).

    ``smooth``: the clipped mean of as many rows round it as make 100 pixels, so that its own noise is a tenth of the
    read noise at most; ``per_row``: of the row alone; ``spline``: cubic, with `knots` evenly spaced, through the rows'
    means; ``median``: one clipped mean about the median for all rows. A mean everywhere, for a median of whole counts
    is off by up to half a count. Pixels more than `clip` sigma off the running median are left out. The noise is
    1.4826 MAD about it: like every MAD of whole counts it moves in steps of about half a count.
    """
    values = np.asarray(overscan, np.float64)
    rows, columns = values.shape
    window = _window(rows, columns)
    finite = np.isfinite(values)
    medians = _sorted_median(np.sort(values, axis=1)) if finite.all() else _row_medians(values, finite)
    first = median_filter(medians, size=window, mode="nearest")
    residual = np.abs(np.where(finite, values, np.inf) - first[:, None])
    mad = float(_sorted_median(np.sort(residual[finite].astype(np.float32))))
    kept = residual <= clip * max(_MAD_TO_SIGMA * mad, 0.5)
    total, count = np.where(kept, values, 0.0).sum(axis=1), kept.sum(axis=1, dtype=np.float64)
    return _fitted(total, count, first, method, window, knots), _MAD_TO_SIGMA * mad


def _sorted_median(values: NDArray[Any]) -> NDArray[Any]:
    """Median over the last axis, which is in order: numpy sorts rows faster than it takes their medians."""
    size = values.shape[-1]
    return np.asarray(0.5 * (values[..., (size - 1) // 2] + values[..., size // 2]))


def _row_medians(values: _Levels, finite: NDArray[np.bool_]) -> _Levels:
    """Median of each row's numbers; of all of them where a row has none."""
    medians = np.full(len(values), np.median(values[finite]))
    some = finite.any(axis=1)
    medians[some] = np.nanmedian(np.where(finite[some], values[some], np.nan), axis=1)
    return medians


def _fitted(total: _Levels, count: _Levels, first: _Levels, method: str, window: int, knots: int) -> _Levels:
    """Return the level of each row from the sums and numbers of its kept pixels, by `method`."""
    if method == "median":
        return np.full(len(total), total.sum() / max(count.sum(), 1.0))
    if method == "smooth":
        total, count = (uniform_filter1d(part, window, mode="nearest") for part in (total, count))
    levels = np.where(count > 1e-9, total / np.maximum(count, 1e-9), first)
    if method != "spline" or len(levels) < 4 * knots:
        return levels
    rows = np.arange(len(levels), dtype=float)
    inner = np.linspace(0, len(levels) - 1, knots)[1:-1]
    return np.asarray(LSQUnivariateSpline(rows, levels, inner, w=np.sqrt(np.maximum(count, 1e-3)))(rows))


def apply(state: IsrState) -> None:
    """Subtract each amplifier's offset; level and noise (ADU) become metrics, the levels' own noise joins the variance.

    Raises ConfigurationError for an amplifier without an overscan.
    """
    state.need_unit("adu", "overscan")
    for amplifier in state.detector.amplifiers:
        offset = amplifier_offset(state.raw, amplifier, state.config.overscan, state.camera.name)
        part = state.part(amplifier, state.image)
        part -= offset.rows.astype(np.float32)[:, None]
        if offset.columns is not None:
            part -= offset.columns.astype(np.float32)[None, :]
        state.part(amplifier, state.variance)[:] += np.float32(offset.variance)
        level = float(offset.rows.mean()) + (0.0 if offset.columns is None else float(offset.columns.mean()))
        state.metrics[f"overscanLevel_{amplifier.name}"] = level
        state.metrics[f"overscanNoise_{amplifier.name}"] = offset.noise


@dataclass(frozen=True)
class AmplifierOffset:
    """The electronic offset of one amplifier's data, in readout order, ADU."""

    rows: _Levels
    columns: _Levels | None
    """On top of `rows`; None where the parallel overscan is not used."""
    noise: float
    """Of a pixel."""
    variance: float
    """Of a level, ADU²: what its subtraction adds to each pixel."""


def amplifier_offset(raw: RawExposure, amplifier: Amplifier, config: OverscanConfig, camera: str) -> AmplifierOffset:
    """Return the offset of the data's rows and, if any, of its columns, with its noise.

    Where the serial overscan reaches up to the rows of the parallel one, that is relative to it; elsewhere a drift
    would pass for a level, and only the parallel overscan's shape counts. Raises ConfigurationError where camera.toml
    gives the amplifier no section that ``[isr.overscan]`` uses.
    """
    pixels = raw.hdus[amplifier.hdu]
    rows, columns = parse_section(amplifier.data)
    beside_levels, first, parallel, noises, variance = np.zeros(1), 0, None, [], 0.0
    if config.serial == "none" or amplifier.overscan is None:
        beside_levels = np.zeros(len(pixels))
    if amplifier.overscan is not None and config.serial != "none":
        section = parse_section(amplifier.overscan)
        beside = _skipped(pixels[section], config.skip, axis=1, near_end=section[1].start < columns.start)
        beside_levels, noise = overscan_levels(beside, config.serial, clip=config.clip, knots=config.knots)
        first = section[0].start
        noises.append(noise)
        variance += noise**2 / _pixels_per_level(beside.shape, config.serial, config.knots)
    if amplifier.parallel_overscan is not None and config.parallel != "none":
        section = parse_section(amplifier.parallel_overscan)
        strip = pixels[section] - _at(beside_levels, section[0], first)[:, None]
        strip = _skipped(strip, config.skip, axis=0, near_end=section[0].start < rows.start)
        levels, noise = overscan_levels(strip.T, config.parallel, clip=config.clip, knots=config.knots)
        if not first <= section[0].start <= section[0].stop <= first + len(beside_levels):
            levels = levels - levels.mean()  # the strip's own level is unknown: its rows have no serial overscan
        parallel = _at(levels, columns, section[1].start)
        noises.append(noise)
        variance += noise**2 / _pixels_per_level(strip.T.shape, config.parallel, config.knots)
    if not noises:
        raise ConfigurationError(
            f"amplifier {amplifier.name} of camera {camera} has no overscan section that [isr.overscan] uses: give one "
            "in camera.toml, or take 'overscan' out of isr.steps in survey.toml and calibrate a bias"
        )
    return AmplifierOffset(_at(beside_levels, rows, first), parallel, noises[0], variance)


def _pixels_per_level(shape: tuple[int, ...], method: str, knots: int) -> float:
    """Return of how many pixels a level is the mean, in effect."""
    rows, columns = shape
    if method == "smooth":
        return float(columns * _window(rows, columns))
    return float(rows * columns / {"median": 1, "per_row": rows, "spline": min(knots + 2, rows)}[method])


def _window(rows: int, columns: int) -> int:
    """Rows that a smooth level is the mean of; odd."""
    return min(2 * math.ceil(_PIXELS_PER_LEVEL / columns / 2) + 1, 2 * rows + 1)


def _skipped(block: NDArray[Any], skip: int, axis: int, near_end: bool) -> NDArray[Any]:
    """Return the overscan without the `skip` rows or columns next to the data, but never less than one."""
    size = block.shape[axis]
    skip = min(skip, size - 1)
    kept = slice(0, size - skip) if near_end else slice(skip, size)
    return block[(kept, slice(None)) if axis == 0 else (slice(None), kept)]


def _at(levels: _Levels, wanted: slice, start: int) -> _Levels:
    """Levels of the wanted rows (or columns); beyond the overscan's ends the mean of the last ones holds."""
    at = np.arange(wanted.start, wanted.stop) - start
    found = levels[np.clip(at, 0, len(levels) - 1)]
    found[at < 0] = levels[:_LAST].mean()
    found[at >= len(levels)] = levels[-_LAST:].mean()
    return np.asarray(found)
