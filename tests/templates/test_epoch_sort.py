"""Order statistics over epochs, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.templates.epoch_sort import comparisons, order_statistics


@pytest.mark.parametrize("count", range(1, 41))
def test_the_network_sorts(count):
    rng = np.random.default_rng(count)
    values = np.concatenate([rng.normal(size=(count, 200)), rng.integers(0, 2, (count, 200))], axis=1)
    for first, second in comparisons(count):
        values[first], values[second] = (
            np.minimum(values[first], values[second]),
            np.maximum(values[first], values[second]),
        )
    assert (np.diff(values, axis=0) >= 0).all()


@given(st.integers(1, 13), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_statistics_are_those_of_the_known_values(count, seed):
    rng = np.random.default_rng(seed)
    planes = rng.normal(size=(count, 4, 5)).astype(np.float32)
    known = rng.random(planes.shape) < 0.7
    middle, lower, spread = order_statistics(planes, known)
    for y, x in np.ndindex(4, 5):
        values = np.sort(planes[known[:, y, x], y, x])
        if not len(values):
            assert middle[y, x] == lower[y, x] == pytest.approx(planes[:, y, x].mean(), abs=1e-5)
            continue
        assert middle[y, x] == pytest.approx(np.median(values), abs=1e-5)
        assert lower[y, x] == pytest.approx(values[: (len(values) + 1) // 2].mean(), abs=1e-5)
        third = values[: max((len(values) + 1) // 3, 2)]
        assert spread[y, x] == pytest.approx(third.var(ddof=1) if len(values) > 1 else 0.0, abs=1e-5)
