"""Bias: the fixed pattern of the offset that the overscan does not see."""

from __future__ import annotations

from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> None:
    """Subtract the master bias (ADU); its variance is added, its flagged pixels are flagged here."""
    state.need_unit("adu", "bias")
    bias = state.need("bias")
    state.image -= bias.image
    state.variance += bias.variance
    state.flag_as(bias)
