"""The camera that took the synthetic frames: the product's own Camera model, and its camera.toml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from workers.simulate.cadence import NIGHT_OFFSET_HOURS
from workers.simulate.optics import boresight
from workers.simulate.settings import DetectorSettings, SimulatedSurvey
from workers.simulate.streams import stream
from workers.survey.camera import Camera, camera_from_dict

__all__ = ["bias_levels", "camera_toml", "make_camera", "raw_shape", "to_toml"]


@lru_cache(maxsize=4)
def make_camera(config: SimulatedSurvey) -> Camera:
    """Return the camera that matches the simulated raw files: sections, gains, saturation levels, header keys."""
    detectors = []
    for detector in range(config.detectors.count):
        x, y = boresight(config, detector)
        detectors.append(
            {
                "id": detector,
                "name": f"d{detector}",
                "width": config.detectors.width,
                "height": config.detectors.height,
                "offset_x": x,
                "offset_y": y,
                "amplifiers": [_amplifier(config, detector, index) for index in range(_amplifier_count(config))],
            }
        )
    return camera_from_dict(
        {
            "name": config.name,
            "night_offset_hours": NIGHT_OFFSET_HOURS,
            "header": _header_map(),
            "detectors": detectors,
        }
    )


def camera_toml(config: SimulatedSurvey) -> str:
    """Return the text of camera.toml; `load_camera` reads the same camera back from it."""
    return to_toml(make_camera(config).model_dump(exclude_none=True, exclude_defaults=True))


def raw_shape(design: DetectorSettings) -> tuple[int, int]:
    """Return (height, width) of one amplifier's raw block with prescan and overscans, pixels."""
    columns, rows = design.amplifiers
    width = design.prescan + design.width // columns + design.overscan
    return design.height // rows + design.parallel_overscan, width


def bias_levels(config: SimulatedSurvey, detector: int) -> list[float]:
    """Return the bias level of each amplifier, ADU."""
    draws = stream(config.seed, "amplifier.level", detector).random(_amplifier_count(config))
    return [float(config.detectors.bias_level + 100.0 * draw) for draw in draws]


def _amplifier_count(config: SimulatedSurvey) -> int:
    columns, rows = config.detectors.amplifiers
    return columns * rows


def _amplifier(config: SimulatedSurvey, detector: int, index: int) -> dict[str, Any]:
    """One amplifier: blocks are read from the nearest corner, so the far halves are flipped."""
    design = config.detectors
    columns, rows = design.amplifiers
    row, column = divmod(index, columns)
    width, height = design.width // columns, design.height // rows
    block_height, block_width = raw_shape(design)
    separate = design.hdu_per_amplifier
    x0, y0 = (0, 0) if separate else (column * block_width, row * block_height)
    data_x = x0 + design.prescan
    draws = stream(config.seed, "amplifier.gain", detector).standard_normal((_amplifier_count(config), 2))[index]
    gain = round(float(design.gain * (1.0 + 0.02 * draws[0])), 4)
    amplifier: dict[str, Any] = {
        "name": f"A{index}",
        "hdu": index + 1 if separate else 0,
        "data": _section(data_x, y0, width, height),
        "position": _section(column * width, row * height, width, height),
        "flip_x": columns > 1 and column >= columns // 2,
        "flip_y": rows > 1 and row >= rows // 2,
        "gain": gain,
        "read_noise": round(float(design.read_noise * (1.0 + 0.03 * draws[1])), 3),
        "saturation": round(bias_levels(config, detector)[index] + 0.97 * design.full_well / gain, 1),
    }
    if design.overscan:
        amplifier["overscan"] = _section(data_x + width, y0, design.overscan, block_height)
    if design.parallel_overscan:
        amplifier["parallel_overscan"] = _section(data_x, y0 + height, width, design.parallel_overscan)
    return amplifier


def _section(x: int, y: int, width: int, height: int) -> str:
    """A FITS section from the 0-based corner and the size."""
    return f"[{x + 1}:{x + width},{y + 1}:{y + height}]"


def _header_map() -> dict[str, Any]:
    return {
        "visit": {"key": "EXPID"},
        "detector": {"key": "DETECTOR"},
        "band": {"key": "FILTER"},
        "begin": {"key": "DATE-OBS", "format": "isot", "scale": "utc"},
        "exposure_time": {"key": "EXPTIME", "unit": "s"},
        "ra": {"key": "RA", "unit": "deg"},
        "dec": {"key": "DEC", "unit": "deg"},
        "kind": {"key": "IMAGETYP", "map": {"object": "science"}},
        "target": {"key": "OBJECT"},
    }


def to_toml(tree: Mapping[str, Any], path: str = "") -> str:
    """Return nested mappings as TOML: scalars first, then tables and arrays of tables; None is left out."""
    lines, tables = [], []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            name = f"{path}{key}"
            tables.append(f"\n[{name}]\n{to_toml(value, name + '.')}")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            name = f"{path}{key}"
            tables += [f"\n[[{name}]]\n{to_toml(item, name + '.')}" for item in value]
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines + tables)
