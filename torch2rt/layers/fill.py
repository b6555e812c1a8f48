"""Fill: a tensor of one value whose shape or value depends on the inputs' sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.expand import expand_to
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim, SymbolicDim, is_static, product
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Shape, Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

# Larger tensors of one value stay layers, so that no engine file carries them.
_LARGEST_CONSTANT = 1 << 18


@dataclass(frozen=True)
class Fill(LayerKind):
    """y[...] = value, of ``shape`` and ``dtype``; no inputs.

    Symbolic sizes and a symbolic value count in the network's symbols. Source: torch.full.
    """

    name: ClassVar[str] = "fill"
    shape: Shape
    value: Dim | float | bool
    dtype: DType

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """``shape`` and ``dtype``."""
        if inputs:
            raise ValueError("fill takes no inputs")
        return (TensorType(self.shape, self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.full."""
        return (torch.full(self.shape, self.value, dtype=getattr(torch, self.dtype.value)),)  # type: ignore[arg-type]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


def filled(
    lowering: Lowering, shape: Shape, value: Dim | float | bool, dtype: DType
) -> Tensor:
    """A tensor of one value: a constant if everything is known and small, else a layer."""
    kind = Fill(shape, value, dtype)
    size = product(shape)
    is_known = is_static(*shape) and not isinstance(value, SymbolicDim)
    if is_known and isinstance(size, int) and size <= _LARGEST_CONSTANT:
        return lowering.constant("fill", kind.reference(())[0])
    return lowering.add(kind)


def _fill_node(lowering: Lowering, value: Dim | float | bool) -> Tensor:
    type = lowering.output_type
    return filled(lowering, type.shape, value, type.dtype)


@rule(
    "aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default",
    "aten.zero.default",
)
def lower_zeros(lowering: Lowering, **named: object) -> Tensor:
    """Zeros in the node's shape."""
    return _fill_node(lowering, 0)


@rule("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def lower_ones(lowering: Lowering, **named: object) -> Tensor:
    """Ones in the node's shape."""
    return _fill_node(lowering, 1)


@rule("aten.full.default", "aten.full_like.default", "aten.new_full.default")
def lower_full(
    lowering: Lowering, fill_value: Tensor | Dim | float | bool, **named: object
) -> Tensor:
    """One value in the node's shape."""
    if isinstance(fill_value, Tensor):  # a number computed from sizes
        type = lowering.output_type
        return expand_to(lowering, lowering.cast(fill_value, type.dtype), type.shape)
    return _fill_node(lowering, fill_value)


@rule("aten.fill.Scalar")
def lower_fill(lowering: Lowering, input: Tensor, value: Dim | float | bool) -> Tensor:
    """One value in the input's shape."""
    return _fill_node(lowering, value)


@rule("aten.scalar_tensor.default")
def lower_scalar_tensor(lowering: Lowering, s: Dim | float | bool, **named: object) -> Tensor:
    """A scalar as a tensor without axes."""
    return _fill_node(lowering, s)


# Operators that do not look at the values of their first argument.
_UNREAD = tuple(
    f"aten::{name}" for name in (
        "fill", "copy", "zero", "full_like", "zeros_like", "ones_like", "empty_like", "new_full",
        "new_zeros", "new_ones", "new_empty",
    )
)


@rule(
    "aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default",
    "aten.empty_permuted.default",
)
def lower_empty(lowering: Lowering, **named: object) -> Tensor:
    """Zeros, where all that follows overwrites them or looks at their shape alone."""
    assert lowering.node is not None
    for user in lowering.node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is None or schema.name not in _UNREAD or user.args[0] is not lowering.node:
            raise Unsupported("uninitialised memory is read")
    return _fill_node(lowering, 0)


@rule("aten.eye.default", "aten.eye.m")
def lower_eye(lowering: Lowering, **named: object) -> Tensor:
    """Ones on the diagonal."""
    type = lowering.output_type
    if not type.is_static:
        raise Unsupported("an identity matrix of symbolic size")
    rows, columns = type.shape
    dtype = getattr(torch, type.dtype.value)
    return lowering.constant("eye", torch.eye(rows, columns, dtype=dtype))  # type: ignore[arg-type]
