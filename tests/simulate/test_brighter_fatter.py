"""The simulated brighter-fatter effect: what physics asks of it, and that it is wired into frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.simulate.brighter_fatter import accumulate, area_coefficients, border_light, border_shifts
from workers.simulate.cadence import plan_visits
from workers.simulate.exposure import make_frame
from workers.simulate.settings import TINY

SHIFTS = border_shifts(-2.5e-6)


def test_areas_shrink_at_home_and_grow_outside() -> None:
    area = area_coefficients(SHIFTS)
    assert area[12, 12] == pytest.approx(-2.5e-6)
    outside = np.delete(area.ravel(), area.size // 2)
    inner = area[4:21, 4:21]
    assert (np.delete(inner.ravel(), inner.size // 2) > 0.0).all()
    assert -0.1 < area[4:21, 4:21].sum() / 2.5e-6 < area[2:23, 2:23].sum() / 2.5e-6 < 0.0
    assert outside.max() == area[11, 12] == pytest.approx(area[13, 12])
    assert area[11, 12] > 1.5 * area[12, 11]


def test_borders_are_pulled_towards_the_charge_and_symmetric() -> None:
    assert SHIFTS.right[12, 12] < 0.0
    np.testing.assert_allclose(SHIFTS.right[:, 1:], -SHIFTS.right[:, :0:-1], rtol=1e-12)
    np.testing.assert_allclose(SHIFTS.top[1:], -SHIFTS.top[:0:-1], rtol=1e-12)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_mean_charge_is_conserved(seed: int) -> None:
    light = 100.0 + 60000.0 * np.random.default_rng(seed).random((40, 30)) ** 8
    charge = accumulate(light, SHIFTS, 85000.0, steps=4)
    assert charge.sum() == pytest.approx(light.sum(), rel=1e-12)
    assert charge.ravel()[light.argmax()] < light.max()
    assert (charge >= 0.0).all()


def test_even_light_stays_even_and_faint_light_is_left_alone() -> None:
    np.testing.assert_allclose(accumulate(np.full((30, 40), 5e4), SHIFTS, 85000.0), 5e4, rtol=1e-5)
    light = np.random.default_rng(1).random((30, 40))
    np.testing.assert_allclose(accumulate(light, SHIFTS, 85000.0), light, atol=1e-5)


def test_light_at_the_borders_is_exact_for_a_cubic() -> None:
    edges = np.linspace(0.0, 4.0, 21)
    pixels = np.diff(edges**4 / 4.0 + edges) / 0.2
    right, top = border_light(np.tile(pixels, (3, 1)))
    np.testing.assert_allclose(right[0, 1:-1], edges[2:-2] ** 3 + 1.0, rtol=1e-12)
    np.testing.assert_allclose(top, np.tile(pixels, (2, 1)))


def test_frames_have_the_effect_where_it_is_switched_on() -> None:
    design = replace(TINY.detectors, cosmic_rays=0.0, pixel_response=0.0, hot_fraction=0.0, read_noise=1.0)
    visit = next(visit for visit in plan_visits(TINY) if visit.role == "flat")
    scatter = []
    for a00 in (0.0, -6.0e-6):
        frame = make_frame(replace(TINY, detectors=replace(design, brighter_fatter=a00)), visit, 0)
        raw = frame.hdus[0][20:140, 30:140].astype(float)
        scatter.append(np.var(np.diff(raw, axis=0)))
    assert scatter[1] < 0.9 * scatter[0]
