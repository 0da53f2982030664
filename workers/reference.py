"""A reference catalogue and a rough WCS from one frame, for a survey that has neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.worker import read_file
from workers.characterize.pipeline import Options, measure_frame
from workers.imaging.bright_stars import AB_NJY
from workers.imaging.reference import ReferenceCatalogue
from workers.isr.masters import masters_for, open_store
from workers.isr.pipeline import remove_signature
from workers.survey.camera import PointingWcs
from workers.survey.config import Survey

__all__ = ["catalogue_from_frame", "with_rough_wcs"]

_THRESHOLD = 8.0
"""Sigma; the catalogue holds only what is certain."""


def with_rough_wcs(survey: Survey, scale: float, rotation: float, parity: int) -> Survey:
    """Return the survey with a nominal WCS, added to camera.toml; raises ConfigurationError if it has one."""
    if survey.camera.wcs is not None:
        raise ConfigurationError(
            f"{survey.config.camera} has a [wcs] table already; edit it there, or leave --scale out"
        )
    wcs = PointingWcs(scale=scale, rotation=rotation, parity=1 if parity >= 0 else -1)
    path = survey.path(survey.config.camera)
    text = path.read_text(encoding="utf-8")
    table = f"\n[wcs]\nscale = {wcs.scale}\nrotation = {wcs.rotation}\nparity = {wcs.parity}\n"
    path.write_text(text.rstrip("\n") + "\n" + table, encoding="utf-8")
    return survey.model_copy(update={"camera": survey.camera.model_copy(update={"wcs": wcs})})


def catalogue_from_frame(path: Path, survey: Survey, zero_point: float) -> ReferenceCatalogue:
    """Return the stars of one raw frame as a reference catalogue in the frame's band.

    Positions come from the nominal WCS; fluxes are PSF fluxes with `zero_point`, the AB magnitude of one electron
    per second. They tie the survey to this frame, not to the sky. Raises DataError for a frame with fewer
    than five stars.
    """
    raw = read_file(path, survey)
    masters = masters_for(raw.info, survey.camera, open_store(survey), survey.config.isr)
    exposure = remove_signature(raw, survey.camera, masters, survey.config.isr)
    boxes = survey.camera.detector(exposure.info.detector).boxes
    sources = measure_frame(exposure, Options(survey.config.characterize, boxes)).sources
    stars = sources[sources["clean"] & (sources["snr"] > _THRESHOLD)]
    if len(stars) < 5:
        raise DataError(f"{path}: {len(stars)} stars above {_THRESHOLD:g} sigma are too few for a reference catalogue")
    ra, dec = exposure.need_wcs().pixel_to_sky(stars["x"], stars["y"])
    scale = 10.0 ** (0.4 * (AB_NJY - zero_point)) / exposure.info.exposureTime
    band = exposure.info.band
    flux = {band: stars["flux"] * scale}
    error = {band: np.maximum(stars["fluxErr"] * scale, 0.01 * flux[band])}
    return ReferenceCatalogue(ra, dec, flux, error, name=path.name, epoch=np.array(exposure.info.midpointMjdTai))
