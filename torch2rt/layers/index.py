"""Index: several axes indexed together by tensors, NumPy's advanced indexing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import broadcast
from torch2rt.layers.take import Take
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Index(LayerKind):
    """y = x[..., i0, ..., i1, ...] with one index tensor for each of ``axes``, which ascend.

    Inputs: x, then the integer index tensors, which broadcast; negative ones count from the end.
    The broadcast axes stand where the indexed axes were if those are neighbours, else in front.
    Source: numpy advanced indexing; torch's index.Tensor.
    """

    name: ClassVar[str] = "index"
    axes: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The shape as above, dtype of x."""
        x, *indices = inputs
        if len(indices) != len(self.axes) or not all(i.dtype.is_integer for i in indices):
            raise ValueError(f"index of {x} along {list(self.axes)} needs one index tensor each")
        if list(self.axes) != sorted(set(self.axes)) or self.axes[-1] >= x.rank:
            raise ValueError(f"index of {x} along {list(self.axes)}")
        return (TensorType(self._shape(x.shape, [i.shape for i in indices]), x.dtype),)

    def _shape(self, shape: Shape, indices: Sequence[Shape]) -> Shape:
        together = broadcast(*indices)
        first, last = self.axes[0], self.axes[-1]
        if last - first + 1 == len(self.axes):
            return (*shape[:first], *together, *shape[last + 1 :])
        kept = tuple(dim for axis, dim in enumerate(shape) if axis not in self.axes)
        return (*together, *kept)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Indexing."""
        x, *indices = inputs
        return (x[index_expression(self.axes, indices)],)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def index_expression(
    axes: Sequence[int], indices: Sequence[TorchTensor]
) -> tuple[slice | TorchTensor, ...]:
    """What to write in brackets: the index tensors at their axes, ``:`` at the others."""
    by_axis = dict(zip(axes, indices, strict=True))
    return tuple(
        by_axis[axis].long() if axis in by_axis else slice(None) for axis in range(axes[-1] + 1)
    )


def split_indices(indices: Sequence[Tensor | None]) -> tuple[tuple[int, ...], list[Tensor]]:
    """The indexed axes and their index tensors; masks are Unsupported."""
    axes = tuple(axis for axis, index in enumerate(indices) if index is not None)
    tensors = [index for index in indices if index is not None]
    if any(tensor.dtype in (DType.BOOL, DType.UINT8) for tensor in tensors):
        raise Unsupported("a mask as index: the shape of the result depends on the data")
    return axes, tensors


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor")
def lower_index(
    lowering: Lowering, input: Tensor, indices: Sequence[Tensor | None]
) -> Tensor:
    """One index tensor takes slices of its axis; several index together."""
    axes, tensors = split_indices(indices)
    if not axes:
        return input
    if len(axes) == 1:
        return lowering.add(Take(axes[0]), input, tensors[0])
    return lowering.add(Index(axes), input, *tensors)
