"""Light curves freed of their own light in the templates: unbiased, with true errors and covariance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import DataError
from tests.templates.supernovae import shape
from workers.templates.curve_correction import CurvePoints, TemplateLight, correct_curve

PEAK, TROUGH = 60200.0, 60163.0


def light(mjd, flux=4000.0):
    return flux * shape((np.asarray(mjd) - PEAK) / 1.3)


def simulated(rng, *, kept, off_season=4, overlap=True, two=True):
    """Points of a supernova against templates that hold some of its light, and its true fluxes.

    With `overlap` the inputs while it shone are points of the curve; else other visits. `two`: half of the points are
    compared with a template that has four more inputs.
    """
    early = np.sort(rng.uniform(59900.0, 60150.0, 8))
    curve = np.sort(rng.uniform(60185.0, 60260.0, 12))
    late = np.sort(rng.uniform(60620.0, 60700.0, off_season))
    between = curve[:8:2] + (0.0 if overlap else 1.7)
    mjd = np.concatenate([early, curve, late, between])
    visit = np.concatenate([np.arange(8), 100 + np.arange(12), 200 + np.arange(off_season), 300 + np.arange(4)])
    if overlap:
        visit[-4:] = visit[8:16:2]
    sigma = {number: one for number, one in zip(visit, 100.0 * np.exp(rng.normal(0, 0.2, len(visit))), strict=True)}
    value = {v: float(light(t)) + rng.normal(0.0, sigma[v]) for v, t in dict(zip(visit, mjd, strict=True)).items()}
    sets = [np.r_[0:8, -4:0], np.r_[0:8, -2:0]] if two else [np.r_[0:8, -4:0]]
    templates, offsets = [], []
    for chosen in sets:
        names = visit[chosen]
        weights = np.array([sigma[v] ** -2.0 for v in names])
        weights /= weights.sum()
        flux, noise = np.array([value[v] for v in names]), np.array([sigma[v] ** 2 for v in names])
        offsets.append(float(weights @ flux))
        out = np.flatnonzero(mjd[chosen] > 60150.0)
        rest = np.where(mjd[chosen] > 60150.0, 0.0, weights)
        rest /= rest.sum()
        amount = float(weights @ flux - rest @ flux) if kept else None
        templates.append(
            TemplateLight(
                names, mjd[chosen], weights, float(weights**2 @ noise), amount, float(rest**2 @ noise), tuple(out)
            )
        )
    mine = slice(8, 20 + off_season)
    template = rng.integers(0, len(sets), 12 + off_season)
    error = np.array(
        [np.hypot(sigma[v], np.sqrt(templates[t].variance)) for v, t in zip(visit[mine], template, strict=True)]
    )
    flux = np.array([value[v] - offsets[t] for v, t in zip(visit[mine], template, strict=True)])
    points = CurvePoints(visit[mine], mjd[mine], flux, error, template, mjd[mine] < 60500.0)
    return points, templates, light(curve)


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"kept": True}, 0.05),
        ({"kept": False}, 0.05),
        ({"kept": False, "off_season": 0}, 0.05),
        ({"kept": False, "two": False}, 0.05),
        ({"kept": False, "overlap": False}, 0.25),
        ({"kept": False, "overlap": False, "off_season": 0}, 0.25),
    ],
)
def test_pulls_and_covariance(settings, width):
    """Mean 0 and width 1, and chi² of all points with their covariance: 12 a curve. Interpolation errs less sharply."""
    rng = np.random.default_rng(3)
    pulls, chi2, raw = [], [], []
    for _ in range(400):
        points, templates, truth = simulated(rng, **settings)
        got = correct_curve(points, templates, TROUGH, 60560.0)
        off = got.flux - truth
        pulls.append(off / got.errors)
        chi2.append(off @ np.linalg.solve(got.covariance, off))
        raw.append(np.mean(points.flux[got.points] - truth))
    pulls = np.array(pulls)
    assert np.mean(raw) < -400.0  # a tenth of the peak, uncorrected
    assert abs(pulls.mean()) < 0.1
    assert abs(pulls.std() - 1.0) < width
    assert np.mean(chi2) == pytest.approx(12.0, rel=2 * width)


def test_one_template_all_inputs_of_which_are_points_is_the_formula_of_the_weights():
    """c = sum_on(w d) / (1 - W_on) where the other inputs are clean."""
    points, templates, _ = simulated(np.random.default_rng(1), kept=False, off_season=0, two=False)
    got = correct_curve(points, templates, TROUGH, 60560.0)
    (one,) = templates
    on = np.isin(one.visit, points.visit)
    held = sum(w * points.flux[points.visit == v][0] for v, w in zip(one.visit[on], one.shares[on], strict=True))
    assert got.offsets[0] == pytest.approx(held / (1.0 - one.shares[on].sum()), rel=1e-6)
    assert got.flux == pytest.approx(points.flux + got.offsets[0])


def test_points_of_one_template_share_its_offset():
    points, templates, _ = simulated(np.random.default_rng(1), kept=True, off_season=0)
    got = correct_curve(points, templates, TROUGH, 60560.0)
    same = points.template[:, None] == points.template[None, :]
    apart = ~np.eye(12, dtype=bool)
    assert got.covariance[same & apart] == pytest.approx(np.outer(got.offsetErr, got.offsetErr)[0, 0], rel=0.5)
    assert (got.covariance[same & apart] > 0).all()


def test_what_cannot_be_told_is_said():
    points, templates, _ = simulated(np.random.default_rng(1), kept=False, off_season=0, two=False)
    one = templates[0]
    on = np.isin(one.visit, points.visit)
    alone = TemplateLight(one.visit[on], one.mjd[on], one.shares[on] / one.shares[on].sum(), one.variance)
    with pytest.raises(DataError, match="forced photometry"):
        correct_curve(points, [alone], TROUGH, 60560.0)
    dark = CurvePoints(
        *(getattr(points, n) for n in ("visit", "mjd", "flux", "fluxErr", "template")), points.active < 0
    )
    with pytest.raises(DataError, match="active time"):
        correct_curve(dark, templates, TROUGH, 60560.0)


@pytest.mark.parametrize("off_season", [0, 4])
def test_an_offset_for_each_point_shares_the_noise_of_its_template(off_season):
    """As amounts are measured for the PSF of each point: errors and covariance stay true."""
    rng = np.random.default_rng(4)
    pulls, chi2 = [], []
    for _ in range(200):
        points, templates, truth = simulated(rng, kept=True, off_season=off_season)
        mine = [templates[k] for k in points.template]
        got = correct_curve(replace(points, template=np.arange(len(mine))), mine, TROUGH, 60560.0)
        same = correct_curve(points, templates, TROUGH, 60560.0)
        assert got.flux == pytest.approx(same.flux, abs=0.05 * same.errors.min())
        off = got.flux - truth
        pulls.append(off / got.errors)
        chi2.append(off @ np.linalg.solve(got.covariance, off))
    assert abs(np.mean(pulls)) < 0.15
    assert abs(np.std(pulls) - 1.0) < 0.07
    assert np.mean(chi2) == pytest.approx(12.0, rel=0.1)
