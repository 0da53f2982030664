"""The sharded reference catalogue: what a cone reads, names by content, damage, and rebuilding in place."""

import json

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy_healpix import HEALPix
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from workers.imaging import reference_store
from workers.imaging.reference import MOTION, ReferenceCatalogue, load_reference, save_reference
from workers.imaging.reference_store import INDEX, ReferenceStore, open_reference, shard_path
from workers.imaging.reference_writing import StoreWriter, write_store

NSIDE = 4


def sky(n, seed=3, name="all"):
    """n stars all over the sky; numbers that float32 holds exactly, but for places."""
    rng = np.random.default_rng(seed)
    flux = {band: rng.integers(1, 1 << 20, n).astype(float) for band in ("BP", "g", "r")}
    flux["g"][::7] = np.nan
    error = {band: np.round(0.01 * column) for band, column in flux.items()}
    motion = {key: rng.integers(-500, 500, n) / 8.0 for key in ("pmRa", "pmDec")} | {"epoch": rng.uniform(5e4, 6e4, n)}
    return ReferenceCatalogue(
        rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n))), flux, error, name, **motion
    )


@pytest.fixture(scope="module")
def stars():
    return sky(20_000)


@pytest.fixture(scope="module")
def folder(stars, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "gaia"
    write_store(path, stars, NSIDE)
    return path


def same(one, other):
    """Tell whether two catalogues hold the same stars, in whatever order."""
    assert len(one) == len(other)
    a, b = np.lexsort([one.ra, one.dec]), np.lexsort([other.ra, other.dec])
    for name in ("ra", "dec", *MOTION):
        np.testing.assert_array_equal(getattr(one, name)[a], getattr(other, name)[b])
    for band in one.bands:
        np.testing.assert_array_equal(one.flux[band][a], other.flux[band][b])
        np.testing.assert_array_equal(one.fluxErr[band][a], other.fluxErr[band][b])
    return True


def test_everything_comes_back(stars, folder):
    store = open_reference(folder)
    assert (len(store), store.bands) == (20_000, ("BP", "g", "r"))
    assert same(store.within(12.0, 34.0, 180.0), stars)


RAS = st.one_of(st.floats(0, 360), st.sampled_from([0.0, 360.0, 359.9999]))
DECS = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.9999, 90.0, 89.5, 0.0, 41.8]))


@given(RAS, DECS, st.floats(0, 60))
@settings(max_examples=60, deadline=None)
def test_a_cone_is_a_cone(stars, folder, ra, dec, radius):
    store = ReferenceStore.open(folder)
    found = store.within(ra, dec, radius)
    assert same(found, stars.within(ra, dec, radius))
    assert found.name == store.name
    assert found.bands == store.bands


def test_only_shards_that_the_cone_touches_are_read(folder):
    """Against the pixels of a million points in the cone; a pixel that it barely touches may be missed by them."""
    rng, healpix = np.random.default_rng(6), HEALPix(nside=NSIDE, order="nested")
    more = 0
    for ra, dec, radius in [
        (0.0, 0.0, 0.3),
        (359.99, 41.0, 5.0),
        (77.0, 90.0, 3.0),
        (200.0, -88.0, 10.0),
        (120.0, 20.0, 0.01),
    ]:
        store = ReferenceStore.open(folder)
        store.within(ra, dec, radius)
        cos_far = 1.0 - (1.0 - np.cos(np.radians(radius))) * rng.random(200_000)
        turn, far = rng.uniform(0, 2 * np.pi, 200_000), np.arccos(cos_far)
        pole = np.radians(dec)
        sin_lat = np.sin(pole) * np.cos(far) + np.cos(pole) * np.sin(far) * np.cos(turn)
        lon = np.arctan2(np.sin(turn) * np.sin(far) * np.cos(pole), np.cos(far) - np.sin(pole) * sin_lat)
        inside = np.unique(healpix.lonlat_to_healpix((np.radians(ra) + lon) * u.rad, np.arcsin(sin_lat) * u.rad))
        assert set(store.pixels_within(ra, dec, radius)) >= set(inside.tolist())
        assert store.reads == len(store.pixels_within(ra, dec, radius))
        more += store.reads - len(inside)
        store.within(ra, dec, radius)
        assert store.reads == len(store.pixels_within(ra, dec, radius))
    assert more <= 2


def test_a_detector_opens_a_few_shards(tmp_path):
    """Most of the sky's 12288 shards stay closed, and what was read last stays in memory."""
    n = 250_000
    rng = np.random.default_rng(1)
    pixel = rng.integers(0, 100, n)
    ra, dec = HEALPix(nside=32, order="nested").healpix_to_lonlat(pixel, rng.random(n), rng.random(n))
    flux = {"r": np.ones(n)}
    store = write_store(tmp_path / "ref", ReferenceCatalogue(ra.to_value("deg"), dec.to_value("deg"), flux, flux))
    assert len(store.index.shards) == 100
    counts = []
    for _ in range(40):
        before, row = store.reads, rng.integers(n)
        near = store.within(ra[row].to_value("deg"), dec[row].to_value("deg"), 0.3)
        assert 50 < len(near) < 400
        counts.append(store.reads - before)
    assert max(counts) <= 4
    assert np.mean(counts) < 2.5


def test_memory_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(reference_store, "CACHED_STARS", 1000)
    store = ReferenceStore.open(folder)
    store.within(0.0, 0.0, 180.0)
    shards = len(store.index.shards)
    assert store.reads == shards
    assert sum(map(len, store._held.values())) <= 1000
    last = store.pixels_within(0.0, 0.0, 180.0)[-1]
    store._rows(last)
    assert store.reads == shards
    store._rows(store.pixels_within(0.0, 0.0, 180.0)[0])
    assert store.reads == shards + 1


