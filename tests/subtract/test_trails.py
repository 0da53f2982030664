"""Trail fits against drawn truth: bias, pulls, what is called a trail and what is not, columns on the sky."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from schemas import table_dtype
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.photometry import PhotometryFlag
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.subtract.measure import blank_rows
from workers.subtract.trails import elongations, fit_trails, measure_trails, polar_errors

SIGMA, SIZE = 1.6, 25  # of the PSF, pixels
TILE = 121
FLAGS = int(PhotometryFlag.NO_SUPPORT | PhotometryFlag.NOT_CONVERGED)


def drawn(n: int, x: float, y: float, length: float, angle: float) -> np.ndarray:
    """A Gaussian along a line (Veres et al. 2012, PASP 124, 1197, equation 3), averaged over 3 x 3 points a pixel."""
    axis = (np.arange(3 * n) - 1) / 3 - n // 2
    e, f = np.cos(angle), np.sin(angle)
    u = np.add.outer((axis - y) * f, (axis - x) * e) / SIGMA
    v = np.add.outer((axis - y) * e, -(axis - x) * f) / SIGMA
    h = 0.5 * length / SIGMA
    line = (ndtr(u + h) - ndtr(u - h)) / (2 * h) if length > 0 else np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    profile = line * np.exp(-0.5 * v * v) / np.sqrt(2 * np.pi) / SIGMA**2
    return np.asarray(profile.reshape(n, 3, n, 3).mean(axis=(1, 3)))


def psf_model(width: int, height: int) -> PsfModel:
    return PsfModel(drawn(SIZE, 0, 0, 0, 0)[None].astype(np.float32), 0, width, height)


def trails(count: int, snr: float, length: float, seed: int, sign: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """An image (unit noise) of one trail below another; truth: flux, x, y, angle in degrees."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count * TILE, TILE))
    truth = np.zeros((count, 4))
    for k in range(count):
        angle, (x, y) = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2)
        light = drawn(TILE, x, y, length, angle)
        flux = sign * snr / np.sqrt(np.square(light).sum())
        image[k * TILE : (k + 1) * TILE] += flux * light
        truth[k] = flux, TILE // 2 + x, k * TILE + TILE // 2 + y, np.degrees(angle)
    return image, truth


def fitted(image: np.ndarray, truth: np.ndarray, length: float, seed: int = 0, **options: Any) -> np.ndarray:
    """Fits that start at a pixel somewhere on each trail."""
    place = np.random.default_rng(seed).uniform(-0.35, 0.35, len(truth)) * length
    x = truth[:, 1] + place * np.cos(np.radians(truth[:, 3]))
    y = truth[:, 2] + place * np.sin(np.radians(truth[:, 3]))
    planes = image, np.ones_like(image), np.ones(image.shape, bool)
    return fit_trails(*planes, psf_model(*image.shape[::-1]), np.round(x), np.round(y), **options)


@pytest.mark.parametrize(("snr", "length"), [(30, 12), (300, 12), (100, 5), (100, 30), (300, 3), (300, 60)])
def test_fits_are_unbiased_with_pulls_of_width_one(snr: float, length: float) -> None:
    image, truth = trails(70, snr, length, seed=int(snr + length))
    rows = fitted(image, truth, length)
    assert not (rows["flags"] & FLAGS).any()
    turn = (rows["angle"] - truth[:, 3] + 90) % 180 - 90
    pulls = {
        "flux": (rows["flux"] - truth[:, 0]) / rows["fluxErr"],
        "x": (rows["x"] - truth[:, 1]) / rows["xErr"],
        "y": (rows["y"] - truth[:, 2]) / rows["yErr"],
        "length": (rows["length"] - length) / rows["lengthErr"],
        "angle": turn / rows["angleErr"],
    }
    for name, pull in pulls.items():
        assert abs(pull.mean()) < 0.45, name  # 3.8 errors of the mean of 70
        assert 0.72 < pull.std() < 1.28, name
    assert (rows["chi2"] / rows["nPixels"]).mean() == pytest.approx(1.0, abs=0.03)


def test_length_and_angle_meet_the_bar() -> None:
    image, truth = trails(120, 30, 12, seed=2)
    rows = fitted(image, truth, 12)
    turn = (rows["angle"] - truth[:, 3] + 90) % 180 - 90
    assert np.sqrt(np.mean(np.square(rows["length"] / 12 - 1))) < 0.04
    assert np.sqrt(np.mean(np.square(turn))) < 1.7
    ends = np.stack([rows["x0"] + rows["x1"], rows["y0"] + rows["y1"]]) / 2
    assert ends == pytest.approx(np.stack([rows["x"], rows["y"]]))
    assert np.hypot(rows["x1"] - rows["x0"], rows["y1"] - rows["y0"]) == pytest.approx(rows["length"])


