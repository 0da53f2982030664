"""Master flat: the mean of evenly lit frames, each brought to the same level, normalised to median 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibrations import Calibration, make_calibration
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.masks import MaskPlane

__all__ = ["STEPS", "combined_lamps", "frame", "illuminated_level", "normalised"]

STEPS = ("overscan", "saturation", "crosstalk", "linearity", "bias", "dark", "gain", "deferred_charge")
"""Steps of isr.steps that a flat frame goes through."""

_LEAST_LEVEL = 500.0
_LEAST_RESPONSE = 0.1


def illuminated_level(exposure: Exposure) -> float:
    """Return the median of the lit pixels (above half the median of all good ones), in the exposure's unit."""
    good = exposure.image[exposure.mask == 0]
    if good.size == 0:
        raise DataError(f"{exposure.info.fileName}: every pixel of this flat is flagged; is it overexposed?")
    return float(np.median(good[good > 0.5 * np.median(good)])) if np.median(good) > 0 else 0.0


def frame(exposure: Exposure) -> FloatImage:
    """Return what is averaged: the frame over its level. Raises DataError where it holds too little light."""
    level = illuminated_level(exposure)
    if level < _LEAST_LEVEL:
        raise DataError(
            f"{exposure.info.fileName}: a flat of {level:.0f} {exposure.unit} is too faint, it needs "
            f"{_LEAST_LEVEL:.0f}; leave it out"
        )
    return exposure.image / np.float32(level)


def normalised(
    image: FloatImage, variance: FloatImage
) -> tuple[FloatImage, FloatImage, np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
    """Return response (median 1), its variance and a mask: BAD where the response is below a tenth."""
    level = np.float32(np.nanmedian(image))
    response = image / level
    dead = ~(response > _LEAST_RESPONSE)
    mask = np.where(dead, np.int32(MaskPlane.BAD), np.int32(0))
    return response, variance / level**2, mask


def combined_lamps(flats: Mapping[str, Calibration], weights: Mapping[str, float]) -> Calibration:
    """Return the flat of one detector and band that `weights` of the lamps' flats make up, with median 1.

    A filter's light is that of several LEDs. Raises ConfigurationError where a lamp with a weight has no flat or the
    weights don't sum to more than zero.
    """
    missing = sorted(lamp for lamp, weight in weights.items() if weight and lamp not in flats)
    total = sum(weights.values())
    if missing or not total > 0:
        why = f"there are no flats of {', '.join(missing)}" if missing else f"they sum to {total}"
        raise ConfigurationError(f"calibrate.lamp_weights in survey.toml: {why}; the lamps seen are {sorted(flats)}")
    used = {lamp: flats[lamp] for lamp in sorted(weights) if weights[lamp]}
    first = next(iter(used.values()))
    image, variance = np.zeros(first.image.shape), np.zeros(first.image.shape)
    mask = np.zeros(first.image.shape, np.int32)
    for lamp, flat in used.items():
        share = weights[lamp] / total
        image += share * flat.image
        variance += share**2 * flat.variance
        mask |= flat.mask
    response, noise, dead = normalised(image.astype(np.float32), variance.astype(np.float32))
    return make_calibration(
        "flat",
        instrument=first.instrument,
        detector=first.detector,
        band=first.band,
        layout=first.layout,
        image=response,
        variance=noise,
        mask=mask | dead,
        validFrom=max(flat.validFrom for flat in used.values()),
        validTo=min(flat.validTo for flat in used.values()),
        inputs={sha256 for flat in used.values() for sha256 in flat.inputs},
        metadata={f"weight {lamp}": weights[lamp] / total for lamp in used},
    )
