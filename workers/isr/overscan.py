"""Overscan: the electronic offset of each amplifier, measured beside (and above) its light-sensitive pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter1d

from schemas.errors import ConfigurationError
from workers.imaging.exposure import RawExposure
from workers.isr.assembly import oriented
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, parse_section

__all__ = ["apply", "overscan_levels"]

_PIXELS_PER_LEVEL = 100
_CLIP = 4.0
_MAD_TO_SIGMA = 1.4826


def overscan_levels(overscan: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Return the offset of each row, float64 (rows,), and the noise, both in ADU, of an overscan (rows, columns).

    Each level is the clipped mean of as many rows round it as make 100 pixels, so that its own noise is a tenth of the
    read noise at most; a mean, for a median of whole counts is off by up to half a count. The noise is 1.4826 MAD
    about the running median: like every MAD of whole counts it moves in steps of about half a count.
    """
    values = np.asarray(overscan, np.float64)
    rows, columns = values.shape
    window = min(2 * math.ceil(_PIXELS_PER_LEVEL / columns / 2) + 1, 2 * rows + 1)
    values = np.where(np.isfinite(values), values, np.nan)
    first = median_filter(_finite(np.nanmedian(values, axis=1)), size=window, mode="nearest")
    residual = np.abs(values - first[:, None])
    sigma = max(_MAD_TO_SIGMA * float(np.nanmedian(residual)), 0.5)
    kept = residual <= _CLIP * sigma
    total = uniform_filter1d(np.where(kept, values, 0.0).sum(axis=1), window, mode="nearest")
    count = uniform_filter1d(kept.sum(axis=1, dtype=np.float64), window, mode="nearest")
    levels = np.where(count > 1e-9, total / np.maximum(count, 1e-9), first)
    return levels, _MAD_TO_SIGMA * float(np.nanmedian(residual))


def _finite(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(medians), medians, np.nanmedian(medians))


def apply(state: IsrState) -> IsrState:
    """Subtract each amplifier's offset; level and noise (ADU) become metrics. Raises ConfigurationError without one."""
    state.need_unit("adu", "overscan")
    image, metrics = state.image.copy(), {}
    for amplifier in state.detector.amplifiers:
        offset, noise = _offset(state.raw, amplifier, state.camera.name)
        image[parse_section(amplifier.position)] -= oriented(offset, amplifier)
        metrics[f"overscanLevel_{amplifier.name}"] = float(offset.mean())
        metrics[f"overscanNoise_{amplifier.name}"] = noise
    return state.replaced(image=image).with_metrics(**metrics)


def _offset(raw: RawExposure, amplifier: Amplifier, camera: str) -> tuple[NDArray[np.float64], float]:
    """Return the offset of every data pixel in readout order, float64 ADU, and the noise."""
    if amplifier.overscan is None:
        raise ConfigurationError(
            f"amplifier {amplifier.name} of camera {camera} has no overscan section: give one in camera.toml, "
            "or take 'overscan' out of isr.steps in survey.toml and calibrate a bias"
        )
    pixels = raw.hdus[amplifier.hdu]
    rows, columns = parse_section(amplifier.data)
    serial, noise = overscan_levels(pixels[parse_section(amplifier.overscan)])
    start = parse_section(amplifier.overscan)[0].start
    offset = np.repeat(_at(serial, rows, start)[:, None], columns.stop - columns.start, axis=1)
    if amplifier.parallel_overscan is not None:
        below, beside = parse_section(amplifier.parallel_overscan)
        strip = pixels[below, beside] - _at(serial, below, start)[:, None]
        offset += _at(overscan_levels(strip.T)[0], columns, beside.start)[None, :]
    return offset, noise


def _at(levels: NDArray[np.float64], wanted: slice, start: int) -> NDArray[np.float64]:
    """Levels of the wanted rows (or columns); beyond the overscan's ends the last one holds."""
    return np.asarray(levels[np.clip(np.arange(wanted.start, wanted.stop) - start, 0, len(levels) - 1)])