def test_negative_trails_have_negative_flux() -> None:
    image, truth = trails(20, 60, 10, seed=5, sign=-1.0)
    rows = fitted(image, truth, 10, negative=np.ones(20, bool))
    assert (rows["flux"] < 0).all()
    assert rows["length"] == pytest.approx(10, abs=1.5)


def test_pixels_that_are_not_usable() -> None:
    image, truth = trails(40, 100, 16, seed=6)
    x, y = np.round(truth[:, 1]).astype(int), np.round(truth[:, 2]).astype(int)
    usable = np.ones(image.shape, bool)
    for column, row in zip(x, y, strict=True):
        usable[row - 1 : row + 2, column + 2 : column + 5] = False
    image[~usable] = 1e4
    usable[: TILE // 2 + 30] = False
    psf = psf_model(*image.shape[::-1])
    rows = fit_trails(image, np.ones_like(image), usable, psf, x, y)
    assert rows["flags"][0] & int(PhotometryFlag.NO_SUPPORT)
    assert np.isnan(rows["length"][0])
    pull = (rows["length"][1:] - 16) / rows["lengthErr"][1:]
    assert abs(pull.mean()) < 0.6
    assert 0.6 < pull.std() < 1.4


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 100), st.floats(4.0, 40.0), st.integers(0, 3), st.floats(1e-3, 1e3))
def test_turned_and_scaled_images_give_turned_and_scaled_trails(
    seed: int, length: float, turns: int, scale: float
) -> None:
    image, truth = trails(1, 80, length, seed)
    rows = fitted(image, truth, 0.0)
    turned = np.rot90(image, turns).copy() * scale
    c = TILE // 2
    way = (-1j) ** turns  # y runs downwards in rot90's sense
    at = (np.round(truth[0, 1]) - c) + 1j * (np.round(truth[0, 2]) - c)
    start = at * way
    planes = turned, np.full(turned.shape, scale**2), np.ones(turned.shape, bool)
    other = fit_trails(*planes, psf_model(TILE, TILE), [start.real + c], [start.imag + c])
    assert other["flux"] == pytest.approx(scale * rows["flux"], rel=3e-3)
    assert other["length"] == pytest.approx(rows["length"], abs=0.2 * rows["lengthErr"][0])
    assert other["lengthErr"] == pytest.approx(rows["lengthErr"], rel=0.05)
    turn = (other["angle"] - rows["angle"] + 90.0 * turns + 90) % 180 - 90
    assert abs(turn[0]) < 0.3 * rows["angleErr"][0]


@given(st.floats(0.01, 50.0), st.floats(0.0, 2 * np.pi), st.floats(0.01, 20.0))
def test_the_error_of_a_short_length_covers_zero(length: float, angle: float, error: float) -> None:
    vector = length * np.array([[np.cos(angle), np.sin(angle)]])
    found, spread, direction, turn = (float(v[0]) for v in polar_errors(vector, error**2 * np.eye(2)[None]))
    assert found == pytest.approx(length)
    assert spread >= 0.99 * min(error, length)
    if length < 2 * error:
        assert spread >= 0.999 * length
    assert 0.0 <= direction < np.pi
    assert 0.0 <= turn <= np.pi / np.sqrt(12) + 1e-12


