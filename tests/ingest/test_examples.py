"""The cameras that ship as examples are valid and their amplifiers cover their detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import workers.survey
from workers.survey import load_camera, parse_section

EXAMPLES = sorted((Path(workers.survey.__file__).parent / "examples").glob("*.toml"))
CAMERAS = [path for path in EXAMPLES if "[[detectors]]" in path.read_text(encoding="utf-8")]


def test_there_are_examples() -> None:
    names = {path.stem for path in CAMERAS}
    assert names >= {"saao-ste3", "lsstsim-2amp", "lsstsim-imsim-1amp", "starcluster-orion", "eso085-apogee"}


@pytest.mark.parametrize("path", CAMERAS, ids=lambda path: path.stem)
def test_amplifiers_cover_each_detector_once(path: Path) -> None:
    for detector in load_camera(path).detectors:
        covered = np.zeros((detector.height, detector.width), int)
        for amplifier in detector.amplifiers:
            covered[parse_section(amplifier.position)] += 1
        assert np.all(covered == 1)
