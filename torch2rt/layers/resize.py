"""Resize: the spatial axes of an image sampled at another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import rule
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import Dim
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering

# (mode, spatial axes) -> the ATen op.
_OPS = {
    ("nearest", 1): "upsample_nearest1d",
    ("nearest", 2): "upsample_nearest2d",
    ("nearest", 3): "upsample_nearest3d",
    ("nearest_exact", 1): "_upsample_nearest_exact1d",
    ("nearest_exact", 2): "_upsample_nearest_exact2d",
    ("nearest_exact", 3): "_upsample_nearest_exact3d",
    ("linear", 1): "upsample_linear1d",
    ("linear", 2): "upsample_bilinear2d",
    ("linear", 3): "upsample_trilinear3d",
    ("cubic", 2): "upsample_bicubic2d",
    ("linear_antialias", 2): "_upsample_bilinear2d_aa",
    ("cubic_antialias", 2): "_upsample_bicubic2d_aa",
}


@dataclass(frozen=True)
class Resize(LayerKind):
    """x [n, c, *spatial] sampled at ``sizes``: [n, c, *sizes].

    Output pixel p of an axis samples at (p + 0.5) * r - 0.5 (``nearest``: floor(p * r)), or at
    p * (size - 1) / (size' - 1) with ``align_corners``; r is 1/scale where ``scales`` has a
    number for the axis, else size / size'. Source: torch.nn.functional.interpolate.
    """

    name: ClassVar[str] = "resize"
    mode: str
    sizes: tuple[Dim, ...]
    scales: tuple[float | None, ...]
    align_corners: bool = False

    def __post_init__(self) -> None:
        if (self.mode, len(self.sizes)) not in _OPS or len(self.scales) != len(self.sizes):
            raise ValueError(f"no resize {self.mode!r} of {len(self.sizes)} axes")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[n, c, *sizes]."""
        (x,) = inputs
        if x.rank != len(self.sizes) + 2:
            raise ValueError(f"resize of {len(self.sizes)} axes cannot take {x}")
        return (TensorType((*x.shape[:2], *self.sizes), x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The ATen op, which knows no int8: exact through float32."""
        op = getattr(torch.ops.aten, _OPS[self.mode, len(self.sizes)]).default
        corners = () if self.mode.startswith("nearest") else (self.align_corners,)
        x = inputs[0]
        read = x.float() if x.dtype == torch.int8 else x
        result: TorchTensor = op(read, self.sizes, *corners, *self.scales)
        return (result.to(x.dtype),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per tap: 2 taps an axis (linear), 4 (cubic), none (nearest)."""
        taps = {"nearest": 0, "linear": 2, "cubic": 4}[self.mode.split("_")[0]]
        per_element: int = 2 * taps ** len(self.sizes) if taps else 0
        return per_element * int(outputs[0].element_count)


def _register() -> None:
    for (mode, _), op in _OPS.items():
        _register_mode(mode, f"aten.{op}.vec", f"aten.{op}.default")


def _register_mode(mode: str, *overloads: str) -> None:
    @rule(*overloads)
    def lower_resize(
        lowering: Lowering, input: Tensor, align_corners: bool = False, **named: object
    ) -> Tensor:
        return resize(lowering, input, mode, align_corners, _scales(named, input.rank - 2))


def _scales(named: dict[str, object], count: int) -> tuple[float | None, ...]:
    """One scale or None per axis, from either form of the ops."""
    if "output_size" in named and "scale_factors" in named:
        factors = named["scale_factors"]
        values = factors if isinstance(factors, list) else [None] * count
    else:
        keys = ("scales", "scales_d", "scales_h", "scales_w")
        values = [named[key] for key in keys if key in named]
    return tuple(float(v) if isinstance(v, float | int) else None for v in values)


def resize(
    lowering: Lowering, x: Tensor, mode: str, align_corners: bool,
    scales: tuple[float | None, ...],
) -> Tensor:
    """Resize to the node's sizes; x itself if they are its own."""
    sizes = lowering.output_type.shape[2:]
    if sizes == x.shape[2:] and all(scale in (None, 1.0) for scale in scales):
        return x
    return lowering.add(Resize(mode, sizes, scales, align_corners), x)


_register()
