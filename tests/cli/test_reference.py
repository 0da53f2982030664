"""`skydelta reference`: build a catalogue, look into it, and the page that tells how."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from tests.cli.command import skydelta
from tests.docs.page import blocks, shell
from tests.system.nights import REPOSITORY
from workers.imaging.reference import ReferenceCatalogue, save_reference
from workers.imaging.reference_store import open_reference

PAGE = REPOSITORY / "docs" / "reference-catalogue.md"
REFCATS = REPOSITORY.parent / "shared" / "data" / "refcats"


@pytest.fixture(scope="module")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extract") / "gaia.csv"
    n = 100
    table = Table({"ra": np.linspace(10, 11, n), "dec": np.linspace(-5, -6, n), "ref_epoch": np.full(n, 2016.0)})
    table["pmra"], table["pmdec"] = np.full(n, 3600.0), np.full(n, 0.0)
    table["phot_g_mean_mag"] = np.linspace(12, 18, n)
    table["phot_g_mean_mag"][7] = np.nan
    table.write(path)
    return path


@pytest.fixture(scope="module")
def built(extract: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "ref"
    assert skydelta("reference", "build", path, "--input", extract).code == 0
    return path


def test_build_says_what_became_of_the_rows(extract: Path, tmp_path: Path) -> None:
    done = skydelta("reference", "build", tmp_path / "ref", "--input", extract)
    assert done.code == 0
    assert "gaia.csv" in done.err
    table, last = done.out.splitlines()[1].split(), done.out.splitlines()[-1]
    assert table == ["gaia.csv", "gaia", "G", "100", "0", "1"]
    assert last.startswith(f"{tmp_path / 'ref'}: reference-")
    assert last.endswith("99 stars in 2 shards")
    shown = skydelta("reference", "build", tmp_path / "other", "--input", extract, "--json").json
    assert shown["inputs"][0]["noFlux"] == 1
    assert (shown["stars"], shown["name"]) == (99, open_reference(tmp_path / "ref").name)


def test_show(built: Path) -> None:
    shown = skydelta("reference", "show", "--catalogue", built, "--json").json
    assert (shown["stars"], shown["measured"], shown["moving"]) == (99, {"G": 99}, 99)
    assert (shown["epoch"], shown["order"], shown["shards"]) == ([57388.5, 57388.5], "nested", 2)
    assert "near" not in shown
    plain = skydelta("reference", "show", "--catalogue", built)
    assert (plain.code, plain.err) == (0, "")
    assert "epoch, pmRa, pmDec" in plain.out


def test_show_near_a_place_and_date(built: Path) -> None:
    near = skydelta("reference", "show", "10.0", "-5.0", "--catalogue", built, "--json").json["near"]
    assert near[0]["distance"] < 0.01
    assert near[0]["magnitude"]["G"] == pytest.approx(12.1137, abs=1e-3)
    assert near[0]["parallax"] is None
    later = skydelta(
        "reference", "show", "10.0", "-5.0", "--catalogue", built, "--json", "--mjd", 57388.5 + 3652.5
    ).json
    assert later["near"][0]["distance"] == pytest.approx(36.0, abs=0.01)
    plain = skydelta("reference", "show", "10.0", "-5.0", "--radius", 100, "--catalogue", built)
    assert plain.out.count("12.114") == 1
    assert "2 stars within 100 arcsec" in plain.out
    assert "0 stars within" in skydelta("reference", "show", "100", "-5.0", "--catalogue", built).out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["show", "10.0"], 2, "give RA and DEC"),
        (["show", "10.0", "91"], 2, "DEC from -90 to 90"),
        (["show", "--catalogue", "nowhere"], 3, "nowhere does not exist"),
        (["build", "ref"], 2, "--input"),
        (["build", "ref", "--input", "nowhere.csv"], 5, "nowhere.csv does not exist"),
        (["build", "ref", "--input", "nowhere.csv", "--nside", "33"], 2, "a power of 2"),
        (["build", "ref", "--input", "nowhere.csv", "--column", "x=y"], 3, "there is no quantity x"),
    ],
)
def test_what_goes_wrong_is_said(words: list[str], code: int, text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = skydelta("reference", *words)
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_survey_uses_the_folder(built: Path, tmp_path: Path) -> None:
    assert skydelta("init", tmp_path / "survey").code == 0
    toml = tmp_path / "survey" / "survey.toml"
    text = toml.read_text()
    assert '# path = "reference.fits"' in text
    toml.write_text(text.replace('# path = "reference.fits"', f'path = "{built}"'))
    assert skydelta("reference", "show", "-s", tmp_path / "survey", "--json").json["stars"] == 99
    checks = skydelta("check", "-s", tmp_path / "survey", "--json").json
    (found,) = [one for one in checks if one["what"] == "reference"]
    assert (found["good"], found["text"]) == (True, "99 stars in bands G")


def test_one_table_is_shown_too(tmp_path: Path) -> None:
    flux = {"r": np.array([1e3, np.nan])}
    save_reference(tmp_path / "one.fits", ReferenceCatalogue(np.array([1.0, 2.0]), np.zeros(2), flux, flux))
    shown = skydelta("reference", "show", "1.0", "0.0", "--catalogue", tmp_path / "one.fits", "--json").json
    assert (shown["stars"], shown["measured"], shown["epoch"]) == (2, {"r": 1}, None)
    assert shown["near"][0]["magnitude"] == {"r": pytest.approx(23.9)}


@pytest.mark.realdata
@pytest.mark.skipif(not REFCATS.is_dir(), reason="real data not available: ../shared/data is absent")
def test_the_page_on_real_extracts(tmp_path: Path) -> None:
    """181 Gaia stars of one field, nearly all of them in PS1 as well, with the colours that stars have."""
    found = blocks("refcats", PAGE)
    assert PAGE.read_text(encoding="utf-8").count("```sh\n") == len(found) == 1
    out = shell(f"REFCATS={REFCATS}\n{found[0][1]}", tmp_path)
    near = json.loads(out[out.index("\n{") :])["near"]
    assert near
    assert all(star["distance"] <= 60.0 for star in near)
    store = open_reference(tmp_path / "gaia-ps1")
    assert store.bands == ("G", "g", "i", "r", "y", "z")
    stars = store.within(156.43, -5.83, 0.5)
    both = np.isfinite(stars.flux["G"]) & np.isfinite(stars.flux["r"])
    assert np.count_nonzero(np.isfinite(stars.flux["G"])) == 181
    assert np.count_nonzero(both) > 170
    sunlike = both & (stars.color("g", "r") > 0.2) & (stars.color("g", "r") < 0.9)
    assert np.count_nonzero(sunlike) > 50
    assert 0.0 < np.median(stars.color("G", "r")[sunlike]) < 0.2  # both AB; as Vega G stands -0.05 there
    assert len(store) == 14_781 + 181 - 180
