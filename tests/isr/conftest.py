"""A small camera of four amplifiers with flips, and raw frames of a known sky seen by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.imaging.calibrations import Calibration, CalibrationSet, make_calibration
from workers.imaging.exposure import ExposureInfo, RawExposure
from workers.survey.camera import Amplifier, Camera, camera_from_dict, parse_section

WIDTH, HEIGHT, OVERSCAN = 128, 96, 16
GAINS = {"A": 1.5, "B": 1.6, "C": 1.4, "D": 1.55}
READ_NOISE = {"A": 5.0, "B": 6.0, "C": 7.0, "D": 5.5}
TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 64.5, "CRPIX2": 48.5}
TAN |= {"CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}


def camera_tree(**changes: Any) -> dict[str, Any]:
    half, rows = WIDTH // 2, HEIGHT // 2
    amplifiers = []
    for number, name in enumerate("ABCD"):
        right, top = number % 2, number // 2
        amplifiers.append(
            {
                "name": name,
                "hdu": number,
                "data": f"[1:{half},1:{rows}]",
                "overscan": f"[{half + 1}:{half + OVERSCAN},1:{rows}]",
                "position": f"[{1 + half * right}:{half * (1 + right)},{1 + rows * top}:{rows * (1 + top)}]",
                "flip_x": bool(right),
                "flip_y": bool(top),
                "gain": GAINS[name],
                "read_noise": READ_NOISE[name],
                "saturation": 60000.0,
                "suspect": 50000.0,
            }
        )
    header = {
        "exposure_time": {"key": "EXPTIME"},
        "begin": {"key": "MJD", "format": "mjd"},
        "ra": {"key": "RA"},
        "dec": {"key": "DEC"},
        "band": {"value": "r"},
    }
    detector = {"id": 0, "name": "D", "width": WIDTH, "height": HEIGHT, "amplifiers": amplifiers}
    return {"name": "cam", "header": header, "detectors": [detector]} | changes


@dataclass
class Instrument:
    """The truth: what the camera does to electrons."""

    camera: Camera = field(default_factory=lambda: camera_from_dict(camera_tree()))
    bias: NDArray[np.float64] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH)))
    dark: NDArray[np.float64] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH)))
    """Electrons per second."""
    flat: NDArray[np.float64] = field(default_factory=lambda: np.ones((HEIGHT, WIDTH)))

    def raw(self, sky: NDArray[np.float64], seed: int = 1, **changes: Any) -> RawExposure:
        """Return whole counts of electrons `sky` (per exposure) with every effect and its noise."""
        rng = np.random.default_rng(seed)
        info = self.info(**changes)
        electrons = rng.poisson(sky * self.flat + self.dark * info.exposureTime).astype(float)
        hdus = {a.hdu: self._readout(a, electrons, rng) for a in self.camera.detectors[0].amplifiers}
        return RawExposure(info, hdus, dict(TAN))

    def _readout(self, a: Amplifier, electrons: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
        section = parse_section(a.position)
        gain = GAINS[a.name]
        counts = electrons[section] / gain + self.bias[section]
        counts = counts[:: -1 if a.flip_y else 1, :: -1 if a.flip_x else 1]
        rows = counts.shape[0]
        level = 1000.0 + 50.0 * a.hdu + 8.0 * np.sin(np.arange(rows) / rows * 3)
        block = np.concatenate([counts, np.zeros((rows, OVERSCAN))], axis=1) + level[:, None]
        block += rng.normal(0, a.read_noise / gain, block.shape)
        return np.clip(np.round(block), 0, 65535).astype(np.uint16)

    def info(self, **changes: Any) -> ExposureInfo:
        fields = {
            "instrument": "cam",
            "visit": 1,
            "detector": 0,
            "band": "r",
            "midpointMjdTai": 60000.5,
            "exposureTime": 30.0,
            "ra": 150.0,
            "dec": 2.0,
            "night": 20230225,
            "kind": "science",
            "sha256": "00",
            "fileName": "raw.fits",
        }
        return ExposureInfo(**(fields | changes))  # type: ignore[arg-type]

    def gain_map(self) -> NDArray[np.float64]:
        gains = np.ones((HEIGHT, WIDTH))
        for a in self.camera.detectors[0].amplifiers:
            gains[parse_section(a.position)] = GAINS[a.name]
        return gains

    def calibration(self, kind: str, image: NDArray[Any], **changes: Any) -> Calibration:
        zeros = np.zeros(image.shape)
        fields = {"instrument": "cam", "detector": 0, "variance": zeros, "mask": zeros.astype(np.int32)}
        fields |= {"layout": self.camera.detectors[0].layout} | ({"band": "r"} if kind == "flat" else {})
        return make_calibration(kind, image=image, **(fields | changes))

    def calibrations(self) -> CalibrationSet:
        """The perfect masters."""
        masters = {
            "bias": self.bias,
            "dark": self.dark / self.gain_map(),
            "flat": self.flat,
            "defects": np.zeros((HEIGHT, WIDTH)),
        }
        return CalibrationSet({kind: self.calibration(kind, image) for kind, image in masters.items()})


@pytest.fixture
def instrument() -> Instrument:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Instrument(
        bias=rng.normal(0, 3, (HEIGHT, WIDTH)) + 4 * np.sin(x / 9.0),
        dark=np.abs(rng.normal(3.0, 1.0, (HEIGHT, WIDTH))),
        flat=(1 + 0.15 * np.cos((x - 60) / 50) * np.cos((y - 40) / 60)) * rng.normal(1, 0.01, (HEIGHT, WIDTH)) / 1.1,
    )


@pytest.fixture
def make_tree() -> Callable[..., dict[str, Any]]:
    return camera_tree
