"""Real and foreign raw frames with the example cameras that ship with the product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import workers.survey
from schemas.errors import DataError
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.exposure import Exposure, RawExposure
from workers.imaging.fits import read_raw_hdus
from workers.imaging.masks import MaskPlane
from workers.ingest.pipeline import detector_reach, read_exposure, sky_tile
from workers.isr.pipeline import remove_signature
from workers.survey import Camera, load_camera
from workers.survey.config import IsrConfig

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EXAMPLES = Path(workers.survey.__file__).parent / "examples"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="real data not available: ../shared/data is absent"),
]
WITH_OVERSCAN = IsrConfig(steps=("overscan", "saturation", "gain", "variance"))
WITHOUT_OVERSCAN = IsrConfig(steps=("saturation", "gain", "variance", "cosmic_rays"))


def load(camera: str, file: str) -> tuple[RawExposure, Camera]:
    path, loaded = DATA / file, load_camera(EXAMPLES / f"{camera}.toml")
    return read_exposure(path.read_bytes(), path.name, loaded), loaded


def reduced(camera: str, file: str, config: IsrConfig = WITH_OVERSCAN) -> Exposure:
    raw, loaded = load(camera, file)
    return remove_signature(raw, loaded, CalibrationSet(), config)


def scatter(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def sky_pull(exposure: Exposure) -> float:
    """Robust scatter of the differences of neighbours in units of the stated noise: 1 where the variance is right."""
    good = (exposure.mask[:, 1:] | exposure.mask[:, :-1]) == 0
    noise = np.sqrt(exposure.variance[:, 1:] + exposure.variance[:, :-1])
    return scatter((np.diff(exposure.image, axis=1) / noise)[good])


def test_saao_overscan_noise_comes_out() -> None:
    exposure = reduced("saao-ste3", "raw-ccd/saao-ste3-a8280271.fits")
    assert exposure.shape == (512, 512)
    assert exposure.metrics["overscanLevel_A"] == pytest.approx(214.04 + 3.08, abs=0.7)  # serial, parallel of 8 rows
    assert exposure.metrics["overscanNoise_A"] == pytest.approx(2.97, abs=0.03)
    assert exposure.metrics["skyMedian"] == pytest.approx((300.1 - 217.1) * 1.9, abs=1.6)
    info = exposure.info
    assert (info.night, info.band, info.target, info.kind) == (20130712, "f48", "rf0420", "science")
    assert (info.ra, info.dec) == pytest.approx((331.0334, -0.9253), abs=1e-3)
    assert info.midpointMjdTai == pytest.approx(56486 + (57 * 60 + 33 + 75.02 + 35) / 86400, abs=1e-8)
    assert exposure.need_wcs().pixel_to_sky(255.5, 255.5)[0] == pytest.approx(info.ra, abs=1e-9)
    assert sky_pull(exposure) == pytest.approx(1.0, abs=0.05)


def test_saao_cosmic_rays_are_few_and_small() -> None:
    steps = ("overscan", "saturation", "gain", "variance", "cosmic_rays")
    exposure = reduced("saao-ste3", "raw-ccd/saao-ste3-a8280271.fits", IsrConfig(steps=steps))
    hits = (exposure.mask & int(MaskPlane.CR)) != 0
    assert 5 < exposure.metrics["cosmicRayCount"] < 200
    assert hits.mean() < 0.005


def test_two_column_simulation_has_one_level_of_sky() -> None:
    exposure = reduced("lsstsim-2amp", "raw-ccd/lsstsim-2amp/raw_v1_fg.fits.gz")
    assert exposure.shape == (2000, 1018)
    assert exposure.info.visit == 890104911
    assert exposure.info.midpointMjdTai == pytest.approx(51195.2035520278 + 7.5 / 86400, abs=1e-9)
    levels = [exposure.metrics[f"overscanLevel_{name}"] for name in ("C00", "C01", "C10", "C11")]
    assert levels == pytest.approx([964.06, 1042.06, 971.14, 1005.11], abs=0.2)
    sky = [np.median(part) for half in np.split(exposure.image, 2) for part in np.split(half, 2, axis=1)]
    assert np.ptp(sky) < 0.08 * np.mean(sky)  # 13 counts of 190: amplifiers share one header gain
    assert sky_pull(exposure) == pytest.approx(1.0, abs=0.03)
    raw, camera = load("lsstsim-2amp", "raw-ccd/lsstsim-2amp/raw_v1_fg.fits.gz")
    assert sky_tile(*detector_reach(raw, camera)[:2]) >= 0


def test_a_saturated_column_is_flagged_and_filled_for_display() -> None:
    steps = (*WITH_OVERSCAN.steps, "bleeds", "edges", "interpolate")
    exposure = reduced("lsstsim-2amp", "raw-ccd/lsstsim-2amp/raw_v1_fg.fits.gz", IsrConfig(steps=steps))
    column = exposure.mask[1200:1800, 848]
    wanted = MaskPlane.SATURATED | MaskPlane.BLEED | MaskPlane.INTERPOLATED
    assert np.all(column & int(wanted) == int(wanted))
    assert exposure.metrics["bleedFraction"] < 0.003  # five columns of 1018, half as high
    sky = np.median(exposure.image[1200:1800, 830:866])
    assert np.median(exposure.image[1200:1800, 846:851]) == pytest.approx(sky, abs=3)
    assert np.all(exposure.mask[:4] & int(MaskPlane.EDGE))
    assert np.count_nonzero(exposure.mask[4:-4, 4:-4] & int(MaskPlane.EDGE)) == 0


def test_one_amplifier_simulation() -> None:
    exposure = reduced("lsstsim-imsim-1amp", "raw-ccd/lsstsim-2amp/imsim_85751839_R23_S11_C00_E000.fits.gz")
    assert exposure.shape == (2000, 509)
    assert exposure.metrics["overscanLevel_C00"] == pytest.approx(998.02, abs=0.1)
    assert exposure.metrics["overscanNoise_C00"] * 1.71186 == pytest.approx(3.43, abs=0.9)  # MAD in steps of 0.74 ADU
    assert exposure.metrics["skyMedian"] == pytest.approx(554 * 1.71186, abs=3)
    assert sky_pull(exposure) == pytest.approx(1.0, abs=0.08)
    assert exposure.need_wcs().pixel_scale(250, 1000) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("number", [1, 5])
def test_star_cluster_frames(number: int) -> None:
    file = f"image-series-starcluster-iraf/StarGateCluster_030_sec_1x1_000{number}.fit"
    exposure = reduced("starcluster-orion", file, WITHOUT_OVERSCAN)
    assert exposure.shape == (581, 752)
    assert exposure.info.night == 20130712
    assert (exposure.mask & int(MaskPlane.SATURATED)).any()
    assert sky_pull(exposure) == pytest.approx(1.0, abs=0.1)


def test_star_cluster_without_a_wcs_names_the_command() -> None:
    raw, camera = load("starcluster-orion", "image-series-starcluster-iraf/StarGateCluster_030_sec_1x1_0001.fit")
    with pytest.raises(DataError, match="skydelta reference from-frame"):
        remove_signature(raw, camera.model_copy(update={"wcs": None}), CalibrationSet(), WITHOUT_OVERSCAN)


def test_eso085_frames() -> None:
    exposures = [
        reduced("eso085-apogee", f"image-pair-eso085-properimage/aligned_eso085-030-00{n}.fit", WITHOUT_OVERSCAN)
        for n in (4, 5)
    ]
    first, second = exposures
    assert second.info.visit - first.info.visit == 740  # deciseconds
    good = (first.mask | second.mask) == 0
    difference = (first.image - second.image) / np.sqrt(first.variance + second.variance)
    assert scatter(difference[good]) == pytest.approx(1.0, abs=0.1)


def test_compressed_guider_stamps_and_zeroed_headers() -> None:
    for path in sorted((DATA / "raw-ccd" / "lsstcam-guider").iterdir()):
        hdus, _ = read_raw_hdus(path.read_bytes(), path.name)
        assert len(hdus) > 40
        assert all(array.ndim == 2 and array.size > 0 for array in hdus.values())
    for path in sorted((DATA / "raw-ccd" / "headers-only").glob("*.fits.gz")):
        hdus, cards = read_raw_hdus(path.read_bytes(), path.name)
        assert len(hdus) == 16
        assert {array.shape for array in hdus.values()} == {(2048, 576)}
        assert cards["CCD_MANU"] in ("ITL", "E2V")
