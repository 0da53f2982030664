"""A reference catalogue from extracts: formats, units, joins across pixels and at the pole, and what is left out."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table, vstack

from schemas.errors import ConfigurationError, DataError
from workers.imaging.proper_motion import moved
from workers.imaging.reference import ReferenceCatalogue, save_reference
from workers.imaging.reference_store import open_reference
from workers.reference_build import tables
from workers.reference_build.build import BuildOptions, build_reference
from workers.reference_build.columns import read_column_map
from workers.reference_build.presets import GAIA_TO_AB

MAS = 1.0 / 3.6e6
AB = {"G": 25.8010446445, "BP": 25.3539555559, "RP": 25.1039837393}


def gaia(ra, dec, seed=1, mean_pm=20.0):
    """A Gaia extract as the archive gives it; G from 12 to 20."""
    rng, n = np.random.default_rng(seed), len(ra)
    table = Table({"source_id": np.arange(n), "ra": np.asarray(ra, float), "dec": np.asarray(dec, float)})
    table["ref_epoch"] = np.full(n, 2016.0)
    for name in ("pmra", "pmdec"):
        table[name], table[f"{name}_error"] = rng.normal(0, mean_pm, n), np.full(n, 0.1)
    table["parallax"], table["ra_error"], table["dec_error"] = np.full(n, 1.5), np.full(n, 0.2), np.full(n, 0.3)
    magnitude = rng.uniform(12, 20, n)
    for band, stem in (("G", "g"), ("BP", "bp"), ("RP", "rp")):
        table[f"phot_{stem}_mean_flux"] = 10 ** (0.4 * (AB[band] - magnitude))  # so AB magnitudes are `magnitude`
        table[f"phot_{stem}_mean_flux_error"] = 0.01 * table[f"phot_{stem}_mean_flux"]
        table[f"phot_{stem}_mean_mag"] = magnitude - GAIA_TO_AB[band]
    return table


def ps1(ra, dec, magnitude, epoch=56000.0):
    n = len(ra)
    table = Table({"objID": np.arange(n), "raMean": np.asarray(ra, float), "decMean": np.asarray(dec, float)})
    table["epochMean"], table["raMeanErr"], table["decMeanErr"] = (
        np.broadcast_to(epoch, n),
        np.full(n, 0.01),
        np.full(n, 0.02),
    )
    for band, color in (("g", 0.6), ("r", 0.0), ("i", -0.2)):
        table[f"{band}MeanPSFMag"], table[f"{band}MeanPSFMagErr"] = magnitude + color, np.full(n, 0.02)
    return table


def field(n, ra=0.0, dec=41.8, size=3.0, seed=2):
    """Places in a square on the sky round (ra, dec), degrees; it may hold a pole."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.5 * size, 0.5 * size, (2, n)) * 3.6e6
    places = moved(np.full(n, ra), np.full(n, dec), x, y, 1.0)
    return places[0], places[1]


def write(table, path, **how):
    table.write(path, overwrite=True, **how)
    return path


def build(folder, *paths, **options):
    return build_reference(folder, paths, BuildOptions(**options))


def every(store):
    stars = store.within(0.0, 0.0, 180.0)
    return stars.chosen(np.lexsort([stars.ra, stars.dec]))


def test_gaia_is_turned_to_ab_nanojansky(tmp_path):
    table = gaia(*field(200))
    store, report = build(tmp_path / "ref", write(table, tmp_path / "gaia.csv"))
    stars, rows = every(store), table[np.lexsort([table["ra"], table["dec"]])]
    assert store.bands == ("BP", "G", "RP")
    for band, stem in (("G", "g"), ("BP", "bp"), ("RP", "rp")):
        flux = 10 ** (0.4 * (31.4 - rows[f"phot_{stem}_mean_mag"] - GAIA_TO_AB[band]))
        np.testing.assert_allclose(stars.flux[band], flux, rtol=1e-6)
        np.testing.assert_allclose(stars.fluxErr[band], 0.01 * flux, rtol=1e-6)
    for name, column in (
        ("pmRa", "pmra"),
        ("pmDecErr", "pmdec_error"),
        ("parallax", "parallax"),
        ("decErr", "dec_error"),
    ):
        np.testing.assert_allclose(getattr(stars, name), rows[column], rtol=1e-6)
    np.testing.assert_array_equal(stars.epoch, 57388.5)
    np.testing.assert_array_equal(stars.ra, rows["ra"])
    np.testing.assert_allclose(stars.color("BP", "RP"), 0.0, atol=1e-6)
    assert (report.stars, report.inputs[0].rows, report.inputs[0].assumedEpoch) == (200, 200, None)


