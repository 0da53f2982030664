"""One perfectly known signature removal, to look at simulated raw frames as a pipeline would at best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from workers.simulate.cadence import Visit, plan_visits
from workers.simulate.camera import bias_levels, make_camera
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.exposure import Frame, make_frame
from workers.simulate.settings import TINY, CadenceSettings, DetectorSettings, SimulatedSurvey, SkySettings
from workers.survey.camera import parse_section

Clean = Callable[[SimulatedSurvey, Visit, Frame], tuple[np.ndarray, np.ndarray]]


def visits(config: SimulatedSurvey, role: str) -> list[Visit]:
    return [visit for visit in plan_visits(config) if visit.role == role]


@pytest.fixture(scope="session")
def choose():
    """`visits` as a fixture: the visits of one role."""
    return visits


@pytest.fixture(scope="session")
def quiet() -> SimulatedSurvey:
    """Stars and transients only, few enough to be isolated; no cosmic rays, no trails; no template noise."""
    return replace(
        TINY,
        name="quiet",
        sky=SkySettings(stars=3.5, star_magnitudes=(13.0, 19.0), galaxies=0.0, variables=0.0, transients=3.0),
        optics=replace(TINY.optics, trail_fraction=0.0),
        detectors=DetectorSettings(width=640, height=640, count=1, cosmic_rays=0.0, bias_drift=0.0),
        cadence=CadenceSettings(archive=0, recent=0, live=4, biases=2, darks=1, flats=2),
    )


@pytest.fixture(scope="session")
def clean() -> Clean:
    """Return a function: raw frame → (electrons before the flat field, variance), with the true calibrations."""

    def remove(config: SimulatedSurvey, visit: Visit, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        detector = int(frame.header["DETECTOR"])
        pattern, flat = detector_pattern(config, detector), flat_field(config, detector, visit.band)
        image, noise = np.zeros(flat.shape), np.zeros(flat.shape)
        amplifiers = make_camera(config).detector(detector).amplifiers
        for amplifier, level in zip(amplifiers, bias_levels(config, detector), strict=True):
            raw = frame.hdus[amplifier.hdu].astype(float)[parse_section(amplifier.data)]
            raw = raw[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
            place = parse_section(amplifier.position)
            image[place] = (raw - level - pattern.bias[place]) * amplifier.gain
            noise[place] = amplifier.read_noise**2 + amplifier.gain**2 / 12.0
        dark = pattern.dark * visit.exposure_time
        safe = np.maximum(flat, 0.01)
        return (image - dark) / safe, (frame.light * flat + dark + noise) / safe**2

    return remove


@pytest.fixture(scope="session")
def live_frames(quiet: SimulatedSurvey) -> list[tuple[Visit, Frame]]:
    """The live night of the quiet survey."""
    return [(visit, make_frame(quiet, visit, 0)) for visit in visits(quiet, "live")]
