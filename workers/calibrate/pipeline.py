"""Raw calibration frames in, one master in the store out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.calibrate import bias, charge_transfer, crosstalk, dark, flat, fringe, linearity, photon_transfer
from workers.calibrate.combine import Combined, combine, frame_noise
from workers.calibrate.frames import Frames, Solution, band_of
from workers.imaging.calibrations import FOREVER, Calibration, make_calibration
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.masks import MaskPlane
from workers.survey.camera import Detector, parse_section
from workers.survey.config import CalibrateConfig

__all__ = ["RECIPES", "Recipe", "combined_master", "make_master", "solved_master"]

_HALF_DAY = 0.5
_LEVEL_SAMPLE = 300_000
_UNUSABLE = MaskPlane.SATURATED | MaskPlane.NO_DATA


@dataclass(frozen=True)
class Recipe:
    """How a kind of master comes from frames: by combining them pixel by pixel, or by a solver."""

    accepted: tuple[str, ...]
    """Kinds of frames."""
    steps: tuple[str, ...]
    """Those of the survey's isr.steps that the frames go through, and no others."""
    least: int
    """Frames needed."""
    frame: Callable[[Exposure], FloatImage] | None = None
    """What is combined."""
    solve: Callable[[Frames, tuple[str, ...], CalibrateConfig], Solution] | None = None


def _linearity(frames: Frames, steps: tuple[str, ...], config: CalibrateConfig) -> Solution:
    return linearity.solve(frames, steps, photodiode=config.photodiode or None, knots=config.linearity_knots)


def _crosstalk(frames: Frames, steps: tuple[str, ...], config: CalibrateConfig) -> Solution:
    return crosstalk.solve(frames, steps, threshold=config.crosstalk_threshold, lags=config.crosstalk_lags)


def _ptc(frames: Frames, steps: tuple[str, ...], config: CalibrateConfig) -> Solution:
    return photon_transfer.solve(frames, steps)


def _cti(frames: Frames, steps: tuple[str, ...], config: CalibrateConfig) -> Solution:
    return charge_transfer.solve(frames, steps)


def _fringe(frames: Frames, steps: tuple[str, ...], config: CalibrateConfig) -> Solution:
    return fringe.solve(frames, steps, components=config.fringe_components)


RECIPES = {
    "bias": Recipe(("bias",), bias.STEPS, 3, frame=bias.frame),
    "dark": Recipe(("dark",), dark.STEPS, 3, frame=dark.frame),
    "crosstalk": Recipe(("science", "flat"), crosstalk.STEPS, 1, solve=_crosstalk),
    "linearity": Recipe(("flat",), linearity.STEPS, 8, solve=_linearity),
    "ptc": Recipe(("flat",), photon_transfer.STEPS, 12, solve=_ptc),
    "cti": Recipe(("flat",), charge_transfer.STEPS, 1, solve=_cti),
    "flat": Recipe(("flat",), flat.STEPS, 3, frame=flat.frame),
    "fringe": Recipe(("science",), fringe.STEPS, 5, solve=_fringe),
}
"""Every kind that is made from frames, in the order in which they need each other."""


def make_master(
    frames: Frames,
    survey_steps: tuple[str, ...],
    config: CalibrateConfig | None = None,
    *,
    valid_from: float | None = None,
    valid_to: float = FOREVER,
) -> Calibration:
    """Make the master of ``frames.kind`` of one detector, with the options of ``[calibrate]``.

    Frames go through those of `survey_steps` that their kind needs. The master is valid (MJD TAI, inclusive) from half
    a day before its first frame, or `valid_from`, until a newer one is there, or `valid_to`. Raises DataError for
    frames that don't serve; ConfigurationError for an unknown kind or a master that is missing.
    """
    recipe = RECIPES.get(frames.kind)
    if recipe is None:
        raise ConfigurationError(f"can't make a {frames.kind!r} from frames; there are {', '.join(RECIPES)}")
    steps = tuple(name for name in survey_steps if name in recipe.steps)
    if recipe.frame is not None:
        solution = combined_master(frames, steps, recipe.frame)
    elif recipe.solve is not None:
        solution = recipe.solve(frames, steps, config or CalibrateConfig())
    return solved_master(frames, solution, valid_from=valid_from, valid_to=valid_to)


