"""The features of a difference-image source, from its stamps: all relative to its noise, its PSF and its own flux."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.stamps import Stamps
from workers.score.point_source import fit_point, point_features
from workers.score.residuals import residual_features
from workers.score.source_pixels import Floats, source_pixels
from workers.score.surroundings import host_features, mask_features

__all__ = ["FEATURE_NAMES", "features"]

FEATURE_NAMES = (
    "snr",
    "fwhm",
    "fitSnr",
    "coreChi2",
    "ringChi2",
    "misfit",
    "growth0.5",
    "growth1",
    "growth2",
    "sharpness",
    "centreValue",
    "centreShare",
    "deepest",
    "centroidOffset",
    "size",
    "ellipticity",
    "oddPower",
    "evenPower",
    "coreHigh",
    "coreLow",
    "ringHigh",
    "ringLow",
    "brightExtent",
    "brightElongation",
    "farScatter",
    "farLevel",
    "farBright",
    "faintSnr",
    "brightSnr",
    "contrast",
    "hostPeak",
    "hostDistance",
    "hostSlope",
    "coreUnusable",
    "unusable",
    "offImage",
    "defects",
    "coreSaturated",
    "saturated",
    "doubtful",
)
_BATCH = 256
"""Sources measured at once: keeps the arrays in the cache and bounds the memory."""


def features(sources: NDArray[Any], stamps: Stamps) -> Floats:
    """Return the features of diaSource rows (x, y, isNegative, snr) with their stamps, float32 (n, k), all finite.

    They do not change when all fluxes are multiplied by a number, when the stamps are mirrored or turned by 90 degrees,
    or when the sign is exchanged together with science image and template. Pixels that are masked or NaN enter the
    counts only.
    """
    parts = [_measured(sources[i : i + _BATCH], _part(stamps, i)) for i in range(0, len(sources), _BATCH)]
    return np.concatenate([np.zeros((0, len(FEATURE_NAMES)), np.float32), *parts])


def _part(stamps: Stamps, first: int) -> Stamps:
    return Stamps(**{name: plane[first : first + _BATCH] for name, plane in vars(stamps).items()})


def _measured(sources: NDArray[Any], stamps: Stamps) -> Floats:
    pixels = source_pixels(sources, stamps)
    fit = fit_point(pixels)
    values = {
        "snr": np.nan_to_num(np.abs(sources["snr"])),
        "fwhm": pixels.fwhm,
        **point_features(pixels, fit),
        **residual_features(pixels, fit),
        **host_features(pixels, fit),
        **mask_features(pixels),
    }
    return np.stack([values[name] for name in FEATURE_NAMES], axis=1).astype(np.float32)
