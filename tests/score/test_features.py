"""The features: always numbers, and the same for the same source seen another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.masks import MaskPlane
from workers.imaging.stamps import Stamps
from workers.score.features import FEATURE_NAMES, features
from workers.score.point_source import fit_point
from workers.score.source_pixels import source_pixels

Draw = Callable[..., Any]


def scaled(stamps: Stamps, factor: float) -> Stamps:
    powers = {"Variance": factor**2, "Mask": 1, "Psf": 1}
    out = {}
    for name, plane in vars(stamps).items():
        power = next((value for end, value in powers.items() if name.endswith(end)), factor)
        out[name] = (plane * plane.dtype.type(power)).astype(plane.dtype)
    return Stamps(**out)


def column(table: np.ndarray, name: str) -> np.ndarray:
    return np.asarray(table[:, FEATURE_NAMES.index(name)])


def test_names_are_unique_and_every_value_is_finite(drawn: Any) -> None:
    table = features(drawn.sources, drawn.stamps)
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES) == table.shape[1]
    assert table.dtype == np.float32
    assert table.shape[0] == len(drawn.sources)
    assert np.isfinite(table).all()


def test_no_sources_give_an_empty_table(drawn: Any) -> None:
    empty = Stamps(**{name: plane[:0] for name, plane in vars(drawn.stamps).items()})
    assert features(drawn.sources[:0], empty).shape == (0, len(FEATURE_NAMES))


@pytest.mark.parametrize("factor", [0.125, 1024.0])
def test_the_unit_of_flux_does_not_matter(drawn: Any, factor: float) -> None:
    assert np.array_equal(features(drawn.sources, scaled(drawn.stamps, factor)), features(drawn.sources, drawn.stamps))


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1e-3, 1e4))
def test_any_unit_gives_nearly_the_same(factor: float, drawer: Draw) -> None:
    few = drawer(6, 6, 3)
    ours, theirs = features(few.sources, scaled(few.stamps, factor)), features(few.sources, few.stamps)
    counts = [i for i, name in enumerate(FEATURE_NAMES) if not name.startswith(("core", "ring", "bright", "far"))]
    assert ours[:, counts] == pytest.approx(theirs[:, counts], rel=2e-3, abs=2e-3)


def test_a_negative_source_is_a_positive_one_with_the_images_exchanged(drawn: Any) -> None:
    rows, stamps = drawn.sources.copy(), drawn.stamps
    rows["isNegative"] = ~rows["isNegative"]
    swapped = {}
    for name, plane in vars(stamps).items():
        other = (
            name.replace("science", "template") if name.startswith("science") else name.replace("template", "science")
        )
        swapped[other] = -plane if name == "difference" else plane
    assert np.array_equal(features(rows, Stamps(**swapped)), features(drawn.sources, stamps))


def test_mirrored_and_turned_stamps_give_nearly_the_same(drawn: Any) -> None:
    table = features(drawn.sources, drawn.stamps)
    turned, rows = {}, drawn.sources.copy()
    for name, plane in vars(drawn.stamps).items():
        turned[name] = np.ascontiguousarray(np.rot90(plane[:, :, ::-1], axes=(1, 2)))
    dx, dy = rows["x"] - np.round(rows["x"]), rows["y"] - np.round(rows["y"])
    # mirror: (dx, dy) -> (-dx, dy); a quarter turn of arrays: (dx, dy) -> (dy, -dx)
    rows["x"], rows["y"] = np.round(rows["x"]) + dy, np.round(rows["y"]) + dx
    other = features(rows, Stamps(**turned))
    spread = table.std(axis=0) + 1e-6
    assert (np.abs(other - table) / spread).mean(axis=0).max() < 0.01


def test_fluxes_of_a_point_source_are_its_own(drawer: Draw) -> None:
    drawn = drawer(400, 0, 8)
    fit = fit_point(source_pixels(drawn.sources, drawn.stamps))
    sigma = 3.2 / 2.3548
    true = drawn.sources["snr"] * 10.0 * np.sqrt(2.0) * np.sqrt(4.0 * np.pi) * sigma
    pull = (fit.flux - true) * fit.snr / fit.flux
    bare = column(features(drawn.sources, drawn.stamps), "hostPeak") < 5
    assert bare.sum() > 60
    assert abs(pull[bare].mean()) < 0.5  # misplaced by the centroid's error: a little low
    assert 0.8 < pull[bare].std() < 1.2


def test_masked_pixels_count_and_nothing_else(drawer: Draw) -> None:
    drawn = drawer(30, 0, 4)
    mask = drawn.stamps.differenceMask.copy()
    mask[:, 3:6, 3:6] |= int(MaskPlane.CR)
    image = drawn.stamps.difference.copy()
    image[:, 3:6, 3:6] = 1e6
    table = features(drawn.sources, replace(drawn.stamps, difference=image, differenceMask=mask))
    image[:, 3:6, 3:6] = np.nan
    other = features(drawn.sources, replace(drawn.stamps, difference=image, differenceMask=mask))
    assert np.array_equal(table, other)
    clean = features(drawn.sources, drawn.stamps)
    assert (column(table, "unusable") > column(clean, "unusable")).all()
    assert column(table, "fitSnr") == pytest.approx(column(clean, "fitSnr"), rel=1e-3, abs=1e-3)


def test_what_says_that_a_source_is_fake_or_detected_is_not_looked_at(drawn: Any) -> None:
    planes = MaskPlane.INJECTED | MaskPlane.INJECTED_TEMPLATE | MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE
    marked = {
        name: plane | int(planes) if name.endswith("Mask") else plane for name, plane in vars(drawn.stamps).items()
    }
    assert np.array_equal(features(drawn.sources, Stamps(**marked)), features(drawn.sources, drawn.stamps))


def test_nothing_but_masked_pixels_is_no_error(drawer: Draw) -> None:
    drawn = drawer(5, 0, 2)
    nothing = np.full_like(drawn.stamps.difference, np.nan)
    table = features(drawn.sources, replace(drawn.stamps, difference=nothing, science=nothing, template=nothing))
    assert np.isfinite(table).all()
    assert (column(table, "unusable") == 1.0).all()


@pytest.mark.parametrize(
    ("name", "kind", "above"),
    [("oddPower", "dipole", True), ("evenPower", "ring", True), ("sharpness", "hot", True), ("offImage", "edge", True)],
)
def test_each_kind_of_bogus_shows_where_it_should(drawn: Any, name: str, kind: str, above: bool) -> None:
    values = column(features(drawn.sources, drawn.stamps), name)
    typical = np.median(values[drawn.kind == kind]), np.median(values[drawn.real])
    assert (typical[0] > 1.3 * typical[1] + 0.01) == above
