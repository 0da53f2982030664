"""The inner loop of direct convolution, as vector instructions: one row of pixels into a block of output rows.

A compiler that is left alone loads every pixel once per tap. Here a block of four output rows stays in registers, so
that each pixel that is loaded serves all four: 35 to 40 multiplications per nanosecond on one core, where plain loops
reach 3 to 15.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped
from numba.core import codegen as untyped_codegen
from numba.core import config as untyped_config
from numba.extending import intrinsic

cgutils: Any = untyped
codegen: Any = untyped_codegen
config: Any = untyped_config
__all__ = ["NARROW", "ROWS", "WIDE", "narrow_taps", "wide_taps"]

ROWS = 4
"""Output rows of a block."""
_LANES = 16 if "+avx512f" in str(config.CPU_FEATURES or codegen.get_host_cpu_features()) else 8
"""Floats in a register of this machine."""
_AT_ONCE = 64 if _LANES == 16 else 16
"""Pixels of a block's row that its registers hold; wider blocks are done in parts, with the same sums."""
NARROW, WIDE = 16, 64
"""Output pixels of a block's row."""


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, width: int) -> Any:
    """Write the loop over the taps, once for each part of the `width` output pixels."""
    pixels, taps, block = (
        context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, arguments, strict=True)
    )
    for first in range(0, width, _AT_ONCE):
        _emit_part(builder, pixels, taps, block, first, min(_AT_ONCE, width) // _LANES)
    return context.get_dummy_value()


def _emit_part(builder: Any, pixels: Any, taps: Any, block: Any, first: int, count: int) -> None:
    """Write the loop for `count` registers of output pixels from pixel `first` on."""
    number, word, index = ir.FloatType(), ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(number, _LANES)
    kind = ir.FunctionType(vector, [vector] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{_LANES}f32")
    length = cgutils.unpack_tuple(builder, taps.shape, 2)[1]
    tap_stride = cgutils.unpack_tuple(builder, taps.strides, 2)[0]
    row_stride = cgutils.unpack_tuple(builder, block.strides, 2)[0]
    parts = range(count)

    def place(base: Any, offset: Any, part: int) -> Any:
        at = builder.add(offset, ir.Constant(word, 4 * (first + _LANES * part)))
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
