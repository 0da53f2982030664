"""The EDGE plane: the border, and the lines where readout parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imaging.calibrations import CalibrationSet
from workers.imaging.masks import MaskPlane
from workers.isr import edges
from workers.isr.state import IsrState
from workers.survey.camera import Camera, camera_from_dict
from workers.survey.isr_config import EdgesConfig, IsrConfig

EDGE = int(MaskPlane.EDGE)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40))
def test_the_border_is_what_is_nearer_than_its_width(height: int, width: int, border: int) -> None:
    mask = np.full((height, width), int(MaskPlane.CR), np.int32)
    edges.mark_border(mask, border)
    rows, columns = np.mgrid[:height, :width]
    nearest = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
    np.testing.assert_array_equal(mask, np.where(nearest < border, EDGE, 0) | int(MaskPlane.CR))


def applied(instrument: Any, camera: Camera, config: EdgesConfig) -> np.ndarray:
    raw = instrument.raw(np.full((96, 128), 100.0))
    image = np.zeros((96, 128), np.float32)
    config_all = IsrConfig(edges=config)
    state = IsrState(
        raw, camera, camera.detectors[0], CalibrationSet(), config_all, image, image.astype(np.int32), image.copy()
    )
    edges.apply(state)
    return state.mask


def test_midlines_of_four_amplifiers_read_at_the_corners(instrument: Any) -> None:
    config = EdgesConfig(width=3, midline_rows=2, midline_columns=1)
    mask = applied(instrument, instrument.camera, config)
    expected = np.zeros((96, 128), np.int32)
    edges.mark_border(expected, 3)
    expected[46:50], expected[:, 63:65] = EDGE, EDGE
    np.testing.assert_array_equal(mask, expected)


def test_the_default_marks_the_border_only(instrument: Any) -> None:
    mask = applied(instrument, instrument.camera, EdgesConfig())
    assert not mask[4:-4, 4:-4].any()
    assert np.all(mask[:4] == EDGE)


@pytest.mark.parametrize("flipped", [(), ("A", "B", "C", "D")])
def test_amplifiers_read_the_same_way_have_no_line(
    instrument: Any, make_tree: Callable[..., dict[str, Any]], flipped: tuple[str, ...]
) -> None:
    tree = make_tree()
    for amplifier in tree["detectors"][0]["amplifiers"]:
        amplifier |= {"flip_x": amplifier["name"] in flipped, "flip_y": amplifier["name"] in flipped}
    mask = applied(instrument, camera_from_dict(tree), EdgesConfig(width=0, midline_rows=5, midline_columns=5))
    assert not mask.any()


def test_other_planes_and_the_image_stay(instrument: Any) -> None:
    camera = instrument.camera
    raw = instrument.raw(np.full((96, 128), 100.0))
    image = np.arange(96 * 128, dtype=np.float32).reshape(96, 128)
    mask = np.full((96, 128), int(MaskPlane.SUSPECT), np.int32)
    state = IsrState(
        replace(raw), camera, camera.detectors[0], CalibrationSet(), IsrConfig(), image.copy(), mask, image.copy()
    )
    edges.apply(state)
    assert np.all(state.mask & int(MaskPlane.SUSPECT))
    np.testing.assert_array_equal(state.image, image)
