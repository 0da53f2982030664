"""The full mode against truth: what is found, and every measurement as a distribution."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from schemas.errors import DataError
from tests.characterize.catalogue_scenes import PITCH, SCALE, SIZE, catalogue_scene
from workers.characterize.catalogue import measure_sources
from workers.characterize.catalogue_columns import APERTURE_RADII, SOURCE_CATALOGUE_DTYPE, source_ids
from workers.imaging.masks import MaskPlane


@pytest.fixture(scope="module")
def measured():
    """Scenes, their rows, and for every true source its row (or -1)."""
    out = []
    for seed in range(4):
        scene = catalogue_scene(seed)
        rows = measure_sources(scene.exposure)
        apart, match = cKDTree(np.column_stack([rows["x"], rows["y"]])).query(np.column_stack([scene.x, scene.y]))
        out.append((scene, rows, np.where(apart < 1.0, match, -1)))
    return out


def joined(measured, kinds, need=lambda rows: np.ones(len(rows), bool)):
    """Rows and true (x, y, flux) of the matched sources of some kinds, over all scenes."""
    rows, truth = [], []
    for scene, found, match in measured:
        at = np.flatnonzero(np.isin(scene.kind, kinds) & (match >= 0))
        kept = at[need(found[match[at]])]
        rows.append(found[match[kept]])
        truth.append(np.column_stack([scene.x[kept], scene.y[kept], scene.flux[kept]]))
    return np.concatenate(rows), np.concatenate(truth).T


def clean(rows):
    return ~rows["psfFlux_flag"] & ~rows["pixelFlags_edge"] & ~rows["pixelFlags_saturated"]


def test_everything_above_the_threshold_is_found_and_little_else(measured):
    for scene, rows, match in measured:
        assert rows.dtype == SOURCE_CATALOGUE_DTYPE
        bright = scene.flux > 3000.0 * SCALE
        assert (match[bright] >= 0).mean() > 0.98
        near, _ = cKDTree(np.column_stack([scene.x, scene.y])).query(np.column_stack([rows["x"], rows["y"]]))
        assert (near > 3.0).mean() < 0.03  # pieces of discs and of the saturated star


def test_pulls_of_stars(measured):
    rows, (x, y, flux) = joined(measured, ["star"], lambda r: clean(r) & (r["nChild"] == 1))
    assert len(rows) > 500
    pulls = (rows["psfFlux"] - flux) / rows["psfFluxErr"]
    assert abs(pulls.mean()) < 0.15
    assert pulls.std() == pytest.approx(1.0, abs=0.08)
    for name, truth in (("x", x), ("y", y)):
        assert ((rows[name] - truth) / rows[f"{name}Err"]).std() == pytest.approx(1.0, abs=0.08)
    assert (rows["psfChi2"] / rows["psfNdata"]).mean() == pytest.approx(1.0, abs=0.03)
    good = rows[(rows["snr"] > 30) & ~rows["shape_flag"]]
    for name in ("ixx", "iyy", "ixy"):
        assert abs(np.median((good[name] - good[f"{name}PSF"]) / good[f"{name}Err"])) < 0.35
    assert (good["extendedness"] < 0.5).mean() > 0.95


def test_pulls_of_pairs(measured):
    rows, (_, _, flux) = joined(measured, ["pair"], lambda r: clean(r) & (r["nBlend"] == 2))
    assert len(rows) > 200
    pulls = (rows["psfFlux"] - flux) / rows["psfFluxErr"]
    assert abs(pulls.mean()) < 0.25
    assert pulls.std() == pytest.approx(1.0, abs=0.12)
    assert rows["deblend_flag"].all()
    assert (rows["parentSourceId"] != 0).all()
    assert 0.02 < np.median(rows["blendedness"]) < 0.15


def test_discs_are_extended_and_their_kron_flux_is_nearly_all(measured):
    rows, (_, _, flux) = joined(measured, ["disc"], lambda r: clean(r) & (r["nChild"] == 1))
    assert len(rows) > 40
    assert (rows["extendedness"] > 0.9).mean() > 0.97
    assert np.median(rows["kronFlux"] / flux) == pytest.approx(0.95, abs=0.04)
    assert (rows["psfFlux"] < 0.8 * flux).mean() > 0.95
    assert np.median(rows["ixx"]) > 1.5 * np.median(rows["ixxPSF"])


def test_apertures_and_kron_of_stars(measured):
    rows, (_, _, flux) = joined(measured, ["star"], lambda r: clean(r) & (r["snr"] > 100) & (r["nBlend"] == 1))
    ratios = [np.median(rows[f"apFlux_{radius}"] / flux) for radius in APERTURE_RADII[:5]]
    assert (np.diff(ratios[:4]) > 0.0).all()
    assert ratios[3] == pytest.approx(1.0, abs=0.01)
    assert np.median(rows["kronFlux"] / flux) == pytest.approx(0.96, abs=0.03)
    spread = (rows["apFlux_6"] / flux - ratios[1]) * flux / rows["apFlux_6Err"]
    assert 1.4826 * np.median(np.abs(spread)) == pytest.approx(1.0, abs=0.15)


def test_sky_positions_follow_the_wcs(measured):
    scene, rows, _ = measured[0]
    ra, dec = scene.exposure.need_wcs().pixel_to_sky(rows["x"], rows["y"])
    np.testing.assert_allclose(rows["ra"], ra, atol=1e-10)
    np.testing.assert_allclose(rows["dec"], dec, atol=1e-10)
    known = np.isfinite(rows["xErr"])
    mean = 0.5 * (rows["xErr"] ** 2 + rows["yErr"] ** 2) * (0.2 / 3600) ** 2
    total = 0.5 * (rows["raErr"].astype(float) ** 2 + rows["decErr"].astype(float) ** 2)
    np.testing.assert_allclose(total[known], mean[known], rtol=1e-3)


def test_flags_say_what_the_mask_says(measured):
    scene, rows, match = measured[0]
    defect, saturated = rows[match[0]], rows[np.argmin(np.hypot(rows["x"] - scene.x[2], rows["y"] - scene.y[2]))]
    assert defect["pixelFlags_bad"]
    assert not defect["pixelFlags_saturated"]
    assert saturated["pixelFlags_saturatedCenter"]
    assert saturated["psfFlux_flag"]
    edge = (rows["x"] < 10) | (rows["y"] < 10) | (rows["x"] > SIZE - 11) | (rows["y"] > SIZE - 11)
    assert rows["pixelFlags_edge"][edge].all()
    inner = np.abs(rows["x"] % PITCH - PITCH / 2) < 1.0
    assert not rows["pixelFlags_edge"][inner & ~edge & (rows["x"] > 15) & (rows["y"] > 15)].all()
    level = rows["localBackground"] / rows["localBackgroundErr"]
    assert np.isfinite(level).mean() > 0.9


def test_ids_are_deterministic_and_unique(measured):
    scene, rows, _ = measured[1]
    again = measure_sources(scene.exposure)
    np.testing.assert_array_equal(rows["sourceId"], again["sourceId"])
    np.testing.assert_array_equal(rows["psfFlux"], again["psfFlux"])
    assert len(np.unique(rows["sourceId"])) == len(rows)
    assert (rows["sourceId"] > 0).all()
    children = rows["parentSourceId"][rows["parentSourceId"] != 0]
    assert np.isin(children, rows["sourceId"]).all()


def test_source_ids_never_meet():
    visits = [2023022500000 + 100_000 * day + n for day in (0, 1, 30, 10_000, 300_000) for n in (0, 1, 45_999)]
    ids = [source_ids(visit, detector, 3) for visit in visits for detector in (0, 255)]
    assert len(np.unique(np.concatenate(ids))) == 3 * len(ids)
    assert (np.concatenate(ids) > 0).all()
    with pytest.raises(DataError, match="detectors go up to"):
        source_ids(1, 256, 1)
    with pytest.raises(DataError, match="sources are more than"):
        source_ids(1, 1, (1 << 18) + 1)


def test_an_exposure_that_is_not_calibrated_is_refused():
    scene = catalogue_scene(9)
    with pytest.raises(DataError, match="not nJy"):
        measure_sources(scene.exposure.replaced(unit="electron"))
    with pytest.raises(DataError, match="background or the variance is wrong"):
        measure_sources(scene.exposure.replaced(image=scene.exposure.image + 1e6))
    with pytest.raises(DataError, match="no pixel of it is sky"):
        measure_sources(scene.exposure.replaced(mask=np.full_like(scene.exposure.mask, MaskPlane.NO_DATA)))


def test_an_empty_sky_gives_an_empty_catalogue():
    scene = catalogue_scene(9)
    noise = np.random.default_rng(0).normal(0, 600, scene.exposure.shape).astype(np.float32)
    blank = scene.exposure.replaced(image=noise, variance=np.full_like(noise, 600.0**2))
    assert len(measure_sources(blank)) <= 1


def test_the_aperture_correction_brings_psf_fluxes_to_those_of_twelve_pixels(measured):
    rows, _ = joined(measured, ["star"], lambda r: clean(r) & (r["nChild"] == 1) & (r["snr"] > 100))
    rows = rows[~rows["apCorr_flag"] & (rows["blendedness"] < 1e-3)]
    assert len(rows) > 20
    flux = rows["apFlux_12"] - np.pi * 12**2 * rows["localBackground"]  # faint stars that nobody sees lie in the circle
    rest = flux / (rows["psfFlux"] * rows["apCorr"]) - 1.0
    error = np.hypot(rows["apFlux_12Err"] / flux, np.pi * 12**2 * rows["localBackgroundErr"] / flux)
    assert abs(np.median(rest)) < 0.005  # the correction's sky is that of a ring farther out, among neighbours
    assert (rest / error).std() == pytest.approx(1.0, abs=0.15)
    assert (rows["apCorrErr"] < 0.02).all()
