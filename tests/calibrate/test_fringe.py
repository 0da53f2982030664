"""The master fringe from dithered frames of a simulated sky, against the pattern that was put in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.calibrate.frames import Frames
from workers.calibrate.fringe import FringeMaster, fringe_master, sky_structure, solve
from workers.imaging.exposure import Exposure, ExposureInfo, RawExposure
from workers.imaging.fringe_fit import fit_fringes
from workers.imaging.masks import MaskPlane
from workers.simulate.cadence import Visit, plan_visits
from workers.simulate.camera import make_camera
from workers.simulate.exposure import expected_light
from workers.simulate.fringe import fringe_light, fringe_pattern, line_strength
from workers.simulate.optics import sky_electrons
from workers.simulate.scene import make_scene
from workers.simulate.settings import TINY, CadenceSettings, DetectorSettings, SimulatedSurvey, SkySettings

SIZE, AMPLITUDE, ARCHIVE = 448, 0.04, 8
SURVEY = replace(
    TINY,
    name="fringed",
    bands=("z",),
    sky=SkySettings(stars=8.0, galaxies=4.0),
    detectors=DetectorSettings(width=SIZE, height=SIZE, count=1, fringe=AMPLITUDE),
    cadence=CadenceSettings(archive=ARCHIVE, recent=1, live=3, dither=30.0),
)


@dataclass(frozen=True)
class Night:
    """Science frames with their noise; electrons, sky included."""

    visits: tuple[Visit, ...]
    images: tuple[NDArray[np.float32], ...]


@lru_cache
def night(survey: SimulatedSurvey = SURVEY) -> Night:
    visits = tuple(visit for visit in plan_visits(survey) if visit.kind == "science")
    images = []
    for visit in visits:
        light = expected_light(survey, visit, 0, make_scene(survey, visit, 0))
        rng = np.random.default_rng(visit.number)
        images.append((rng.poisson(light) + rng.normal(0.0, 6.0, light.shape)).astype(np.float32))
    return Night(visits, tuple(images))


@lru_cache
def master() -> FringeMaster:
    free = np.zeros((SIZE, SIZE), bool)
    return fringe_master(np.stack([sky_structure(image, free)[0] for image in night().images[:ARCHIVE]]))


def fine(picture: NDArray[np.floating]) -> NDArray[np.float64]:
    """What is finer than the sky: without the mean in boxes of 120 pixels."""
    return np.asarray(picture - ndimage.uniform_filter(picture, 121, mode="nearest"), float)


def test_the_pattern_is_the_one_that_was_put_in() -> None:
    truth = fine(AMPLITUDE * fringe_pattern(SURVEY, 0))
    found = fine(master().image)
    inner = (slice(60, -60), slice(60, -60))
    slope = np.sum(found[inner] * truth[inner]) / np.sum(truth[inner] ** 2)
    strength = np.mean([line_strength(SURVEY, visit) for visit in night().visits[:ARCHIVE]])
    assert slope == pytest.approx(strength, rel=0.04)
    rest = found[inner] - slope * truth[inner]
    assert np.std(rest) < 0.12 * np.std(slope * truth[inner])
    # what is not known is what the variance says, within the faint sources that no frame shows
    assert np.std(rest) < 1.6 * np.sqrt(np.median(master().variance))
    assert np.median(master().image) == pytest.approx(0.0, abs=1e-6)
    assert (master().mask == 0).mean() > 0.999


def test_amplitudes_tell_how_bright_the_lines_were() -> None:
    truth = np.array([line_strength(SURVEY, visit) for visit in night().visits[:ARCHIVE]])
    np.testing.assert_allclose(master().amplitude, truth / truth.mean(), atol=0.03)
    assert (master().amplitudeErr < 0.01).all()


def test_five_per_cent_of_the_fringes_at_most_are_left_on_other_nights() -> None:
    true = np.asarray(AMPLITUDE * fringe_pattern(SURVEY, 0), np.float32)
    free = np.zeros(true.shape, bool)
    for visit, image in zip(night().visits[ARCHIVE:], night().images[ARCHIVE:], strict=True):
        fit = fit_fringes(image, free, [master().image])
        cleaned = image - np.float32(fit.amplitude[0]) * master().image
        before, after = (fit_fringes(one, free, [true]) for one in (image, cleaned))
        sky = sky_electrons(SURVEY, visit) * line_strength(SURVEY, visit)
        assert before.amplitude[0] == pytest.approx(sky, rel=0.02)
        assert abs(after.amplitude[0]) < 0.05 * before.amplitude[0]
        # and pixel by pixel, against the light that was really there
        left = fringe_light(SURVEY, visit, 0) - fit.amplitude[0] * master().image
        assert np.std(fine(left)) < 0.15 * np.std(fine(fringe_light(SURVEY, visit, 0)))


def test_a_second_component_takes_what_changes_from_night_to_night() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:192, :192]
    first, second = np.sin((x + 0.3 * y) / 6.0), np.sin((y - 0.4 * x) / 5.0)
    frames = [
        first * (1 + 0.2 * rng.normal()) * 0.03 + 0.015 * share * second + rng.normal(0, 0.02, first.shape)
        for share in rng.normal(size=12)
    ]
    found = fringe_master(np.asarray(frames, np.float32), components=2)
    assert found.components.shape == (1, 192, 192)
    inner = (slice(8, -8), slice(8, -8))
    assert abs(np.corrcoef(found.components[0][inner].ravel(), second[inner].ravel())[0, 1]) > 0.97
    assert np.corrcoef(found.image[inner].ravel(), first[inner].ravel())[0, 1] > 0.97
    science = 1000.0 * (1 + 0.02 * first + 0.02 * second) + rng.normal(0, 20.0, first.shape)
    patterns = [found.image, found.components[0]]
    fit = fit_fringes(science, np.zeros(first.shape, bool), patterns)
    rest = science - sum(value * pattern for value, pattern in zip(fit.amplitude, patterns, strict=True))
    assert ndimage.gaussian_filter(rest, 2.0)[inner].std() < 0.25 * ndimage.gaussian_filter(science, 2.0)[inner].std()
    with pytest.raises(DataError, match="components"):
        fringe_master(np.asarray(frames[:5], np.float32), components=4)


def frames(count: int, dithered: bool = True) -> Frames:
    """Frames whose reduction is the simulated image itself, a bad column flagged."""
    camera = make_camera(SURVEY)
    images = {}
    sources = []
    for number, (visit, image) in enumerate(zip(night().visits[:count], night().images[:count], strict=True)):
        shift = visit.conditions.dither if visit.conditions and dithered else (0.0, 0.0)
        info = _info(number, visit, shift)
        sources.append(RawExposure(info, {}, {}))
        images[info.sha256] = image

    def reduce(raw: RawExposure, steps: tuple[str, ...]) -> Exposure:
        assert "flat" in steps
        assert "fringe" not in steps
        image = images[raw.info.sha256].copy()
        mask = np.zeros(image.shape, np.int32)
        mask[:, 100], image[:, 100] = int(MaskPlane.BAD), 60000.0
        return Exposure(raw.info, image, mask, np.ones_like(image))

    return Frames("fringe", camera, sources, reduce, accepted=("science",), least=5)


def _info(number: int, visit: Visit, shift: tuple[float, float]) -> ExposureInfo:
    return ExposureInfo(
        instrument="fringed",
        visit=visit.number,
        detector=0,
        band="z",
        midpointMjdTai=visit.midpoint,
        exposureTime=visit.exposure_time,
        ra=150.0 + shift[0] / 3600.0,
        dec=2.0 + shift[1] / 3600.0,
        night=visit.night,
        kind="science",
        sha256=f"{number:064x}",
        fileName=f"{number}.fits",
    )


def test_a_solution_from_frames() -> None:
    solution = solve(frames(6))
    assert solution.image is not None
    assert solution.image.dtype == np.float32
    assert solution.mask is not None
    assert (solution.mask[:, 100] == int(MaskPlane.BAD)).all()
    assert (solution.image[:, 100] == 0.0).all()
    assert (
        np.corrcoef(fine(solution.image)[:, 110:].ravel(), fine(fringe_pattern(SURVEY, 0))[:, 110:].ravel())[0, 1]
        > 0.97
    )
    assert solution.metadata["frames"] == 6.0
    assert solution.metadata["skyMedian"] == pytest.approx(450.0, rel=0.5)
    assert len(solution.tables["amplitude"]) == 6
    again = solve(frames(6))
    assert again.image is not None
    np.testing.assert_array_equal(again.image, solution.image)


def test_frames_that_can_not_make_a_master() -> None:
    with pytest.raises(DataError, match="1 pointings"):
        solve(frames(6, dithered=False))
    with pytest.raises(DataError, match="sky is not positive"):
        sky_structure(np.random.default_rng(1).normal(0.0, 5.0, (128, 128)), np.zeros((128, 128), bool))
    blocked = np.ones((128, 128), bool)
    blocked[:26, :26] = False
    with pytest.raises(DataError, match="too little sky"):
        sky_structure(np.random.default_rng(1).normal(90.0, 5.0, (128, 128)), blocked)
