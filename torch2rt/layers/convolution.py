"""Convolution in one, two or three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.accumulator import accumulator_dtype, summed_exactly
from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values, window_size
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Convolution(LayerKind):
    """y[n,k,p] = sum over c, r of x[n,c,p*stride - padding + r*dilation] * w[k,c,r].

    Inputs: x [n, c, *spatial], w [k, c/groups, *kernel]. Output: [n, k, *spatial'], dtype of x;
    of 8-bit integers the exact sum, int32; of float8 the sum in float32.
    ``padding_before`` and ``padding_after`` count zeros per spatial axis. Bias, residual and
    activation are epilogue terms; a bias has shape [k, 1, ..., 1].
    ``tf32`` lets float32 operands be rounded to TF32, a mantissa of 10 bits, before they multiply.
    Source: torch.nn.functional.conv2d; ONNX Conv.
    """

    name: ClassVar[str] = "convolution"
    takes_epilogue: ClassVar[bool] = True
    stride: tuple[int, ...]
    padding_before: tuple[int, ...]
    padding_after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    tf32: bool = False

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[n, k, *spatial']."""
        x, w = inputs
        spatial = len(self.stride)
        if x.rank != spatial + 2 or w.rank != spatial + 2:
            raise ValueError(f"convolution over {spatial} axes cannot take {x} with weight {w}")
        channels = w.shape[1] * self.groups
        if isinstance(x.shape[1], int) and x.shape[1] != channels:
            raise ValueError(f"convolution of {x} needs {channels} channels (weight {w})")
        sizes = tuple(
            window_size(
                x.shape[2 + axis],
                int(w.shape[2 + axis]),
                self.stride[axis],
                self.padding_before[axis] + self.padding_after[axis],
                self.dilation[axis],
            )
            for axis in range(spatial)
        )
        dtype = accumulator_dtype(x.dtype, w.dtype)
        return (TensorType((x.shape[0], w.shape[0], *sizes), dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """Torch's convolution after explicit zero padding where it is not symmetric."""
        x, w = inputs
        padding: tuple[int, ...] = self.padding_before
        if self.padding_before != self.padding_after:
            pairs = zip(reversed(self.padding_before), reversed(self.padding_after), strict=True)
            x = torch.nn.functional.pad(x, [size for pair in pairs for size in pair])
            padding = (0,) * len(self.stride)

        def convolve(x: TorchTensor, w: TorchTensor) -> TorchTensor:
            return torch.convolution(
                x, w, None, self.stride, padding, self.dilation, False,
                (0,) * len(self.stride), self.groups,
            )

        return (summed_exactly(convolve, x, w, math.prod(w.shape[1:])),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per multiply-add."""
        taps = math.prod(int(size) for size in inputs[1].shape[1:])
        return 2 * int(outputs[0].element_count) * taps


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def lower_conv(
    lowering: Lowering, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:
    """Convolution, then the bias as a pointwise add. An input without batch axis falls back."""
    spatial = weight.rank - 2
    if input.rank != spatial + 2:
        raise Unsupported("an input without batch axis")
    return convolve(lowering, input, weight, bias, stride, padding, dilation, groups)


@rule("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def lower_conv_padding(
    lowering: Lowering, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Sequence[int], padding: str, dilation: Sequence[int], groups: int,
) -> Tensor:
    """``padding="valid"`` is none; ``"same"`` keeps the size, the odd zero at the end."""
    spatial = weight.rank - 2
    if input.rank != spatial + 2:
        raise Unsupported("an input without batch axis")
    if padding == "valid":
        return convolve(lowering, input, weight, bias, stride, [0], dilation, groups)
    steps = expand_values(dilation, spatial)
    totals = [d * (int(k) - 1) for d, k in zip(steps, weight.shape[2:], strict=True)]
    before = [total // 2 for total in totals]
    after = [total - b for total, b in zip(totals, before, strict=True)]
    return convolve(lowering, input, weight, bias, stride, before, dilation, groups, after)


def convolve(
    lowering: Lowering, x: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    padding_after: Sequence[int] | None = None,
) -> Tensor:
    """Add the layers of one convolution with an optional bias [k]."""
    spatial = weight.rank - 2
    before = expand_values(padding, spatial)
    kind = Convolution(
        stride=expand_values(stride, spatial),
        padding_before=before,
        padding_after=before if padding_after is None else tuple(padding_after),
        dilation=expand_values(dilation, spatial),
        groups=groups,
    )
    result = lowering.add(kind, x, weight)
    if bias is None:
        return result
    return lowering.pointwise("add", result, lowering.reshape(bias, (-1,) + (1,) * spatial))
