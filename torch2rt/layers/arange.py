"""Arange: evenly spaced numbers whose count or start depends on the inputs' sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim, SymbolicDim
from torch2rt.network.dtype import DType
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Arange(LayerKind):
    """y[i] = start + i * step for i < count, of ``dtype``; no inputs.

    Symbolic starts, steps and counts count in the network's symbols. Source: torch.arange.
    """

    name: ClassVar[str] = "arange"
    start: Dim | float
    step: Dim | float
    count: Dim
    dtype: DType

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[count] of ``dtype``."""
        if inputs:
            raise ValueError("arange takes no inputs")
        return (TensorType((self.count,), self.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Whole numbers in int64, others in float64, then rounded to the dtype."""
        is_whole = not isinstance(self.start, float) and not isinstance(self.step, float)
        dtype = torch.int64 if is_whole else torch.float64
        # At run time symbols have values.
        position = torch.arange(self.count, dtype=dtype)  # type: ignore[arg-type]
        values = position * self.step + self.start  # type: ignore[operator]
        return (values.to(getattr(torch, self.dtype.value)),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def lower_arange(
    lowering: Lowering, end: Dim | float, start: Dim | float = 0, step: Dim | float = 1,
    **named: object,
) -> Tensor:
    """start, start + step, ... before end: a constant if all of it is known."""
    type = lowering.output_type
    kind = Arange(start, step, type.shape[0], type.dtype)
    if any(isinstance(value, SymbolicDim) for value in (start, step, kind.count)):
        return lowering.add(kind)
    return lowering.constant("arange", kind.reference(())[0])


@rule("aten.linspace.default")
def lower_linspace(
    lowering: Lowering, start: float, end: float, steps: Dim, **named: object
) -> Tensor:
    """A known number of evenly spaced numbers, both ends included."""
    dtype = getattr(torch, lowering.output_type.dtype.value)
    if isinstance(steps, SymbolicDim):
        raise Unsupported("a symbolic number of steps")
    return lowering.constant("linspace", torch.linspace(start, end, steps, dtype=dtype))
