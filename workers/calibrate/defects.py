"""The map of defects: hot pixels from the dark, unresponsive ones from the flat, and the columns they make up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from schemas.errors import ConfigurationError
from workers.imaging.calibrations import Calibration, make_calibration
from workers.imaging.exposure import FloatImage
from workers.imaging.masks import MaskPlane

__all__ = ["cold_pixels", "fill_columns", "hot_pixels", "make_defects", "odd_columns"]

_Mask = NDArray[np.bool_]


def hot_pixels(dark: FloatImage, sigma: float = 6.0) -> _Mask:
    """Return where the dark rate, float32 (height, width), is more than `sigma` robust sigma above the median."""
    median, scatter = _centre_and_scatter(dark)
    return np.asarray(~(dark <= median + sigma * scatter))


def cold_pixels(flat: FloatImage, deviation: float = 0.2) -> _Mask:
    """Return where the response differs from that of the 7x7 pixels round it by more than `deviation`."""
    filled = np.where(np.isfinite(flat), flat, np.float32(0))
    return np.asarray(~(np.abs(flat / _local(filled) - 1.0) <= deviation))


def odd_columns(image: FloatImage, sigma: float = 6.0, least: float = 0.0) -> _Mask:
    """Return the columns, bool (width,), whose median sticks out of the neighbouring columns' by `sigma` and `least`.

    A column that is off by little in each pixel shows in its median long before it shows in any pixel.
    """
    profile = np.nanmedian(image, axis=0)
    excess = profile - median_filter(profile, size=15, mode="nearest")
    scatter = _centre_and_scatter(excess)[1]
    return np.asarray(~(np.abs(excess) <= max(sigma * scatter, least)))


def fill_columns(bad: _Mask, least: int = 50, gap: int = 30) -> _Mask:
    """Return the mask with the gaps shorter than `gap` rows filled in columns with `least` bad pixels.

    The rule of LSST's defect finder; on detectors lower than 250 rows a fifth of the rows is enough.
    """
    filled = bad.copy()
    for x in np.flatnonzero(bad.sum(axis=0) >= min(least, bad.shape[0] / 5)):
        rows = np.flatnonzero(bad[:, x])
        for first, second in pairwise(rows):
            if second - first <= gap:
                filled[first:second, x] = True
    return filled


def make_defects(dark: Calibration | None, flat: Calibration | None) -> Calibration:
    """Return the defects master from a dark, a flat or both of one detector; raises ConfigurationError."""
    masters = [master for master in (dark, flat) if master is not None]
    if not masters:
        raise ConfigurationError("defects need a master dark or flat: run `skydelta calibrate dark` or `flat` first")
    first = masters[0]
    for other in masters[1:]:
        if _of(first) != _of(other):
            raise ConfigurationError(f"{first.id} and {other.id} are not of the same detector")
    bad = np.zeros(first.image.shape, bool)
    counts = {}
    if dark is not None:
        hot = hot_pixels(dark.image) | odd_columns(dark.image)[None, :]
        bad, counts["hot"] = bad | hot, float(hot.sum())
    if flat is not None:
        response = flat.image / _local(np.where(np.isfinite(flat.image), flat.image, np.float32(0)))
        cold = cold_pixels(flat.image) | odd_columns(response, least=0.02)[None, :]
        bad, counts["cold"] = bad | cold, float(cold.sum())
    bad = fill_columns(bad)
    return make_calibration(
        "defects",
        instrument=first.instrument,
        detector=first.detector,
        image=np.zeros(bad.shape, np.float32),
        variance=np.zeros(bad.shape, np.float32),
        mask=np.where(bad, np.int32(MaskPlane.BAD), np.int32(0)),
        layout=first.layout,
        validFrom=max(master.validFrom for master in masters),
        validTo=min(master.validTo for master in masters),
        inputs={sha256 for master in masters for sha256 in master.inputs},
        metadata={**counts, "bad": float(bad.sum())},
    )


def _of(master: Calibration) -> tuple[str, int, str, tuple[int, ...]]:
    return master.instrument, master.detector, master.layout, master.image.shape


def _local(image: FloatImage) -> FloatImage:
    """Median of the 7x7 pixels round each, never below a hundredth."""
    return np.asarray(np.maximum(median_filter(image, size=7, mode="nearest"), np.float32(0.01)))


def _centre_and_scatter(values: NDArray[np.floating]) -> tuple[float, float]:
    median = float(np.nanmedian(values))
    return median, 1.4826 * float(np.nanmedian(np.abs(values - median)))
