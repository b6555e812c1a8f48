"""Graphs over images, channels innermost: what convolution and deconvolution share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch2rt.backends.cuda.cudnn.description import GraphWriter, NotInCudnn, Operand
from torch2rt.backends.cuda.cudnn.operands import before_storing, merged, settled
from torch2rt.backends.cuda.cudnn.print_cudnn import print_cudnn
from torch2rt.backends.cuda.cudnn.tactic import LayerGraph, Source
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.network.dtype import DType


def image_layouts(spec: LayerSpec) -> LayoutChoice:
    """Images channels last, weights too unless they are constants, which are packed."""
    last, plain = Layout.CHANNELS_LAST, Layout.PLAIN
    output = spec.outputs[0]
    inputs = [last, plain if spec.constants[1] is not None else last]
    inputs += [last if x.shape == output.shape else plain for x in spec.inputs[2:]]
    return LayoutChoice(tuple(inputs), (last,))


def add_image_operands(writer: GraphWriter, spec: LayerSpec) -> list[int]:
    """Add the image, the weight, and what the epilogue reads besides; the values."""
    operands = [image(spec.inputs[0]), filter_operand(spec.inputs[1], spec.constants[1])]
    operands += [image_epilogue(tensor, spec.outputs[0]) for tensor in spec.inputs[2:]]
    return [writer.operand(operand) for operand in operands]


def with_two_axes(values: tuple[int, ...], other: int) -> tuple[int, ...]:
    """Values per spatial axis; one axis gets another one of one row before it."""
    return values if len(values) > 1 else (other, *values)


def image_graph(
    writer: GraphWriter, spec: LayerSpec, result: int, extras: Sequence[int], *, tf32: bool
) -> LayerGraph:
    """The graph with the epilogue and the output."""
    value = result
    if spec.epilogue is not None:
        computed = before_storing(spec.epilogue, spec.outputs[0].dtype)
        printed = print_cudnn(computed, writer, [result, *extras])
        if not isinstance(printed, int):
            raise NotInCudnn("an epilogue that is a constant")
        value = printed
    is_float32 = spec.inputs[0].dtype is DType.FLOAT32
    description = writer.finish(
        value, image(spec.outputs[0]), is_full_float32=is_float32 and not tf32
    )
    sources = [Source(0), Source(1, is_filter=True)]
    sources += [Source(index) for index in range(2, len(spec.inputs))]
    return LayerGraph(description, tuple(sources))


def image(tensor: TensorSpec) -> Operand:
    """An image [n, c, *spatial], channels innermost. One spatial axis becomes two.

    There may be gaps between pixels. NotInCudnn for gaps between rows or images: the plans that
    cuDNN 9.19 builds for those failed on an H200.
    """
    dims, strides = list(tensor.shape), list(tensor.strides)
    if not tensor.is_dense:
        pixels = (0, *range(2, tensor.rank))
        merged([dims[i] for i in pixels], [strides[i] for i in pixels], "an image")
    if len(dims) == 3:
        dims.insert(2, 1)
        strides.insert(2, 0)
    return Operand(tuple(dims), _image_strides(dims, strides), tensor.dtype)


def image_epilogue(tensor: TensorSpec, output: TensorSpec) -> Operand:
    """What an epilogue reads: an image like the output, or one value per channel, or one value."""
    shape = (1,) * (output.rank - tensor.rank) + tensor.shape
    if shape == output.shape and tensor.rank == output.rank:
        return image(tensor)
    others = math.prod(shape[:1]) * math.prod(shape[2:])
    if others != 1 or shape[1] not in (1, output.shape[1]):
        raise NotInCudnn(f"an epilogue input {list(tensor.shape)} for {list(output.shape)}")
    channels = shape[1]
    rank = max(output.rank, 4)
    dims = (1, channels) + (1,) * (rank - 2)
    return Operand(dims, _image_strides(dims, [1] * rank), tensor.dtype)


def filter_operand(tensor: TensorSpec, constant: str | None) -> Operand:
    """A weight [k, c, *kernel], c innermost; constants are packed so."""
    return image(tensor if constant is None else tensor.with_layout(Layout.CHANNELS_LAST))


def _image_strides(dims: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    return settled(dims, strides, (1, *reversed(range(2, len(dims))), 0))
