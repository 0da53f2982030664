"""Astrometry on catalogues alone: many random fields, all of them solved."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.characterize.astrometry import solve_astrometry
from workers.characterize.pipeline import SOURCE_DTYPE
from workers.imaging.wcs import mirrored
from workers.survey.characterize_config import AstrometryConfig

SHAPE, PAD = (768, 768), 60
CONFIG = AstrometryConfig()


def scene(seed, stars, draw_wcs, **header):
    true_wcs, misplaced, make_reference = draw_wcs
    rng = np.random.default_rng(seed)
    wcs = true_wcs(rng, SHAPE)
    number = int(stars * ((768 + 2 * PAD) / 768) ** 2)
    x, y = rng.uniform(-PAD, 768 + PAD, (2, number))
    flux = 300.0 * (rng.pareto(0.8, number) + 1.0)
    reference = make_reference(rng, wcs, x, y, flux * 30.0, 0.2, 0.3)
    seen = (x > 2) & (x < 765) & (y > 2) & (y < 765) & (rng.random(number) > 0.1)
    sources = np.zeros(np.count_nonzero(seen), SOURCE_DTYPE)
    error = 0.01 + 3.0 / flux[seen]
    sources["x"], sources["y"] = x[seen] + rng.normal(0, error), y[seen] + rng.normal(0, error)
    sources["xErr"] = sources["yErr"] = error
    sources["flux"], sources["snr"] = flux[seen], flux[seen] / 30.0
    return wcs, misplaced(wcs, rng, **header), sources, reference


@pytest.mark.parametrize("stars", [40, 80, 300, 1000])
def test_every_field_is_solved(stars, draw_wcs):
    grid = np.meshgrid(np.linspace(20, 748, 8), np.linspace(20, 748, 8))
    x, y = (axis.ravel() for axis in grid)
    for seed in range(16):
        wcs, header, sources, reference = scene(seed, stars, draw_wcs)
        found = solve_astrometry(header, sources, reference, "r", SHAPE, CONFIG)
        fx, fy = found.wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y))
        assert np.sqrt(np.mean((fx - x) ** 2 + (fy - y) ** 2) / 2) < 0.05
        there = np.stack(wcs.sky_to_pixel(reference.ra, reference.dec), axis=1)
        apart = KDTree(there).query(np.stack([sources["x"], sources["y"]], axis=1))[0]
        assert len(found.source) > 0.95 * np.count_nonzero(apart < 0.1)
        assert found.rms < 0.02
        assert len(set(found.reference.tolist())) == len(found.reference)


def test_saturated_sources_help_the_search_but_not_the_fit(draw_wcs):
    _, header, sources, reference = scene(3, 200, draw_wcs)
    brightest = np.argsort(-sources["flux"])[:30]
    sources["xErr"][brightest] = np.nan
    sources["x"][brightest] += 1.0
    found = solve_astrometry(header, sources, reference, "r", SHAPE, CONFIG)
    assert not set(brightest.tolist()) & set(found.source.tolist())


def test_a_header_too_far_off_is_told(draw_wcs):
    _, header, sources, reference = scene(4, 100, draw_wcs, arcsec=(60.0, 70.0))
    with pytest.raises(DataError, match="off by more than search_radius_pixels = 50"):
        solve_astrometry(header, sources, reference, "r", SHAPE, AstrometryConfig(search_radius_pixels=50))


def test_a_mirrored_camera_is_found_where_parity_is_unknown(draw_wcs):
    unknown = CONFIG.model_copy(update={"parity": "unknown"})
    for seed in range(6):
        wcs, header, sources, reference = scene(seed, 150, draw_wcs)
        flipped = header if seed % 2 else mirrored(header)
        found = solve_astrometry(flipped, sources, reference, "r", SHAPE, unknown)
        x, y = np.array([20.0, 700.0, 384.0]), np.array([20.0, 30.0, 700.0])
        np.testing.assert_allclose(found.wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y)), [x, y], atol=0.1)
        if seed % 2 == 0:
            with pytest.raises(DataError, match="astrometry failed"):
                solve_astrometry(flipped, sources, reference, "r", SHAPE, CONFIG)


def test_the_error_told_is_the_error_made(draw_wcs):
    pulls = []
    corners = np.array([0.0, 767.0, 0.0, 767.0]), np.array([0.0, 0.0, 767.0, 767.0])
    for seed in range(100, 130):
        wcs, header, sources, reference = scene(seed, 60, draw_wcs)
        found = solve_astrometry(header, sources, reference, "r", SHAPE, CONFIG)
        x, y = found.wcs.sky_to_pixel(*wcs.pixel_to_sky(*corners))
        worst = np.hypot(x - corners[0], y - corners[1]).max()
        pulls.append(worst * wcs.pixel_scale(384, 384) / found.edge_error)
    # the largest of four two-dimensional Gaussians, of which one is as wide as told: between 0.7 and 2.5
    assert 0.6 < np.median(pulls) < 2.5
    assert np.max(pulls) < 6


def test_stars_in_one_corner_do_not_speak_for_the_others(draw_wcs):
    _, header, sources, reference = scene(7, 900, draw_wcs)
    corner = (sources["x"] < 170) & (sources["y"] < 170)
    with pytest.raises(DataError, match="leave a corner of the detector uncertain|astrometry failed"):
        solve_astrometry(header, sources[corner], reference, "r", SHAPE, CONFIG)