def test_the_documented_zero_points():
    np.testing.assert_allclose([GAIA_TO_AB[band] for band in ("G", "BP", "RP")], [0.1137, 0.0154, 0.3561], atol=5e-5)


def test_magnitudes_alone_will_do(tmp_path):
    full = gaia(*field(100))
    plain = full["ra", "dec", "phot_g_mean_mag", "phot_bp_mean_mag"]
    store, report = build(tmp_path / "mag", write(plain, tmp_path / "mag.csv"))
    both = build(tmp_path / "flux", write(full, tmp_path / "flux.csv"))[0]
    np.testing.assert_allclose(every(store).flux["BP"], every(both).flux["BP"], rtol=1e-6)
    assert np.isnan(every(store).fluxErr["G"]).all()
    assert report.inputs[0].assumedEpoch == 2016.0
    plain["phot_g_mean_flux_over_error"] = 250.0
    ratio = every(build(tmp_path / "ratio", write(plain, tmp_path / "ratio.csv"))[0])
    np.testing.assert_allclose(ratio.fluxErr["G"] / ratio.flux["G"], 1 / 250, rtol=1e-6)


def test_every_format_and_order_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS", 37)
    monkeypatch.setattr(tables, "_BYTES", 20_000)
    table = gaia(*field(400))
    table["phot_bp_mean_flux"][::9] = np.nan
    shuffled = table[np.random.default_rng(4).permutation(400)]
    shuffled["pmra"].unit = shuffled["pmdec"].unit = u.mas / u.yr
    masked = Table(shuffled, masked=True)
    masked["phot_bp_mean_flux"].mask = np.isnan(shuffled["phot_bp_mean_flux"])
    files = {
        "a.fits": write(table, tmp_path / "a.fits"),
        "b.fits.gz": write(shuffled, tmp_path / "b.fits.gz"),
        "c.csv": write(masked, tmp_path / "c.csv"),
        "d.ecsv": write(masked, tmp_path / "d.ecsv"),
        "e.ecsv": write(masked, tmp_path / "e.ecsv", delimiter=","),
        "f.vot": write(masked, tmp_path / "f.vot", format="votable", tabledata_format="binary2"),
    }
    text = (tmp_path / "c.csv").read_text()
    (tmp_path / "g.csv").write_text("# from an archive\n" + text.replace(",,", ",null,"))
    (tmp_path / "h.tsv").write_text(text.replace(",", "\t"))
    stores = {name: build(tmp_path / f"of {name}", path)[0] for name, path in files.items()}
    stores |= {name: build(tmp_path / f"of {name}", tmp_path / name)[0] for name in ("g.csv", "h.tsv")}
    assert len({store.name for store in stores.values()}) == 1
    assert stores["a.fits"].index.measured == {"BP": 400 - 45, "G": 400, "RP": 400}


def test_units_that_a_file_states_are_turned(tmp_path):
    table = gaia(*field(50))
    first = build(tmp_path / "one", write(table, tmp_path / "one.fits"))[0]
    for name, unit, factor in (("pmra", "arcsec/yr", 1e-3), ("ra", "rad", np.pi / 180), ("ra_error", "deg", MAS)):
        table[name] = table[name] * factor
        table[name].unit = unit
    second = every(build(tmp_path / "two", write(table, tmp_path / "two.fits"))[0])
    for name in ("ra", "pmRa", "raErr"):
        np.testing.assert_allclose(getattr(second, name), getattr(every(first), name), rtol=1e-6)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 41.8), (123.0, 89.9), (200.0, -90.0), (45.0, 0.0)])
