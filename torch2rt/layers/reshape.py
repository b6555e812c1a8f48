"""Reshape: the same elements in row-major order under another shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.network.dim import Dim, SymbolicDim, floordiv, product
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Reshape(LayerKind):
    """y has the elements of x in row-major order; one size of ``shape`` may be -1.

    Symbolic sizes of ``shape`` count in the network's symbols. Source: torch.reshape.
    """

    name: ClassVar[str] = "reshape"
    shape: Shape

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """``shape`` with its -1 resolved."""
        (x,) = inputs
        known = product(tuple(dim for dim in self.shape if dim != -1))
        if -1 in self.shape:
            missing = floordiv(x.element_count, known) if known != 0 else 0
            shape = tuple(missing if dim == -1 else dim for dim in self.shape)
        else:
            shape = self.shape
            if x.is_static and isinstance(known, int) and known != x.element_count:
                raise ValueError(f"{x} cannot be reshaped to {list(shape)}")
        return (TensorType(shape, x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.reshape; at most one symbolic size, which the element count decides."""
        (x,) = inputs
        sizes = [-1 if isinstance(dim, SymbolicDim) else dim for dim in self.shape]
        return (x.reshape(sizes),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule(
    "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default",
    "aten.flatten.using_ints", "aten.unflatten.int", "aten.squeeze.default",
    "aten.squeeze.dim", "aten.squeeze.dims", "aten.unsqueeze.default", "aten.view_as.default",
    "aten.reshape_as.default", "aten.ravel.default", "aten.atleast_1d.default",
    "aten.atleast_2d.default", "aten.atleast_3d.default", "aten.view_copy.default",
    "aten._reshape_copy.default", "aten._reshape_alias.default", "aten.unsqueeze_copy.default",
    "aten.squeeze_copy.default", "aten.squeeze_copy.dim", "aten.squeeze_copy.dims",
)
def lower_reshape(lowering: Lowering, *arguments: object, **named: object) -> Tensor:
    """All of these are a reshape to the node's own shape."""
    x = arguments[0] if arguments else named.get("self", named.get("input"))
    assert isinstance(x, Tensor)
    return lowering.reshape(x, reshape_target(x.shape, lowering.output_type.shape))


def reshape_target(source: Shape, target: Shape) -> Shape:
    """The target; a single symbolic size becomes -1, so that any reference can run it."""
    symbolic = [axis for axis, dim in enumerate(target) if not isinstance(dim, int)]
    if len(symbolic) != 1 or 0 in target:
        return target
    result: list[Dim] = list(target)
    result[symbolic[0]] = -1
    return tuple(result)
