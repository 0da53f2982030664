"""Colour terms: the fit on simulated nights, the refit from calibrated exposures, and the file."""

import json

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from tests.characterize.conftest import info, moffat, true_wcs
from tests.cli.command import skydelta
from workers.characterize.color_terms import STAR_DTYPE, ColorTerm, fit_color_terms, load_color_terms, save_color_terms
from workers.characterize.nightly_terms import catalogue_colors, known_color_terms, refit
from workers.imaging.exposure import Exposure, PhotoCalib
from workers.imaging.fits import write_exposure
from workers.imaging.psf import PsfModel
from workers.imaging.reference import ReferenceCatalogue, save_reference
from workers.survey.characterize_config import PhotometryConfig

SLOPE, PIVOT = 0.15, 0.6


def night(rng, *, exposures=10, count=100, outliers=0.2, trap=0.1, shared=0.01):
    """One band: catalogue errors shared by the exposures, outliers too bright, a share of red stars 0.5 mag off."""
    color = np.where(rng.random(count) < 0.3, rng.normal(1.3, 0.15, count), rng.normal(PIVOT, 0.2, count))
    noise = 10 ** rng.uniform(-3, -1.2, count)
    wrong = shared * rng.normal(size=count)
    odd = 0.5 * ((color > 1.2) & (rng.random(count) < trap / 0.25))
    parts = []
    for exposure in range(exposures):
        seen = np.flatnonzero(rng.random(count) < 0.7)
        rows = np.zeros(len(seen), STAR_DTYPE)
        rows["exposure"], rows["star"], rows["band"], rows["color"] = exposure, seen, "r", color[seen]
        rows["error"] = np.hypot(noise[seen], shared)
        rows["difference"] = SLOPE * (color[seen] - PIVOT) + 3 + rng.normal() + wrong[seen] - odd[seen]
        rows["difference"] += noise[seen] * rng.normal(size=len(seen)) + 0.004 * rng.normal(size=len(seen))
        rows["difference"] -= (rng.random(len(seen)) < outliers) * rng.exponential(0.4, len(seen))
        parts.append(rows)
    return np.concatenate(parts)


@pytest.mark.parametrize("trap", [0.0, 0.1])
def test_slopes_have_true_errors(trap):
    off, pulls = [], []
    for seed in range(80):
        term = fit_color_terms(night(np.random.default_rng([seed, 1]), trap=trap), {"r": "g-r"})["r"]
        off.append(term.slope - SLOPE)
        pulls.append(off[-1] / term.error)
    assert abs(np.mean(off)) < 0.0015
    assert 0.75 < np.std(pulls) < 1.25
    assert abs(np.mean(pulls)) < 0.4


def test_the_median_colour_is_the_pivot_and_the_stars_are_counted():
    stars = night(np.random.default_rng(3))
    stars["color"][:5] = np.nan
    term = fit_color_terms(stars, {"r": "g-r", "i": "r-i"})["r"]
    assert term.color == "g-r"
    assert term.bands == ("g", "r")
    assert term.pivot == pytest.approx(float(np.nanmedian(stars["color"])))
    assert 70 <= term.nStars <= 100
    assert term.factor(np.array([term.pivot, np.nan]))[0] == 1.0


def test_no_spread_or_too_few_stars_is_refused():
    alike = night(np.random.default_rng(4))
    alike["color"] = 0.6
    for stars in (alike, night(np.random.default_rng(5), count=20), np.zeros(0, STAR_DTYPE)):
        with pytest.raises(DataError, match="colour terms failed: no band of r"):
            fit_color_terms(stars, {"r": "g-r"})


def test_the_file_reads_back_and_survey_toml_stands_in_front(tmp_path):
    path = tmp_path / "calibrations" / "color-terms.json"
    assert load_color_terms(path) == {}
    terms = {"r": ColorTerm("g-r", 0.1, 0.01, 0.6, 200, 3), "g": ColorTerm("g-r", -0.2, 0.01, 0.6, 150, 3)}
    save_color_terms(path, terms)
    assert load_color_terms(path) == terms
    assert list(json.loads(path.read_text())) == ["g", "r"]
    config = PhotometryConfig.model_validate({"color_terms": {"r": {"color": "r-i", "slope": 0.3}}})
    known = known_color_terms(path, config)
    assert (known["r"].color, known["r"].slope, known["g"].slope) == ("r-i", 0.3, -0.2)
    path.write_text("{]")
    with pytest.raises(ConfigurationError, match=r"color-terms.json can't be read: .* photometry color-terms"):
        load_color_terms(path)


def test_catalogue_colours():
    flux = {"g": np.array([100.0, 50.0, -1.0]), "r": np.array([100.0, 100.0, 9.0])}
    error = {"g": np.array([1.0, 1.0, 1.0]), "r": np.array([1.0, np.nan, 1.0])}
    reference = ReferenceCatalogue(np.zeros(3), np.zeros(3), flux, error)
    color, color_error = catalogue_colors(reference, "g-r")
    assert color[:2] == pytest.approx([0.0, 0.7526], abs=1e-4)
    assert np.isnan(color[2])
    assert color_error[:2] == pytest.approx([1.0857 * 0.01 * np.sqrt(2), 1.0857 * 0.02], rel=1e-4)
    with pytest.raises(ConfigurationError, match="flux_u"):
        catalogue_colors(reference, "u-g")


