"""Roll: axes shifted, what leaves at one end coming back at the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Roll(LayerKind):
    """y[..., (i + shift) mod size, ...] = x[..., i, ...] for each shift and axis.

    Source: torch.roll.
    """

    name: ClassVar[str] = "roll"
    shifts: tuple[Dim, ...]
    axes: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        (x,) = inputs
        is_inside = all(0 <= axis < x.rank for axis in self.axes)
        if len(self.shifts) != len(self.axes) or not is_inside:
            raise ValueError(f"roll of {x} by {list(self.shifts)} along {list(self.axes)}")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """torch.roll."""
        return (inputs[0].roll(self.shifts, self.axes),)  # type: ignore[arg-type]

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.roll.default")
def lower_roll(
    lowering: Lowering, input: Tensor, shifts: Sequence[Dim], dims: Sequence[int]
) -> Tensor:
    """Shift axes; without axes, the flattened tensor."""
    if not dims:
        flat = lowering.reshape(input, (-1,))
        rolled = lowering.add(Roll(tuple(shifts), (0,)), flat)
        return lowering.reshape(rolled, lowering.output_type.shape)
    axes = tuple(normalize_axis(dim, input.rank) for dim in dims)
    moved = [(shift, axis) for shift, axis in zip(shifts, axes, strict=True) if shift != 0]
    if not moved:
        return input
    return lowering.add(Roll(tuple(s for s, _ in moved), tuple(a for _, a in moved)), input)
