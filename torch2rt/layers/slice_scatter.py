"""Slice scatter: a copy of a tensor with a slice of it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.expand import expand_to
from torch2rt.layers.rules import rule
from torch2rt.layers.shapes import normalize_axis
from torch2rt.layers.slice import resolve_index, select_position
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class SliceScatter(LayerKind):
    """y = x but y[starts[0] + i*steps[0], starts[1] + j*steps[1], ...] = source[i, j, ...].

    Inputs: x and a source of its dtype and rank. Steps are positive. Source: torch.slice_scatter.
    """

    name: ClassVar[str] = "slice_scatter"
    starts: tuple[Dim, ...]
    steps: tuple[int, ...]

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The type of x."""
        x, source = inputs
        ranks = {x.rank, source.rank, len(self.starts), len(self.steps)}
        if len(ranks) != 1 or x.dtype != source.dtype or any(step < 1 for step in self.steps):
            raise ValueError(f"slice_scatter of {source} into {x}")
        for length, size, start, step in zip(
            x.shape, source.shape, self.starts, self.steps, strict=True
        ):
            if isinstance(length, int) and isinstance(size, int) and isinstance(start, int):
                last = start + (size - 1) * step
                if size and not 0 <= start <= last < length:
                    raise ValueError(f"slice_scatter of {source} into {x} leaves it")
        return (x,)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Assignment to a slice of a copy."""
        x, source = inputs
        result = x.clone()
        slices = tuple(
            slice(start, start + size * step, step)
            for start, size, step in zip(self.starts, source.shape, self.steps, strict=True)
        )
        result[slices] = source
        return (result,)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.slice_scatter.default")
def lower_slice_scatter(
    lowering: Lowering, input: Tensor, src: Tensor, dim: int, start: Dim | None,
    end: Dim | None, step: int,
) -> Tensor:
    """x[start:end:step] = source along one axis."""
    axis = normalize_axis(dim, input.rank)
    first = resolve_index(0 if start is None else start, input.shape[axis])
    return _put(lowering, input, src, axis, first, step)


@rule("aten.select_scatter.default")
def lower_select_scatter(
    lowering: Lowering, input: Tensor, src: Tensor, dim: int, index: Dim
) -> Tensor:
    """x[index] = source along one axis."""
    axis = normalize_axis(dim, input.rank)
    shape = (*input.shape[:axis], 1, *input.shape[axis + 1 :])
    source = lowering.reshape(src, shape)
    return _put(lowering, input, source, axis, select_position(index, input.shape[axis]), 1)


def _put(
    lowering: Lowering, x: Tensor, source: Tensor, axis: int, start: Dim, step: int
) -> Tensor:
    source = lowering.cast(source, x.dtype)
    if start == 0 and step == 1 and source.shape == x.shape:
        return source
    wanted = (*x.shape[:axis], source.shape[axis], *x.shape[axis + 1 :])
    starts: list[Dim] = [0] * x.rank
    steps = [1] * x.rank
    starts[axis], steps[axis] = start, step
    return lowering.add(
        SliceScatter(tuple(starts), tuple(steps)), x, expand_to(lowering, source, wanted)
    )
