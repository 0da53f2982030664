"""The report: complete, well-formed, everything from outside escaped, pictures that show what they should."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.calibrate.test_periods import nights, shifted
from workers.calibrate.certify import certify, stability
from workers.calibrate.periods import propose_periods
from workers.calibrate.report import calibration_report
from workers.calibrate.report_plots import Curve, Marker, curves_svg, heat_map_svg, histogram_svg, master_svg, shrunk
from workers.imaging.calibrations import KINDS, TABLE_KINDS, Calibration, make_calibration
from workers.simulate.camera import make_camera
from workers.simulate.settings import DetectorSettings, SimulatedSurvey

CAMERA = make_camera(SimulatedSurvey(detectors=DetectorSettings(width=96, height=64, count=4)))
DETECTOR = CAMERA.detector(3)
SHAPE = (64, 96)


def elements(svg: str) -> ElementTree.Element:
    tree = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    assert tree.tag == "svg"
    assert not re.search(r"\bnan\b|\binf\b", svg)
    return tree


def picture(kind: str, seed: int = 1, level: float = 0.0, **given) -> Calibration:
    rng = np.random.default_rng(seed)
    mask = (rng.random(SHAPE) < 0.01).astype(np.int32)
    planes = {"image": level + rng.normal(0, 0.1, SHAPE), "variance": np.full(SHAPE, 0.01), "mask": mask}
    fields = {"instrument": "cam", "detector": 3, "inputs": [f"sha-{seed}-{n}" for n in range(3)], **given}
    return make_calibration(kind, **planes, **fields)


def table(kind: str) -> Calibration:
    rng = np.random.default_rng(3)
    made = {
        "crosstalk": {"coefficients": rng.normal(0, 1e-4, (4, 4, 1)), "error": np.full((4, 4, 1), 1e-6)},
        "linearity": {
            "knots": np.tile(np.linspace(0, 6e4, 9), (4, 1)),
            "correction": np.tile(np.linspace(0, 600, 9) ** 2 / 600, (4, 1)),
            "error": np.ones((4, 9)),
        },
        "cti": {"serial": np.full(4, 1e-6), "serialError": np.full(4, 1e-8), "odd": np.full((2, 3, 4), np.nan)},
        "brighter_fatter": {"kernel": rng.normal(size=(9, 9)), "anisotropy": np.ones(1)},
        "ptc": {
            "gain": np.full(4, 1.5),
            "gainErr": np.full(4, 0.01),
            "level": np.tile(np.geomspace(100, 5e4, 12), (4, 1)),
            "variance": np.tile(np.geomspace(100, 5e4, 12), (4, 1)) / 1.5,
            "varianceErr": np.tile(np.geomspace(100, 5e4, 12), (4, 1)) / 150,
            "used": np.ones((4, 12)),
            "aMatrix": np.zeros((4, 3, 3)),
            "noise": np.zeros((4, 3, 3)),
        },
    }
    return make_calibration(kind, instrument="cam", detector=3, tables=made[kind])


def test_every_kind_and_everything_else_is_there() -> None:
    masters = [table(kind) if kind in TABLE_KINDS else picture(kind, level=float(kind == "flat")) for kind in KINDS]
    second = picture("bias", seed=2, level=0.5, validFrom=61040.0)
    verdicts = [certify(second, masters[0], DETECTOR)]
    record = shifted(shifted(nights(columns=50), 40, 12.0), 20, 15.0, last=21)
    plan = propose_periods(record)
    page = calibration_report(
        [*masters, second],
        CAMERA,
        nights=record,
        plans=[plan],
        verdicts=verdicts,
        stabilities=[stability([masters[0], second], DETECTOR)],
        title="A <b>survey</b>",
    )
    assert page == calibration_report(
        [second, *masters[::-1]],
        CAMERA,
        nights=record[::-1],
        plans=[plan],
        verdicts=verdicts,
        stabilities=[stability([masters[0], second], DETECTOR)],
        title="A <b>survey</b>",
    )
    assert "A &lt;b&gt;survey&lt;/b&gt;" in page
    for master in (*masters, second):
        assert master.id in page
        assert all(name in page for name in master.inputs)
    assert "1 changes and 1 jump days" in page
    assert "0 certified, 1 in quarantine" in page
    assert "QUARANTINE: amplifier A0 differs by" in page
    assert "20260020" in page
    assert "1.5 ± 0.01" in page
    assert "1e-06 ± 1e-08" in page
    assert "rows hear columns" in page
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) > 20
    for svg in svgs:
        elements(svg)
    assert "http" not in page.replace("http-equiv", "")


def test_an_empty_report_is_a_page() -> None:
    page = calibration_report([], CAMERA)
    assert page.startswith("<!doctype html>")
    assert "<svg" not in page


def test_names_from_outside_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    page = calibration_report([picture("flat", level=1.0, band=evil, lamp=evil)], CAMERA)
    assert "<script>" not in page
    for svg in (
        curves_svg([Curve(evil, [1.0, 2.0], [3.0, 4.0])], (evil, evil), [Marker(1.5, evil)]),
        heat_map_svg(np.eye(2), [evil, evil], evil),
        histogram_svg(np.arange(9.0), evil),
    ):
        assert not list(elements(svg).iter("script"))


def test_a_master_is_upright_with_its_borders_and_scale() -> None:
    image = np.add.outer(np.arange(64.0) * 96, np.arange(96.0))
    image[0, 0] = np.nan
    tree = elements(master_svg(image, DETECTOR, "adu"))
    [shown] = tree.iter("image")
    data = base64.b64decode(shown.attrib["href"].split(",")[1])
    pixels = np.array(Image.open(io.BytesIO(data)))
    assert pixels.shape == (64, 96, 3)
    grey = pixels[::-1, :, 0].astype(int)
    assert np.all(np.diff(grey.ravel()[1:]) >= 0)
    assert tuple(pixels[-1, 0]) == (90, 110, 160)
    borders = [rect for rect in tree.iter("rect") if rect.attrib["fill"] == "none"]
    assert len(borders) == 4
    first = [text.text for text in tree.iter("text")]
    assert first[:4] == ["A0", "A1", "A2", "A3"]
    low, high = np.nanpercentile(image, [1, 99])
    assert float(first[4]) == pytest.approx(low, rel=1e-3)
    assert first[5] == f"{high:.4g} adu"
    top = {name.text: float(rect.attrib["y"]) for name, rect in zip(tree.iter("text"), borders, strict=False)}
    assert top["A0"] > top["A2"]  # y up


@pytest.mark.parametrize("image", [np.zeros(SHAPE), np.full(SHAPE, np.nan), np.full(SHAPE, 7.0)])
def test_masters_without_contrast(image: np.ndarray) -> None:
    elements(master_svg(image, DETECTOR, ""))
    svg = histogram_svg(image, "x")
    assert (svg == "") == bool(np.isnan(image).all())


def test_shrinking_keeps_the_mean_of_what_is_good() -> None:
    image = np.random.default_rng(1).normal(size=(70, 50))
    image[:2, :2] = np.nan
    image[5, 7] = np.nan
    small = shrunk(image, 35)
    assert small.shape == (35, 25)
    assert np.isnan(small[0, 0])
    assert small[3, 4] == pytest.approx(image[6:8, 8:10].mean())
    assert small[2, 3] == pytest.approx(np.nanmean(image[4:6, 6:8]))


def test_curves_stay_inside_and_markers_where_they_belong() -> None:
    curves = [Curve("a", [0, 1, 2, 3], [0, 100, np.nan, 1], [1, 1, 1, 1]), Curve("b", [1.0], [0.5], joined=False)]
    svg = curves_svg(curves, ("x", "y"), [Marker(1.0, "step"), Marker(2.0, "bad", jump=True), Marker(9.0, "out")])
    titles = [title.text for title in elements(svg).iter("title")]
    assert titles.count("step") == titles.count("bad") == 1
    assert "out" not in titles
    fixed = curves_svg(curves, ("x", "y"), rows=(0.0, 2.0))
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", fixed)]
    assert min(heights) >= 18
    assert max(heights) <= 230 - 34
    assert curves_svg([Curve("a", [1.0], [np.nan])], ("x", "y")) == ""


def test_a_heat_map_shows_signs() -> None:
    tree = elements(heat_map_svg(np.array([[1.0, -1.0], [0.0, np.nan]]), ["p", "q"], "m"))
    fills = [rect.attrib["fill"] for rect in tree.iter("rect")]
    assert fills == ["rgb(255,0,0)", "rgb(0,0,255)", "rgb(255,255,255)", "#999"]
    assert next(tree.iter("title")).text == "p, p: 1"
