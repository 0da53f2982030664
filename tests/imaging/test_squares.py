"""Squares cut round positions, against plain slices of a padded image."""

import numpy as np
import pytest

from workers.imaging.squares import cut_squares


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_are_slices_of_the_padded_image(dtype):
    rng = np.random.default_rng(3)
    image, variance = rng.normal(0, 1, (40, 31)).astype(dtype), rng.uniform(0, 2, (40, 31)).astype(dtype)
    usable = rng.random(image.shape) > 0.1
    x, y = rng.uniform(-9, 40, 200), rng.uniform(-9, 48, 200)
    squares = cut_squares(image, variance, usable, x, y, 3)
    padded = [np.pad(plane, 20) for plane in (image * usable, variance * usable, usable)]
    for k in range(len(x)):
        column, row = int(np.round(x[k])), int(np.round(y[k]))
        assert (squares.x[k], squares.y[k]) == (column, row)
        part = slice(row + 17, row + 24), slice(column + 17, column + 24)
        for plane, found in zip(padded, (squares.data, squares.variance, squares.good), strict=True):
            np.testing.assert_array_equal(found[k], plane[part])
    np.testing.assert_array_equal(squares.noise < 0.0, ~squares.good)


def test_nothing_is_cut_where_a_position_is_not_finite_or_far_away():
    plane = np.ones((9, 9), np.float32)
    x, y = np.array([np.nan, 4.0, np.inf, 1e300, 4.0]), np.array([4.0, np.nan, 4.0, 4.0, 4.0])
    good = cut_squares(plane, plane, np.ones((9, 9), bool), x, y, 2).good
    assert not good[:4].any()
    assert good[4].all()
