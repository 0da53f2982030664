"""Matching by voting: offsets, rotations, missing and spurious stars."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.match_chance import MAX_CHANCE, refusal, weigh
from workers.imaging.sky_match import fit_affine, match_stars, mutual_pairs


def scene(seed, stars, *, offset=(25.0, -14.0), degrees=0.1, missing=0.2, spurious=0.3, size=768.0, scatter=0.05):
    """Measured sources and predicted references with known pairs."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, size, (stars, 2))
    flux = rng.pareto(0.8, stars) + 1.0
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    predicted = (x - size / 2) @ matrix.T + size / 2 + offset
    kept = rng.random(stars) >= missing
    extra = int(spurious * stars)
    references = np.concatenate([predicted[kept], rng.uniform(-60, size + 60, (extra, 2))])
    reference_flux = np.r_[flux[kept], rng.pareto(0.8, extra) + 1.0]
    truth = np.r_[np.flatnonzero(kept), np.full(extra, -1)]
    seen = rng.random(stars) > 0.1
    sources = (x + rng.normal(0, scatter, x.shape))[seen]
    return sources, flux[seen], references, reference_flux, np.flatnonzero(seen), truth


@pytest.mark.parametrize("stars", [40, 100, 400, 1500])
def test_every_random_field_is_matched(stars):
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0, 45)
        sources, flux, references, reference_flux, names, truth = scene(
            seed, stars, offset=(size * np.cos(angle), size * np.sin(angle)), degrees=rng.uniform(-1, 1)
        )
        match = match_stars(sources, flux, references, reference_flux, search_radius=50, match_radius=5)
        right = names[match.source] == truth[match.reference]
        assert right.mean() > 0.9
        assert right.sum() > 0.85 * len(set(names) & set(truth))
        assert match.rms < 0.2


@settings(max_examples=25, deadline=None)
@given(st.floats(-35, 35), st.floats(-35, 35), st.floats(-0.9, 0.9), st.integers(0, 1000))
def test_the_map_is_recovered(dx, dy, degrees, seed):
    sources, flux, references, reference_flux, *_ = scene(
        seed, 120, offset=(dx, dy), degrees=degrees, missing=0.0, spurious=0.0
    )
    match = match_stars(sources, flux, references, reference_flux, search_radius=50, match_radius=5)
    assert np.degrees(np.arctan2(match.affine.matrix[0, 1], match.affine.matrix[0, 0])) == pytest.approx(
        degrees, abs=0.02
    )
    np.testing.assert_allclose(match.affine(np.array([[384.0 + dx, 384.0 + dy]])), [[384, 384]], atol=0.1)


def test_unrelated_stars_are_refused():
    refused = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sources, references = rng.uniform(0, 768, (100, 2)), rng.uniform(-60, 828, (150, 2))
        with pytest.raises(DataError, match="no offset within 50 pixels"):
            match_stars(sources, rng.random(100), references, rng.random(150), search_radius=50, match_radius=5)
        refused += 1
    assert refused == 20


def test_an_offset_beyond_the_search_is_refused():
    sources, flux, references, reference_flux, *_ = scene(1, 100, offset=(200.0, 0.0))
    with pytest.raises(DataError, match="no offset within 50 pixels"):
        match_stars(sources, flux, references, reference_flux, search_radius=50, match_radius=5)


def test_two_stars_are_too_few():
    with pytest.raises(DataError, match="needs 3 stars of each, there are 2 and 9"):
        match_stars(np.ones((2, 2)), np.ones(2), np.ones((9, 2)), np.ones(9), search_radius=50, match_radius=5)


def test_pairs_are_one_to_one():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(0, 100, (300, 2)), rng.uniform(0, 100, (200, 2))
    rows_a, rows_b = mutual_pairs(a, b, 5.0)
    assert len(set(rows_a.tolist())) == len(rows_a) == len(set(rows_b.tolist()))
    assert np.hypot(*(a[rows_a] - b[rows_b]).T).max() <= 5.0
    assert mutual_pairs(a, b[:0], 5.0)[0].size == 0


@pytest.mark.parametrize("points", [2, 5, 30])
def test_affine_fits_use_what_the_points_carry(points):
    rng = np.random.default_rng(points)
    p = rng.uniform(0, 100, (points, 2))
    turn = np.radians(0.5) if points > 2 else 0.0
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(fit_affine(p, p @ matrix.T + [3, -2])(p), p @ matrix.T + [3, -2], atol=1e-9)


def test_bright_artefacts_and_saturated_stars_do_not_hide_a_deep_field():
    for seed in range(6):
        rng = np.random.default_rng(500 + seed)
        sources, flux, references, reference_flux, names, truth = scene(seed, 1500, size=2048.0)
        dim = flux < np.percentile(flux, 90)
        sources, flux, names = sources[dim], flux[dim], names[dim]
        extra = rng.uniform(0, 2048, (len(sources), 2))
        match = match_stars(
            np.concatenate([sources, extra]),
            np.r_[flux, 3.0 * rng.permutation(flux)],
            references,
            reference_flux,
            search_radius=250,
            match_radius=5,
        )
        assert (np.r_[names, np.full(len(extra), -2)][match.source] == truth[match.reference]).mean() > 0.9
        assert match.evidence.chance < np.log(MAX_CHANCE)


def test_pairs_that_disagree_in_magnitude_are_refused():
    sources, _, references, _, *_ = scene(1, 60, missing=0.0, spurious=0.0)
    rng = np.random.default_rng(1)
    with pytest.raises(DataError, match="matches the"):
        match_stars(
            sources,
            10 ** rng.uniform(0, 4, len(sources)),
            references,
            10 ** rng.uniform(0, 4, len(references)),
            search_radius=50,
            match_radius=5,
        )


def evidence(**changes):
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 1000, (30, 2))
    base = {
        "matrix": np.eye(2),
        "measured": points[:20],
        "predicted": points,
        "magnitudes": rng.normal(0, 0.2, 20),
        "bright": (15, 20),
        "counts": (0.5, 0.5),
        "trials": 1e6,
    }
    return weigh(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"counts": (0.5, 9.0)}, "as chance would"),
        ({"magnitudes": np.zeros(8)}, "as chance would"),
        ({"magnitudes": np.r_[np.zeros(30), np.linspace(2, 9, 25)]}, "agree in magnitude"),
        ({"bright": (3, 20)}, "of the bright stars predicted are there"),
        ({"matrix": np.diag([1.02, 1.02])}, "scale off by 2.00%"),
        ({"matrix": np.array([[1.0, 0.03], [0.0, 1.0]])}, "shear"),
        ({"measured": np.random.default_rng(1).uniform(0, 90, (20, 2))}, "along a line or in a corner"),
    ],
)
def test_each_part_of_the_test_refuses_alone(changes, reason):
    why = refusal(evidence(**changes))
    assert why is None if reason is None else reason in why
