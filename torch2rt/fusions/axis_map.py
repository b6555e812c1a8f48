"""Where the elements of a tensor come from, through reshapes, transposes and slices.

Every axis of the tensor is a list of parts of axes of the tensor it was made from, outermost
first. Reshapes split and join the lists, transposes reorder them, slices narrow their first part.
Symbolic sizes stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch2rt.layers.reshape import Reshape
from torch2rt.layers.slice import Slice
from torch2rt.layers.transpose import Transpose
from torch2rt.network.dim import Dim, product
from torch2rt.network.layer import Layer
from torch2rt.network.tensor import Shape, Tensor


@dataclass(frozen=True)
class Part:
    """``size`` positions of axis ``axis``, each ``step`` further than the last."""

    axis: int
    size: Dim
    step: int


@dataclass(frozen=True)
class AxisMap:
    """Element [i, j, ...] is that of ``base`` at ``offsets`` plus what the parts of i, j add."""

    base: Tensor
    axes: tuple[tuple[Part, ...], ...]
    offsets: tuple[int, ...]


def trace(tensor: Tensor) -> tuple[AxisMap, tuple[Layer, ...]]:
    """The map of a tensor to the furthest one before it from which it can be followed.

    Also the layers between, last first. A symbolic size that a reshape splits can be followed only
    from where it was joined.
    """
    walked: list[Layer] = []
    found = _identity(tensor)
    count = 0
    layer = tensor.producer
    while layer is not None and isinstance(layer.kind, Reshape | Transpose | Slice):
        walked.append(layer)
        following = _follow(_identity(layer.inputs[0]), list(reversed(walked)))
        if following is not None:
            found, count = following, len(walked)
        layer = layer.inputs[0].producer
    return found, tuple(walked[:count])


def _identity(tensor: Tensor) -> AxisMap:
    axes = tuple(
        () if size == 1 else (Part(axis, size, 1),) for axis, size in enumerate(tensor.shape)
    )
    return AxisMap(tensor, axes, (0,) * tensor.rank)


def _follow(start: AxisMap, layers: list[Layer]) -> AxisMap | None:
    found: AxisMap | None = start
    for layer in layers:
        if found is None or layer.epilogue is not None:
            return None
        match layer.kind:
            case Transpose(permutation=permutation):
                found = replace(found, axes=tuple(found.axes[axis] for axis in permutation))
            case Reshape():
                axes = _regrouped(found.axes, layer.output.shape)
                found = replace(found, axes=axes) if axes is not None else None
            case Slice() as kind:
                found = _narrowed(found, kind, layer.inputs[0].shape)
    return found


def _regrouped(
    axes: tuple[tuple[Part, ...], ...], shape: Shape
) -> tuple[tuple[Part, ...], ...] | None:
    """The same parts in row-major order, grouped to axes of these sizes; None if they do not fit.

    Parts are split where a size asks for it and both are numbers.
    """
    left = [part for axis in axes for part in axis]
    result = []
    for size in shape:
        group: list[Part] = []
        have: Dim = 1
        while have != size:
            if not left:
                return None
            part = left.pop(0)
            if have * part.size != size:
                halves = _split(part, have, size)
                if halves is not None:
                    part, rest = halves
                    left.insert(0, rest)
            group.append(part)
            have = have * part.size
            if isinstance(have, int) and isinstance(size, int) and have > size:
                return None
        result.append(tuple(group))
    return tuple(result) if not left else None


def _split(part: Part, have: Dim, size: Dim) -> tuple[Part, Part] | None:
    """Outer and inner piece of a part, the outer one completing an axis; None if none does."""
    if not isinstance(part.size, int):
        return None
    for outer in range(2, part.size):
        if part.size % outer == 0 and have * outer == size:
            inner = part.size // outer
            return Part(part.axis, outer, part.step * inner), Part(part.axis, inner, part.step)
    return None


def _narrowed(found: AxisMap, kind: Slice, shape: Shape) -> AxisMap | None:
    """A slice of every axis: all of it, or a run of its outermost part."""
    axes = list(found.axes)
    offsets = list(found.offsets)
    for axis, parts in enumerate(found.axes):
        start, size = kind.starts[axis], kind.sizes[axis]
        if start == 0 and size == shape[axis] and kind.steps[axis] == 1:
            continue
        inner = product(tuple(part.size for part in parts[1:]))
        numbers = (start, size, inner)
        if kind.steps[axis] != 1 or not all(isinstance(number, int) for number in numbers):
            return None
        first, count, within = (int(number) for number in numbers)
        if first % within or count % within:
            return None
        outermost = parts[0]
        offsets[outermost.axis] += first // within * outermost.step
        kept = () if count == within else (replace(outermost, size=count // within),)
        axes[axis] = (*kept, *parts[1:])
    return replace(found, axes=tuple(axes), offsets=tuple(offsets))
