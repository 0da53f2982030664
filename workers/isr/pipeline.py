"""The steps in the order that survey.toml gives: raw exposure in, electrons out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibrations import KINDS, CalibrationSet
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr import bias, cosmic_rays, dark, defects, flat, gain, overscan, saturation, variance
from workers.isr.assembly import assemble_image
from workers.isr.state import IsrState
from workers.survey.camera import Camera
from workers.survey.config import IsrConfig
from workers.survey.geometry import nominal_wcs

__all__ = ["STEPS", "apply_steps", "needed_kinds", "remove_signature"]

STEPS: dict[str, Callable[[IsrState], IsrState]] = {
    "overscan": overscan.apply,
    "saturation": saturation.apply,
    "bias": bias.apply,
    "dark": dark.apply,
    "gain": gain.apply,
    "variance": variance.apply,
    "flat": flat.apply,
    "defects": defects.apply,
    "cosmic_rays": cosmic_rays.apply,
}
"""Every step there is, by its name in ``isr.steps``."""

_INDISPENSABLE = ("gain", "variance")


def needed_kinds(steps: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of master calibration that `steps` ask for; raises ConfigurationError for an unknown step."""
    steps = tuple(steps)
    for name in steps:
        if name not in STEPS:
            raise ConfigurationError(f"isr.steps in survey.toml names {name!r}; the known steps are {', '.join(STEPS)}")
    repeated = {name for name in steps if steps.count(name) > 1}
    if repeated:
        raise ConfigurationError(f"isr.steps in survey.toml names {', '.join(sorted(repeated))} more than once")
    return tuple(name for name in steps if name in KINDS)


def remove_signature(raw: RawExposure, camera: Camera, calibrations: CalibrationSet, config: IsrConfig) -> Exposure:
    """Return a science exposure in electrons, sky included, with mask, variance and its nominal WCS.

    Raises DataError for an exposure that has no picture, gain or WCS, or is no science frame; ConfigurationError for
    steps that can't work and for masters that are missing or don't fit.
    """
    missing = [name for name in _INDISPENSABLE if name not in config.steps]
    if missing:
        raise ConfigurationError(f"isr.steps in survey.toml lacks {', '.join(missing)}: no noise is known without")
    if raw.info.kind != "science":
        raise DataError(
            f"{raw.info.fileName} is a {raw.info.kind} frame, not a science exposure; "
            f"give it to `skydelta calibrate {raw.info.kind}`"
        )
    exposure = apply_steps(raw, camera, calibrations, config.steps)
    return exposure.replaced(wcs=nominal_wcs(raw, camera)).with_metrics(skyMedian=_sky_median(exposure))


def apply_steps(raw: RawExposure, camera: Camera, calibrations: CalibrationSet, steps: tuple[str, ...]) -> Exposure:
    """Run `steps` on any kind of raw exposure; the unit is ``adu`` until the gain step, ``electron`` after it.

    Raises as `remove_signature`, but asks for no WCS.
    """
    kinds = needed_kinds(steps)
    state = _begin(raw, camera, calibrations)
    for name in steps:
        state = STEPS[name](state)
    used = CalibrationSet({kind: calibrations.by_kind[kind] for kind in kinds})
    return Exposure(
        info=raw.info,
        image=state.image,
        mask=state.mask,
        variance=state.variance,
        unit=state.unit,
        provenance=used.ids(),
        metrics=state.metrics,
    )


def _begin(raw: RawExposure, camera: Camera, calibrations: CalibrationSet) -> IsrState:
    """Assemble the detector; what holds no number becomes BAD and NO_DATA at the median level."""
    detector = camera.detector(raw.info.detector)
    image = assemble_image(raw, detector)
    good = np.isfinite(image)
    if not good.any() or image[good].min() == image[good].max():
        level = f"all pixels are {image[good][0]:g} ADU" if good.any() else "no pixel holds a number"
        raise DataError(
            f"{raw.info.fileName} (exposure {raw.info.label}) is empty: {level}; was the shutter or the readout stuck?"
        )
    mask = np.where(good, 0, np.int32(MaskPlane.BAD | MaskPlane.NO_DATA)).astype(np.int32)
    image = np.where(good, image, np.median(image[good]))
    return IsrState(raw, camera, detector, calibrations, image, mask, np.zeros_like(image))


def _sky_median(exposure: Exposure) -> float:
    good = exposure.image[exposure.mask == 0]
    return float(np.median(good)) if good.size else float("nan")
