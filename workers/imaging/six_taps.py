"""The inner loop of resampling, as vector instructions: 6 x 6 pixels of three planes, weighted and joined.

A row of eight pixels is one load, of which the last two have weight 0: what a compiler makes of plain loops loads each
pixel by itself, and takes three times as long.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types as untyped_types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

cgutils: Any = untyped
types: Any = untyped_types
__all__ = ["LANES", "six_by_six"]

LANES = 8
"""Pixels of a row that are read."""
_TAPS = 6
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(32), LANES)


def _row(builder: Any, plane: Any, y: Any, x: Any, kind: Any) -> Any:
    """Return eight pixels of a plane from (y, x) on."""
    stride = cgutils.unpack_tuple(builder, plane.strides, 2)[0]
    offset = builder.add(builder.mul(stride, y), builder.mul(x, ir.Constant(ir.IntType(64), 4)))
    value = builder.load(builder.bitcast(cgutils.pointer_add(builder, plane.data, offset), kind.as_pointer()))
    value.align = 4
    return value


def _splat(builder: Any, value: Any, lane: int = 0) -> Any:
    """Return a register with `value` (a number, or a lane of a register) in all lanes."""
    if not isinstance(value.type, ir.VectorType):
        value = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    same = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane] * LANES)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), same)


def _joined(builder: Any, value: Any, join: Any) -> Any:
    """Return all lanes joined in pairs: 4 with 4, 2 with 2, 1 with 1."""
    half = LANES
    while half > 1:
        half //= 2
        turn = ir.Constant(_BITS, [(lane + half) % LANES for lane in range(LANES)])
        value = join(value, builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), turn))
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Write the instructions for one output pixel."""
    image, variance, mask, table = (
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args[:4], arguments[:4], strict=True)
    )
    y, x, *places = arguments[4:]
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{LANES}f32"
    )
    weights, zero = [], ir.Constant(ir.IntType(64), 0)
    for index, part in (places[:2], places[2:]):
        first = _row(builder, table, index, zero, _FLOATS)
        second = _row(builder, table, builder.add(index, ir.Constant(ir.IntType(64), 1)), zero, _FLOATS)
        weights.append(builder.call(fma, [_splat(builder, part), builder.fsub(second, first), first]))
    up, along = weights
    squares = builder.fmul(up, up), builder.fmul(along, along)
    value = noise = ir.Constant(_FLOATS, [0.0] * LANES)
    bits = ir.Constant(_BITS, [0] * LANES)
    for tap in range(_TAPS):
        row = builder.add(y, ir.Constant(ir.IntType(64), tap))
        value = builder.call(fma, [_splat(builder, up, tap), _row(builder, image, row, x, _FLOATS), value])
        noise = builder.call(fma, [_splat(builder, squares[0], tap), _row(builder, variance, row, x, _FLOATS), noise])
        bits = builder.or_(bits, _row(builder, mask, row, x, _BITS))
    bits = builder.and_(bits, ir.Constant(_BITS, [-1] * _TAPS + [0] * (LANES - _TAPS)))
    results = (
        _joined(builder, builder.fmul(value, along), builder.fadd),
        _joined(builder, builder.fmul(noise, squares[1]), builder.fadd),
        _joined(builder, bits, builder.or_),
    )
    return context.make_tuple(builder, signature.return_type, results)


def _six_by_six(
    typing: Any,
    image: Any,
    variance: Any,
    mask: Any,
    table: Any,
    y: Any,
    x: Any,
    row: Any,
    row_part: Any,
    column: Any,
    column_part: Any,
) -> Any:
    """Return (value, variance, OR of the masks) of the 6 x 6 pixels from (y, x) on, float32, float32, int32.

    The weights along y are ``table[row] + row_part (table[row + 1] - table[row])``, those along x likewise from
    `column`; `table` float32 (n, 8), the last two of each row 0. All C-contiguous, two pixels more than the six must
    exist along x. Bounds are not checked.
    """
    word, number = types.int64, types.float32
    given = image, variance, mask, table, word, word, word, number, word, number
    return types.Tuple((number, number, types.int32))(*given), _emit


six_by_six: Any = intrinsic(_six_by_six)
