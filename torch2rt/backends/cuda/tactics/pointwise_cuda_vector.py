"""Pointwise layers by our kernel in CUDA C++: any expression, dtype, layout and broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch2rt.backends.cuda.cpp.elementwise import (
    arguments_of,
    ceil_divide,
    cpp_refusal,
    full_layout,
    kernel_operand,
    largest_offset,
    merge_axes,
    operand_strides,
    overwritable,
    printed,
)
from torch2rt.backends.cuda.cpp.kernel import cpp_kernel
from torch2rt.backends.cuda.device import current_device
from torch2rt.backends.cuda.launch import I32, I64, KernelPrepared, Launch
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice
from torch2rt.backends.tactic import Prepared, Refusal, Tactic, Weights
from torch2rt.kernels.cuda.pointwise import NAME, PointwiseKernel

_VECTOR_BYTES = 16
_MAX_VECTOR_BYTES = 32
_INDICES = 2**31


class PointwiseVector(Tactic):
    """Vectors of 16 bytes where the strides allow them."""

    name: ClassVar[str] = "pointwise.cuda.vector"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise",)

    def takes_pitch(self, spec: LayerSpec) -> bool:
        """Always: operands are read by their strides."""
        return True

    def supports(self, spec: LayerSpec) -> Refusal | None:
        """Everything but float8."""
        return cpp_refusal(spec)

    def layouts(self, spec: LayerSpec) -> Sequence[LayoutChoice]:
        """All operands with the axes of an image in the same layout."""
        output = spec.outputs[0]
        layouts = [Layout.PLAIN]
        if output.rank in (4, 5):
            layouts.insert(0, Layout.CHANNELS_LAST)
        return [
            LayoutChoice(
                tuple(full_layout(tensor, output, layout) for tensor in spec.inputs), (layout,)
            )
            for layout in layouts
        ]

    def prepare(self, spec: LayerSpec, weights: Weights) -> Prepared:
        """Generate the kernel."""
        kernel = pointwise_kernel(spec, current_device().multiprocessors)
        count = spec.outputs[0].element_count
        loaded = cpp_kernel(weights, NAME, kernel.source)
        items = max(1, count // kernel.vector)
        launch = Launch(
            loaded, (ceil_divide(items, kernel.threads * kernel.unroll), 1, 1),
            (kernel.threads, 1, 1),
            [*arguments_of(spec, weights), I64(count) if kernel.is_wide else I32(count)],
            overlaps=True,
        )
        return KernelPrepared([launch], may_overwrite=overwritable(spec))


def pointwise_kernel(spec: LayerSpec, multiprocessors: int) -> PointwiseKernel:
    """The kernel of a spec whose layouts are chosen."""
    output = spec.outputs[0]
    tensors = (*spec.inputs, output)
    sizes, strides = merge_axes(
        [output.shape[axis] for axis in output.memory_order],
        [operand_strides(tensor, output) for tensor in tensors],
    )
    items_bytes = [
        tensor.dtype.itemsize_bytes
        for tensor, own in zip(tensors, strides, strict=True) if own[-1] == 1
    ]
    vector = _vector(sizes, strides, items_bytes)
    threads, unroll = _shape(output.element_count // vector, len(spec.inputs), multiprocessors)
    return PointwiseKernel(
        expression=printed(spec),
        inputs=tuple(map(kernel_operand, spec.inputs, strides)),
        output=kernel_operand(output, strides[-1]),
        sizes=sizes if len(sizes) > 1 else (0,),
        vector=vector, unroll=unroll, threads=threads,
        is_wide=max(map(largest_offset, tensors)) + vector * threads * unroll >= _INDICES,
    )


def _vector(
    sizes: Sequence[int], strides: Sequence[Sequence[int]], items_bytes: Sequence[int]
) -> int:
    """Elements of a vector: as many as keep every contiguous operand's loads whole and aligned."""
    vector = min(
        _VECTOR_BYTES // min(items_bytes), max(1, _MAX_VECTOR_BYTES // max(items_bytes)),
    )
    numbers = [sizes[-1]] if len(sizes) > 1 else []
    numbers += [step for own in strides if own[-1] == 1 for step in own[:-1]]
    while any(number % vector for number in numbers):
        vector //= 2
    return vector


def _shape(items: int, inputs: int, multiprocessors: int) -> tuple[int, int]:
    """Threads of a block, and vectors per thread: several once every multiprocessor is full."""
    if items <= multiprocessors * 256:
        return (128 if items > multiprocessors * 64 else 64), 1
    if items <= multiprocessors * 2048:
        return 256, 1
    return 256, 4 if inputs <= 1 else 2
