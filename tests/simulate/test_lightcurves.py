from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.simulate.lightcurves import CONSTANT, ECLIPSING, RR_LYRAE, SINUSOID, transient_shape, variable_factor


@given(rise=st.floats(1.0, 20.0), ratio=st.floats(2.5, 20.0))
def test_transient_peaks_at_one_and_fades_on_both_sides(rise, ratio):
    fall = rise * ratio
    days = np.linspace(-20 * rise, 10 * fall, 20001)
    shape = transient_shape(days, np.array(rise), np.array(fall))
    assert shape.max() == pytest.approx(1.0, abs=1e-3)
    assert shape.max() <= 1.0 + 1e-12
    assert np.all(shape >= 0.0)
    assert shape[0] < 1e-3
    assert shape[-1] < 0.01


@given(kind=st.sampled_from([CONSTANT, SINUSOID, RR_LYRAE, ECLIPSING]), phase=st.floats(-1e4, 1e4))
def test_variable_factor_is_periodic_and_positive(kind, phase):
    factor = variable_factor(np.array([kind, kind]), np.array([phase, phase + 1.0]), np.array([0.4, 0.4]))
    assert np.all(factor > 0.0)
    assert factor[0] == pytest.approx(factor[1], abs=1e-6)


def test_amplitudes():
    phase = np.linspace(0.0, 1.0, 2001)

    def factor(kind: int, amplitude: float) -> np.ndarray:
        return variable_factor(np.full(phase.size, kind), phase, np.full(phase.size, amplitude))

    assert np.ptp(factor(SINUSOID, 0.2)) == pytest.approx(0.4, rel=1e-3)
    assert 2.5 * np.log10(factor(RR_LYRAE, 0.8).max() / factor(RR_LYRAE, 0.8).min()) == pytest.approx(0.8, rel=1e-3)
    assert factor(ECLIPSING, 0.5).min() == pytest.approx(0.5, rel=1e-3)
    assert np.all(factor(CONSTANT, 0.5) == 1.0)
