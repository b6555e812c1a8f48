"""Transpose: the axes of a tensor in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.network.dim import Dim, floordiv
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Transpose(LayerKind):
    """Axis i of y is axis ``permutation[i]`` of x. Source: torch.permute; ONNX Transpose.

    Example: ``(0, 2, 3, 1)`` takes [n, c, h, w] to [n, h, w, c].
    """

    name: ClassVar[str] = "transpose"
    permutation: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The dims of x, permuted."""
        (x,) = inputs
        if sorted(self.permutation) != list(range(x.rank)):
            raise ValueError(f"{x} cannot be transposed by {list(self.permutation)}")
        return (TensorType(tuple(x.shape[axis] for axis in self.permutation), x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.permute."""
        return (inputs[0].permute(self.permutation),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def transpose(lowering: Lowering, x: Tensor, permutation: Sequence[int]) -> Tensor:
    """Add the layer; x itself if the order stays."""
    if list(permutation) == list(range(x.rank)):
        return x
    return lowering.add(Transpose(tuple(permutation)), x)


@rule("aten.permute.default", "aten.permute_copy.default")
def lower_permute(lowering: Lowering, input: Tensor, dims: Sequence[int]) -> Tensor:
    """Axis i of the result is axis dims[i]."""
    return transpose(lowering, input, [normalize_axis(dim, input.rank) for dim in dims])


@rule("aten.transpose.int", "aten.swapdims.default", "aten.transpose_copy.int")
def lower_transpose(lowering: Lowering, input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes change places."""
    return swap_axes(lowering, input, dim0, dim1)


@rule("aten.swapaxes.default")
def lower_swapaxes(lowering: Lowering, input: Tensor, axis0: int, axis1: int) -> Tensor:
    """Two axes change places."""
    return swap_axes(lowering, input, axis0, axis1)


def swap_axes(lowering: Lowering, x: Tensor, first: int, second: int) -> Tensor:
    """Exchange two axes; a scalar stays as it is."""
    if x.rank == 0:
        return x
    first, second = normalize_axis(first, x.rank), normalize_axis(second, x.rank)
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return transpose(lowering, x, order)


@rule("aten.t.default", "aten.numpy_T.default")
def lower_reversed_axes(lowering: Lowering, input: Tensor) -> Tensor:
    """The axes in reverse order."""
    return transpose(lowering, input, list(reversed(range(input.rank))))


@rule("aten.mT.default", "aten.mH.default", "aten.adjoint.default", "aten.matrix_H.default")
def lower_matrix_transpose(lowering: Lowering, input: Tensor) -> Tensor:
    """The last two axes change places; real numbers are their own conjugates."""
    return swap_axes(lowering, input, -2, -1)


@rule(
    "aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist"
)
def lower_movedim(
    lowering: Lowering, input: Tensor, source: int | Sequence[int],
    destination: int | Sequence[int],
) -> Tensor:
    """The source axes go to the destinations, the others keep their order."""
    sources = [source] if isinstance(source, int) else source
    targets = [destination] if isinstance(destination, int) else destination
    placed = {
        normalize_axis(target, input.rank): normalize_axis(axis, input.rank)
        for target, axis in zip(targets, sources, strict=True)
    }
    others = iter(axis for axis in range(input.rank) if axis not in placed.values())
    order = [placed[i] if i in placed else next(others) for i in range(input.rank)]
    return transpose(lowering, input, order)


@rule("aten.pixel_shuffle.default")
def lower_pixel_shuffle(lowering: Lowering, input: Tensor, upscale_factor: int) -> Tensor:
    """[..., c*r*r, h, w] -> [..., c, h*r, w*r]."""
    r = upscale_factor
    *batch, channels, height, width = input.shape
    split = (*batch, floordiv(channels, r * r), r, r, height, width)
    return _rearrange(lowering, input, split, len(batch), (0, 3, 1, 4, 2))


@rule("aten.pixel_unshuffle.default")
def lower_pixel_unshuffle(lowering: Lowering, input: Tensor, downscale_factor: int) -> Tensor:
    """[..., c, h*r, w*r] -> [..., c*r*r, h, w]."""
    r = downscale_factor
    *batch, channels, height, width = input.shape
    split = (*batch, channels, floordiv(height, r), r, floordiv(width, r), r)
    return _rearrange(lowering, input, split, len(batch), (0, 2, 4, 1, 3))


@rule("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def lower_channel_shuffle(lowering: Lowering, input: Tensor, groups: int) -> Tensor:
    """Channels [g, c/g] in the order [c/g, g]."""
    if input.rank < 3:
        raise Unsupported("an input without batch axis")
    batch, channels, *rest = input.shape
    split: list[Dim] = [batch, groups, floordiv(channels, groups), *rest]
    order = (1, 0, *range(2, input.rank))
    return _rearrange(lowering, input, tuple(split), 1, order)


def _rearrange(
    lowering: Lowering, x: Tensor, split: Shape, batch_rank: int, order: Sequence[int]
) -> Tensor:
    """Reshape to ``split``, reorder the axes after the batch, reshape to the node's shape."""
    parts = lowering.reshape(x, split)
    moved = transpose(
        lowering, parts, [*range(batch_rank), *(batch_rank + axis for axis in order)]
    )
    return lowering.reshape(moved, lowering.output_type.shape)
