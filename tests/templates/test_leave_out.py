"""Leaving inputs out of a template gives what a template combined without them is."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import DataError
from tests.templates.kept_cells import SIDE, make
from workers.imaging.masks import MaskPlane
from workers.templates.leave_out import Box, box_round, given_in, leave_out, whole

STARS = ((20.0, 40.0, 3e5, 0.0), (45.5, 12.2, 4e4, 0.0), (31.0, 30.0, 2e4, 6.0))


@pytest.fixture(scope="module")
def made():
    light = np.zeros(12)
    light[5:9] = 3000.0
    return make(3, light, sources=STARS, holes=0.03)


def compared(made, out, rest):
    """Pixel by pixel with the template combined without `out`, in units of its noise."""
    want, view = made.without(out), rest.box.slices()
    left = (want.nEpochs[view] > 0) & (given_in(made.cell, rest.box).any(axis=0))
    assert np.array_equal(rest.nEpochs[left], want.nEpochs[view][left])
    assert np.array_equal(rest.nEpochs == 0, (rest.mask & int(MaskPlane.NO_DATA)) != 0)
    noise = np.sqrt(want.variance[view][left])
    off = (rest.image[left] - want.image[view][left]) / noise
    return off, rest.variance[left] / want.variance[view][left] - 1.0


@pytest.mark.parametrize("out", [(6,), (5, 6, 7, 8), tuple(range(10)), (0, 11)])
def test_equals_the_template_combined_without_them(made, out):
    rest = leave_out(made.cell, out, made.warps)
    off, variance = compared(made, out, rest)
    share = sum(made.cell.plan.inputs[k].weight for k in out) / sum(i.weight for i in made.cell.plan.inputs)
    # the planes' steps: 1/16 of the template's noise at most, so 1/32 off, times what the rest weighs less
    heavy = share > 0.5
    assert np.abs(off).max() < (1e-3 if heavy else 0.04 / np.sqrt(1 - share))
    assert abs(off.mean()) < 1e-3
    assert np.abs(variance).max() < (1e-3 if heavy else 0.02)
    assert np.abs(rest.psf - made.without(out).psf).max() < 1e-6
    assert rest.share[given_in(made.cell, rest.box).all(axis=0)].mean() == pytest.approx(share, abs=1e-6)


def test_a_stamp_is_a_part_of_the_cell(made):
    box = box_round(made.cell, 50.2, 20.0, 32)
    assert box == Box(34, 4, 30, 32)  # ends at the cell's edge
    rest, all_of_it = leave_out(made.cell, (5, 6), made.warps, box), leave_out(made.cell, (5, 6), made.warps)
    for name in ("image", "mask", "variance", "nEpochs", "share"):
        assert np.array_equal(getattr(rest, name), getattr(all_of_it, name)[box.slices()])
    with pytest.raises(ValueError, match="too far outside"):
        box_round(made.cell, 300.0, 20.0)


def test_nothing_left_is_no_data(made):
    rest = leave_out(made.cell, range(12), made.warps)
    assert (rest.mask == int(MaskPlane.NO_DATA)).all()
    assert not rest.image.any()
    assert not rest.variance.any()


def test_nothing_left_out_is_the_template(made):
    rest = leave_out(made.cell, (), made.warps)
    full = made.cell.nEpochs > 0
    assert np.allclose(rest.image[full], made.cell.image[full], rtol=1e-6)
    assert np.allclose(rest.variance[full], made.cell.variance[full], rtol=1e-6)


def test_the_other_side_serves_where_a_warp_is_gone(made):
    def lost(*gone):
        return lambda item, cell: None if item.visit in gone else made.warps(item, cell)

    off, _ = compared(made, (5, 6), leave_out(made.cell, (5, 6), lost(5)))
    assert np.abs(off).max() < 1e-3
    assert leave_out(made.cell, (5, 6), lost(5, 1)) is None


def test_cells_of_older_versions_say_so(made):
    for name in ("given", "psfs"):
        with pytest.raises(DataError, match="templates build"):
            leave_out(replace(made.cell, **{name: None}), (5,), made.warps)


def test_a_stamp_takes_less_than_50_ms(made):
    box = whole(made.cell)
    assert (box.width, box.height) == (SIDE, SIDE)
    leave_out(made.cell, (5, 6, 7), made.warps, box)
    begin = time.process_time()
    for _ in range(5):
        leave_out(made.cell, (5, 6, 7), made.warps, box)
    assert (time.process_time() - begin) / 5 < 0.05