def calexp(folder, rng, wcs, x, y, flux, *, visit, night, band="r", scale=20.0):
    """Write a calibrated exposure of stars of `flux` nJy."""
    shape, size = (400, 400), 41
    expected = np.full(shape, 300.0)
    cx, cy = np.round(x).astype(int), np.round(y).astype(int)
    stamps = moffat(x - cx, y - cy, np.full(len(x), 3.5), 3.5, size)
    for stamp, px, py, f in zip(stamps, cx, cy, flux, strict=True):
        expected[py - 20 : py + 21, px - 20 : px + 21] += stamp * f / scale
    image = rng.poisson(expected) - 300.0
    stamp = moffat(np.zeros(1), np.zeros(1), np.full(1, 3.5), 3.5, 25)
    exposure = Exposure(
        info(visit=visit, night=night, band=band),
        (image * scale).astype(np.float32),
        np.zeros(shape, np.int32),
        (np.maximum(image + 300.0, 1.0) * scale**2).astype(np.float32),
        "nJy",
        wcs,
        PsfModel((stamp / stamp.sum()).astype(np.float32), 0, shape[1], shape[0]),
        PhotoCalib(scale, 0.01, 50),
    )
    write_exposure(folder / str(night) / f"{visit}.fits", exposure)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Two nights of one field in r, with the colour term SLOPE in g-r, and their catalogue."""
    folder, rng = tmp_path_factory.mktemp("calexps"), np.random.default_rng(11)
    wcs = true_wcs(rng, (400, 400))
    gx, gy = np.meshgrid(np.arange(8), np.arange(8))
    x = 45.0 + 44.0 * gx.ravel() + rng.permutation(64) / 16.0
    y = 45.0 + 44.0 * gy.ravel() + rng.uniform(-2, 2, 64)
    color, r = rng.uniform(0.2, 1.6, 64), 20.0 * 10 ** rng.uniform(3.8, 5, 64)
    ra, dec = wcs.pixel_to_sky(x, y)
    flux = {"r": r, "g": r * 10 ** (-0.4 * color)}
    reference = ReferenceCatalogue(ra, dec, flux, {band: 0.002 * value for band, value in flux.items()}, "stars")
    for visit, night in enumerate((20250101, 20250101, 20250102)):
        seen = r * 10 ** (-0.4 * (SLOPE * (color - PIVOT) + 0.1 * visit))
        calexp(folder, rng, wcs, x, y, seen, visit=visit, night=night)
    calexp(folder, rng, wcs, x, y, r, visit=9, night=20250103, band="z")
    return folder, reference


def test_a_refit_finds_the_slope_of_the_exposures(nights):
    folder, reference = nights
    done = []
    terms = refit(folder, reference, {"r": "g-r", "z": "r-i"}, progress=lambda *count: done.append(count))
    assert set(terms) == {"r"}
    term = terms["r"]
    assert term.slope == pytest.approx(SLOPE, abs=4 * term.error)
    assert term.error < 0.01
    assert (term.nights, done[-1]) == (2, (3, 3))
    assert refit(folder, reference, {"r": "g-r"}, nights=1)["r"].nights == 1


def test_a_refit_says_what_it_lacks(nights, tmp_path):
    folder, reference = nights
    with pytest.raises(ConfigurationError, match="has the bands g, r; .* asks for i: r-i"):
        refit(folder, reference, {"i": "r-i"})
    with pytest.raises(DataError, match="no calibrated exposure of r in .*keep_calexps"):
        refit(tmp_path, reference, {"r": "g-r"})
    (tmp_path / "odd.fits").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"odd.fits is not a calibrated exposure"):
        refit(tmp_path, reference, {"r": "g-r"})


def test_the_command_writes_the_terms(nights, tmp_path):
    folder, reference = nights
    survey = tmp_path / "survey"
    assert skydelta("init", survey).code == 0
    save_reference(survey / "reference.fits", reference)
    dry = skydelta("photometry", "color-terms", folder, "-s", survey, "--nights", 1, "--dry-run")
    assert (dry.code, "g-r" in dry.out) == (0, True)
    assert not (survey / "calibrations" / "color-terms.json").exists()
    done = skydelta("photometry", "color-terms", folder, "-s", survey, "--json")
    assert done.code == 0
    assert done.json["r"]["slope"] == pytest.approx(SLOPE, abs=0.03)
    assert load_color_terms(survey / "calibrations" / "color-terms.json")["r"].nights == 2
    empty = skydelta("photometry", "color-terms", tmp_path / "survey" / "archive", "-s", survey)
    assert empty.code in (2, 5)
