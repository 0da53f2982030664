"""The steps in the order that survey.toml gives: raw exposure in, electrons out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from schemas.errors import ConfigurationError, DataError
from workers.imaging.bright_stars import BrightStars
from workers.imaging.calibrations import KINDS, CalibrationSet
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr import (
    amp_offset,
    bias,
    bleeds,
    brighter_fatter,
    cosmic_rays,
    crosstalk,
    dark,
    defects,
    deferred_charge,
    edges,
    flat,
    fringe,
    gain,
    ghosts,
    interpolate,
    linearity,
    overscan,
    saturation,
    trails,
    variance,
)
from workers.isr.assembly import assemble_image
from workers.isr.state import IsrState
from workers.survey.camera import Camera
from workers.survey.geometry import nominal_wcs
from workers.survey.isr_config import IsrConfig

__all__ = ["STEPS", "apply_steps", "needed_kinds", "remove_signature"]

STEPS: dict[str, Callable[[IsrState], None]] = {
    "overscan": overscan.apply,
    "saturation": saturation.apply,
    "crosstalk": crosstalk.apply,
    "linearity": linearity.apply,
    "bias": bias.apply,
    "dark": dark.apply,
    "gain": gain.apply,
    "deferred_charge": deferred_charge.apply,
    "brighter_fatter": brighter_fatter.apply,
    "variance": variance.apply,
    "flat": flat.apply,
    "fringe": fringe.apply,
    "amp_offset": amp_offset.apply,
    "defects": defects.apply,
    "bleeds": bleeds.apply,
    "edges": edges.apply,
    "ghosts": ghosts.apply,
    "cosmic_rays": cosmic_rays.apply,
    "trails": trails.apply,
    "interpolate": interpolate.apply,
}
"""Every step there is, by its name in ``isr.steps``."""

_KIND_OF_STEP = {"deferred_charge": "cti"}
"""Kinds of master that are not called like the step that takes them."""
_INDISPENSABLE = ("gain", "variance")


def needed_kinds(config: IsrConfig, steps: Iterable[str] | None = None, band: str = "") -> tuple[str, ...]:
    """Return the kinds of master calibration that `steps` (default: the survey's) ask for, for frames of a band.

    Raises ConfigurationError for an unknown step.
    """
    steps = config.steps if steps is None else tuple(steps)
    for name in steps:
        if name not in STEPS:
            raise ConfigurationError(f"isr.steps in survey.toml names {name!r}; the known steps are {', '.join(STEPS)}")
    repeated = {name for name in steps if steps.count(name) > 1}
    if repeated:
        raise ConfigurationError(f"isr.steps in survey.toml names {', '.join(sorted(repeated))} more than once")
    kinds = [_KIND_OF_STEP.get(name, name) for name in steps if name != "fringe" or band in config.fringe.bands]
    measured = ["ptc"] if config.gain_source == "ptc" and "gain" in steps else []
    return tuple(kind for kind in [*kinds, *measured] if kind in KINDS)


def remove_signature(
    raw: RawExposure,
    camera: Camera,
    calibrations: CalibrationSet,
    config: IsrConfig,
    stars: BrightStars | None = None,
) -> Exposure:
    """Return a science exposure in electrons, sky included, with mask, variance and its nominal WCS.

    `stars` are the bright ones in and round the field; without them no ghost is known. Raises DataError for an
    exposure that has no picture, gain or WCS, or is no science frame; ConfigurationError for steps that can't work and
    for masters that are missing or don't fit.
    """
    missing = [name for name in _INDISPENSABLE if name not in config.steps]
    if missing:
        raise ConfigurationError(f"isr.steps in survey.toml lacks {', '.join(missing)}: no noise is known without")
    if raw.info.kind != "science":
        raise DataError(
            f"{raw.info.fileName} is a {raw.info.kind} frame, not a science exposure; "
            f"give it to `skydelta calibrate {raw.info.kind}`"
        )
    exposure = apply_steps(raw, camera, calibrations, config, stars=stars)
    return exposure.replaced(wcs=nominal_wcs(raw, camera)).with_metrics(skyMedian=_sky_median(exposure))


def apply_steps(
    raw: RawExposure,
    camera: Camera,
    calibrations: CalibrationSet,
    config: IsrConfig,
    steps: tuple[str, ...] | None = None,
    stars: BrightStars | None = None,
) -> Exposure:
    """Run `steps` (default: the survey's) on any kind of raw exposure; the unit is ``adu`` until the gain step.

    Raises as `remove_signature`, but asks for no WCS.
    """
    steps = config.steps if steps is None else steps
    kinds = needed_kinds(config, steps, raw.info.band)
    state = _begin(raw, camera, calibrations, config, stars)
    for name in steps:
        STEPS[name](state)
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


def _begin(
    raw: RawExposure, camera: Camera, calibrations: CalibrationSet, config: IsrConfig, stars: BrightStars | None
) -> IsrState:
    """Assemble the detector; what holds no number becomes BAD and NO_DATA at the median level."""
    detector = camera.detector(raw.info.detector)
    image = assemble_image(raw, detector)
    mask = np.zeros(image.shape, np.int32)
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low):
        good = np.isfinite(image)
        if good.any():
            low, high = float(image[good].min()), float(image[good].max())
            image[~good] = np.median(image[good])
            mask[~good] = np.int32(MaskPlane.BAD | MaskPlane.NO_DATA)
    if not high > low:
        level = f"all pixels are {low:g} ADU" if np.isfinite(low) else "no pixel holds a number"
        raise DataError(
            f"{raw.info.fileName} (exposure {raw.info.label}) is empty: {level}; was the shutter or the readout stuck?"
        )
    return IsrState(raw, camera, detector, calibrations, config, image, mask, np.zeros(image.shape, np.float32), stars)


def _sky_median(exposure: Exposure) -> float:
    """Median of the unflagged pixels; on more than four million, of every so-many-th row."""
    stride = max(exposure.image.size // 4_000_000, 1)
    good = exposure.image[::stride][exposure.mask[::stride] == 0]
    return float(np.median(good)) if good.size else float("nan")
