"""Pictures: PNG that decodes to what it should show, SVG that is well-formed."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from workers.quality.pictures import COLOURS, light_curve_svg, sky_map_svg, stamp_png, stamp_uri

SVG_NUMBERS = ("x", "y", "cx", "cy", "x1", "y1", "x2", "y2")


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.array(image)


def elements(svg: str) -> ElementTree.Element:
    tree = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    assert tree.tag == "svg"
    assert "nan" not in svg.lower()
    width, height = (float(tree.attrib[name]) for name in ("width", "height"))
    for circle in tree.iter("circle"):
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height
    return tree


def test_a_stamp_is_upright_and_scaled() -> None:
    stamp = np.arange(35.0, dtype=np.float32).reshape(5, 7)
    shown = picture(stamp_png(stamp, zoom=3))
    assert shown.shape == (15, 21, 3)
    assert np.array_equal(shown[..., 0], shown[..., 1])
    grey = shown[::3, ::3, 0][::-1].astype(int)  # y up
    assert (grey[0, 0], grey[-1, -1]) == (0, 255)
    assert np.all(np.diff(grey.ravel()) >= 0)


def test_a_difference_is_symmetric_about_grey() -> None:
    stamp = np.zeros((9, 9))
    stamp[2, 3], stamp[6, 6] = 100.0, -40.0
    grey = picture(stamp_png(stamp, zoom=1, symmetric=True))[::-1, :, 0]
    assert grey[0, 0] == 127
    assert grey[2, 3] == 255
    assert grey[6, 6] < 127


@pytest.mark.parametrize("stamp", [np.full((5, 5), np.nan), np.zeros((5, 5)), np.full((3, 3), np.inf)])
def test_stamps_without_contrast(stamp: np.ndarray) -> None:
    shown = picture(stamp_png(stamp, zoom=1))
    assert shown.shape == (*stamp.shape, 3)
    if not np.isfinite(stamp).any():
        assert np.all(shown == (90, 110, 160))


def test_a_uri_holds_the_png() -> None:
    stamp = np.random.default_rng(1).normal(size=(11, 11))
    head, body = stamp_uri(stamp).split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == stamp_png(stamp)


def test_a_light_curve_has_its_points_limits_and_colours() -> None:
    svg = light_curve_svg([1.0, 2.0, 3.0], [100.0, -50.0, 20.0], [5.0] * 3, ["r", "g", "r"], [(2.5, 30.0), (4.0, 10.0)])
    tree = elements(svg)
    points = list(tree.iter("circle"))
    assert [point.attrib["fill"] for point in points] == [COLOURS[1], COLOURS[0], COLOURS[1]]
    x = [float(point.attrib["cx"]) for point in points]
    y = [float(point.attrib["cy"]) for point in points]
    assert x == sorted(x)
    assert y[0] < y[2] < y[1]  # bright is up
    assert sum(1 for path in tree.iter("path") if path.attrib.get("stroke") == "#888") == 2
    assert [point.find("title").text for point in points] == [
        "r 1.00000 100 nJy",
        "g 2.00000 -50 nJy",
        "r 3.00000 20 nJy",
    ]


@pytest.mark.parametrize(("times", "limits"), [([61000.0], []), ([], [(61000.0, 5.0)])])
def test_a_single_point(times: list[float], limits: list[tuple[float, float]]) -> None:
    n = len(times)
    assert elements(light_curve_svg(times, [7.0] * n, [1.0] * n, ["r"] * n, limits)) is not None


def test_nothing_to_draw() -> None:
    assert light_curve_svg([], [], [], []) == ""
    assert sky_map_svg({"positive": []}) == ""


def test_the_sky_map_has_east_to_the_left() -> None:
    tree = elements(sky_map_svg({"positive": [(150.1, 2.0), (150.2, 2.1)], "negative": [(150.15, 2.05)]}))
    east, west = (float(circle.attrib["cx"]) for circle in list(tree.iter("circle"))[1::-1])
    assert east < west
    texts = [text.text for text in tree.iter("text")]
    assert texts[:2] == ["positive (2)", "negative (1)"]


def test_words_of_others_are_escaped() -> None:
    evil = '<script>alert("x")</script>&'
    for svg in (light_curve_svg([1.0], [1.0], [1.0], [evil]), sky_map_svg({evil: [(1.0, 1.0)]})):
        tree = elements(svg)
        assert list(tree.iter("script")) == []
