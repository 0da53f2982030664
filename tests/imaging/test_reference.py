"""The reference catalogue and its table."""

import hashlib

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from workers.imaging.reference import MOTION, ReferenceCatalogue, load_reference, save_reference


def catalogue(n=200, seed=1, name="reference.fits"):
    rng = np.random.default_rng(seed)
    flux = {band: rng.uniform(1e3, 1e6, n) for band in "gr"}
    error = {band: 0.01 * column for band, column in flux.items()}
    return ReferenceCatalogue(rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n))), flux, error, name)


def test_what_is_written_is_read(tmp_path):
    stars = catalogue()
    save_reference(tmp_path / "reference.fits", stars)
    read = load_reference(tmp_path / "reference.fits")
    np.testing.assert_array_equal(read.ra, stars.ra)
    np.testing.assert_array_equal(read.in_band("r")[1], stars.fluxErr["r"])
    assert read.bands == ("g", "r")
    digest = hashlib.sha256((tmp_path / "reference.fits").read_bytes()).hexdigest()
    assert read.name == f"reference-{digest[:12]}"
    assert len(read) == 200


@given(st.floats(0, 360), st.floats(-90, 90), st.floats(0.01, 180))
def test_selection_is_the_circle(ra, dec, radius):
    stars = catalogue()
    apart = SkyCoord(stars.ra, stars.dec, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg
    inside = set(stars.rows_within(ra, dec, radius).tolist())
    assert inside >= set(np.flatnonzero(apart < radius - 1e-6).tolist())
    assert inside <= set(np.flatnonzero(apart < radius + 1e-6).tolist())


def test_selection_keeps_columns_together():
    stars = catalogue()
    near = stars.within(180.0, 0.0, 60.0)
    assert 0 < len(near) < len(stars)
    rows = stars.rows_within(180.0, 0.0, 60.0)
    np.testing.assert_array_equal(near.flux["g"], stars.flux["g"][rows])


def test_records_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        catalogue().ra[0] = 1.0


def test_a_missing_file_names_the_ways_out(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\[reference\] path.*skydelta reference from-frame"):
        load_reference(tmp_path / "none.fits")


def test_a_band_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigurationError, match="no column flux_z; it has the bands g, r"):
        catalogue().in_band("z")


def test_not_fits(tmp_path):
    (tmp_path / "r.fits").write_bytes(b"not a table")
    with pytest.raises(ConfigurationError, match="can't be read as FITS"):
        load_reference(tmp_path / "r.fits")


def test_no_table(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "r.fits")
    with pytest.raises(ConfigurationError, match="no binary table"):
        load_reference(tmp_path / "r.fits")


@pytest.mark.parametrize(
    ("names", "lacking"),
    [(["ra", "dec", "flux_r"], "flux_r_err"), (["ra", "flux_r", "flux_r_err"], "dec"), (["ra", "dec"], "flux_<band>")],
)
def test_missing_columns_are_named(tmp_path, names, lacking):
    columns = [fits.Column(name, "D", array=np.ones(3)) for name in names]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "r.fits")
    with pytest.raises(ConfigurationError, match=f"lacks .*{lacking}"):
        load_reference(tmp_path / "r.fits")


def test_rows_without_position_are_left_out(tmp_path):
    columns = [fits.Column(name, "D", array=[1.0, np.nan, 3.0]) for name in ("ra", "dec", "flux_r", "flux_r_err")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "r.fits")
    assert len(load_reference(tmp_path / "r.fits")) == 2


def test_lengths_must_agree():
    with pytest.raises(ConfigurationError, match="differ in length"):
        ReferenceCatalogue(np.zeros(3), np.zeros(3), {"r": np.zeros(2)}, {"r": np.zeros(2)})
    with pytest.raises(ConfigurationError, match="same stars and bands"):
        ReferenceCatalogue(np.zeros(3), np.zeros(3), {"r": np.zeros(3)}, {})


