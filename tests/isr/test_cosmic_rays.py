"""Cosmic rays against injected tracks, star cores, and L.A.Cosmic as astroscrappy has it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from workers.isr.cosmic_rays import find_cosmic_rays

SKY, READ_NOISE, SIZE = 400.0, 6.0, 400
SIGMA = np.sqrt(SKY + READ_NOISE**2)


def add_star(image: np.ndarray, x: float, y: float, flux: float, fwhm: float) -> None:
    scale = fwhm / 2.3548 * np.sqrt(2)
    columns, rows = np.arange(image.shape[1]), np.arange(image.shape[0])
    across = 0.5 * (erf((columns + 0.5 - x) / scale) - erf((columns - 0.5 - x) / scale))
    along = 0.5 * (erf((rows + 0.5 - y) / scale) - erf((rows - 0.5 - y) / scale))
    image += flux * np.outer(along, across)


def stars_of(seed: int, count: int, fwhm: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image, places = np.full((SIZE, SIZE), SKY), rng.uniform(12, SIZE - 12, (count, 2))
    for x, y in places:
        add_star(image, x, y, 10 ** rng.uniform(2.5, 5.7), fwhm)
    return image, places


def tracks_of(seed: int, count: int) -> np.ndarray:
    """Straight tracks one pixel wide, of 160 to 3200 electrons per pixel of path."""
    rng = np.random.default_rng(seed)
    tracks = np.zeros((SIZE, SIZE))
    for _ in range(count):
        x, y, angle = rng.uniform(5, SIZE - 45), rng.uniform(5, SIZE - 45), rng.uniform(0, np.pi / 2)
        charge = 10 ** rng.uniform(2.2, 3.5)
        for step in np.arange(0, min(rng.exponential(8) + 1, 40), 0.2):
            tracks[int(y + step * np.sin(angle)), int(x + step * np.cos(angle))] += 0.2 * charge
    return tracks


def observed(seed: int, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.poisson(scene) + rng.normal(0, READ_NOISE, scene.shape)
    return image.astype(np.float32), (np.maximum(image, 0) + READ_NOISE**2).astype(np.float32)


NOTHING = np.zeros((SIZE, SIZE), bool)


@pytest.mark.parametrize("fwhm", [2.4, 3.5])
def test_tracks_are_found_and_little_else(fwhm: float) -> None:
    hit, false, marked = [], 0, 0
    for seed in range(3):
        tracks, scene = tracks_of(seed, 40), stars_of(seed, 100, fwhm)[0]
        hits = find_cosmic_rays(*observed(seed, scene + tracks), NOTHING)
        hit.append(hits[tracks > 4 * np.sqrt(scene + READ_NOISE**2)])
        false += int((hits & (tracks == 0)).sum())
        marked += int(hits.sum())
    assert np.concatenate(hit).mean() >= 0.95
    assert false <= 0.05 * marked


@pytest.mark.parametrize("fwhm", [2.4, 3.0, 5.0])
def test_no_star_core_is_eaten(fwhm: float) -> None:
    eaten = 0
    for seed in range(3):
        image, places = stars_of(seed, 250, fwhm)
        pixels, variance = observed(seed, image)
        hits = find_cosmic_rays(pixels, variance, pixels > 60000)
        eaten += int(hits[np.round(places[:, 1]).astype(int), np.round(places[:, 0]).astype(int)].sum())
    assert eaten == 0


def test_at_least_as_good_as_astroscrappy() -> None:
    astroscrappy = pytest.importorskip("astroscrappy")
    tracks = tracks_of(9, 60)
    image, variance = observed(9, stars_of(9, 150, 2.4)[0] + tracks)
    ours = find_cosmic_rays(image, variance, NOTHING)
    theirs, _ = astroscrappy.detect_cosmics(image, gain=1.0, readnoise=READ_NOISE, satlevel=1e9, sepmed=True)

    def share(mask: np.ndarray) -> tuple[float, float]:
        return float(mask[tracks > 4 * SIGMA].mean()), float((mask & (tracks == 0)).sum() / mask.sum())

    (found, wrong), (their_found, their_wrong) = share(ours), share(theirs)
    assert found > their_found - 0.04
    assert wrong < 0.5 * their_wrong
    assert (ours & theirs).sum() > 0.9 * ours.sum()


def test_blocked_pixels_are_never_hits_and_inputs_stay() -> None:
    tracks = tracks_of(3, 40)
    image, variance = observed(3, tracks + SKY)
    before = image.copy()
    blocked = tracks > 0
    hits = find_cosmic_rays(image, variance, blocked)
    assert not (hits & blocked).any()
    np.testing.assert_array_equal(image, before)


def test_hits_at_the_border_and_in_a_bright_place_are_found() -> None:
    scene = np.full((SIZE, SIZE), SKY)
    y, x = np.mgrid[:SIZE, :SIZE]
    scene += 20000 * np.exp(-((x - 200) ** 2 + (y - 200) ** 2) / 2 / 30.0**2)
    rays = [(0, 100), (399, 50), (120, 0), (200, 200)]
    for row, column in rays:
        scene[row, column] += 4000
    hits = find_cosmic_rays(*observed(5, scene), NOTHING)
    assert [bool(hits[ray]) for ray in rays] == [True] * 4
    assert hits.sum() < 30


def test_noise_alone_has_almost_no_hits() -> None:
    hits = find_cosmic_rays(*observed(6, np.full((SIZE, SIZE), SKY)), NOTHING)
    assert hits.sum() <= 12
