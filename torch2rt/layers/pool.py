"""Max and average pooling over sliding windows in one, two or three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch2rt.layers.rules import Unsupported, rule
from torch2rt.layers.shapes import expand_values, window_size
from torch2rt.lazy_torch import torch
from torch2rt.network.layer import LayerKind
from torch2rt.network.tensor import Tensor, TensorType

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from torch2rt.lower import Lowering


@dataclass(frozen=True)
class Pool(LayerKind):
    """y[n,c,p] = max or mean over r of x[n,c,p*stride - padding_before + r*dilation].

    Input: x [n, c, *spatial]. Output: [n, c, *spatial'], sizes rounded down; a ceil mode is more
    ``padding_after``. Max: padding never wins. Mean: divided by the window's size if
    ``count_padding``, else by the number of its elements that are not padding; ``dilation`` is 1.
    Source: torch.nn.functional.max_pool2d, avg_pool2d; ONNX MaxPool, AveragePool.
    """

    name: ClassVar[str] = "pool"
    takes_epilogue: ClassVar[bool] = True
    mode: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding_before: tuple[int, ...]
    padding_after: tuple[int, ...]
    dilation: tuple[int, ...]
    count_padding: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("max", "mean"):
            raise ValueError(f"unknown pooling {self.mode!r}, expected max or mean")
        if self.mode == "mean" and set(self.dilation) != {1}:
            raise ValueError("a mean pooling has no dilation")

    def infer(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """[n, c, *spatial']."""
        (x,) = inputs
        spatial = len(self.kernel)
        if x.rank != spatial + 2:
            raise ValueError(f"pooling over {spatial} axes cannot take {x}")
        sizes = tuple(
            window_size(
                x.shape[2 + axis], self.kernel[axis], self.stride[axis],
                self.padding_before[axis] + self.padding_after[axis], self.dilation[axis],
            )
            for axis in range(spatial)
        )
        return (TensorType((*x.shape[:2], *sizes), x.dtype),)

    def reference(self, inputs: Sequence[TorchTensor]) -> tuple[TorchTensor, ...]:
        """The pooling of torch without padding, over the input padded explicitly."""
        (x,) = inputs
        spatial = len(self.kernel)
        if self.mode == "max":
            lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            function = getattr(torch.nn.functional, f"max_pool{spatial}d")
            padded = self._padded(x, lowest)
            # Torch pools no bytes on a GPU.
            wide = padded.float() if x.itemsize == 1 else padded
            return (function(wide, self.kernel, self.stride, 0, self.dilation).to(x.dtype),)
        function = getattr(torch.nn.functional, f"avg_pool{spatial}d")
        mean = function(self._padded(x, 0), self.kernel, self.stride)
        if self.count_padding:
            return (mean,)
        return (mean / function(self._padded(torch.ones_like(x), 0), self.kernel, self.stride),)

    def _padded(self, x: TorchTensor, value: float) -> TorchTensor:
        pairs = zip(reversed(self.padding_before), reversed(self.padding_after), strict=True)
        sizes = [size for pair in pairs for size in pair]
        return torch.nn.functional.pad(x, sizes, value=value) if any(sizes) else x

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> int:
        """One per window element."""
        return int(outputs[0].element_count) * math.prod(self.kernel)


@rule("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool3d.default")
def lower_max_pool(
    lowering: Lowering, input: Tensor, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], ceil_mode: bool,
) -> Tensor:
    """Max pooling."""
    spatial = _spatial(lowering)
    kind = _window_kind(
        "max", input, spatial, kernel_size, stride, padding, dilation, ceil_mode
    )
    return pool_with_batch(lowering, kind, input, spatial)


@rule("aten.max_pool1d_with_indices.default", "aten.max_pool2d_with_indices.default",
      "aten.max_pool3d_with_indices.default")
def lower_max_pool_with_indices(
    lowering: Lowering, input: Tensor, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], ceil_mode: bool,
) -> list[Tensor]:
    """Max pooling whose indices nobody reads."""
    if lowering.is_result_used(1):
        raise Unsupported("the indices of a max pooling are read")
    result = lower_max_pool(lowering, input, kernel_size, stride, padding, dilation, ceil_mode)
    assert isinstance(result, Tensor)
    return [result]


@rule("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def lower_avg_pool(
    lowering: Lowering, input: Tensor, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling; a divisor of the user's is a factor on top of the window's size."""
    spatial = _spatial(lowering)
    kind = _window_kind(
        "mean", input, spatial, kernel_size, stride, padding, [1], ceil_mode,
        count_padding=count_include_pad or divisor_override is not None,
        is_divisor_given=divisor_override is not None,
    )
    result = pool_with_batch(lowering, kind, input, spatial)
    if divisor_override is None:
        return result
    return lowering.pointwise("mul", result, math.prod(kind.kernel) / divisor_override)


def pool_with_batch(
    lowering: Lowering, kind: LayerKind, x: Tensor, spatial: int
) -> Tensor:
    """Add a pooling; an input without batch axis gets one meanwhile."""
    if x.rank == spatial + 2:
        return lowering.add(kind, x)
    result = lowering.add(kind, lowering.reshape(x, (1, *x.shape)))
    return lowering.reshape(result, result.shape[1:])


def _window_kind(
    mode: str, x: Tensor, spatial: int, kernel_size: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], is_ceil: bool, *,
    count_padding: bool = False, is_divisor_given: bool = False,
) -> Pool:
    """The kind for torch's arguments; ceil mode becomes ``padding_after``."""
    kernel = expand_values(kernel_size, spatial)
    strides = expand_values(stride, spatial) if stride else kernel
    before = expand_values(padding, spatial)
    steps = expand_values(dilation, spatial)
    after = before
    if is_ceil:
        after = tuple(
            _ceil_padding(x, x.rank - spatial + axis, kernel[axis], strides[axis], before[axis],
                          steps[axis])
            for axis in range(spatial)
        )
    if mode == "mean" and count_padding and not any(before):
        # The elements that ceil mode adds do not count, so without padding none does.
        count_padding = is_divisor_given
    if after != before and count_padding and not is_divisor_given:
        raise Unsupported("ceil_mode with padding that counts")
    return Pool(mode, kernel, strides, before, after, steps, count_padding)


def _ceil_padding(
    x: Tensor, axis: int, kernel: int, stride: int, padding: int, dilation: int
) -> int:
    """Padding after, such that rounding down gives the size that ceil mode gives."""
    size = x.shape[axis]
    length = window_size(size, kernel, stride, 2 * padding, dilation, ceil=True)
    if not isinstance(length, int) or not isinstance(size, int):
        raise Unsupported("ceil_mode with a symbolic size")
    needed = (length - 1) * stride + dilation * (kernel - 1) + 1 - size - padding
    return max(padding, needed)


def _spatial(lowering: Lowering) -> int:
    """Number of spatial axes, from the op's name: ``aten.max_pool2d.default``."""
    name = lowering.origin.op
    return next(count for count in (1, 2, 3) if f"pool{count}d" in name)
