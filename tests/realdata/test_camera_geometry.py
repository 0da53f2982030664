"""Real headers against our camera files: each pixel must come to lie where the header says it lies on the detector.

The headers' sections are read here by a parser of our own and painted into the raw arrays as coordinates; nothing of
camera.toml is used for that.
"""

from __future__ import annotations

import math
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import workers.survey
from tests.cli.command import skydelta
from workers.checks import check_survey
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.exposure import RawExposure
from workers.ingest.pipeline import read_exposure
from workers.isr.assembly import assemble_image
from workers.isr.pipeline import apply_steps
from workers.survey import Camera, load_camera, parse_section
from workers.survey.isr_config import IsrConfig

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "raw-ccd"
EXAMPLES = Path(workers.survey.__file__).parent / "examples"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="real data not available: ../shared/data is absent"),
]
FILES = {
    "lsstcam-itl": "headers-only/lsstcam-ITL-16amp-header-zeroed-pixels.fits.gz",
    "lsstcam-e2v": "headers-only/lsstcam-E2V-16amp-header-zeroed-pixels.fits.gz",
    "lsstsim-2amp": "lsstsim-2amp/raw_v1_fg.fits.gz",
    "lsstsim-imsim-1amp": "lsstsim-2amp/imsim_85751839_R23_S11_C00_E000.fits.gz",
    "saao-ste3": "saao-ste3-a8280271.fits",
}
LSSTCAM = ["lsstcam-itl", "lsstcam-e2v"]
Painted = dict[int, np.ndarray]


@cache
def frame(camera: str) -> tuple[RawExposure, Camera]:
    loaded, path = load_camera(EXAMPLES / f"{camera}.toml"), DATA / FILES[camera]
    return read_exposure(path.read_bytes(), path.name, loaded), loaded


