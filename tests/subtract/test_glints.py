"""Glint trains: found where they stand out, chance alignments left alone, the answer independent of the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import table_dtype
from workers.subtract.glints import flag_glints
from workers.subtract.measure import blank_rows

SIZE = 4096
SHAPE = (SIZE, SIZE)


def field(rng: np.random.Generator, count: int, members: int = 0, **train: float) -> np.ndarray:
    """Rows at random places, the first `members` of them in a train."""
    rows = blank_rows(table_dtype("alert", "diaSource"), count)
    rows["x"], rows["y"] = rng.uniform(0, SIZE, (2, count))
    rows["snr"] = rng.uniform(5, 50, count)
    if members:
        length, uneven = train.get("length", 700.0), train.get("uneven", 0.03)
        place = np.linspace(-0.5, 0.5, members) + rng.normal(0, uneven, members) / members
        angle, middle = rng.uniform(0, np.pi), rng.uniform(0.4 * SIZE, 0.6 * SIZE, 2)
        for name, at, way in (("x", middle[0], np.cos(angle)), ("y", middle[1], np.sin(angle))):
            rows[name][:members] = at + place * length * way + rng.normal(0, 0.3, members)
        rows["ixx"][:members] = 3.0 + 2.0 * np.cos(2 * angle)
        rows["iyy"][:members] = 3.0 - 2.0 * np.cos(2 * angle)
        rows["ixy"][:members] = 2.0 * np.sin(2 * angle)
    return rows


@pytest.mark.parametrize(("count", "detectors"), [(40, 200), (200, 60), (500, 5)])
def test_chance_makes_no_trains(count: int, detectors: int) -> None:
    rng = np.random.default_rng(count)
    assert sum(flag_glints(field(rng, count), SHAPE).any() for _ in range(detectors)) == 0


@pytest.mark.parametrize(("count", "members"), [(40, 5), (150, 6), (400, 8)])
def test_trains_are_found_whole_and_alone(count: int, members: int) -> None:
    rng = np.random.default_rng(members)
    flags = np.array([flag_glints(field(rng, count, members), SHAPE) for _ in range(10)])
    assert flags[:, :members].mean() >= 0.95
    assert flags[:, members:].mean() <= 0.3 * members / count


def test_a_train_longer_than_one_trial_is_found_to_its_ends() -> None:
    rng = np.random.default_rng(8)
    flags = np.array([flag_glints(field(rng, 80, 14, length=1800.0), SHAPE) for _ in range(10)])
    assert flags[:, :14].mean() >= 0.95
    assert flags[:, 14:].mean() < 0.02


def test_trails_along_the_line_weigh_in() -> None:
    rng = np.random.default_rng(3)
    plain = [field(rng, 150, 5, uneven=0.8) for _ in range(20)]
    before = np.mean([flag_glints(rows, SHAPE)[:5].mean() for rows in plain])
    for rows in plain:
        rows["trailLength"][:5] = 2.0
    assert np.mean([flag_glints(rows, SHAPE)[:5].mean() for rows in plain]) > before + 0.2


def test_clumps_negative_sources_and_dipoles_make_no_train() -> None:
    rng = np.random.default_rng(4)
    rows = field(rng, 60, 8)
    rows["isNegative"][:3], rows["isDipole"][3:6] = True, True
    assert not flag_glints(rows, SHAPE).any()
    rows = field(rng, 60, 12, length=35.0)
    assert not flag_glints(rows, SHAPE).any()


def test_members_share_their_answer_with_their_clump() -> None:
    rng = np.random.default_rng(5)
    rows = field(rng, 40, 8)
    rows["x"][8], rows["y"][8], rows["snr"][8] = rows["x"][2] + 4, rows["y"][2] - 3, 1.0
    assert flag_glints(rows, SHAPE)[:9].all()


def test_few_rows_and_rows_without_a_place() -> None:
    rng = np.random.default_rng(6)
    for count in (0, 1, 3):
        assert flag_glints(field(rng, count), SHAPE).tolist() == [False] * count
    rows = field(rng, 50, 8)
    rows["x"][20:] = np.nan
    assert flag_glints(rows, SHAPE)[:8].all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_order_and_mirrors_change_nothing(seed: int, swap: bool, mirror: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = field(rng, 80, 7)
    flags = flag_glints(rows, SHAPE)
    order = rng.permutation(len(rows))
    other = rows[order]
    if swap:
        other["x"], other["y"] = other["y"].copy(), other["x"].copy()
        other["ixx"], other["iyy"] = other["iyy"].copy(), other["ixx"].copy()
    if mirror:
        other["x"], other["ixy"] = SIZE - other["x"], -other["ixy"]
    assert flag_glints(other, SHAPE).tolist() == flags[order].tolist()
