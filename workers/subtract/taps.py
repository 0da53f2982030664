"""The inner loop of direct convolution, as vector instructions: one row of pixels into a block of output rows.

A compiler that is left alone loads every pixel once per tap. Here a block of four output rows stays in registers, so
that each pixel that is loaded serves all four: 35 to 40 multiplications per nanosecond on one core, where plain loops
reach 3 to 15.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

cgutils: Any = untyped
__all__ = ["NARROW", "ROWS", "WIDE", "narrow_taps", "wide_taps"]

ROWS = 4
"""Output rows of a block."""
_LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Floats in a register of this machine; the sums are the same with any number."""
NARROW = 16
WIDE = 64 if _LANES == 16 else 16
"""Output pixels of a block's row: as many as the registers hold."""


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, width: int) -> Any:
    """Write the loop over the taps; `width` output pixels."""
    pixels, taps, block = (
        context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, arguments, strict=True)
    )
    number, word, index = ir.FloatType(), ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(number, _LANES)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
    )
    length = cgutils.unpack_tuple(builder, taps.shape, 2)[1]
    tap_stride = cgutils.unpack_tuple(builder, taps.strides, 2)[0]
    row_stride = cgutils.unpack_tuple(builder, block.strides, 2)[0]
    parts = range(width // _LANES)

    def place(base: Any, offset: Any, part: int) -> Any:
        at = builder.add(offset, ir.Constant(word, 4 * _LANES * part))
        return builder.bitcast(cgutils.pointer_add(builder, base, at), vector.as_pointer())

    def load(pointer: Any) -> Any:
        value = builder.load(pointer)
        value.align = 4
        return value

    sums = []
    for row in range(ROWS):
        offset = builder.mul(row_stride, ir.Constant(word, row))
        for part in parts:
            slot, pointer = cgutils.alloca_once(builder, vector), place(block.data, offset, part)
            builder.store(load(pointer), slot)
            sums.append((slot, pointer))
    undefined, zeros = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(index, _LANES), [0] * _LANES)
    with cgutils.for_range(builder, length) as loop:
        step = builder.mul(loop.index, ir.Constant(word, 4))
        values = [load(place(pixels.data, step, part)) for part in parts]
        for row in range(ROWS):
            offset = builder.add(builder.mul(tap_stride, ir.Constant(word, row)), step)
            at = builder.bitcast(cgutils.pointer_add(builder, taps.data, offset), number.as_pointer())
            one = builder.insert_element(undefined, builder.load(at), ir.Constant(index, 0))
            tap = builder.shuffle_vector(one, undefined, zeros)
            for part in parts:
                slot = sums[row * len(parts) + part][0]
                builder.store(builder.call(fma, [tap, values[part], builder.load(slot)]), slot)
    for slot, pointer in sums:
        stored = builder.store(builder.load(slot), pointer)
        stored.align = 4
    return context.get_dummy_value()


def _wide(typing: Any, pixels: Any, taps: Any, block: Any) -> Any:
    """Add to block[r, x] the sum over j of taps[r, j] pixels[x + j], for r < ROWS and x < WIDE.

    `pixels` float32 (n + WIDE - 1 or more,), `taps` (ROWS, n), `block` (ROWS, WIDE), C-contiguous. Bounds are not
    checked.
    """
    return types.void(pixels, taps, block), lambda c, b, s, a: _emit(c, b, s, a, WIDE)


def _narrow(typing: Any, pixels: Any, taps: Any, block: Any) -> Any:
    """As `wide_taps` for x < NARROW."""
    return types.void(pixels, taps, block), lambda c, b, s, a: _emit(c, b, s, a, NARROW)


wide_taps: Any = intrinsic(_wide)
narrow_taps: Any = intrinsic(_narrow)
