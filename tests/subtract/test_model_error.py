"""What is left of stars, measured: as a share of their flux and as a shift."""

import numpy as np
import pytest

from workers.imaging.psf import PsfModel
from workers.subtract.matched_filter import score_image
from workers.subtract.model_error import ModelErrors, model_errors

SHAPE, FWHM = (600, 600), 3.5


def stars(rng, share, shift, count=150, sigma=1.0):
    """A difference of stars whose model is off by random shares and shifts, the model, and their pixels."""
    psf = PsfModel.gaussian(FWHM, size=25, width=SHAPE[1], height=SHAPE[0])
    x, y = rng.integers(20, SHAPE[1] - 20, (2, count))
    flux = 10 ** rng.uniform(4.0, 5.0, count)
    model, left = np.zeros(SHAPE), rng.normal(0.0, sigma, SHAPE)
    stamp = psf.stamps(0, 0)[0]
    slopes = np.gradient(stamp)
    for k in range(count):
        part = slice(y[k] - 12, y[k] + 13), slice(x[k] - 12, x[k] + 13)
        model[part] += flux[k] * stamp
        dx, dy = rng.normal(0.0, shift, 2)
        left[part] += flux[k] * (rng.normal(0.0, share) * stamp - dx * slopes[1] - dy * slopes[0])
    return psf, left.astype(np.float32), model.astype(np.float32), x.astype(float), y.astype(float)


@pytest.mark.parametrize(("share", "shift"), [(0.02, 0.0), (0.0, 0.05), (0.01, 0.03), (0.0, 0.0)])
def test_errors_are_those_of_the_stars(share, shift):
    rng = np.random.default_rng(1)
    found = [
        model_errors(left, np.ones(SHAPE, np.float32), model, np.stack([x, y], axis=1), 4)
        for _, left, model, x, y in (stars(rng, share, shift) for _ in range(6))
    ]
    assert np.mean([errors.share for errors in found]) == pytest.approx(max(share, 0.001), rel=0.25, abs=1e-3)
    assert np.mean([errors.shift for errors in found]) == pytest.approx(shift, rel=0.25, abs=2e-3)


def test_few_stars_give_the_usual_errors():
    empty = np.zeros(SHAPE, np.float32)
    assert model_errors(empty, empty + 1, empty, np.array([[50.0, 50.0]]), 4) == ModelErrors()


def test_the_score_of_misregistered_stars_is_normal_and_that_of_the_sky_unchanged():
    rng = np.random.default_rng(5)
    scores, ones, nothing = [], np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool)
    for _ in range(4):
        psf, left, model, x, y = stars(rng, 0.01, 0.05)
        errors = model_errors(left, ones, model, np.stack([x, y], axis=1), 4)
        plain = score_image(left, ones, nothing, psf)
        score = score_image(left, ones, nothing, psf, model=(model, errors))
        np.testing.assert_allclose(score[model == 0.0], plain[model == 0.0], rtol=0.02, atol=0.02)
        at = y.astype(int), x.astype(int)
        scores.append(score[at])
        assert np.std(plain[at]) > 3.0
    assert np.std(np.concatenate(scores)) == pytest.approx(1.0, abs=0.15)