def test_gaia_and_ps1_are_joined_wherever_they_are(tmp_path, ra, dec):
    """Stars that move up to 3 arcsec between the epochs, over borders of pixels and the pole; truth is known."""
    rng = np.random.default_rng(7)
    table = gaia(*field(3000, ra, dec), mean_pm=150.0)
    table["pmra"][:5] = 10_000.0
    epoch = rng.uniform(55200, 56700, 3000)
    then = moved(table["ra"], table["dec"], table["pmra"], table["pmdec"], (epoch - 57388.5) / 365.25)
    there = moved(then[0], then[1], *rng.normal(0, 30, (2, 3000)), 1.0)
    magnitude = np.asarray(table["phot_g_mean_mag"])
    other = ps1(there[0], there[1], magnitude, epoch)
    far = field(800, ra, dec, seed=11)
    only_gaia, only_ps1 = rng.random(3000) < 0.1, rng.random(3000) < 0.1
    alone = ps1(far[0], far[1], np.full(800, 21.0))
    paths = [
        write(vstack([other[~only_gaia], alone]), tmp_path / "p.fits"),
        write(table[~only_ps1], tmp_path / "g.fits"),
    ]
    store, report = build(tmp_path / "ref", *paths, nside=64)
    stars = every(store)
    in_both = int(np.count_nonzero(~only_gaia & ~only_ps1))
    lone = int(np.count_nonzero(only_ps1 & ~only_gaia)) + 800
    assert abs(report.joined - in_both) <= 4  # 3000 stars in 9 square degrees: chance neighbours within an arcsec
    assert report.ambiguous <= 4
    assert (
        report.stars
        == len(stars)
        == int(np.count_nonzero(~only_ps1)) + lone - (report.joined - in_both) - report.ambiguous
    )
    joined = np.isfinite(stars.flux["G"]) & np.isfinite(stars.flux["r"])
    assert np.count_nonzero(joined) == report.joined
    ratio = stars.color("r", "G")[joined] + GAIA_TO_AB["G"]
    assert np.count_nonzero(np.abs(ratio) > 1e-3) <= 2
    assert np.isin(stars.ra[joined], table["ra"]).all()  # Gaia's places and motions stand
    assert np.isfinite(stars.pmRa[joined]).all()
    assert np.count_nonzero(np.abs(stars.pmRa[joined]) > 9_000) >= 2
    assert build(tmp_path / "again", *reversed(paths), nside=64)[0].name == store.name
    assert build(tmp_path / "wide", *paths, nside=2)[1].joined == report.joined


def test_doubtful_pairs_stay_apart(tmp_path):
    """A blend between two stars is nobody's; a fragment beside a clear match goes; the match stays."""
    places = gaia([10.0, 10.0, 20.0, 30.0], [0.0, 0.6 / 3600, 0.0, 0.0], mean_pm=0.0)
    others = ps1(
        [10.0, 20.0, 20.0, 30.0, 40.0],
        np.array([0.32, 0.05, 0.7, 1.2, 0.0]) / 3600,
        np.full(5, 18.0),
    )
    store, report = build(tmp_path / "ref", write(places, tmp_path / "g.csv"), write(others, tmp_path / "p.csv"))
    assert (report.joined, report.ambiguous, report.stars) == (1, 2, 6)
    stars = every(store)
    joined = stars.chosen(np.isfinite(stars.flux["G"]) & np.isfinite(stars.flux["g"]))
    np.testing.assert_array_equal(joined.ra, [20.0])
    assert build(tmp_path / "far", tmp_path / "g.csv", tmp_path / "p.csv", radius=1.5)[1].joined == 2


def test_what_is_left_out_is_counted(tmp_path):
    table = ps1(*field(100), np.full(100, 17.0))
    table["raMean"][:3], table["decMean"][3] = -999.0, np.nan
    for band in "gri":
        table[f"{band}MeanPSFMag"][3:10] = -999.0
    table["rMeanPSFMag"][10] = -999.0
    first = write(table[:70], tmp_path / "one.csv")
    second = write(table[50:], tmp_path / "two.fits")
    store, report = build(tmp_path / "ref", first, second)
    one, two = report.inputs
    assert (one.rows, one.noPosition, one.noFlux, two.rows) == (70, 4, 6, 50)
    assert (report.duplicates, report.stars, len(store)) == (20, 90, 90)
    assert store.index.measured == {"g": 90, "i": 90, "r": 89}
    assert store.index.history["inputs"][0]["noFlux"] == 6
    assert one.rows + two.rows - one.noPosition - one.noFlux - report.duplicates == report.stars
    np.testing.assert_allclose(every(store).raErr, 10.0)
    np.testing.assert_allclose(every(store).fluxErr["g"] / every(store).flux["g"], 0.02 * 0.4 * np.log(10), rtol=1e-6)


def test_columns_by_any_name(tmp_path):
    table = Table({"RA_J": [10.0, 11.0], "DE_J": [5.0, 6.0], "mu": [0.1, 0.2]})
    table["Ks"], table["e_Ks"], table["Fx"] = [12.0, 13.0], [0.1, 0.1], [1.0, 2.0]
    path = write(table, tmp_path / "any.csv")
    mapping = tmp_path / "map.toml"
    mapping.write_text('[columns]\nra = "RA_J"\ndec = "DE_J"\nepoch = 2000.0\n[bands]\nK = "Ks,e_Ks[mag+1.85]"\n')
    given = read_column_map(mapping, ["pmRa=mu[arcsec/yr]", "pmDec=mu[arcsec/yr]"], ["x=Fx[uJy]"])
    stars = every(build(tmp_path / "ref", path, columns=given)[0])
    assert stars.bands == ("K", "x")
    np.testing.assert_allclose(stars.flux["K"], 10 ** (0.4 * (31.4 - 1.85 - table["Ks"])), rtol=1e-6)
    np.testing.assert_allclose(stars.fluxErr["K"] / stars.flux["K"], 0.1 * 0.4 * np.log(10), rtol=1e-6)
    np.testing.assert_allclose(stars.flux["x"], [1e3, 2e3])
    np.testing.assert_allclose(stars.pmRa, [100, 200])
    np.testing.assert_array_equal(stars.epoch, 51544.5)
    assert build(tmp_path / "k", path, columns=given, bands=("K",))[0].bands == ("K",)


