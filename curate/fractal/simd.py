"""The counting loop of the chaos game for processors with AVX2, written as LLVM code that numba compiles.

The same float32 operations in the same order as kernels.count_scalar on eight lanes an instruction, so the same canvas
bit for bit: multiplication and addition stay apart, since LLVM joins them only where a flag allows it and there is
none. Up to eight maps fit one register for each coefficient: a map is looked up by one permutation, and chosen by
comparing symbols with cumulative shares.

Cells go through a small buffer: counting them between the steps was no faster at its best on a Zen 4 core, and eight
times slower at its worst (with one vector instead of two).
"""

from __future__ import annotations

import platform
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types, uint64
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from curate.fractal.kernels import BITS, GOLDEN, LANES, MUL_1, MUL_2, PER_WORD, RESOLUTION, count_scalar, in_pixels

MOST_MAPS = 8
SPARE = 32
"""Cells that the canvas needs beyond its pixels: points outside are counted there, without a branch."""
_VECTORS = 2  # of eight lanes, side by side: one would wait for its own results
_CHUNK = 16  # words of each lane between two emptyings of the buffer, 5 KiB

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_I32X8, _I64X4, _F32X8 = ir.VectorType(_I32, 8), ir.VectorType(_I64, 4), ir.VectorType(_F32, 8)
_FIRST, _SECOND = (0, 1, 4, 5), (2, 3, 6, 7)  # lanes whose words lie in the first and in the second half-vector
_LOW, _HIGH = (0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)  # so that these put lanes in order
_CARRIED = (0, 2 * _VECTORS, 3 * _VECTORS, 4 * _VECTORS)  # counters, then x, then y


