"""One simulated frame of one detector: scene, photons, charge, readout, header."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from astropy.io import fits
from astropy.time import Time
from numpy.typing import NDArray

from workers.simulate.brighter_fatter import accumulate, border_shifts
from workers.simulate.cadence import Visit
from workers.simulate.charge import bleed, cosmic_rays, satellite_trail
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.fringe import fringe_light
from workers.simulate.optics import (
    boresight,
    focal_plane_size,
    header_wcs,
    pointing,
    psf_field,
    sky_electrons,
)
from workers.simulate.readout import read_out
from workers.simulate.render import paint
from workers.simulate.scene import Scene, make_scene
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.spots import spots
from workers.simulate.streams import stream

__all__ = ["Frame", "expected_light", "frame_header", "make_frame", "to_fits"]

_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """What one detector delivered, and for a science frame what it looked at."""

    hdus: Mapping[int, NDArray[np.uint16]]
    """Raw pixels, ADU, by HDU index."""
    header: Mapping[str, float | int | str]
    scene: Scene | None
    light: _Float
    """Expected electrons before the flat field (height, width): the noiseless truth."""
    saturated: NDArray[np.bool_]
    """Pixels that charge has filled, bleed trails included."""


def make_frame(config: SimulatedSurvey, visit: Visit, detector: int) -> Frame:
    """Return one frame; a pure function of its arguments."""
    scene = make_scene(config, visit, detector) if visit.kind == "science" else None
    light = expected_light(config, visit, detector, scene)
    design = config.detectors
    expected = light * flat_field(config, detector, visit.band) if visit.band else light
    expected = expected + detector_pattern(config, detector).dark * visit.exposure_time
    photons = stream(config.seed, "photons", visit.number, detector)
    if design.brighter_fatter:
        electrons = accumulate(expected, border_shifts(design.brighter_fatter), design.full_well, rng=photons)
    else:
        electrons = photons.poisson(expected).astype(float)
    rays = design.cosmic_rays * design.width * design.height * 1.0e-6 * visit.exposure_time / 60.0
    rng = stream(config.seed, "cosmic rays", visit.number, detector)
    electrons = bleed(electrons + cosmic_rays(rng, electrons.shape, rays), design.full_well)
    return Frame(
        hdus=MappingProxyType(read_out(config, visit.number, detector, electrons)),
        header=MappingProxyType(frame_header(config, visit, detector)),
        scene=scene,
        light=light,
        saturated=electrons >= 0.97 * design.full_well,
    )


def expected_light(config: SimulatedSurvey, visit: Visit, detector: int, scene: Scene | None) -> _Float:
    """Return the expected electrons that fall on each pixel before its response, float64 (height, width)."""
    shape = (config.detectors.height, config.detectors.width)
    if scene is None:
        lamp = 1.0 + 0.01 * stream(config.seed, "lamp", visit.number).standard_normal()
        plan = config.cadence
        if visit.role == "spots":
            return lamp * spots(stream(config.seed, "spots", visit.number), shape, 0.8 * config.detectors.full_well)
        return np.full(shape, plan.flat_level * lamp * visit.exposure_time / plan.flat_time if visit.band else 0.0)
    psf = psf_field(config, visit, detector)
    light = paint(scene.sources, psf, shape) + sky_electrons(config, visit)
    if config.detectors.fringe:
        light += fringe_light(config, visit, detector)
    if visit.conditions is not None and visit.conditions.trail:
        rng = stream(config.seed, "trail", visit.number)
        radius = 0.4 * min(focal_plane_size(config))
        light += satellite_trail(rng, shape, boresight(config, detector), radius, psf.fwhm)
    return light


def frame_header(config: SimulatedSurvey, visit: Visit, detector: int) -> dict[str, float | int | str]:
    """Return the header cards: those that the camera's header map names, and for science frames the nominal WCS."""
    begin = Time(visit.begin, format="mjd", scale="tai", precision=6).utc.isot
    ra, dec = pointing(config, visit)
    cards: dict[str, float | int | str] = {
        "TELESCOP": "synthetic",
        "INSTRUME": config.name,
        "EXPID": visit.number,
        "DETECTOR": detector,
        "IMAGETYP": "object" if visit.kind == "science" else visit.kind,
        "OBJECT": "field" if visit.kind == "science" else visit.kind,
        "FILTER": visit.band or "none",
        "DATE-OBS": str(begin),
        "EXPTIME": visit.exposure_time,
        "RA": float(ra),
        "DEC": float(dec),
    }
    if visit.kind == "science":
        cards.update(header_wcs(config, visit, detector))
    return cards


def to_fits(frame: Frame) -> bytes:
    """Return the frame as the bytes of a FITS file: one HDU, or an empty primary one and one per amplifier.

    The WCS cards are those of the assembled image, overscan removed.
    """
    primary = fits.PrimaryHDU(frame.hdus.get(0))
    for key, value in frame.header.items():
        primary.header[key] = value
    others = [fits.ImageHDU(array, name=f"A{index - 1}") for index, array in frame.hdus.items() if index > 0]
    buffer = io.BytesIO()
    fits.HDUList([primary, *others]).writeto(buffer)
    return buffer.getvalue()
