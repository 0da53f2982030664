"""Steps between amplifiers: offsets against truth with pulls, gradients, galaxies on a border, any layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.calibrations import CalibrationSet
from workers.isr import amp_offset
from workers.isr.amp_offset import borders, measure_offsets, solve_offsets
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, parse_section
from workers.survey.isr_config import AmpOffsetConfig, IsrConfig

Image = NDArray[np.float32]


def amplifier(name: str, x0: int, x1: int, y0: int, y1: int) -> Amplifier:
    """0-based, half open."""
    place = f"[{x0 + 1}:{x1},{y0 + 1}:{y1}]"
    return Amplifier(name=name, data=place, position=place, read_noise=5.0, saturation=60000.0)


def grid(height: int, width: int, rows: int, columns: int) -> tuple[Amplifier, ...]:
    h, w = height // rows, width // columns
    return tuple(
        amplifier(f"C{r}{c}", c * w, (c + 1) * w, r * h, (r + 1) * h) for r in range(rows) for c in range(columns)
    )


def uneven() -> tuple[Amplifier, ...]:
    """A left half in one piece, a right half of three amplifiers, the last of them alone on the far right."""
    return (
        amplifier("L", 0, 192, 0, 384),
        amplifier("R0", 192, 384, 0, 160),
        amplifier("R1", 192, 384, 160, 384),
        amplifier("S", 384, 480, 64, 320),
    )


def sky(shape: tuple[int, int], rng: np.random.Generator, noise: float = 20.0) -> Image:
    y, x = np.mgrid[: shape[0], : shape[1]]
    level = 500.0 + 0.05 * x - 0.04 * y + 3e-5 * x * y
    return np.asarray(level + rng.normal(0.0, noise, shape), np.float32)


def stepped(image: Image, amplifiers: Sequence[Amplifier], offsets: NDArray[np.float64]) -> Image:
    for one, offset in zip(amplifiers, offsets, strict=True):
        image[parse_section(one.position)] += np.float32(offset)
    return image


@pytest.mark.parametrize(
    ("shape", "amplifiers"),
    [((512, 512), grid(512, 512, 2, 4)), ((384, 512), grid(384, 512, 1, 4)), ((384, 480), uneven())],
    ids=["2x4", "1x4", "uneven"],
)
def test_pulls_of_the_offsets_on_a_sky_with_a_gradient(
    shape: tuple[int, int], amplifiers: tuple[Amplifier, ...]
) -> None:
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.normal(0.0, 3.0, len(amplifiers))
        truth -= truth.mean()
        found = measure_offsets(stepped(sky(shape, rng), amplifiers, truth), np.zeros(shape, np.int32), amplifiers)
        assert found.offset.sum() == pytest.approx(0.0, abs=1e-6)
        pulls.append((found.offset - truth) / found.error)
    free = 40 * (len(amplifiers) - 1)
    width = np.sqrt(np.sum(np.square(pulls)) / (40 * len(amplifiers)))
    assert width == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * free) + 0.03)
    assert abs(np.mean(pulls, axis=0)).max() < 4.0 / np.sqrt(40)


GALAXIES = {
    "small, on the cross": (384, 384, 30, 4000.0),
    "on one border": (390, 200, 24, 6000.0),
    "wide": (300, 500, 60, 800.0),
}


@pytest.mark.parametrize("name", GALAXIES)
def test_a_bright_galaxy_across_a_border_makes_no_offset(name: str) -> None:
    shape, amplifiers = (768, 768), grid(768, 768, 2, 2)
    x0, y0, radius, peak = GALAXIES[name]
    y, x = np.mgrid[: shape[0], : shape[1]]
    galaxy = peak * np.exp(-np.hypot((x - x0) / 1.0, (y - y0) / 0.6) / radius)
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        empty = sky(shape, rng)
        image = (empty + rng.normal(0, np.sqrt(galaxy)) + galaxy).astype(np.float32)
        before, result = (measure_offsets(one, np.zeros(shape, np.int32), amplifiers) for one in (empty, image))
        found.append([*(result.offset - before.offset), *(result.offset / result.error)])
    change, pull = np.array(found)[:, :4], np.array(found)[:, 4:]
    assert np.abs(change.mean(axis=0)).max() < 0.45  # electrons, beside a galaxy of thousands
    assert np.sqrt(np.mean(pull**2)) < 1.35
    assert np.count_nonzero(np.abs(pull) > 3.0) <= 1


def test_stars_on_the_borders_make_no_offset() -> None:
    shape, amplifiers = (512, 512), grid(512, 512, 2, 4)
    y, x = np.mgrid[:15, :15] - 7
    star = np.exp(-0.5 * (x**2 + y**2) / 1.5**2)
    pulls = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = sky(shape, rng)
        for _ in range(150):
            u, v = rng.integers(0, 497, 2)
            image[v : v + 15, u : u + 15] += (10.0 ** rng.uniform(2, 5) * star).astype(np.float32)
        mask = np.where(image > 60000.0, 2, 0).astype(np.int32)
        found = measure_offsets(image, mask, amplifiers)
        pulls.append(found.offset / found.error)
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.25


def test_masked_pixels_count_for_nothing() -> None:
    shape, amplifiers = (256, 256), grid(256, 256, 1, 2)
    image = sky(shape, np.random.default_rng(1))
    clean = measure_offsets(image, np.zeros(shape, np.int32), amplifiers)
    mask = np.zeros(shape, np.int32)
    mask[40:90, 100:160] = 1
    image[mask != 0] = 1e7
    dirty = measure_offsets(image, mask, amplifiers)
    assert np.abs(dirty.offset - clean.offset).max() < clean.error.max()
    mask[:] = 1
    nothing = measure_offsets(image, mask, amplifiers)
    assert (nothing.offset == 0.0).all()
    assert np.isinf(nothing.error).all()


def test_borders_of_any_layout() -> None:
    found = {(one.first, one.second, one.upright, one.at, one.begin, one.end) for one in borders(uneven())}
    assert found == {
        (0, 1, True, 192, 0, 160),
        (0, 2, True, 192, 160, 384),
        (1, 2, False, 160, 192, 384),
        (1, 3, True, 384, 64, 160),
        (2, 3, True, 384, 160, 320),
    }
    assert len(borders(grid(512, 512, 2, 8))) == 2 * 7 + 8
    assert borders((amplifier("A", 0, 8, 0, 8), amplifier("B", 9, 16, 0, 8))) == ()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_exact_steps_give_the_offsets_back(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    lines = borders(grid(64, 64, 2, 4))
    pairs = np.array([(line.first, line.second) for line in lines])
    truth = rng.normal(0.0, unit, 9)
    truth[:8] -= truth[:8].mean()
    error = unit * rng.uniform(0.1, 1.0, len(pairs))
    step = truth[pairs[:, 1]] - truth[pairs[:, 0]]
    step[0], error[0] = np.nan, np.inf  # one border could not be measured: the others close the loops
    offset, errors = solve_offsets(9, pairs, step, error)
    np.testing.assert_allclose(offset[:8], truth[:8], atol=1e-9 * unit)
    assert offset[8] == 0.0
    assert np.isinf(errors[8])
    assert (errors[:8] > 0.05 * unit).all()


def test_contradicting_steps_have_larger_errors() -> None:
    pairs = np.array([(0, 1), (1, 2), (0, 2)])
    _, honest = solve_offsets(3, pairs, np.array([1.0, 1.0, 2.0]), np.full(3, 0.1))
    _, torn = solve_offsets(3, pairs, np.array([1.0, 1.0, 4.0]), np.full(3, 0.1))
    np.testing.assert_allclose(torn / honest, 2.0 / (0.1 * np.sqrt(3.0)))


def test_the_step_subtracts_what_is_significant_and_reports_all(instrument: Any) -> None:
    camera = instrument.camera
    detector = camera.detectors[0]
    shape = (detector.height, detector.width)
    rng = np.random.default_rng(4)
    clean = np.asarray(300.0 + rng.normal(0.0, 5.0, shape), np.float32)
    truth = np.array([8.0, -8.0, 0.1, -0.1])
    for significance in (3.0, 1e6):
        config = IsrConfig(amp_offset=AmpOffsetConfig(block=16, strip=8, significance=significance))
        image = stepped(clean.copy(), detector.amplifiers, truth)
        before = image.copy()
        state = IsrState(
            instrument.raw(np.full(shape, 300.0)),
            camera,
            detector,
            CalibrationSet({}),
            config,
            image,
            np.zeros(shape, np.int32),
            np.full(shape, 25.0, np.float32),
            unit="electron",
        )
        amp_offset.apply(state)
        error = state.metrics["ampOffsetErr"]
        for one, offset in zip(detector.amplifiers, truth, strict=True):
            found = state.metrics[f"ampOffset_{one.name}"]
            assert found == pytest.approx(offset, abs=4.5 * error)
            taken = (before - state.image)[parse_section(one.position)]
            np.testing.assert_allclose(taken, found if abs(found) > significance * error * 1.2 else 0.0, atol=1e-3)
        assert state.image is image


def test_the_step_needs_electrons(instrument: Any) -> None:
    shape = (96, 128)
    planes = (np.ones(shape, np.float32), np.zeros(shape, np.int32), np.ones(shape, np.float32))
    raw, camera = instrument.raw(np.full(shape, 300.0)), instrument.camera
    state = IsrState(raw, camera, camera.detectors[0], CalibrationSet({}), IsrConfig(), *planes)
    with pytest.raises(ConfigurationError, match="after 'gain'"):
        amp_offset.apply(state)
