"""From the spec of a convolution to the shape that our kernels are specialised for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from torch2rt.backends.cuda.constants import packed_constant
from torch2rt.backends.cuda.cpp.print_cpp import missing_op, print_cpp
from torch2rt.backends.cuda.cpp.walks import broadcast_strides
from torch2rt.backends.cuda.device import Memory
from torch2rt.backends.cuda.rounding import integer_arithmetic, rounded_bytes
from torch2rt.backends.spec import LayerSpec, Layout, LayoutChoice, TensorSpec
from torch2rt.backends.tactic import Refusal, Weights
from torch2rt.kernels.cuda.convolution_shape import ConvolutionShape, Operand
from torch2rt.kernels.cuda.prelude import c_type
from torch2rt.layers.convolution import Convolution
from torch2rt.layers.deconvolution import Deconvolution
from torch2rt.network.dtype import Array, DType

FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32)
_INDICES = 2**31
# Products of bytes whose sum float32 holds exactly.
_EXACT_TERMS = 2**24 // (128 * 127)


def refusal(spec: LayerSpec, *, takes_bytes: bool = False) -> Refusal | None:
    """Why dtypes, sizes or the epilogue are not for our convolution kernels, or None.

    ``takes_bytes``: a kernel that sums in float32, in which sums of so many bytes are exact.
    """
    if math.prod(spec.inputs[1].shape) >= _INDICES:
        return Refusal("weights of 2^31 elements and more")
    return _bad_dtypes(spec, takes_bytes) or _bad_epilogue(spec)


def _bad_dtypes(spec: LayerSpec, takes_bytes: bool) -> Refusal | None:
    x, weight, out = spec.inputs[0], spec.inputs[1], spec.outputs[0]
    factors = {x.dtype, weight.dtype}
    if takes_bytes and factors == {DType.INT8}:
        if math.prod(weight.shape[1:]) > _EXACT_TERMS:
            return Refusal("sums of bytes that float32 rounds")
    elif not factors <= set(FLOATS):
        return Refusal(f"{x.dtype.value} times {weight.dtype.value}")
    for tensor in (*spec.inputs[spec.main_count :], out):
        if tensor.dtype not in (*FLOATS, DType.INT8):
            return Refusal(f"{tensor.dtype.value} operands")
    return None


def _bad_epilogue(spec: LayerSpec) -> Refusal | None:
    epilogue, out = spec.epilogue, spec.outputs[0].dtype
    if out is DType.INT8 and (epilogue is None or rounded_bytes(epilogue) is None):
        return Refusal("bytes that are not rounded and clamped")
    if epilogue is None:
        return None
    missing = missing_op(epilogue)
    if missing is not None:
        return Refusal(f"C++ has no {missing}")
    extras = spec.inputs[spec.main_count :]
    integers = {i for i, extra in enumerate(extras, 1) if extra.dtype is DType.INT8}
    if spec.inputs[0].dtype is DType.INT8:
        integers.add(0)
    computed = integer_arithmetic(epilogue, integers)
    return Refusal(f"integers in {computed.text}") if computed is not None else None


def attributes(spec: LayerSpec) -> Convolution | Deconvolution:
    """The kind with its attributes."""
    assert isinstance(spec.kind, Convolution | Deconvolution)
    return spec.kind


def layout_choice(spec: LayerSpec, image: Layout, result: Layout) -> LayoutChoice:
    """Layouts of the image and of the result; the epilogue's full operands lie as the result."""
    rank = spec.outputs[0].rank
    extras = tuple(
        result if tensor.rank == rank and constant is None else Layout.PLAIN
        for tensor, constant in zip(
            spec.inputs[spec.main_count :], spec.constants[spec.main_count :], strict=True
        )
    )
    return LayoutChoice((image, Layout.PLAIN, *extras), (result,))


def shape_of(spec: LayerSpec) -> ConvolutionShape:
    """Sizes, steps and operands of a spec whose layouts are chosen."""
    x, result = spec.inputs[0], spec.outputs[0]
    kind = attributes(spec)
    extras = spec.inputs[spec.main_count :]
    names = [f"i{index}" for index in range(len(extras) + 1)]
    return ConvolutionShape(
        batch=x.shape[0], in_channels=x.shape[1], out_channels=result.shape[1],
        groups=kind.groups,
        image=_three(x.shape[2:], 1), result=_three(result.shape[2:], 1),
        kernel=_three(spec.inputs[1].shape[2:], 1), stride=_three(kind.stride, 1),
        before=_three(kind.padding_before, 0), dilation=_three(kind.dilation, 1),
        x=_operand(x, x.shape), out=_operand(result, result.shape),
        extras=tuple(_operand(extra, result.shape) for extra in extras),
        expression=_printed(spec, names),
    )


def _printed(spec: LayerSpec, names: Sequence[str]) -> str:
    """The epilogue over floats, to a float or a byte."""
    if spec.epilogue is None:
        return "i0"
    is_byte = spec.outputs[0].dtype is DType.INT8
    return print_cpp(
        spec.epilogue, names, dtype=DType.INT8 if is_byte else DType.FLOAT32
    )


def _operand(tensor: TensorSpec, shape: Sequence[int]) -> Operand:
    n, c, *spatial = broadcast_strides(tensor, shape)
    d, h, w = _three(spatial, 0)
    # A lone channel steps by one: what is one element wide is contiguous.
    if shape[1] == 1:
        c = 1
    return Operand(c_type(tensor.dtype), tensor.dtype.itemsize_bytes, (n, c, d, h, w))


def _three(values: Sequence[int], missing: int) -> tuple[int, int, int]:
    """Values of the axes d, h, w, where the first ones are missing."""
    d, h, w = (missing,) * (3 - len(values)) + tuple(values)
    return d, h, w


def to_float(array: Array, dtype: DType) -> Array:
    """A constant's values as float32, from bits where numpy has no such dtype."""
    if dtype is DType.BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def packed_weight(
    spec: LayerSpec, weights: Weights, form: str, pack: Callable[[Array], Array]
) -> Memory:
    """The weights (float32 [k, c/groups, *kernel]) as ``pack`` puts them, in device memory."""
    name = spec.constants[1]
    assert name is not None
    dtype = spec.inputs[1].dtype
    return packed_constant(weights, name, form, lambda array: pack(to_float(array, dtype)))