def difference(image: np.ndarray) -> Exposure:
    info = ExposureInfo("sim", 4711, 3, "r", 60500.25, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits")
    height, width = image.shape
    return Exposure(
        info=info,
        image=image.astype(np.float32),
        mask=np.zeros(image.shape, np.int32),
        variance=np.ones(image.shape, np.float32),
        unit="nJy",
        wcs=SkyWcs.tangent(150.0, -30.0, (width / 2, height / 2), 0.25, rotation=20.0),
        psf=psf_model(width, height),
    )


def source_rows(x: np.ndarray, y: np.ndarray, negative: bool = False) -> np.ndarray:
    rows = blank_rows(table_dtype("alert", "diaSource"), len(x))
    rows["x"], rows["y"], rows["snr"], rows["isNegative"] = x, y, np.linspace(30, 20, len(x)), negative
    return rows


@pytest.mark.parametrize("snr", [10, 40, 400])
def test_point_sources_are_not_trails(snr: float) -> None:
    image, truth = trails(150, snr, 0.0, seed=snr)
    exposure, good = difference(image), np.ones(image.shape, bool)
    x, y = truth[:, 1], truth[:, 2]
    chi2 = elongations(exposure.image, exposure.variance, good, exposure.need_psf(), x, y)
    assert 1.5 < chi2.mean() < 2.6  # chi-square of 2 degrees of freedom
    rows = source_rows(x, y)
    assert not measure_trails(rows, exposure, good).any()
    assert np.isnan(rows["trailLength"]).all()
    assert not rows["trail_flag"].any()
    assert not rows["trailAlgorithm"].any()


@pytest.mark.parametrize("negative", [False, True])
def test_columns_on_the_sky(negative: bool) -> None:
    image, truth = trails(40, 60, 15, seed=9, sign=-1.0 if negative else 1.0)
    exposure, good = difference(image), np.ones(image.shape, bool)
    rows = source_rows(truth[:, 1], truth[:, 2], negative)
    rows["isDipole"][0] = True
    measure_trails(rows, exposure, good)
    assert np.isnan(rows["trailLength"][0])
    rows, truth = rows[1:], truth[1:]
    wcs = exposure.need_wcs()
    ra, dec = wcs.pixel_to_sky(truth[:, 1], truth[:, 2])
    e, f = 7.5 * np.cos(np.radians(truth[:, 3])), 7.5 * np.sin(np.radians(truth[:, 3]))
    ra0, dec0 = wcs.pixel_to_sky(truth[:, 1] - e, truth[:, 2] - f)
    ra1, dec1 = wcs.pixel_to_sky(truth[:, 1] + e, truth[:, 2] + f)
    east, north = (ra1 - ra0) * np.cos(np.radians(dec)), dec1 - dec0
    length, angle = 3600 * np.hypot(east, north), np.degrees(np.arctan2(east, north)) % 180
    pulls = [
        (rows["trailLength"] - length) / rows["trailLengthErr"],
        ((rows["trailAngle"] - angle + 90) % 180 - 90) / rows["trailAngleErr"],
        (rows["trailRa"] - ra) * np.cos(np.radians(dec)) / rows["trailRaErr"],
        (rows["trailDec"] - dec) / rows["trailDecErr"],
        (rows["trailFlux"] - truth[:, 0]) / rows["trailFluxErr"],
    ]
    for pull in pulls:
        assert abs(pull.mean()) < 0.6
        assert 0.65 < pull.std() < 1.35
    assert (rows["trailAngle"] >= 0).all()
    assert (rows["trailAngle"] < 180).all()
    assert (rows["trailNdata"] > 100).all()
    assert (rows["trailAlgorithm"] > 0).all()
    assert not rows["trail_flag"].any()


def test_pieces_of_a_long_trail_and_trails_at_the_edge() -> None:
    image, truth = trails(2, 300, 40, seed=12)
    light = drawn(TILE, TILE // 2 - 2.0, 0.0, 14, 0.3)
    image[TILE:] += 200 / np.sqrt(np.square(light).sum()) * light
    e, f = np.cos(np.radians(truth[0, 3])), np.sin(np.radians(truth[0, 3]))
    x = truth[0, 1] + np.array([0.0, 10.0, -15.0]) * e
    y = truth[0, 2] + np.array([0.0, 10.0, -15.0]) * f
    rows = source_rows(np.append(x, TILE - 6.0), np.append(y, TILE + TILE // 2 - 1.0))
    pieces = measure_trails(rows, difference(image), np.ones(image.shape, bool))
    assert pieces.tolist() == [False, True, True, False]
    assert rows["trail_flag_edge"].tolist()[3]
    assert not rows["trail_flag_edge"][:3].any()
    assert np.isfinite(rows["trailLength"][0])


def test_no_rows_and_rows_without_a_place() -> None:
    exposure, good = difference(np.zeros((80, 90))), np.ones((80, 90), bool)
    empty = source_rows(np.zeros(0), np.zeros(0))
    assert len(measure_trails(empty, exposure, good)) == 0
    lost = source_rows(np.array([np.nan, -500.0]), np.array([np.nan, 40.0]))
    assert not measure_trails(lost, exposure, good).any()
    assert not lost["trail_flag"].any()
    planes = exposure.image, exposure.variance, good
    rows = fit_trails(*planes, exposure.need_psf(), lost["x"], lost["y"])
    assert (rows["flags"] & int(PhotometryFlag.NO_SUPPORT)).all()
    assert np.isnan(rows["flux"]).all()
