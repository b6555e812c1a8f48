"""Scatter: a copy of a tensor with elements along one axis replaced or combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.fill import filled
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

MODES = ("set", "sum", "prod", "amax", "amin", "mean")


@dataclass(frozen=True)
class Scatter(LayerKind):
    """y = x but y[i, index[i, j, k], k] = source[i, j, k] for axis 1, and so on.

    Inputs: x, index (integers), source of the dtype of x, at least as long as the index. ``mode``
    ``set`` replaces; the others combine with what is there, which ``include_self`` counts in.
    Source: torch.scatter, torch.scatter_reduce; ONNX ScatterElements.
    """

    name: ClassVar[str] = "scatter"
    axis: int
    mode: str = "set"
    include_self: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"scatter mode {self.mode!r} is none of {', '.join(MODES)}")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        x, index, source = inputs
        ranks = {x.rank, index.rank, source.rank}
        if len(ranks) != 1 or not 0 <= self.axis < x.rank or source.dtype != x.dtype:
            raise ValueError(f"scatter of {source} into {x} along axis {self.axis} by {index}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.scatter or torch.scatter_reduce."""
        x, index, source = inputs
        index = index.long()
        if self.mode == "set":
            return (x.scatter(self.axis, index, source),)
        return (
            x.scatter_reduce(
                self.axis, index, source, self.mode, include_self=self.include_self
            ),
        )

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per index where elements combine."""
        return int(inputs[1].element_count) if self.mode != "set" else 0


@rule("aten.scatter.src")
def lower_scatter(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, src: Tensor
) -> Tensor:
    """Replace by the source."""
    return _scatter(lowering, input, dim, index, src, "set")


@rule("aten.scatter.value")
def lower_scatter_value(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, value: float | int
) -> Tensor:
    """Replace by one value."""
    source = filled(lowering, index.shape, value, input.dtype)
    return _scatter(lowering, input, dim, index, source, "set")


@rule("aten.scatter_add.default")
def lower_scatter_add(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, src: Tensor
) -> Tensor:
    """Add the source."""
    return _scatter(lowering, input, dim, index, src, "sum")


@rule("aten.scatter_reduce.two")
def lower_scatter_reduce(
    lowering: Lowering, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str,
    include_self: bool,
) -> Tensor:
    """Combine with the source."""
    return _scatter(lowering, input, dim, index, src, reduce, include_self=include_self)


def _scatter(
    lowering: Lowering, x: Tensor, dim: int, index: Tensor, source: Tensor, mode: str, *,
    include_self: bool = True,
) -> Tensor:
    if x.rank == 0 or index.rank == 0:
        raise Unsupported("scatter into a scalar")
    kind = Scatter(normalize_axis(dim, x.rank), mode, include_self)
    return lowering.add(kind, x, index, source)