@pytest.mark.parametrize(
    ("columns", "bands", "text"),
    [
        ([], [], "has no column for ra and dec; its columns are RA_J, DE_J, Ks"),
        (["ra=RA_J", "dec=DE_J"], [], "no column for a flux or magnitude of any band"),
        (["ra=RAX", "dec=DE_J"], ["K=Ks[mag]"], "ra=RAX: no input has such a column. any.csv has RA_J, DE_J, Ks"),
        (["ra=RA_J", "dec=DE_J"], ["K=Ks"], r"give it as --band K=Ks\[mag\]"),
        (["ra=RA_J[mag]", "dec=DE_J"], ["K=Ks[mag]"], "RA_J is in 'mag'"),
        (["right=RA_J"], [], "there is no quantity right; there are ra, dec, epoch"),
        (["ra"], [], "'ra' is not understood"),
        ([], ["K=Ks["], "not understood"),
    ],
)
def test_columns_that_are_not_understood(tmp_path, columns, bands, text):
    path = write(Table({"RA_J": [10.0], "DE_J": [5.0], "Ks": [12.0]}), tmp_path / "any.csv")
    with pytest.raises(ConfigurationError, match=text):
        build(tmp_path / "ref", path, columns=read_column_map(None, columns, bands))
    assert not (tmp_path / "ref").exists()


def test_our_own_table_is_an_input(tmp_path):
    ra, dec = field(60)
    flux = {"r": np.full(60, 1000.0)}
    old = ReferenceCatalogue(ra, dec, flux, flux, epoch=np.array(58000.0), pmRa=np.ones(60), pmDec=np.ones(60))
    save_reference(tmp_path / "reference.fits", old)
    stars = every(build(tmp_path / "ref", tmp_path / "reference.fits")[0])
    order = np.lexsort([ra, dec])
    np.testing.assert_array_equal(stars.ra, ra[order])
    np.testing.assert_array_equal(stars.epoch, 58000.0)
    np.testing.assert_array_equal(stars.fluxErr["r"], 1000.0)


def test_two_catalogues_of_one_band_are_refused(tmp_path):
    one = write(ps1(*field(5), np.full(5, 17.0)), tmp_path / "p.csv")
    two = write(Table({"ra": [1.0], "dec": [2.0], "mag_r": [15.0]}), tmp_path / "q.csv")
    with pytest.raises(ConfigurationError, match="two catalogues have a band r"):
        build(tmp_path / "ref", one, two)
    with pytest.raises(ConfigurationError, match="no input has a band u; there are g, i, r"):
        build(tmp_path / "ref", one, bands=("r", "u"))


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        build(tmp_path / "ref", tmp_path / "none.fits")
    (tmp_path / "cut.fits").write_bytes(b"SIMPLE  =")
    with pytest.raises(DataError, match="cut.fits can't be read"):
        build(tmp_path / "ref", tmp_path / "cut.fits")
    words = write(Table({"ra": [1.0], "dec": ["north"], "mag_r": [15.0]}), tmp_path / "words.csv")
    with pytest.raises(DataError, match="the column dec does not hold numbers"):
        build(tmp_path / "ref", words)
    (tmp_path / "torn.csv").write_text("ra,dec,mag_r\n1.0,2.0,15.0\n1.0\n1,2,3,4,5\n")
    with pytest.raises(DataError, match="torn.csv can't be read"):
        build(tmp_path / "ref", tmp_path / "torn.csv")
    empty = write(ps1([1.0], [95.0], np.array([17.0])), tmp_path / "empty.csv")
    with pytest.raises(DataError, match="no star is left of empty.csv: empty.csv: 1 rows, 1 without position"):
        build(tmp_path / "ref", empty)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.fits", "empty.csv", "torn.csv", "words.csv"]


def test_a_catalogue_is_replaced_only_when_asked(tmp_path):
    path = write(gaia(*field(20)), tmp_path / "g.csv")
    store, _ = build(tmp_path / "ref", path)
    with pytest.raises(ConfigurationError, match="exists already"):
        build(tmp_path / "ref", path, bands=("G",))
    build(tmp_path / "ref", path, bands=("G",), replace=True)
    assert open_reference(tmp_path / "ref").bands == ("G",)
    assert store.bands == ("BP", "G", "RP")