def _splat(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _spread(builder: ir.IRBuilder, vector: ir.VectorType, value: Any) -> Any:
    """A vector of equal numbers."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _hashed(builder: ir.IRBuilder, z: Any) -> Any:
    """kernels.hashed of four words."""
    for shift, factor in ((30, int(MUL_1)), (27, int(MUL_2))):
        z = builder.mul(builder.xor(z, builder.lshr(z, _splat(_I64X4, shift))), _splat(_I64X4, factor))
    return builder.xor(z, builder.lshr(z, _splat(_I64X4, 31)))


def _symbol(builder: ir.IRBuilder, low: Any, high: Any, at: int) -> Any:
    """Symbol `at` of eight words, of which the lower and the upper 32 bits are given."""
    start = at * BITS
    if start + BITS <= 32:
        bits = builder.lshr(low, _splat(_I32X8, start))
    elif start >= 32:
        bits = builder.lshr(high, _splat(_I32X8, start - 32))
    else:
        upper = builder.shl(high, _splat(_I32X8, 32 - start))
        bits = builder.or_(builder.lshr(low, _splat(_I32X8, start)), upper)
    return builder.and_(bits, _splat(_I32X8, RESOLUTION - 1))


def _step(builder: ir.IRBuilder, table: list[Any], which: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """kernels.step of eight points, each under its own map."""
    kind = ir.FunctionType(_F32X8, [_F32X8, _I32X8])
    permute = builder.module.declare_intrinsic("llvm.x86.avx2.permps", fnty=kind)
    a, b, e, c, d, f = (builder.call(permute, [column, which]) for column in table)
    return (
        builder.fadd(builder.fmul(a, x), builder.fadd(builder.fmul(b, y), e)),
        builder.fadd(builder.fmul(c, x), builder.fadd(builder.fmul(d, y), f)),
    )


def _cell(builder: ir.IRBuilder, side: Any, spare: Any, x: Any, y: Any) -> Any:
    """The pixel of eight points, numbered by rows; the spare cells for those outside."""
    one = _splat(_I32X8, 1)
    row, column = (builder.sub(builder.fptosi(z, _I32X8), one) for z in (x, y))
    inside = builder.and_(builder.icmp_unsigned("<", row, side), builder.icmp_unsigned("<", column, side))
    return builder.select(inside, builder.add(builder.mul(row, side), column), spare)


def _loop(
    builder: ir.IRBuilder, columns: Any, limits: Any, compared: int, points: Any, counter: Any, words: Any, size: Any,
    cells: Any,
) -> None:  # fmt: skip
    """Emit the loop over words. columns, points and cells: pointers to eight numbers; limits: a pointer to one."""

    def at(base: Any, place: Any) -> Any:
        return builder.gep(base, [place if isinstance(place, ir.Value) else ir.Constant(_I64, place)])

    table = [builder.load(at(columns, k), align=4) for k in range(6)]
    thresholds = [_spread(builder, _I32X8, builder.load(at(limits, k))) for k in range(compared)]
    side, outside = _spread(builder, _I32X8, size), _spread(builder, _I32X8, builder.mul(size, size))
    spare = [builder.add(outside, ir.Constant(_I32X8, [8 * v + lane for lane in range(8)])) for v in range(_VECTORS)]
    lanes = [[8 * v + lane for lane in half] for v in range(_VECTORS) for half in (_FIRST, _SECOND)]
    opening = [
        builder.add(_spread(builder, _I64X4, counter), ir.Constant(_I64X4, [int(GOLDEN) * n % 2**64 for n in four]))
        for four in lanes
    ]
    opening += [builder.load(at(points, k), align=4) for k in range(2 * _VECTORS)]

    entry, loop, done = builder.block, builder.append_basic_block("words"), builder.append_basic_block("done")
    none = ir.Constant(_I64, 0)
    builder.cbranch(builder.icmp_signed(">", words, none), loop, done)
    builder.position_at_end(loop)
    left, filled = builder.phi(_I64), builder.phi(_I64)
    carried = [builder.phi(value.type) for value in opening]
    counters, xs, ys = (list(carried[i:j]) for i, j in pairwise(_CARRIED))
    halves = []
    for v in range(_VECTORS):
        a, b = (builder.bitcast(_hashed(builder, z), _I32X8) for z in counters[2 * v : 2 * v + 2])
        halves.append([builder.shuffle_vector(a, b, ir.Constant(_I32X8, order)) for order in (_LOW, _HIGH)])
    for t in range(PER_WORD):
        for v in range(_VECTORS):
            symbol, which = _symbol(builder, halves[v][0], halves[v][1], t), _splat(_I32X8, 0)
            for limit in thresholds:  # a comparison that holds is -1
                which = builder.sub(which, builder.sext(builder.icmp_signed(">", symbol, limit), _I32X8))
            xs[v], ys[v] = _step(builder, table, which, xs[v], ys[v])
            cell = _cell(builder, side, spare[v], xs[v], ys[v])
            builder.store(cell, at(cells, builder.add(filled, ir.Constant(_I64, t * _VECTORS + v))), align=4)
    for k, value in enumerate(xs + ys):
        builder.store(value, at(points, k), align=4)
    rest = builder.sub(left, ir.Constant(_I64, 1))
    further = [builder.add(z, _splat(_I64X4, int(GOLDEN) * LANES % 2**64)) for z in counters]
    more = builder.add(filled, ir.Constant(_I64, PER_WORD * _VECTORS))
    for phi, first, then in zip(
        [left, filled, *carried], [words, none, *opening], [rest, more, *further, *xs, *ys], strict=True
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed(">", rest, none), loop, done)
    builder.position_at_end(done)


def _typed_steps(typing, columns, limits, points, counter, words, size, cells, compared):  # type: ignore[no-untyped-def]
    """Take the points of 8 * _VECTORS lanes, float32 [2, lanes], through some words, and write the cells they visit.

    columns: float32 [6, 8], coefficient by map. limits: int32 [8], the last symbol of each map. counter: before that of
    the first word of the first lane. compared: how many of the limits to look at, a literal. cells: int32 [words *
    PER_WORD * lanes], in no promised order.
    """
    signature = types.void(columns, limits, points, counter, words, size, cells, compared)

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def pointer(at: int, kind: Any) -> Any:
            array = context.make_array(signature.args[at])(context, builder, arguments[at])
            return builder.bitcast(array.data, ir.PointerType(kind))

        table, last, where, out = (pointer(at, kind) for at, kind in ((0, _F32X8), (1, _I32), (2, _F32X8), (6, _I32X8)))
        first, count, side = arguments[3:6]
        _loop(builder, table, last, compared.literal_value, where, first, count, side, out)
        return context.get_dummy_value()

    return signature, build


_steps: Any = intrinsic(prefer_literal=True)(_typed_steps)


@lru_cache(maxsize=1)
def trouble() -> str:
    """Why `count_avx2` cannot be used here; empty when it can. The first call compiles it and tries it out."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"{platform.machine()} has no AVX2"
    try:
        if "+avx2" not in cpu_target.target_context.codegen().magic_tuple()[2].split(","):
            return "numba does not compile for AVX2 here"
        for n in (3, MOST_MAPS):
            if not _agrees(n):
                return f"it counts other points than the scalar loop, with {n} maps"
    except Exception as error:  # whatever a version of numba or LLVM finds wrong: the scalar loop is always there
        return f"{type(error).__name__} when compiling it"
    return ""


def _agrees(n: int) -> bool:
    """Whether both loops count the same on a small canvas, off which some points fall."""
    maps = np.array([[[0.5, 0.1 * i, i], [-0.3, 0.4, -(i % 3)]] for i in range(n)], dtype=np.float64)
    p = np.full(n, RESOLUTION // n, dtype=np.float64)
    p[0] += RESOLUTION % n
    _, table, symbol, starts = in_pixels(maps, p / RESOLUTION, uint64(n), 16, 0.0, -3.0, float(n), 0.0)
    one, other = (np.zeros(16 * 16 + SPARE, dtype=np.uint32) for _ in range(2))
    count_scalar(table, symbol, starts, uint64(n), 2 * _CHUNK + 1, 16, one)
    count_avx2(table, symbol, starts, uint64(n), 2 * _CHUNK + 1, 16, other)
    return bool((one[:256] == other[:256]).all())


@njit(cache=True, nogil=True)
def count_avx2(table, symbol, starts, key, words, size, flat):  # type: ignore[no-untyped-def]
    """kernels.count_scalar for at most MOST_MAPS maps. flat: uint32 [size**2 + SPARE]; the spare cells are scratch."""
    if len(table) > MOST_MAPS or len(flat) < size * size + SPARE:
        raise ValueError("too many maps or too small a canvas")
    columns = np.zeros((6, 8), dtype=np.float32)
    limits = np.full(8, RESOLUTION, dtype=np.int32)
    for k in range(len(table)):
        for at in range(6):
            columns[at, k] = table[k, at]
        if k > 0:
            limits[k - 1] = np.searchsorted(symbol, k) - 1
    points = np.empty((2, 8 * _VECTORS), dtype=np.float32)
    cells = np.empty(_CHUNK * PER_WORD * 8 * _VECTORS, dtype=np.int32)
    for lane in range(0, LANES, 8 * _VECTORS):
        for at in range(8 * _VECTORS):
            points[0, at], points[1, at] = starts[lane + at, 0], starts[lane + at, 1]
        counter = key + GOLDEN * uint64(lane + 1)
        for begin in range(0, words, _CHUNK):
            now = min(_CHUNK, words - begin)
            if len(table) <= 4:
                _steps(columns, limits, points, counter, np.int64(now), np.int32(size), cells, 3)
            else:
                _steps(columns, limits, points, counter, np.int64(now), np.int32(size), cells, 7)
            counter += GOLDEN * uint64(LANES * now)
            for at in range(now * PER_WORD * 8 * _VECTORS):
                flat[np.uint32(cells[at])] += np.uint32(1)
