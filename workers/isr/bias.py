"""Bias: the fixed pattern of the offset that the overscan does not see."""

from __future__ import annotations

from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> IsrState:
    """Subtract the master bias (ADU); its variance is added, its flagged pixels are flagged here."""
    state.need_unit("adu", "bias")
    bias = state.need("bias")
    return state.replaced(
        image=state.image - bias.image, variance=state.variance + bias.variance, mask=state.mask | bias.mask
    )
