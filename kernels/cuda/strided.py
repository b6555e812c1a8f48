"""Index arithmetic of strided kernels: axes merged where memory allows, printed as C++.

A kernel runs over the axes of one operand in the order of its memory. Every axis has a size and
one stride per operand (0 where an operand has no such axis); sizes and strides are constants of
the source, but for the outermost size, so that the batch does not change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Spans from here on need 64-bit offsets.
MAX_SPAN = 2**31 - 2**16


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its size, and the distance of its elements in each operand."""

    size: int
    strides: tuple[int, ...]


def merge_axes(axes: Iterable[Axis]) -> list[Axis]:
    """The same walk with fewer axes, outermost first; axes of size 1 are dropped.

    Two neighbours become one where every operand's elements go on without a gap. Example:
    sizes 4, 5 with strides (10,), (2,) are 20 with stride (2,).
    """
    merged: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if merged and all(
            outer == inner * axis.size
            for outer, inner in zip(merged[-1].strides, axis.strides, strict=True)
        ):
            merged[-1] = Axis(merged[-1].size * axis.size, axis.strides)
        else:
            merged.append(axis)
    return merged


def count(axes: Sequence[Axis]) -> int:
    """Number of elements of the walk."""
    total = 1
    for axis in axes:
        total *= axis.size
    return total


def index_type(*walks: Sequence[Axis]) -> str:
    """C++ type that holds every offset and index of these walks together."""
    operands = max((len(axis.strides) for axes in walks for axis in axes), default=0)
    spans = [
        sum((axis.size - 1) * axis.strides[i]
            for axes in walks for axis in axes if i < len(axis.strides))
        for i in range(operands)
    ]
    elements = 1
    for axes in walks:
        elements *= count(axes)
    return "unsigned" if max([elements, *spans]) < MAX_SPAN else "unsigned long long"


def vector_size(
    innermost: Axis, others: Iterable[Axis], itemsize_bytes: int, operands: int
) -> int:
    """Elements that one thread may move at once along an axis: up to 16 bytes of ``itemsize``.

    The largest power of two that divides the size of the axis and all strides of the other axes.
    Only the first ``operands`` strides count; the axis has stride 1 in all of them, or it is 1.
    """
    if any(stride != 1 for stride in innermost.strides[:operands]):
        return 1
    vector = 16 // itemsize_bytes
    sizes = [innermost.size]
    sizes += [stride for axis in others if axis.size > 1 for stride in axis.strides[:operands]]
    while vector > 1 and any(size % vector for size in sizes):
        vector //= 2
    return vector


def walk_function(
    name: str, axes: Sequence[Axis], operands: Sequence[str], index: str, vector: int = 1
) -> str:
    """A struct of offsets and a device function that fills it from a flat index.

    ``name(i).x`` is the offset in operand x of element i, or of the i-th vector when ``vector``
    elements are moved at once. Operands whose innermost stride is 0 do not move within a vector.
    """
    fields = "".join(f" {index} {operand} = 0;" for operand in operands)
    lines = [
        f"struct {name}_offsets {{{fields} }};",
        f"__device__ __forceinline__ {name}_offsets {name}({index} i) {{",
        f"  {name}_offsets o;",
    ]
    for position in range(len(axes) - 1, -1, -1):
        axis = axes[position]
        step = vector if position == len(axes) - 1 else 1
        coordinate = "i"
        if position:
            lines.append(f"  {index} c{position} = i % {axis.size // step}u;"
                         f" i /= {axis.size // step}u;")
            coordinate = f"c{position}"
        lines += [
            f"  o.{operand} += {coordinate}{f' * {stride * step}u' if stride * step > 1 else ''};"
            for operand, stride in zip(operands, axis.strides, strict=True) if stride
        ]
    return "\n".join([*lines, "  return o;", "}", ""])


def constants(**values: int) -> str:
    """Integers of the source as compile-time constants."""
    return "".join(f"constexpr int {name} = {value};\n" for name, value in values.items())


def contiguous_length(sizes: Sequence[int], strides: Sequence[int]) -> int | None:
    """Number of elements of axes that lie in one run of memory, or None when they do not."""
    length = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != length:
            return None
        length *= size
    return length
