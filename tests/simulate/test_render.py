from __future__ import annotations

import numpy as np
import pytest
import sep

from workers.simulate.optics import psf_field
from workers.simulate.profiles import EXPONENTIAL, POINT, profile_tables
from workers.simulate.render import Sources, paint


def _sources(x, y, electrons, profile=POINT, shape=(0.0, 0.0, 0.0)) -> Sources:
    count = len(x)
    return Sources(
        x=np.asarray(x, float),
        y=np.asarray(y, float),
        electrons=np.asarray(electrons, float),
        profile=np.full(count, profile, np.int64),
        shape=np.tile(np.asarray(shape, float), (count, 1)),
        trail=np.zeros((count, 3)),
    )


def test_paint_equals_direct_evaluation(quiet, choose):
    psf = psf_field(quiet, choose(quiet, "live")[0], 0)
    shape = (9.0, 3.0, 4.0)
    image = paint(_sources([30.3], [33.8], [5e4], EXPONENTIAL, shape), psf, (64, 70))
    y, x = np.mgrid[0:64, 0:70]
    d = np.stack([x - 30.3, y - 33.8], axis=-1)
    weights, variances = profile_tables()
    xx, xy, yy = psf.covariances(30.3, 33.8)[0]
    expected = np.zeros(image.shape)
    for w, v in zip(weights[EXPONENTIAL], variances[EXPONENTIAL], strict=True):
        for f, s in zip(psf.mixture.weights, psf.mixture.sigmas, strict=True):
            matrix = v * np.array([[9.0, 3.0], [3.0, 4.0]]) + s * s * np.array([[xx, xy], [xy, yy]])
            exponent = np.einsum("...i,ij,...j", d, np.linalg.inv(matrix), d)
            expected += 5e4 * w * f * np.exp(-0.5 * exponent) / (2 * np.pi * np.sqrt(np.linalg.det(matrix)))
    np.testing.assert_allclose(image, expected, atol=0.1, rtol=1e-3)


def test_flux_is_conserved_and_edges_clip(quiet, choose):
    psf = psf_field(quiet, choose(quiet, "live")[0], 0)
    assert paint(_sources([50.2], [49.7], [1e5]), psf, (100, 100)).sum() == pytest.approx(1e5, rel=5e-4)
    assert paint(_sources([-0.5], [50.0], [1e5]), psf, (100, 100)).sum() == pytest.approx(5e4, rel=0.02)
    assert paint(_sources([-500.0], [50.0], [1e5]), psf, (100, 100)).sum() == 0.0


def test_true_positions_are_the_centroids_of_bright_stars(quiet, clean, live_frames):
    offsets = []
    for visit, frame in live_frames:
        image, _ = clean(quiet, visit, frame)
        sources = frame.scene.sources
        alone = _isolated(sources, 16.0) & (sources.electrons > 7e4) & (sources.electrons < 5e5)
        alone &= (np.abs(sources.x - 320) < 300) & (np.abs(sources.y - 320) < 300)
        x, y = sources.x[alone], sources.y[alone]
        # dead and hot columns would pull a centroid
        x0, y0, _ = sep.winpos(image - np.median(image), x, y, np.full(len(x), 1.5))
        offsets += [np.stack([x0 - x, y0 - y], axis=-1)[_far_from_defects(quiet, x, y)]]
    offset = np.concatenate(offsets)
    assert len(offset) > 20
    assert np.abs(offset).max() < 0.02
    assert np.abs(offset.mean(axis=0)).max() < 0.004


def test_aperture_photometry_of_isolated_stars_has_unit_pulls(quiet, clean, live_frames):
    pulls = []
    for visit, frame in live_frames:
        image, variance = clean(quiet, visit, frame)
        sources, radius = frame.scene.sources, 7.0
        alone = _isolated(sources, 22.0) & (np.abs(sources.x - 320) < 300) & (np.abs(sources.y - 320) < 300)
        alone &= (sources.electrons < 5e5) & _far_from_defects(quiet, sources.x, sources.y, 9.0)
        x, y, electrons = sources.x[alone], sources.y[alone], sources.electrons[alone]
        sky = frame.light.min()
        flux = sep.sum_circle(image - sky, x, y, radius, subpix=0)[0]
        error = np.sqrt(sep.sum_circle(variance, x, y, radius, subpix=0)[0])
        unit = paint(_sources(x, y, np.full(len(x), 1e6)), psf_field(quiet, visit, 0), image.shape)
        fraction = sep.sum_circle(unit, x, y, radius, subpix=0)[0] / 1e6
        assert np.all((fraction > 0.93) & (fraction < 1.0))
        pulls.append((flux - electrons * fraction) / error)
    pull = np.concatenate(pulls)
    assert len(pull) > 150
    assert abs(pull.mean()) < 3.5 / np.sqrt(len(pull))
    assert pull.std() == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * len(pull)))


def _isolated(sources: Sources, distance: float) -> np.ndarray:
    separation = np.hypot(sources.x[:, None] - sources.x, sources.y[:, None] - sources.y)
    bright = sources.electrons > 30.0
    separation[:, ~bright] = np.inf
    np.fill_diagonal(separation, np.inf)
    return separation.min(axis=1) > distance


def _far_from_defects(config, x, y, distance: float = 6.0) -> np.ndarray:
    from scipy.spatial import cKDTree

    from workers.simulate.detector import detector_pattern

    rows, columns = np.nonzero(detector_pattern(config, 0).defects)
    return cKDTree(np.stack([columns, rows], axis=-1)).query(np.stack([x, y], axis=-1))[0] > distance
