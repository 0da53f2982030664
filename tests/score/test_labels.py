"""What counts as real, as bogus and as neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas import table_dtype
from schemas.errors import DataError
from workers.imaging.injection import INJECTION_DTYPE
from workers.score.artefacts import ARTEFACT_DTYPE
from workers.score.labels import TrainingSample, label_detections, sky_groups, training_set

NONE = np.zeros(0, ARTEFACT_DTYPE)


def detections(*places: tuple[float, float, float]) -> np.ndarray:
    """Rows at (x, y) with a signed flux, error 1."""
    rows = np.zeros(len(places), table_dtype("alert", "diaSource"))
    for row, (x, y, flux) in zip(rows, places, strict=True):
        row["x"], row["y"], row["psfFlux"], row["psfFluxErr"], row["isNegative"] = x, y, flux, 1.0, flux < 0
    return rows


def injections(*places: tuple[float, float, float], trail: float = 0.0) -> np.ndarray:
    rows = np.zeros(len(places), INJECTION_DTYPE)
    for row, (x, y, flux) in zip(rows, places, strict=True):
        row["x"], row["y"], row["flux"], row["trailLength"] = x, y, flux, trail
    return rows


def test_near_of_the_same_sign_and_flux_is_real_and_far_is_own() -> None:
    found = detections((10, 10, 50), (100, 100, 50), (200, 200, -50), (300, 300, 500), (400, 400, 50))
    truth = injections((10.5, 10.5, 50), (102.0, 100, 50), (200, 200, 50), (300, 300, 50))
    #                     match             2 px off          wrong sign       ten times the flux
    assert label_detections(found, truth, NONE).tolist() == [1, -1, -1, -1, 0]


def test_an_injection_claims_one_detection_only() -> None:
    found = detections((10, 10, 50), (11.2, 10, 50))
    assert label_detections(found, injections((10.1, 10, 50)), NONE).tolist() == [1, -1]


def test_a_trail_is_found_along_its_length_whatever_its_flux() -> None:
    found = detections((14, 10, 5))
    assert label_detections(found, injections((10, 10, 50), trail=14.0), NONE).tolist() == [1]


def test_what_lies_on_an_artefact_is_bogus() -> None:
    artefact = np.zeros(1, ARTEFACT_DTYPE)
    artefact["x"], artefact["y"], artefact["length"], artefact["angle"] = 100.0, 100.0, 100.0, np.pi / 2
    found = detections((105, 140, 20), (100, 60, -20), (100, 170, 20), (150, 100, 20))
    assert label_detections(found, injections(), artefact).tolist() == [2, 2, 0, 0]


def test_no_injections_and_no_detections_are_fine() -> None:
    assert label_detections(detections((1, 1, 1)), injections(), NONE).tolist() == [0]
    assert label_detections(detections(), injections((1, 1, 1)), NONE).tolist() == []


def test_places_on_the_sky_within_an_arcsecond_are_one_group() -> None:
    arcsec = 1 / 3600.0
    group = sky_groups(
        np.array([0.1 * arcsec, 360 - 0.1 * arcsec, 10.0, 10.0]), np.array([60.0, 60.0, 0.0, 0.9 * arcsec])
    )
    assert group[0] == group[1]
    assert group[2] == group[3] != group[0]


def test_own_detections_of_further_rounds_are_taken_once(drawer: Callable[..., Any], truth_maker: Any) -> None:
    drawn = drawer(40, 20, 5)
    sample = TrainingSample(drawn.sources, drawn.stamps, truth_maker(drawn, drawn.real))
    other = drawn.sources.copy()
    other["detector"] = 1
    once = training_set([sample])
    assert (once.own.sum(), once.injected.sum()) == (20, 40)
    twice = training_set([sample, sample])
    assert (twice.own.sum(), twice.injected.sum()) == (20, 80)
    assert training_set([sample, replace(sample, sources=other)]).own.sum() == 40


@pytest.mark.parametrize(("real", "bogus", "text"), [(5, 30, "only 5 injected"), (30, 5, "only 5 detections")])
def test_too_few_of_a_class_is_an_error_that_says_what_to_do(
    real: int, bogus: int, text: str, drawer: Callable[..., Any], truth_maker: Any
) -> None:
    drawn = drawer(real, bogus, 5)
    with pytest.raises(DataError, match=text):
        training_set([TrainingSample(drawn.sources, drawn.stamps, truth_maker(drawn, drawn.real))])


def test_no_samples_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="injected"):
        training_set([])