def solved_master(
    frames: Frames, solution: Solution, *, valid_from: float | None = None, valid_to: float = FOREVER
) -> Calibration:
    """Return the Calibration of what was found in `frames`."""
    begin = min(info.midpointMjdTai for info in frames.infos) - _HALF_DAY
    return make_calibration(
        frames.kind,
        instrument=frames.infos[0].instrument,
        detector=frames.infos[0].detector,
        band=band_of(frames.kind, frames.infos[0]),
        lamp=frames.lamp,
        layout=frames.detector.layout,
        image=solution.image,
        variance=solution.variance,
        mask=solution.mask,
        tables=solution.tables,
        validFrom=begin if valid_from is None else valid_from,
        validTo=valid_to,
        inputs=[info.sha256 for info in frames.infos],
        metadata={"frames": float(len(frames)), **solution.metadata},
    )


def combined_master(frames: Frames, steps: tuple[str, ...], frame: Callable[[Exposure], FloatImage]) -> Solution:
    """Return the clipped mean of the frames after `steps`; the stack lies in a temporary file, never in memory whole.

    The table ``rejectedPixels`` counts, frame by frame in the order of the master's inputs, what was clipped;
    ``levelError`` is by amplifier the error of its level, from the scatter of the frames' levels: what is common to an
    amplifier's pixels is in no pixel's variance.
    """
    with tempfile.TemporaryDirectory(prefix="skydelta-") as folder:
        path = Path(folder) / "stack"
        shape, levels = _spool(frames, steps, frame, path)
        stack = np.memmap(path, np.float32, mode="r", shape=(len(frames), *shape))
        noise = frame_noise(stack[0], stack[1])
        combined = combine(stack, noise=noise)
        del stack
    image, variance, mask = _finished(frames.kind, combined)
    by_input = np.argsort([info.sha256 for info in frames.infos], kind="stable")
    return Solution(
        tables={
            "rejectedPixels": combined.rejected[by_input].astype(float),
            "levelError": np.std(levels, axis=0, ddof=1) / np.sqrt(len(frames)),
        },
        metadata={
            "median": float(np.median(image)),
            "frameNoise": noise,
            "clippedFraction": float(combined.rejected.sum()) / (len(frames) * image.size),
        },
        image=image,
        variance=variance,
        mask=mask,
    )


def _spool(
    frames: Frames, steps: tuple[str, ...], frame: Callable[[Exposure], FloatImage], path: Path
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Reduce frame after frame into one file of float32, unusable pixels NaN.

    Returns their shape and their levels, float64 (frames, amplifiers).
    """
    shape, levels = (0, 0), []
    with path.open("wb") as stream:
        for index in range(len(frames)):
            exposure = frames.reduced(index, steps)
            values = frame(exposure)
            unusable = (exposure.mask & np.int32(_UNUSABLE)) != 0
            if unusable.any():
                values = np.where(unusable, np.float32(np.nan), values)
            stream.write(np.ascontiguousarray(values, np.float32).data)
            shape = exposure.shape
            levels.append(_levels(values, frames.detector))
    return shape, np.array(levels)


def _levels(image: FloatImage, detector: Detector) -> list[float]:
    """Mean of each amplifier between the quartiles of so-many of its pixels: neither hits nor defects move it."""
    levels = []
    for amplifier in detector.amplifiers:
        part = image[parse_section(amplifier.position)]
        values = np.sort(part[:: max(part.size // _LEVEL_SAMPLE, 1)], axis=None)
        values = values[: np.searchsorted(values, np.inf)]
        quarter = len(values) // 4
        levels.append(float(values[quarter : len(values) - quarter].mean()) if len(values) else 0.0)
    return levels


def _finished(kind: str, combined: Combined) -> tuple[FloatImage, FloatImage, NDArray[np.int32]]:
    """Return the planes of the master; pixels that no frame had become BAD with value 0 (a flat: 1)."""
    image, variance = combined.mean, combined.variance
    mask: NDArray[np.int32] = np.zeros(image.shape, np.int32)
    if kind == "flat":
        image, variance, mask = flat.normalised(image, variance)
    empty = combined.count == 0
    mask = np.where(empty, mask | np.int32(MaskPlane.BAD), mask)
    fill = np.float32(1.0 if kind == "flat" else 0.0)
    return np.where(empty, fill, image), np.where(empty, np.float32(0), variance), mask
