"""Pad: elements added before and after the axes of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.layers.slice import Slice
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

MODES = ("constant", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Pad(LayerKind):
    """x with ``before[a]`` and ``after[a]`` more elements around axis a, none negative.

    The new elements are ``value`` (mode ``constant``), the nearest one (``replicate``), the mirror
    image without the edge (``reflect``), or the other end of the axis (``circular``).
    Source: torch.nn.functional.pad; ONNX Pad.
    """

    name: ClassVar[str] = "pad"
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    mode: str = "constant"
    value: float | int | bool = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"pad mode {self.mode!r} is none of {', '.join(MODES)}")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The sizes with the padding added."""
        (x,) = inputs
        if not x.rank == len(self.before) == len(self.after):
            raise ValueError(f"pad of {x} needs {x.rank} counts before and after")
        for size, before, after in zip(x.shape, self.before, self.after, strict=True):
            self._check_axis(x, size, before, after)
        shape = tuple(
            before + size + after
            for size, before, after in zip(x.shape, self.before, self.after, strict=True)
        )
        return (TensorType(shape, x.dtype),)

    def _check_axis(self, x: TensorType, size: Dim, before: Dim, after: Dim) -> None:
        counts = [count for count in (before, after) if isinstance(count, int)]
        if any(count < 0 for count in counts):
            raise ValueError(f"pad of {x} cannot remove elements")
        limits = {"reflect": -1, "circular": 0}
        if isinstance(size, int) and self.mode in limits:
            longest = max(counts, default=0)
            if longest and longest > size + limits[self.mode]:
                raise ValueError(f"{self.mode} pad of {x} by {longest} is longer than the axis")

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The constant pad of torch; the other modes select along one axis after the other."""
        (x,) = inputs
        if self.mode == "constant":
            pairs = zip(reversed(self.before), reversed(self.after), strict=True)
            flat = [count for pair in pairs for count in pair]
            return (torch.nn.functional.pad(x, flat, value=self.value),)  # type: ignore[arg-type]
        for axis, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            if before != 0 or after != 0:
                x = x.index_select(axis, self._source(x.shape[axis], before, after).to(x.device))
        return (x,)

    def _source(self, size: int, before: Dim, after: Dim) -> TorchTensor:
        """The position every element along an axis comes from."""
        position = torch.arange(-before, size + after)  # type: ignore[arg-type]
        if self.mode == "replicate":
            return position.clamp(0, size - 1)
        if self.mode == "circular":
            return position % size
        mirrored = position.abs()
        return torch.where(mirrored < size, mirrored, 2 * (size - 1) - mirrored)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """None."""
        return 0


@rule("aten.pad.default")
def lower_pad(
    lowering: Lowering, input: Tensor, pad: Sequence[Dim], mode: str, value: float | None
) -> Tensor:
    """Pad by pairs (before, after) from the last axis on; negative counts remove elements."""
    return pad_axes(lowering, input, pad, mode, 0 if value is None else value)


@rule("aten.constant_pad_nd.default")
def lower_constant_pad(
    lowering: Lowering, input: Tensor, pad: Sequence[Dim], value: float
) -> Tensor:
    """Pad with a value."""
    return pad_axes(lowering, input, pad, "constant", value)


@rule(
    "aten.reflection_pad1d.default", "aten.reflection_pad2d.default",
    "aten.reflection_pad3d.default",
)
def lower_reflection_pad(lowering: Lowering, input: Tensor, padding: Sequence[Dim]) -> Tensor:
    """Pad with the mirror image."""
    return pad_axes(lowering, input, padding, "reflect", 0)


@rule(
    "aten.replication_pad1d.default", "aten.replication_pad2d.default",
    "aten.replication_pad3d.default",
)
def lower_replication_pad(lowering: Lowering, input: Tensor, padding: Sequence[Dim]) -> Tensor:
    """Pad with the nearest element."""
    return pad_axes(lowering, input, padding, "replicate", 0)


@rule("aten._pad_circular.default")
def lower_circular_pad(lowering: Lowering, input: Tensor, pad: Sequence[Dim]) -> Tensor:
    """Pad with the other end of the axis."""
    return pad_axes(lowering, input, pad, "circular", 0)


def pad_axes(
    lowering: Lowering, x: Tensor, pad: Sequence[Dim], mode: str, value: float | int | bool
) -> Tensor:
    """Crop where counts are negative, then pad where they are positive."""
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for index in range(len(pad) // 2):
        before[x.rank - 1 - index], after[x.rank - 1 - index] = pad[2 * index : 2 * index + 2]
    x = _crop(lowering, x, before, after)
    before = [_not_negative(count) for count in before]
    after = [_not_negative(count) for count in after]
    if not any(count != 0 for count in (*before, *after)):
        return x
    return lowering.add(Pad(tuple(before), tuple(after), mode, value), x)


def _crop(lowering: Lowering, x: Tensor, before: list[Dim], after: list[Dim]) -> Tensor:
    starts = tuple(_negated(count) for count in before)
    ends = tuple(_negated(count) for count in after)
    if not any(count != 0 for count in (*starts, *ends)):
        return x
    sizes = tuple(
        size - start - end for size, start, end in zip(x.shape, starts, ends, strict=True)
    )
    return lowering.add(Slice(starts, sizes, (1,) * x.rank), x)


def _not_negative(count: Dim) -> Dim:
    return max(count, 0) if isinstance(count, int) else count


def _negated(count: Dim) -> int:
    return max(-count, 0) if isinstance(count, int) else 0