def moving(n=50):
    rng = np.random.default_rng(2)
    flux = {band: rng.uniform(1e3, 1e6, n) for band in "gr"}
    columns = {name: rng.uniform(1, 5, n) for name in MOTION} | {"epoch": rng.uniform(56000, 58000, n)}
    columns["parallax"] = np.where(rng.random(n) < 0.5, np.nan, columns["parallax"])
    return ReferenceCatalogue(rng.uniform(0, 360, n), rng.uniform(-90, 90, n), flux, flux, "moving", **columns)


def test_motions_are_kept(tmp_path):
    stars = moving()
    save_reference(tmp_path / "reference.fits", stars)
    read = load_reference(tmp_path / "reference.fits").chosen([4, 2])
    for name in MOTION:
        np.testing.assert_array_equal(getattr(read, name), getattr(stars, name)[[4, 2]])
    assert not moving().pmRa.flags.writeable


def test_a_file_without_motions_has_none(tmp_path):
    save_reference(tmp_path / "reference.fits", catalogue())
    assert "pmRa" not in fits.getdata(tmp_path / "reference.fits").names
    read = load_reference(tmp_path / "reference.fits")
    assert all(np.isnan(getattr(read, name)).all() and len(getattr(read, name)) == 200 for name in MOTION)
    assert len(read.chosen(np.zeros(200, bool)).pmRa) == 0


def test_one_number_for_all():
    stars = ReferenceCatalogue(np.zeros(3), np.zeros(3), {"r": np.ones(3)}, {"r": np.ones(3)}, epoch=np.array(57388.5))
    np.testing.assert_array_equal(stars.epoch, np.full(3, 57388.5))
    np.testing.assert_array_equal(stars.chosen([1]).epoch, [57388.5])
    assert stars.chosen([False] * 3).epoch.shape == (0,)
    with pytest.raises(ConfigurationError, match="pmRa and ra differ"):
        ReferenceCatalogue(np.zeros(3), np.zeros(3), {"r": np.ones(3)}, {"r": np.ones(3)}, pmRa=np.zeros(2))


def test_color_is_of_magnitudes():
    flux = {"g": np.array([1.0, 0.0, np.nan, 5.0, -1.0]), "r": np.array([100.0, 1.0, 1.0, 5.0, -1.0])}
    stars = ReferenceCatalogue(np.zeros(5), np.zeros(5), flux, flux)
    np.testing.assert_allclose(stars.color("g", "r"), [5.0, np.nan, np.nan, 0.0, np.nan])
    np.testing.assert_allclose(stars.color("r", "g")[0], -5.0)
    with pytest.raises(ConfigurationError, match="no column flux_z; it has the bands g, r"):
        stars.color("g", "z")


def test_units_that_a_file_states_are_turned(tmp_path):
    columns = [
        fits.Column("ra", "D", unit="rad", array=np.radians([10.0])),
        fits.Column("dec", "D", unit="rad", array=np.radians([-20.0])),
        fits.Column("flux_r", "D", unit="Jy", array=[1e-6]),
        fits.Column("flux_r_err", "D", unit="Jy", array=[1e-8]),
        fits.Column("PMRA", "E", unit="arcsec/yr", array=[0.01]),
        fits.Column("epoch", "D", unit="yr", array=[2016.0]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "r.fits")
    read = load_reference(tmp_path / "r.fits")
    np.testing.assert_allclose(
        [read.ra[0], read.dec[0], read.flux["r"][0], read.pmRa[0]], [10, -20, 1e3, 10], rtol=1e-6
    )
    np.testing.assert_array_equal(read.epoch, [57388.5])
    columns[4] = fits.Column("pmra", "E", unit="Jy", array=[0.01])
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "r.fits", overwrite=True)
    with pytest.raises(ConfigurationError, match="pmra is in Jy, not in mas/yr"):
        load_reference(tmp_path / "r.fits")
