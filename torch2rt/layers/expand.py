"""Expand: a tensor repeated along axes of size 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import broadcast, normalize_axis
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Expand(LayerKind):
    """y is x broadcast to ``shape``: axes of size 1 repeat, new axes come in front.

    Symbolic sizes of ``shape`` count in the network's symbols. Source: torch.broadcast_to.
    """

    name: ClassVar[str] = "expand"
    shape: Shape

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape; ValueError if x does not broadcast to it."""
        (x,) = inputs
        result = broadcast(x.shape, self.shape)
        for dim, wanted in zip(result, self.shape, strict=False):
            if isinstance(wanted, int) and dim != wanted and isinstance(dim, int):
                raise ValueError(f"{x} cannot be expanded to {list(self.shape)}")
        if len(result) != len(self.shape):
            raise ValueError(f"{x} cannot be expanded to {list(self.shape)}")
        return (TensorType(self.shape, x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Tensor.expand."""
        return (inputs[0].expand(self.shape),)  # type: ignore[arg-type]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def expand_to(lowering: Lowering, x: Tensor, shape: Shape) -> Tensor:
    """Broadcast x to a shape: nothing, a reshape where only axes of size 1 come, or the layer."""
    if x.shape == shape:
        return x
    front = len(shape) - x.rank
    if shape[front:] == x.shape and all(dim == 1 for dim in shape[:front]):
        return lowering.reshape(x, shape)
    return lowering.add(Expand(shape), x)


@rule(
    "aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default",
    "aten.expand_copy.default",
)
def lower_expand(lowering: Lowering, input: Tensor, **named: object) -> Tensor:
    """Broadcast to the node's shape."""
    return expand_to(lowering, input, lowering.output_type.shape)


@rule("aten.broadcast_tensors.default")
def lower_broadcast_tensors(lowering: Lowering, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor broadcast to the common shape."""
    types = lowering.output_types
    return [expand_to(lowering, x, t.shape) for x, t in zip(tensors, types, strict=True)]


@rule("aten.meshgrid.default", "aten.meshgrid.indexing")
def lower_meshgrid(
    lowering: Lowering, tensors: Sequence[Tensor], indexing: str = "ij"
) -> list[Tensor]:
    """Vector i along axis i of a grid; ``indexing="xy"`` exchanges the first two axes."""
    count = len(tensors)
    axes = list(range(count))
    if indexing == "xy" and count >= 2:
        axes[:2] = [1, 0]
    results = []
    for tensor, axis, type in zip(tensors, axes, lowering.output_types, strict=True):
        line = lowering.reshape(tensor, (1,) * axis + (-1,) + (1,) * (count - axis - 1))
        results.append(expand_to(lowering, line, type.shape))
    return results


@rule("aten.repeat.default")
def lower_repeat(lowering: Lowering, input: Tensor, repeats: Sequence[Dim]) -> Tensor:
    """The whole tensor repeated along each axis."""
    return repeat_blocks(lowering, input, repeats)


@rule("aten.tile.default")
def lower_tile(lowering: Lowering, input: Tensor, dims: Sequence[Dim]) -> Tensor:
    """The whole tensor repeated along each axis; missing counts are 1."""
    return repeat_blocks(lowering, input, [1] * (input.rank - len(dims)) + list(dims))


def repeat_blocks(lowering: Lowering, x: Tensor, repeats: Sequence[Dim]) -> Tensor:
    """[a, b] repeated (r, s) times: [1, a, 1, b] -> [r, a, s, b] -> [r*a, s*b]."""
    shape = (1,) * (len(repeats) - x.rank) + x.shape
    split: list[Dim] = []
    grown: list[Dim] = []
    for size, count in zip(shape, repeats, strict=True):
        if count != 1 and size != 1:
            split += [1, size]
            grown += [count, size]
        else:
            split.append(size)
            grown.append(count if size == 1 else size)
    parts = lowering.reshape(x, tuple(split))
    expanded = expand_to(lowering, parts, tuple(grown))
    return lowering.reshape(expanded, lowering.output_type.shape)


@rule("aten.repeat_interleave.self_int")
def lower_repeat_interleave(
    lowering: Lowering, input: Tensor, repeats: Dim, dim: int | None, output_size: object
) -> Tensor:
    """Every element (or slice along ``dim``) repeated: [a, 1] -> [a, r] -> [a*r]."""
    if dim is None:
        input, dim = lowering.reshape(input, (input.type.element_count,)), 0
    if input.rank == 0:
        raise Unsupported("repeat_interleave of a scalar along an axis")
    after = normalize_axis(dim, input.rank) + 1
    column = lowering.reshape(input, (*input.shape[:after], 1, *input.shape[after:]))
    grown = expand_to(lowering, column, (*input.shape[:after], repeats, *input.shape[after:]))
    return lowering.reshape(grown, lowering.output_type.shape)