@cache
def headers(camera: str) -> tuple[fits.Header, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(DATA / FILES[camera]) as hdus:
            return tuple(hdu.header for hdu in hdus)


def ends(section: str) -> tuple[int, int, int, int]:
    """The four numbers of a FITS section, backward ones too."""
    x0, x1, y0, y1 = (int(part) for part in re.findall(r"-?\d+", section))
    return x0, x1, y0, y1


def steps(first: int, last: int) -> np.ndarray:
    """Whole numbers from `first` to `last`, upwards or downwards."""
    return np.arange(first, last + 1) if first <= last else np.arange(first, last - 1, -1)


def paint(block: np.ndarray, data: str, on_detector: tuple[int, int, int, int], width: int) -> None:
    """Write each pixel's number on the detector, row by row from 0, into the data section of a raw block."""
    (x0, x1, y0, y1), (u0, u1, v0, v1) = ends(data), on_detector
    block[y0 - 1 : y1, x0 - 1 : x1] = (steps(v0, v1)[:, None] - 1) * width + steps(u0, u1)[None, :] - 1


@cache
def painted_by_detsec(camera: str) -> tuple[Painted, int, int]:
    """LSSTCam: DATASEC and DETSEC of every segment."""
    _, width, _, height = ends(headers(camera)[0]["DETSIZE"])
    blocks = {}
    for number, cards in enumerate(headers(camera)):
        if "DETSEC" in cards:
            blocks[number] = np.full((cards["NAXIS2"], cards["NAXIS1"]), -1, np.int32)
            paint(blocks[number], cards["DATASEC"], ends(cards["DETSEC"]), width)
    return blocks, width, height


def painted_by_trimsec(camera: str) -> tuple[Painted, int, int]:
    """One amplifier without rows that saw no light; the two-column simulation puts two of one side by side."""
    cards = headers(camera)[0]
    x0, x1, y0, y1 = ends(cards["TRIMSEC"])
    copies = 2 if camera == "lsstsim-2amp" else 1
    y0, y1 = (1, cards["NAXIS2"]) if copies == 2 else (y0, y1 - dark_rows(camera))
    width, height = copies * (x1 - x0 + 1), y1 - y0 + 1
    block = np.full((cards["NAXIS2"], cards["NAXIS1"]), -1)
    pitch = cards["NAXIS1"] // copies
    for copy in range(copies):
        place = (copy * (x1 - x0 + 1) + 1, (copy + 1) * (x1 - x0 + 1), 1, height)
        paint(block, f"[{x0 + copy * pitch}:{x1 + copy * pitch},{y0}:{y1}]", place, width)
    return {0: block}, width, height


def dark_rows(camera: str) -> int:
    """Rows at the top of TRIMSEC that saw no light: nearer to the level of BIASSEC than to the sky."""
    cards, pixels = headers(camera)[0], frame(camera)[0].hdus[0].astype(float)
    (x0, x1, y0, y1), (b0, b1, _, _) = ends(cards["TRIMSEC"]), ends(cards["BIASSEC"])
    rows = np.median(pixels[y0 - 1 : y1, x0 - 1 : x1], axis=1)
    dark = rows < 0.5 * (np.median(pixels[:, b0 - 1 : b1]) + np.median(rows))
    return int(np.argmin(dark[::-1]))


@pytest.mark.parametrize("camera", FILES)
def test_each_pixel_lies_where_the_header_puts_it(camera: str) -> None:
    painted, width, height = (painted_by_detsec if camera in LSSTCAM else painted_by_trimsec)(camera)
    raw, loaded = frame(camera)
    detector = loaded.detector(raw.info.detector)
    assert (detector.width, detector.height) == (width, height)
    image = assemble_image(RawExposure(raw.info, painted, raw.header), detector)
    np.testing.assert_array_equal(image, np.arange(width * height).reshape(height, width))  # below 2**24: exact


@pytest.mark.parametrize("camera", FILES)
def test_amplifiers_cover_the_detector_once_and_sections_do_not_overlap(camera: str) -> None:
    raw, loaded = frame(camera)
    detector = loaded.detector(raw.info.detector)
    covered = np.zeros((detector.height, detector.width), int)
    used = {number: np.zeros(block.shape, int) for number, block in raw.hdus.items()}
    for amplifier in detector.amplifiers:
        covered[parse_section(amplifier.position)] += 1
        for section in (amplifier.data, amplifier.overscan, amplifier.parallel_overscan):
            if section is not None:
                used[amplifier.hdu][parse_section(section)] += 1
    assert np.all(covered == 1)
    assert all(block.max() == 1 for block in used.values())


@pytest.mark.parametrize("camera", LSSTCAM)
def test_the_detector_transformation_cards_agree(camera: str) -> None:
    """DTM and DTV say the same in another way: detector = DTM * raw + DTV."""
    raw, loaded = frame(camera)
    for amplifier in loaded.detector(raw.info.detector).amplifiers:
        cards = headers(camera)[amplifier.hdu]
        assert cards["EXTNAME"] == amplifier.name.replace("C", "Segment")
        assert (amplifier.flip_x, amplifier.flip_y) == (cards["DTM1_1"] == -1, cards["DTM2_2"] == -1)
        x0, x1, y0, y1 = ends(amplifier.data)
        u0, u1, v0, v1 = ends(amplifier.position)
        xs = sorted(cards["DTM1_1"] * x + cards["DTV1"] for x in (x0, x1))
        ys = sorted(cards["DTM2_2"] * y + cards["DTV2"] for y in (y0, y1))
        assert (xs, ys) == ([u0, u1], [v0, v1])


@pytest.mark.parametrize(
    ("camera", "prescan", "serial", "parallel"), [("lsstcam-itl", 3, 64, 48), ("lsstcam-e2v", 10, 54, 46)]
)
def test_overscans_are_what_the_data_leave(camera: str, prescan: int, serial: int, parallel: int) -> None:
    raw, loaded = frame(camera)
    for amplifier in loaded.detector(raw.info.detector).amplifiers:
        cards = headers(camera)[amplifier.hdu]
        x0, x1, y0, y1 = ends(cards["DATASEC"])
        assert (x0 - 1, cards["NAXIS1"] - x1, cards["NAXIS2"] - y1) == (prescan, serial, parallel)
        assert ends(str(amplifier.overscan)) == (x1 + 1, cards["NAXIS1"], y0, cards["NAXIS2"])
        assert ends(str(amplifier.parallel_overscan)) == (x0, x1, y1 + 1, cards["NAXIS2"])


@pytest.mark.parametrize("camera", ["saao-ste3", "lsstsim-imsim-1amp"])
def test_overscans_are_the_headers(camera: str) -> None:
    raw, loaded = frame(camera)
    cards, amplifier = headers(camera)[0], loaded.detector(raw.info.detector).amplifiers[0]
    x0, x1, _, _ = ends(cards["BIASSEC"])
    _, _, y0, y1 = ends(cards["TRIMSEC"])
    assert ends(str(amplifier.overscan)) == (x0, x1, y0, y1)
    assert dark_rows(camera) == (8 if camera == "saao-ste3" else 0)


@pytest.mark.parametrize("camera", LSSTCAM)
def test_the_boresight_is_the_middle_of_the_focal_plane(camera: str) -> None:
    """Rafts are 12,700 pixels apart, five in a row; FOCAL_PLANE coordinates count from the corner of the first."""
    raw, loaded = frame(camera)
    detector = loaded.detector(raw.info.detector)
    for amplifier in detector.amplifiers:
        cards, parse = headers(camera)[amplifier.hdu], ends(amplifier.data)
        u0, u1, v0, v1 = ends(amplifier.position)
        x, y = np.array(parse[:2]), np.array(parse[2:])
        along_x = cards["PC1_2F"] * y + cards["CRVAL1F"]  # rows run along the camera's x, columns along its y
        along_y = cards["PC2_1F"] * x + cards["CRVAL2F"]
        us = np.array([u1, u0] if amplifier.flip_x else [u0, u1])
        vs = np.array([v1, v0] if amplifier.flip_y else [v0, v1])
        np.testing.assert_array_equal(along_y - 2.5 * 12700, us - 1 - detector.offset_x)
        np.testing.assert_array_equal(2.5 * 12700 - along_x, vs - 1 - detector.offset_y)


EXPECTED = {
    "lsstcam-itl": ("flat", 35, "i", 20190322, 1.0, 58564.64654981485),
    "lsstcam-e2v": ("flat", 98, "i", 20211212, 7.83172, 59561.207597198896),
}


@pytest.mark.parametrize("camera", LSSTCAM)
def test_the_header_map_reads_a_flat(camera: str) -> None:
    info = frame(camera)[0].info
    kind, detector, band, night, seconds, begin_utc = EXPECTED[camera]
    assert (info.kind, info.detector, info.band, info.night, info.exposureTime) == (
        kind,
        detector,
        band,
        night,
        seconds,
    )
    assert info.midpointMjdTai == pytest.approx(begin_utc + (37 + seconds / 2) / 86400, abs=1e-8)
    assert math.isnan(info.ra)
    assert info.visit > 0


@pytest.mark.parametrize("camera", LSSTCAM)
def test_check_reads_the_raw_file(camera: str, tmp_path: Path) -> None:
    assert skydelta("init", tmp_path, "--camera", camera).code == 0
    findings = check_survey(tmp_path, DATA / FILES[camera])
    configuration, raw_file = next(findings), next(findings)
    assert configuration.good
    assert "1 detectors, 16 amplifiers" in configuration.text
    assert (raw_file.what, raw_file.good) == ("raw file", True)
    assert re.search(r"flat, visit \d+:(35|98), band i", raw_file.text)


@pytest.mark.parametrize("camera", LSSTCAM)
def test_overscan_is_taken_off_the_right_way_round(camera: str) -> None:
    """A picture on offsets that drift along the rows and columns of each readout comes out alone."""
    painted, width, height = painted_by_detsec(camera)
    raw, loaded = frame(camera)
    picture = (np.arange(height)[:, None] % 89 + np.arange(width)[None, :] % 97).astype(np.float32)
    blocks = {}
    for number, block in painted.items():
        rows, columns = np.arange(block.shape[0], dtype=np.float32), np.arange(block.shape[1], dtype=np.float32)
        offset = 1000 * number + 0.002 * rows[:, None] + 0.03 * columns[None, :]
        blocks[number] = (offset + np.where(block < 0, 0, picture.ravel()[block])).astype(np.float32)
    config = IsrConfig(steps=("overscan",))
    exposure = apply_steps(RawExposure(raw.info, blocks, raw.header), loaded, CalibrationSet(), config)
    assert np.abs(exposure.image - picture).max() < 0.1  # what was taken off lies between 1000 and 16021
