"""Transposed convolution in one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values
from torch2rt.lazy_torch import torch
from torch2rt.network.dim import product
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Deconvolution(LayerKind):
    """The sum of w[c,k,r] * x[n,c,p] into y[n,k, p*stride - padding_before + r*dilation].

    Inputs: x [n, c, *spatial], w [c, k/groups, *kernel]. Output: [n, k, *spatial'], dtype of x,
    with size' = (size - 1) * stride + dilation * (kernel - 1) + 1 - padding_before - padding_after.
    ``padding_after`` is torch's padding less its output padding and may be negative. Bias and
    activation are epilogue terms; a bias has shape [k, 1, ..., 1].
    ``tf32`` lets float32 operands be rounded to TF32, a mantissa of 10 bits, before they multiply.
    Source: torch.nn.functional.conv_transpose2d; ONNX ConvTranspose.
    """

    name: ClassVar[str] = "deconvolution"
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
            raise ValueError(f"deconvolution over {spatial} axes cannot take {x} with weight {w}")
        if isinstance(x.shape[1], int) and x.shape[1] != w.shape[0]:
            raise ValueError(f"deconvolution of {x} needs {w.shape[0]} channels (weight {w})")
        sizes = tuple(
            (x.shape[2 + axis] - 1) * self.stride[axis]
            + self.dilation[axis] * (w.shape[2 + axis] - 1)
            + 1 - self.padding_before[axis] - self.padding_after[axis]
            for axis in range(spatial)
        )
        return (TensorType((x.shape[0], w.shape[1] * self.groups, *sizes), x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The unpadded transposed convolution of torch, then cut or filled with zeros."""
        x, w = inputs
        zeros = (0,) * len(self.stride)
        full = torch.convolution(
            x, w, None, self.stride, zeros, self.dilation, True, zeros, self.groups
        )
        pairs = zip(reversed(self.padding_before), reversed(self.padding_after), strict=True)
        return (torch.nn.functional.pad(full, [-size for pair in pairs for size in pair]),)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """Two per multiply-add."""
        taps = product(inputs[1].shape[1:])
        return 2 * int(inputs[0].element_count * taps)


@rule("aten.conv_transpose1d.default", "aten.conv_transpose2d.input",
      "aten.conv_transpose3d.input")
def lower_conv_transpose(
    lowering: Lowering, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int], groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """Deconvolution, then the bias as a pointwise add."""
    spatial = weight.rank - 2
    if input.rank != spatial + 2:
        raise Unsupported("an input without batch axis")
    before = expand_values(padding, spatial)
    extra = expand_values(output_padding, spatial)
    kind = Deconvolution(
        stride=expand_values(stride, spatial),
        padding_before=before,
        padding_after=tuple(b - e for b, e in zip(before, extra, strict=True)),
        dilation=expand_values(dilation, spatial),
        groups=groups,
    )
    result = lowering.add(kind, input, weight)
    if bias is None:
        return result
    return lowering.pointwise("add", result, lowering.reshape(bias, (-1,) + (1,) * spatial))