def test_the_name_is_the_content(stars, folder, tmp_path):
    shuffled = stars.chosen(np.random.default_rng(9).permutation(len(stars)))
    again = write_store(tmp_path / "other name", shuffled, NSIDE)
    store = ReferenceStore.open(folder)
    assert again.name == store.name
    assert [shard.sha256 for shard in again.index.shards] == [shard.sha256 for shard in store.index.shards]
    changed = {**stars.flux, "r": stars.flux["r"] + (np.arange(len(stars)) == 77)}
    other = ReferenceCatalogue(
        stars.ra, stars.dec, changed, stars.fluxErr, epoch=stars.epoch, pmRa=stars.pmRa, pmDec=stars.pmDec
    )
    assert write_store(tmp_path / "changed", other, NSIDE).name != store.name


def test_catalogue_json_says_what_it_holds(stars, folder):
    tree = json.loads((folder / INDEX).read_text())
    assert (tree["stars"], tree["nside"], tree["order"], tree["bands"]) == (20_000, 4, "nested", ["BP", "g", "r"])
    assert tree["columns"] == ["epoch", "pmRa", "pmDec"]
    assert tree["epoch"] == [stars.epoch.min(), stars.epoch.max()]
    assert tree["measured"] == {"BP": 20_000, "g": 20_000 - len(range(0, 20_000, 7)), "r": 20_000}
    assert tree["name"] == f"reference-{tree['digest'][:12]}"


def test_shards_are_plain_fits(stars, folder):
    store = ReferenceStore.open(folder)
    shard = store.index.shards[5]
    with fits.open(shard_path(folder, shard.pixel)) as hdus:
        hdus.verify("exception")
        table = hdus["REFERENCE"]
        assert (table.columns["pmRa"].unit, table.columns["flux_BP"].unit) == ("mas/yr", "nJy")
        assert len(table.data) == shard.stars
        assert np.all(np.isin(table.data["dec"], stars.dec))
        assert np.all(np.diff(table.data["dec"]) >= 0)
    assert load_reference(shard_path(folder, shard.pixel)).bands == store.bands


def test_an_empty_place_has_all_columns(tmp_path):
    store = write_store(tmp_path / "ref", sky(20), 32)
    empty = store.within(1.0, 1.0, 1e-6)
    assert (len(empty), empty.bands, len(empty.pmRa)) == (0, ("BP", "g", "r"), 0)
    assert len(empty.at(6e4)) == 0
    with pytest.raises(ConfigurationError, match="no column flux_z; it has the bands BP, g, r"):
        store.need_band("z")


def test_one_table_has_the_same_interface(stars, tmp_path):
    save_reference(tmp_path / "one.fits", stars)
    one = open_reference(tmp_path / "one.fits")
    assert (len(one), one.bands, one.name[:4]) == (20_000, ("BP", "g", "r"), "one-")
    assert same(one.within(10.0, 20.0, 9.0), stars.within(10.0, 20.0, 9.0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "something"}, "'something'"),
        ({"stars": 5}, "do not add up to 5"),
        ({"bands": 3}, "is damaged"),
        ({"shards": [{"pixel": 3}]}, "is damaged"),
    ],
)
def test_another_version_or_damage_is_said(change, text, tmp_path):
    write_store(tmp_path / "ref", sky(50), NSIDE)
    tree = json.loads((tmp_path / "ref" / INDEX).read_text()) | change
    (tmp_path / "ref" / INDEX).write_text(json.dumps(tree))
    with pytest.raises(ConfigurationError, match=f"{text}.*skydelta reference build"):
        open_reference(tmp_path / "ref")


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ConfigurationError, match="without a readable catalogue.json.*skydelta reference build"):
        open_reference(tmp_path)
    (tmp_path / INDEX).write_bytes(b"\x00{")
    with pytest.raises(ConfigurationError, match="is damaged"):
        open_reference(tmp_path)


def test_a_damaged_or_missing_shard_is_said(tmp_path):
    store = write_store(tmp_path / "ref", sky(50), NSIDE)
    first, second = store.index.shards[:2]
    path = shard_path(store.folder, first.pixel)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigurationError, match="not as catalogue.json lists it"):
        store._rows(first.pixel)
    shard_path(store.folder, second.pixel).unlink()
    with pytest.raises(ConfigurationError, match="can't be read"):
        store._rows(second.pixel)


def test_nothing_is_overwritten_unasked(tmp_path):
    first = write_store(tmp_path / "ref", sky(50), NSIDE)
    with pytest.raises(ConfigurationError, match="exists already"):
        write_store(tmp_path / "ref", sky(60), NSIDE)
    assert open_reference(tmp_path / "ref").name == first.name
    assert len(write_store(tmp_path / "ref", sky(60), NSIDE, replace=True)) == 60
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigurationError, match="is no reference catalogue"):
        write_store(tmp_path / "data", sky(60), NSIDE, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "ref"]


def test_what_fails_leaves_nothing(tmp_path):
    first = write_store(tmp_path / "ref", sky(50), NSIDE)
    with (
        pytest.raises(KeyboardInterrupt),
        StoreWriter(tmp_path / "ref", ("BP", "g", "r"), NSIDE, replace=True) as writer,
    ):
        writer.add(3, sky(9))
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["ref"]
    assert open_reference(tmp_path / "ref").name == first.name
